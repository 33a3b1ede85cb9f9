"""From a model's raw outputs to the few numbers kept of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scores:
    """What is kept of one batch of ``n`` images.

    Attributes:
        top_scores: float32 ``(n, k)``, softmax probabilities, highest first.
        top_labels: int32 ``(n, k)``, their output indices; of equal scores the lower index first.
        entropy: float32 ``(n,)``, of the whole distribution, in nats.
        embeddings: float32 ``(n, dimension)``, the inputs of the model's last layer; None where not asked for.
    """

    top_scores: NDArray[np.float32]
    top_labels: NDArray[np.int32]
    entropy: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None = None

    def are_numbers(self) -> NDArray[np.bool_]:
        """Say of each image whether all the model answered was finite: only then its entropy is."""
        return np.isfinite(self.entropy)


def scores_from_logits(
    logits: NDArray[np.float32], top_k: int, embeddings: NDArray[np.float32] | None = None
) -> Scores:
    """Softmax, entropy and the ``top_k`` best of float32 logits ``(n, num_outputs)``.

    ``top_k`` above the number of outputs gives all of them.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # of what is not finite, see Scores.are_numbers
        shifted = logits - logits.max(axis=1, keepdims=True)
        exponents = np.exp(shifted)
        total = exponents.sum(axis=1, keepdims=True)
        entropy = np.log(total[:, 0]) - (exponents * shifted).sum(axis=1) / total[:, 0]
    labels = _best(shifted, min(top_k, logits.shape[1])).astype(np.int32)
    scores = (np.take_along_axis(exponents, labels, axis=1) / total).astype(np.float32, copy=False)
    return Scores(scores, labels, np.maximum(entropy, 0).astype(np.float32, copy=False), embeddings)


def _best(values: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Return the indices of the ``k`` largest of each row; ``values`` is used up.

    For the few that are kept, passes of argmax are several times faster than sorting, and ties
    always go to the lower index.
    """
    rows = np.arange(len(values))
    best = np.empty((len(values), k), dtype=np.intp)
    for column in range(k):
        best[:, column] = values.argmax(axis=1)
        values[rows, best[:, column]] = -np.inf
    return best
