"""The model on one CUDA device through torch."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from batchrec.models.backends.halving import Portions
from batchrec.models.backends.scores import Scores
from batchrec.models.backends.torch_cpu import normalisation, portions_key
from batchrec.models.building import build_model

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from batchrec.models.bundle import ModelSpec

_DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class TorchCudaBackend:
    """Channels-last half precision; only the best scores come back from the device.

    Images pass through one page-locked buffer. It is safe to reuse because every call ends by
    reading the scores, which come after the copy on the same stream.
    """

    name = "torch-cuda"
    concurrency = 1

    def __init__(
        self,
        model: ModelSpec,
        *,
        precision: str,
        device: str,
        batch_size: int,
        top_k: int,
        embeddings: bool = False,
    ) -> None:
        import torch

        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self._slab_shape = (batch_size, model.preprocess.crop, model.preprocess.crop, 3)
        self._top_k = min(top_k, model.num_outputs)
        self._embeddings = embeddings
        self._portions = Portions(batch_size, portions_key(model, precision, _name_of(device), embeddings=embeddings))
        self._alone = threading.Lock()
        self._dtype: torch.dtype = getattr(torch, _DTYPES[precision])
        self._mean, self._scale = normalisation(model, device)
        network = build_model(model, embeddings=embeddings)
        self._network = network.to(device, self._dtype).to(memory_format=torch.channels_last)
        self._staging = torch.empty(self._slab_shape, dtype=torch.uint8, pin_memory=True)
        torch.backends.cudnn.benchmark = True
        self.predict(self.new_slab())

    def new_slab(self) -> NDArray[np.uint8]:
        """See :class:`batchrec.models.backends.Backend`."""
        return np.zeros(self._slab_shape, dtype=np.uint8)

    def predict(self, images: NDArray[np.uint8]) -> Scores:
        """Recognise uint8 RGB ``(batch_size, crop, crop, 3)``; other callers wait.

        Where the device runs out of memory the batch is halved, redone and kept halved, by later starts too.

        Raises:
            ModelError: If not even one image fits into the device's memory.
        """
        import torch

        with self._alone:
            np.copyto(self._staging.numpy(), images)
            return self._portions.run(self._predict_staged, torch.cuda.empty_cache)

    def _predict_staged(self, portion: int) -> Scores:
        import torch

        with torch.inference_mode():
            parts = [self._forward(chunk) for chunk in torch.split(self._staging, portion)]
            columns = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        return Scores(*columns)

    def _forward(self, chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return a chunk's fields of :class:`Scores`, in their order."""
        import torch

        pixels = chunk.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        outputs = self._network(pixels.sub_(self._mean).mul_(self._scale).to(self._dtype))
        logits, *embeddings = outputs if self._embeddings else (outputs,)
        log_scores = torch.log_softmax(logits.float(), dim=1)
        scores = log_scores.exp()
        entropy = torch.special.entr(scores).sum(dim=1)
        top = scores.topk(self._top_k, dim=1)
        return top.values, top.indices.to(torch.int32), entropy, *(each.float() for each in embeddings)


def _name_of(device: str) -> str:
    """Return what tells one kind of device, and the memory it has, from another."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory} bytes"
