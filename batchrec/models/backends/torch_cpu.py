"""The model on the CPU through torch: as it is, or compiled."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.models.backends.halving import Portions
from batchrec.models.backends.hardware import BackendUnavailable, cpu_model
from batchrec.models.backends.scores import Scores, scores_from_logits
from batchrec.models.building import build_model

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from batchrec.models.bundle import ModelSpec


class TorchCpuBackend:
    """Channels-last torch in inference mode; one call at a time uses all its threads."""

    device = "cpu"
    concurrency = 1

    def __init__(
        self,
        model: ModelSpec,
        *,
        precision: str,
        batch_size: int,
        num_threads: int,
        top_k: int,
        embeddings: bool = False,
        compiled: bool = False,
    ) -> None:
        import torch

        self.name = "torch-inductor" if compiled else "torch-eager"
        self.precision = precision
        self.batch_size = batch_size
        self._slab_shape = (batch_size, model.preprocess.crop, model.preprocess.crop, 3)
        self._top_k = top_k
        self._embeddings = embeddings
        self._alone = threading.Lock()
        self._portions = Portions(batch_size, portions_key(model, precision, cpu_model(), embeddings=embeddings))
        torch.set_num_threads(num_threads)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._mean, self._scale = normalisation(model, "cpu")
        network = build_model(model, embeddings=embeddings)
        self._network: Any = network.to(self._dtype).to(memory_format=torch.channels_last)
        if compiled:
            self._compile()

    def new_slab(self) -> NDArray[np.uint8]:
        """See :class:`batchrec.models.backends.Backend`."""
        return np.zeros(self._slab_shape, dtype=np.uint8)

    def predict(self, images: NDArray[np.uint8]) -> Scores:
        """Recognise uint8 RGB ``(batch_size, crop, crop, 3)``; other callers wait.

        Where memory runs out the batch is halved, redone and kept halved, by later starts too.

        Raises:
            ModelError: If there is no memory for one image.
        """
        with self._alone:
            return self._portions.run(lambda portion: self._predict(images, portion))

    def _predict(self, images: NDArray[np.uint8], portion: int) -> Scores:
        import torch

        with torch.inference_mode():
            parts = [self._forward(chunk) for chunk in torch.split(torch.from_numpy(images), portion)]
            answers = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
        return scores_from_logits(answers[0], self._top_k, *answers[1:])

    def _forward(self, chunk: torch.Tensor) -> list[torch.Tensor]:
        # The layout of the bytes is channels-last already: permuting only renames the axes.
        pixels = chunk.permute(0, 3, 1, 2).float()
        outputs = self._network(pixels.sub_(self._mean).mul_(self._scale).to(self._dtype))
        return [each.float() for each in (outputs if self._embeddings else (outputs,))]

    def _compile(self) -> None:
        import torch
        from torch._dynamo.exc import BackendCompilerFailed
        from torch._inductor.exc import InductorError

        self._network = torch.compile(self._network, options={"freezing": True})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.predict(self.new_slab())
        except (InductorError, BackendCompilerFailed) as error:
            raise BackendUnavailable(
                "torch-inductor cannot compile here",
                found=str(error).strip().splitlines()[0][:200],
                advice="install a C++ compiler, or use --backend torch-eager",
            ) from error


def portions_key(model: ModelSpec, precision: str, device: str, *, embeddings: bool) -> dict[str, Any]:
    """Return what decides how many images fit into a device's memory at once."""
    return {
        "weights": model.weights_sha256,
        "architecture": model.architecture,
        "crop": model.preprocess.crop,
        "precision": precision,
        "embeddings": embeddings,
        "device": device,
    }


def normalisation(model: ModelSpec, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and reciprocal deviation for bytes, float32 ``(1, 3, 1, 1)``."""
    import torch

    def column(values: tuple[float, ...]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, 3, 1, 1) * 255

    return column(model.preprocess.mean), 1 / column(model.preprocess.std)
