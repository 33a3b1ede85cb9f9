"""Out of memory: halve the batch, redo the same images, and know it the next time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from batchrec.errors import ModelError
from batchrec.models.remembering import keep, recall

_Answer = TypeVar("_Answer")
_KIND = "portions"
#: What torch says where a CPU, or a library of CUDA, finds no memory; there is no class for it.
_WORDS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class Portions:
    """How many images of a batch go through the model at once: all, until the device's memory says otherwise.

    Args:
        batch_size: Images of a batch.
        key: What the number depends on: the model and the device, as JSON.
        folder: Where it is kept; the user's cache when None.

    Attributes:
        size: Images at once.
    """

    def __init__(self, batch_size: int, key: Mapping[str, Any], folder: Path | None = None) -> None:
        self._key, self._folder = {**key, "batch_size": batch_size}, folder
        known = recall(_KIND, self._key, folder=folder)
        self.size = min(batch_size, max(1, int(known["size"]))) if known else batch_size

    def run(self, predict: Callable[[int], _Answer], empty_cache: Callable[[], None] = lambda: None) -> _Answer:
        """Return what ``predict`` answers for a whole batch taken so many images at a time, fewer if it must be.

        Args:
            predict: Given how many images to take at once; asked again with half of them where memory runs out.
            empty_cache: Gives back what the failed try holds.

        Raises:
            ModelError: If not even one image fits into the device's memory.
        """
        tried = self.size
        while True:
            try:
                answer = predict(self.size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
            else:
                if self.size < tried:
                    keep(_KIND, self._key, {"size": self.size}, folder=self._folder)
                return answer
            empty_cache()  # only here, where the failed try's tensors are no longer held by its error

    def _halve(self, error: Exception) -> None:
        if self.size == 1:
            found = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                "one image does not fit into the device's memory",
                found=found,
                advice="use a device with more memory, or a smaller model",
            ) from error
        self.size = -(-self.size // 2)


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch, on whatever device, found no memory."""
    import torch

    said = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in said for words in _WORDS)
