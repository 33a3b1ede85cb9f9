"""The model on the CPU through OpenVINO; after the first start without torch."""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from batchrec.models.backends.hardware import BackendUnavailable
from batchrec.models.backends.scores import Scores, scores_from_logits
from batchrec.models.quantised import read_graph
from batchrec.models.remembering import cache_folder, digest

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray
    from openvino import Model

    from batchrec.models.bundle import ModelSpec

#: What a quantised graph leaves in floating point is computed in full precision.
_HINTS: Final = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_IR_FORMAT: Final = 1


def import_openvino() -> ModuleType:
    """Import openvino, the only way it is imported here, without its telemetry.

    Its import writes an identifier into the home and reports to a host. Marking the reporting
    package as absent makes openvino use its own silent stand-in.

    Raises:
        BackendUnavailable: If it cannot be imported.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        openvino = import_module("openvino")
    except ImportError as error:
        raise BackendUnavailable("openvino is installed but cannot be imported", found=str(error)) from error
    # It looks for numpy at its first need, and two threads that do so at once wait for each other for ever.
    openvino.Type.u8.to_dtype()
    return openvino


def openvino_version() -> str | None:
    """Return the version installed, or None; imports nothing."""
    try:
        return version("openvino") if find_spec("openvino") else None
    except PackageNotFoundError:
        return None


class OpenVinoBackend:
    """A compiled model with one inference request per stream.

    With as many streams as threads, each call of :meth:`predict` runs on one thread and that
    many calls may run at once; with one stream, one call uses all threads.
    """

    name = "openvino"
    device = "cpu"

    def __init__(
        self,
        model: ModelSpec,
        *,
        precision: str,
        batch_size: int,
        num_threads: int,
        top_k: int,
        embeddings: bool = False,
        cache_dir: Path | None = None,
        streams: int | None = None,
    ) -> None:
        self.precision = precision
        self.batch_size = batch_size
        self.concurrency = streams or num_threads
        self._slab_shape = (batch_size, model.preprocess.crop, model.preprocess.crop, 3)
        self._top_k = top_k
        self._embeddings = embeddings
        if precision == "int8":
            graph = load_quantised(model, batch_size)
        else:
            graph = load_graph(model, batch_size, cache_dir, embeddings=embeddings)
        settings = _settings(precision, num_threads, self.concurrency)
        compiled = import_openvino().Core().compile_model(graph, "CPU", settings)
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.concurrency):
            self._requests.put(compiled.create_infer_request())

    def new_slab(self) -> NDArray[np.uint8]:
        """See :class:`batchrec.models.backends.Backend`."""
        return np.zeros(self._slab_shape, dtype=np.uint8)

    def predict(self, images: NDArray[np.uint8]) -> Scores:
        """Recognise uint8 RGB ``(batch_size, crop, crop, 3)``; callers beyond the streams wait."""
        request = self._requests.get()
        try:
            outputs = request.infer({0: images}, share_inputs=True, share_outputs=True)
            # The outputs lie in the request's own memory, which its next caller writes over.
            embeddings = np.array(outputs[1]) if self._embeddings else None
            return scores_from_logits(outputs[0], self._top_k, embeddings)
        finally:
            self._requests.put(request)


def load_graph(model: ModelSpec, batch_size: int, cache_dir: Path | None = None, *, embeddings: bool = False) -> Model:
    """Return the model as an OpenVINO graph from uint8 images to logits, and to embeddings where asked for.

    Read from the cache folder where it was kept; else converted, which imports torch, and kept.
    """
    cache_dir = cache_dir or cache_folder()
    kept = cache_dir / "ir" / graph_key(model, batch_size, embeddings=embeddings) if cache_dir else None
    graph = _read_graph(kept) if kept else None
    if graph is None:
        graph = _convert(model, batch_size, embeddings=embeddings)
        if kept:
            _keep_graph(graph, kept)
    return graph


def load_quantised(model: ModelSpec, batch_size: int) -> Model:
    """Return the graph of a quantised model, for batches of any size."""
    assert model.quantised is not None, "a job in int8 quantises its model before it has workers"
    graph = import_openvino().Core().read_model(*read_graph(Path(model.quantised.path)))
    graph.reshape([batch_size, model.preprocess.crop, model.preprocess.crop, 3])
    return graph


def _settings(precision: str, num_threads: int, streams: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": str(streams),
        "INFERENCE_NUM_THREADS": num_threads,
        # Several workers of one machine would all pin themselves to its first cores.
        "ENABLE_CPU_PINNING": False,
    }


def graph_key(model: ModelSpec, batch_size: int, *, embeddings: bool) -> str:
    """Return the hash of everything a converted model depends on."""
    facts = {
        "format": _IR_FORMAT,
        "weights": model.weights_sha256,
        "architecture": model.architecture,
        "num_outputs": model.num_outputs,
        "preprocess": model.preprocess.to_json(),
        "batch_size": batch_size,
        "openvino": openvino_version(),
        "torchvision": version("torchvision"),
        # Left out where they are off, so that the graphs kept before there were any are still found.
        **({"embeddings": True} if embeddings else {}),
    }
    return digest(facts)[:32]


def _read_graph(folder: Path) -> Model | None:
    if not (folder / "model.xml").is_file():
        return None
    try:
        return import_openvino().Core().read_model(folder / "model.xml")
    except RuntimeError:
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _keep_graph(graph: Model, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = tempfile.mkdtemp(prefix=".new-", dir=folder.parent)
    except OSError:
        return
    try:
        save_graph(graph, Path(staged))
        # Another process may have kept the same graph meanwhile: then this fails and theirs stands.
        Path(staged).rename(folder)
    except (OSError, RuntimeError):
        shutil.rmtree(staged, ignore_errors=True)


def save_graph(graph: Model, folder: Path) -> None:
    """Write a graph as ``model.xml`` and ``model.bin``."""
    folder.mkdir(exist_ok=True)
    import_openvino().save_model(graph, str(folder / "model.xml"), compress_to_fp16=False)


def _convert(model: ModelSpec, batch_size: int, *, embeddings: bool) -> Model:
    import torch

    from batchrec.models.building import build_model

    side = model.preprocess.crop
    example = torch.zeros(batch_size, 3, side, side)
    network = build_model(model, embeddings=embeddings)
    with _traceable_attention(), warnings.catch_warnings():
        # Tracing warns of every shape it fixes; the shape is meant to be fixed.
        warnings.simplefilter("ignore")
        try:
            graph = import_openvino().convert_model(network, example_input=example)
        except _conversion_failures() as error:
            found = str(error).strip().splitlines()[0][:200]
            raise BackendUnavailable(f"openvino cannot convert {model.architecture}", found=found) from error
    graph.reshape([batch_size, 3, side, side])
    return _with_preprocessing(graph, model)


@contextmanager
def _traceable_attention() -> Iterator[None]:
    # torch's fused attention, used where it can be, traces to an operation no converter knows.
    from torch.backends import mha

    fused = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(fused)


def _conversion_failures() -> tuple[type[Exception], ...]:
    # They share no base but Exception.
    frontend = import_openvino().frontend
    names = ("GeneralFailure", "NotImplementedFailure", "OpConversionFailure", "OpValidationFailure")
    return RuntimeError, *(getattr(frontend, name) for name in names)


def _with_preprocessing(graph: Model, model: ModelSpec) -> Model:
    ov = import_openvino()
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(graph)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean(
        [255 * value for value in model.preprocess.mean]
    ).scale([255 * value for value in model.preprocess.std])
    return steps.build()
