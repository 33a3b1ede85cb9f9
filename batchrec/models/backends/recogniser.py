"""A model on a device: from the bytes of images to the few numbers kept of each, all of it where the model is."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Final

from batchrec.models.backends.hardware import BackendUnavailable
from batchrec.models.backends.torch_cpu import normalisation, portions_key
from batchrec.models.building import build_model
from batchrec.models.remembering import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from batchrec.models.bundle import ModelSpec

_DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class Recogniser:
    """Normalises, runs the model and keeps the best: a function from tensors to tensors on one device.

    Args:
        model: What to run.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: As torch names it.
        top_k: Labels kept of each image.
        embeddings: Whether the embedding of each image is kept too.
    """

    def __init__(self, model: ModelSpec, *, precision: str, device: str, top_k: int, embeddings: bool = False) -> None:
        import torch

        self.model, self.precision, self.device, self.embeddings = model, precision, device, embeddings
        self.compiled = False
        self._top_k = min(top_k, model.num_outputs)
        self._dtype: torch.dtype = getattr(torch, _DTYPES[precision])
        self._mean, self._scale = normalisation(model, device)
        if precision == "fp32":
            # Convolutions would quietly be computed in TF32, which is another class of arithmetic.
            torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        network = without_norms(build_model(model, embeddings=embeddings))
        self._network: Any = network.to(device, self._dtype).to(memory_format=torch.channels_last)
        self._weigh: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = self._weigh_plainly

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the fields of :class:`batchrec.models.backends.scores.Scores`, in their order.

        Args:
            images: uint8 RGB ``(n, crop, crop, 3)``; the same ``n`` every time, once compiled.
        """
        import torch

        with torch.inference_mode():
            return self._answer(images)

    def compile(self, num_images: int, cache_dir: Path | None = None) -> None:
        """Let inductor write kernels for this many images, or find those it wrote before.

        Raises:
            BackendUnavailable: It cannot, here.
        """
        import torch
        from torch._dynamo.exc import TorchDynamoException

        share_kernels(cache_dir)
        side = self.model.preprocess.crop
        self._weigh, self.compiled = torch.compile(self._weigh_plainly, dynamic=False), True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self(torch.zeros((num_images, side, side, 3), dtype=torch.uint8, device=self.device))
        except TorchDynamoException as error:
            self._weigh, self.compiled = self._weigh_plainly, False
            raise BackendUnavailable(
                "torch-inductor cannot compile here",
                found=(str(error).strip().splitlines() or [type(error).__name__])[0][:200],
                advice="install a C compiler and triton, or use --backend torch-eager",
            ) from error

    def key(self, device_kind: str) -> dict[str, Any]:
        """Return what decides how many images fit on a kind of device, and how fast they go."""
        return portions_key(self.model, self.precision, device_kind, embeddings=self.embeddings)

    def _answer(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch

        # Not compiled, or each number of labels kept would have kernels of its own, and wait for them.
        logits, scores, entropy, *embeddings = self._weigh(images)
        best = _best(logits, self._top_k)
        return scores.gather(1, best), best.to(torch.int32), entropy, *embeddings

    def _weigh_plainly(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        import torch

        # The layout of the bytes is channels-last already: permuting only renames the axes.
        pixels = (images.permute(0, 3, 1, 2) - self._mean) * self._scale
        outputs = self._network(pixels.to(self._dtype))
        logits, *embeddings = outputs if self.embeddings else (outputs,)
        logits = logits.float()
        scores = torch.softmax(logits, dim=1)
        entropy = torch.special.entr(scores).sum(dim=1)
        return logits, scores, entropy, *(each.float() for each in embeddings)


def _best(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Return the indices of the ``k`` largest of each row; of equal ones, of which half precision has many, the lower.

    ``topk`` says nothing of equal ones, and not every sort can be part of a recorded graph.
    """
    import torch

    values, columns = logits.clone(), []
    for _ in range(k):
        columns.append(values.argmax(dim=1, keepdim=True))
        values.scatter_(1, columns[-1], float("-inf"))
    return torch.cat(columns, dim=1)


def without_norms(network: torch.nn.Module) -> torch.nn.Module:
    """Fold batch norms into the convolutions before them, in fp32: half precision pays for each pass over memory."""
    from torch.fx.experimental.optimization import fuse

    folded: torch.nn.Module = fuse(network)
    return folded


def share_kernels(cache_dir: Path | None = None) -> None:
    """Let all workers of a node find the kernels that one of them compiled; inductor keys them by content."""
    folder = cache_dir or cache_folder()
    if folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
