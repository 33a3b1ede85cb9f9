"""How a model goes fastest on a CUDA device, batch size and kernels: tried once, and remembered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batchrec.errors import ModelError
from batchrec.models.backends.compiling import compiled_rate
from batchrec.models.backends.hardware import BackendUnavailable
from batchrec.models.backends.queues import CudaDevice, Device
from batchrec.models.backends.recogniser import Recogniser
from batchrec.models.backends.torch_cpu import portions_key
from batchrec.models.backends.torch_cuda import TorchCudaBackend
from batchrec.models.backends.trial import images_per_s, trial_line
from batchrec.models.remembering import remember

if TYPE_CHECKING:
    from batchrec.models.bundle import ModelSpec

BATCH_SIZES: Final = (64, 128, 256, 512)
#: A larger batch costs memory and delays the last images: it must be so much faster.
_WORTHWHILE: Final = 1.05
#: Longer than this no job waits for a compiler, even the first on a machine.
_COMPILES_WITHIN_S: Final = 180.0
_EAGER, _COMPILED = "torch-eager", "torch-inductor"
#: A compiler that failed is tried again after so long; until then no other start waits for it.
_FAILED_FOR_S: Final = 3600.0


def open_cuda(
    model: ModelSpec,
    *,
    precision: str,
    device: str,
    backend: str,
    batch_size: int | None,
    top_k: int,
    embeddings: bool,
    cache_dir: Path | None,
) -> tuple[TorchCudaBackend, str]:
    """Load the model onto a CUDA device; see :func:`batchrec.models.backends.open_backend`."""
    if backend not in ("auto", _EAGER, _COMPILED):
        raise ModelError(
            "this backend is not for CUDA devices", found=backend, advice="use --backend auto, or --device cpu"
        )
    choice = Choice(
        model, CudaDevice(device), precision=precision, top_k=top_k, embeddings=embeddings, cache_dir=cache_dir
    )
    return choice.open(backend, batch_size)


class Choice:
    """What can be chosen for one model on one device, and what was found best.

    Args:
        model: What to run.
        device: Where.
        precision: See :class:`batchrec.models.backends.recogniser.Recogniser`, as for the rest.
        top_k: Labels kept of each image.
        embeddings: Whether the embedding of each image is kept too.
        cache_dir: Where kernels and findings are kept; the user's cache when None.
    """

    def __init__(
        self,
        model: ModelSpec,
        device: Device,
        *,
        precision: str,
        top_k: int,
        embeddings: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        self._model, self._device, self._cache_dir = model, device, cache_dir
        self._precision, self._top_k, self._embeddings = precision, top_k, embeddings

    def open(self, backend: str, batch_size: int | None) -> tuple[TorchCudaBackend, str]:
        """Open a backend, and say in one line how it was chosen."""
        size = batch_size or self.best_batch_size()
        if backend == "auto":
            line = self._take_faster(size)
        else:
            line = f"{backend} {self._precision}, as asked"
            if backend == _COMPILED:
                self._compile(size)
        opened = self._open(size)
        return opened, f"{line}, {size} images a batch{'' if opened.recorded else ', without a CUDA graph'}"

    def _take_faster(self, size: int) -> str:
        """Compile the model where that was found faster, and say what was found."""
        found = remember(
            "trials", self._key(size), partial(self._try_kernels, size), folder=self._cache_dir, holds=_holds
        )
        if found["winner"] == _COMPILED:
            try:
                self._compile(size)
            except BackendUnavailable as error:
                return f"{_EAGER} {self._precision}, as {error.cause} any more ({error.found})"
        return str(found["line"])

    def _compile(self, size: int) -> None:
        """Compile the model; only while its kernels are not there do the workers of a machine wait for one of them."""
        remember("kernels", self._key(size), partial(self._write_kernels, size), folder=self._cache_dir)
        if not self._recognise.compiled:
            self._recognise.compile(size, self._cache_dir)

    def _write_kernels(self, size: int) -> dict[str, Any]:
        self._recognise.compile(size, self._cache_dir)
        return {}

    def best_batch_size(self) -> int:
        """Return the smallest batch that larger ones do not beat by much."""
        found = remember("batch-sizes", self._key(None), self._sweep, folder=self._cache_dir)
        return int(found["batch_size"])

    @cached_property
    def _recognise(self) -> Recogniser:
        return Recogniser(
            self._model,
            precision=self._precision,
            device=self._device.name,
            top_k=self._top_k,
            embeddings=self._embeddings,
        )

    def _open(self, batch_size: int) -> TorchCudaBackend:
        return TorchCudaBackend(self._recognise, self._device, batch_size=batch_size, cache_dir=self._cache_dir)

    def _sweep(self) -> dict[str, Any]:
        rates: dict[int, float] = {}
        for size in BATCH_SIZES:
            rate = self._rate(size)
            if rates and rate <= _WORTHWHILE * max(rates.values()):
                break
            rates[size] = rate
        return {"batch_size": max(rates), "images_per_s": {str(size): round(rate) for size, rate in rates.items()}}

    def _rate(self, batch_size: int) -> float:
        backend = self._open(batch_size)
        # What does not fit at once is no larger batch, only a slower way to do a smaller one.
        rate = images_per_s(backend, self._model.preprocess.crop) if backend.portion == batch_size else 0.0
        del backend
        self._device.empty_cache()
        return rate

    def _try_kernels(self, batch_size: int) -> dict[str, Any]:
        rates = {_EAGER: self._rate(batch_size)}
        compiled = compiled_rate(
            self._model,
            self._device.name,
            precision=self._precision,
            batch_size=batch_size,
            embeddings=self._embeddings,
            cache_dir=self._cache_dir,
            within_s=_COMPILES_WITHIN_S,
        )
        if compiled is not None:
            rates[_COMPILED] = compiled
        winner = max(rates, key=lambda name: rates[name])
        found = {"winner": winner, "line": trial_line(winner, self._precision, rates)}
        return found if compiled is not None else {**found, "until": time.time() + _FAILED_FOR_S}

    def _key(self, batch_size: int | None) -> dict[str, Any]:
        key = portions_key(self._model, self._precision, self._device.kind, embeddings=self._embeddings)
        return key | {"batch_size": batch_size, "torch": version("torch")}


def _holds(found: Mapping[str, Any]) -> bool:
    """Whether a trial is still believed."""
    return time.time() < float(found.get("until", "inf"))
