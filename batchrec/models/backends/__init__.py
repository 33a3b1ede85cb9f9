"""What runs a model: one protocol, four backends, and the choice between them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from batchrec.errors import ModelError
from batchrec.models.backends.hardware import (
    BackendUnavailable,
    cpu_has_bf16,
    cpu_model,
    resolve_device,
    resolve_precision,
)
from batchrec.models.backends.scores import Scores
from batchrec.models.remembering import remember

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from batchrec.models.bundle import ModelSpec

__all__ = [
    "CPU_BATCH_SIZE",
    "Backend",
    "Scores",
    "open_backend",
    "resolve_device",
    "resolve_precision",
]

CPU_BATCH_SIZE: Final = 32


class Backend(Protocol):
    """A model ready to run.

    Attributes:
        name: ``openvino``, ``torch-inductor``, ``torch-eager`` or ``torch-cuda``.
        device: ``cpu`` or ``cuda:0``.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        batch_size: Images of one forward pass, always all of them.
        concurrency: How many threads may call :meth:`predict` at once with profit.
    """

    name: str
    device: str
    precision: str
    batch_size: int
    concurrency: int

    def new_slab(self) -> NDArray[np.uint8]:
        """Return room for one batch ``(batch_size, crop, crop, 3)``, where :meth:`predict` reads it fastest."""

    def predict(self, images: NDArray[np.uint8]) -> Scores:
        """Recognise uint8 RGB images ``(batch_size, crop, crop, 3)``, in a slab or any other array.

        The array may be reused as soon as the call returns. More callers than ``concurrency``
        are safe: they wait.
        """


def open_backend(
    model: ModelSpec,
    *,
    precision: str,
    device: str,
    backend: str,
    batch_size: int | None,
    num_threads: int,
    top_k: int,
    embeddings: bool = False,
    cache_dir: Path | None = None,
    streams: int | None = None,
) -> tuple[Backend, str]:
    """Load the model into a backend.

    Args:
        model: What to run.
        precision: From :func:`resolve_precision`.
        device: ``auto``, ``cpu`` or ``cuda``.
        backend: ``auto`` tries the first time and remembers what won: on a CPU OpenVINO or torch, on CUDA torch's
            own kernels or inductor's.
        batch_size: Images of one forward pass; chosen for the device when None, on CUDA by trying.
        num_threads: CPU threads the model may use.
        top_k: Labels kept of each image.
        embeddings: Whether the embedding of each image is kept too.
        cache_dir: Where converted models and trials are kept; the user's cache when None.
        streams: For measuring only: OpenVINO streams; as many as threads when None.

    Returns:
        The backend, and one printable line saying how it was chosen.

    Raises:
        ModelError: If the weights do not load, or the backend is not to be had here.
    """
    resolved = resolve_device(device)
    if resolved != "cpu":
        from batchrec.models.backends.cuda_choice import open_cuda

        return open_cuda(
            model,
            precision=precision,
            device=resolved,
            backend=backend,
            batch_size=batch_size,
            top_k=top_k,
            embeddings=embeddings,
            cache_dir=cache_dir,
        )
    arguments: dict[str, Any] = {
        "precision": precision,
        "batch_size": batch_size or CPU_BATCH_SIZE,
        "num_threads": num_threads,
        "top_k": top_k,
        "embeddings": embeddings,
    }
    choice = _Choice(model, arguments, cache_dir, streams)
    if backend != "auto":
        return choice.open(backend), f"{backend} {precision}, as asked"
    return choice.open_fastest()


class _Choice:
    """The CPU backends that can run here, opened at most once each."""

    def __init__(
        self, model: ModelSpec, arguments: dict[str, Any], cache_dir: Path | None, streams: int | None
    ) -> None:
        self._model = model
        self._arguments = arguments
        self._cache_dir = cache_dir
        self._streams = streams
        self._opened: dict[str, Backend] = {}

    def open_fastest(self) -> tuple[Backend, str]:
        if self._arguments["precision"] == "int8":
            return self.open("openvino"), "openvino int8, which nothing else here computes in"
        known = remember("trials", self._key(), self._try_all, folder=self._cache_dir)
        return self.open(known["winner"]), known["line"]

    def open(self, name: str) -> Backend:
        if name not in self._opened:
            self._opened[name] = self._load(name)
        return self._opened[name]

    def _candidates(self) -> list[Backend]:
        # Compiling takes half a minute, so inductor is tried only where OpenVINO cannot run.
        fast = self._open_if_able("openvino") or self._open_if_able("torch-inductor")
        return [backend for backend in (fast, self.open("torch-eager")) if backend]

    def _open_if_able(self, name: str) -> Backend | None:
        try:
            return self.open(name)
        except BackendUnavailable:
            return None

    def _try_all(self) -> dict[str, Any]:
        from batchrec.models.backends.trial import images_per_s, trial_line

        side = self._model.preprocess.crop
        rates = {backend.name: images_per_s(backend, side) for backend in self._candidates()}
        winner = max(rates, key=lambda name: rates[name])
        return {"winner": winner, "line": trial_line(winner, self._arguments["precision"], rates)}

    def _key(self) -> dict[str, Any]:
        from batchrec.models.backends.openvino_cpu import openvino_version

        return {
            "weights": self._model.weights_sha256,
            "architecture": self._model.architecture,
            "crop": self._model.preprocess.crop,
            "cpu": cpu_model(),
            "openvino": openvino_version(),
            "torch": version("torch"),
            "streams": self._streams,
            # What is kept of each image takes no time beside the model.
            **{name: value for name, value in self._arguments.items() if name not in ("top_k", "embeddings")},
        }

    def _load(self, name: str) -> Backend:
        if name == "openvino":
            if not _openvino_serves(self._arguments["precision"]):
                raise _unavailable(name, self._arguments["precision"])
            from batchrec.models.backends.openvino_cpu import OpenVinoBackend

            return OpenVinoBackend(self._model, **self._arguments, cache_dir=self._cache_dir, streams=self._streams)
        if name in ("torch-eager", "torch-inductor") and self._arguments["precision"] == "int8":
            raise BackendUnavailable(f"{name} does not compute in int8", advice="use --backend openvino")
        if name in ("torch-eager", "torch-inductor"):
            from batchrec.models.backends.torch_cpu import TorchCpuBackend

            return TorchCpuBackend(self._model, **self._arguments, compiled=name == "torch-inductor")
        raise ModelError("there is no such backend", found=name, advice="use openvino, torch-inductor or torch-eager")


def _openvino_serves(precision: str) -> bool:
    from batchrec.models.backends.openvino_cpu import openvino_version

    # Without the instructions OpenVINO answers a request for bf16 in fp32: another class of arithmetic.
    serves = precision in ("fp32", "int8") or (precision == "bf16" and cpu_has_bf16())
    return openvino_version() is not None and serves


def _unavailable(name: str, precision: str) -> BackendUnavailable:
    from batchrec.models.backends.openvino_cpu import openvino_version

    found = "it is not installed" if openvino_version() is None else f"this CPU has no {precision} instructions"
    return BackendUnavailable(
        f"{name} cannot run here", found=found, advice="use --backend torch-eager or --precision fp32"
    )
