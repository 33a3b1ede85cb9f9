"""From what the pipeline found to rows of the predictions table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from batchrec.errors import ErrorCode, ImageError
from batchrec.output.schema import EMBEDDING, ERROR, OK, SCORED_LABEL, embedding_type, predictions_schema
from batchrec.records import Attempt, EmbeddingSpec
from batchrec.redacting import redact, shown

_SIGNS_OF_SECRETS = ("=", "@", "AKIA", "ASIA")


class ManifestRows(Protocol):
    """Rows of one shard as the manifest has them; see :class:`batchrec.manifest.rows.Rows`."""

    @property
    def uris(self) -> list[str | None]: ...
    @property
    def ids(self) -> pa.Array: ...
    @property
    def passthrough(self) -> pa.Table: ...


class Predicted(Protocol):
    """What the pipeline found, row by row; see :class:`batchrec.pipeline.collecting.ShardPredictions`."""

    @property
    def top_labels(self) -> np.ndarray: ...
    @property
    def top_scores(self) -> np.ndarray: ...
    @property
    def entropy(self) -> np.ndarray: ...
    @property
    def width(self) -> np.ndarray: ...
    @property
    def height(self) -> np.ndarray: ...
    @property
    def num_bytes(self) -> np.ndarray: ...
    @property
    def errors(self) -> dict[int, ImageError]: ...
    @property
    def embeddings(self) -> np.ndarray | None: ...


def prediction_rows(rows: ManifestRows, found: Predicted, attempt: Attempt, labels: Sequence[str]) -> pa.Table:
    """Return a shard's part of the predictions table, one row for each manifest row, in order."""
    failed = np.zeros(len(rows.uris), dtype=bool)
    failed[list(found.errors)] = True
    names = pa.array(labels, pa.string())
    best = np.where(failed, 0, found.top_labels[:, 0])
    scores = found.top_scores
    margin = scores[:, 0] - (scores[:, 1] if scores.shape[1] > 1 else 0)
    columns = {
        "label": _hide(names.take(pa.array(best)), failed),
        "score": pa.array(scores[:, 0], pa.float32(), mask=failed),
        "margin": pa.array(margin, pa.float32(), mask=failed),
        "entropy": pa.array(found.entropy, pa.float32(), mask=failed),
        "top_k": _top_k(found, failed, names),
        "width": pa.array(found.width, pa.int32(), mask=found.width == 0),
        "height": pa.array(found.height, pa.int32(), mask=found.height == 0),
        "bytes": pa.array(found.num_bytes, pa.int64(), mask=found.num_bytes == 0),
    }
    embedding = None
    if found.embeddings is not None:
        embedding = EmbeddingSpec(found.embeddings.dtype.name, found.embeddings.shape[1])
        columns[EMBEDDING] = _embeddings(found.embeddings, failed, embedding_type(embedding))
    return _assemble(rows, attempt, columns, found.errors, embedding)


def failed_rows(
    rows: ManifestRows, attempt: Attempt, code: ErrorCode, detail: str, embedding: EmbeddingSpec | None = None
) -> pa.Table:
    """Return a shard's rows when none of them has a prediction, for one and the same reason."""
    error = ImageError(code, detail)
    return _assemble(rows, attempt, {}, dict.fromkeys(range(len(rows.uris)), error), embedding)


def _assemble(
    rows: ManifestRows,
    attempt: Attempt,
    columns: dict[str, pa.Array],
    errors: dict[int, ImageError],
    embedding: EmbeddingSpec | None,
) -> pa.Table:
    num_rows = len(rows.uris)
    first = attempt.shard.first_position
    codes: list[str | None] = [None] * num_rows
    details: list[str | None] = [None] * num_rows
    for row, error in errors.items():
        codes[row], details[row] = error.code.value, shown(error.detail) or None
    known = {
        "image_id": rows.ids,
        "uri": pa.array([_without_secret(uri) for uri in rows.uris], pa.string()),
        "row": pa.array(np.arange(first, first + num_rows), pa.int64()),
        "status": pa.array([OK if code is None else ERROR for code in codes], pa.string()),
        "error_code": pa.array(codes, pa.string()),
        "error_detail": pa.array(details, pa.string()),
        "attempt": pa.array(np.full(num_rows, attempt.number), pa.int32()),
        **columns,
    }
    carried = rows.passthrough
    schema = predictions_schema(carried.schema, embedding)
    own = list(schema)[: len(schema) - carried.num_columns]
    ours = [known[field.name] if field.name in known else pa.nulls(num_rows, field.type) for field in own]
    return pa.table([*ours, *carried.columns], schema=schema)


def _without_secret(uri: str | None) -> str | None:
    # Nearly all URIs hold none of the signs without which nothing is masked.
    return redact(uri) if uri is not None and any(sign in uri for sign in _SIGNS_OF_SECRETS) else uri


def _hide(values: pa.Array, failed: np.ndarray) -> pa.Array:
    return pa.compute.if_else(pa.array(failed), pa.scalar(None, values.type), values)


def _top_k(found: Predicted, failed: np.ndarray, names: pa.Array) -> pa.Array:
    num_rows, k = found.top_labels.shape
    kept = ~failed
    pairs = pa.StructArray.from_arrays(
        [names.take(pa.array(found.top_labels[kept].ravel())), pa.array(found.top_scores[kept].ravel(), pa.float32())],
        fields=list(SCORED_LABEL),
    )
    offsets = np.zeros(num_rows + 1, dtype=np.int32)
    np.cumsum(np.where(kept, k, 0), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pairs, mask=pa.array(failed))


def _embeddings(found: np.ndarray, failed: np.ndarray, kind: pa.DataType) -> pa.Array:
    # The numbers are not copied: they are by far the largest column of a shard.
    return pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), type=kind, mask=pa.array(failed))
