"""Rows whose errors speak of the run and not of their images."""

from __future__ import annotations

from batchrec.errors import CODES, AccessLost, ErrorCode
from batchrec.pipeline.collecting import ShardPredictions

#: A shard with this share of rows under systemic codes, or with any expired credentials, is not published.
_SYSTEMIC_SHARE = 0.5
#: ... unless it has fewer such rows than this: one denied image must not hold up a job for good.
_SYSTEMIC_ROWS = 8


def refuse_systemic(predictions: ShardPredictions) -> None:
    """Refuse to publish rows that would only say that the run lost its access.

    Raises:
        AccessLost: They would.
    """
    systemic = [error for error in predictions.errors.values() if CODES[error.code].systemic]
    expired = [error for error in systemic if error.code == ErrorCode.CREDENTIALS_EXPIRED]
    if expired or len(systemic) >= max(_SYSTEMIC_ROWS, _SYSTEMIC_SHARE * predictions.stats.num_rows):
        example = (expired or systemic)[0]
        raise AccessLost(
            f"{len(systemic)} of {predictions.stats.num_rows} images of a shard could not be had: {example.code}",
            found=example.detail,
            advice=f"{CODES[example.code].advice}; the same command resumes",
        )
