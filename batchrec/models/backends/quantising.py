"""Making a model that computes in int8, and measuring how often it says what the full one says.

NNCF chooses the scale of each layer by what flows through it on some images. It runs in a process of its own: it
imports torch and more, prints, and needs a few times the memory of the model.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batchrec.errors import ModelError
from batchrec.models.backends import CPU_BATCH_SIZE
from batchrec.models.backends.openvino_cpu import OpenVinoBackend, graph_key, load_graph, save_graph
from batchrec.models.quantised import Quantised, quantised_file, write_graph
from batchrec.models.remembering import digest, private_folder, remember
from batchrec.models.weights import sha256_of
from batchrec.records import Agreement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batchrec.models.bundle import ModelSpec

IMAGES, GRAPH, QUANTISED = "images.npy", "graph", "quantised"
WITHIN_S = 900.0


def require_nncf() -> str:
    """Return the version of what quantises.

    Raises:
        ModelError: It is not installed.
    """
    if find_spec("nncf") is None:
        raise ModelError(
            "int8 needs NNCF, which is not installed", advice="`pip install 'batchrec[int8]'`, or use --precision auto"
        )
    return version("nncf")


def quantise(
    model: ModelSpec,
    calibration: NDArray[np.uint8],
    check: NDArray[np.uint8],
    *,
    num_threads: int,
    embeddings: bool = False,
) -> Quantised:
    """Quantise a model and measure its agreement; what was made of the same images before is found again.

    Args:
        model: Its weights lie on this machine.
        calibration: Images (n, crop, crop, 3) whose flow through the model sets the scales; at least a batch.
        check: Other images, on which the two are compared.
        num_threads: Cores to use.
        embeddings: Whether the model answers embeddings too.

    Raises:
        ModelError: NNCF is not installed or cannot quantise this model.
    """
    folder = private_folder()
    key = {
        "nncf": require_nncf(),
        "graph": graph_key(model, CPU_BATCH_SIZE, embeddings=embeddings),
        "images": sha256_of_images(calibration),
    }
    path = quantised_file(folder, digest(key)[:32])
    if not path.is_file():
        write_graph(path, *_quantised_graph(model, calibration, num_threads, embeddings=embeddings))
    made = Quantised(str(path), sha256_of(path))

    def compare() -> dict[str, int]:
        return dataclasses.asdict(_agreement(dataclasses.replace(model, quantised=made), check, num_threads))

    compared = {"model": made.sha256, "images": sha256_of_images(check)}
    return dataclasses.replace(made, agreement=Agreement(**remember("agreements", compared, compare, folder=folder)))


def sha256_of_images(images: NDArray[np.uint8]) -> str:
    """Return what tells some images from others: everything that went into their pixels."""
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()


def _quantised_graph(
    model: ModelSpec, images: NDArray[np.uint8], num_threads: int, *, embeddings: bool
) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory(prefix="batchrec-int8-") as scratch:
        folder = Path(scratch)
        save_graph(load_graph(model, CPU_BATCH_SIZE, embeddings=embeddings), folder / GRAPH)
        whole = len(images) // CPU_BATCH_SIZE * CPU_BATCH_SIZE
        np.save(folder / IMAGES, images[:whole].reshape(-1, CPU_BATCH_SIZE, *images.shape[1:]))
        _run_child(model, folder, num_threads)
        made = folder / QUANTISED
        return (made / "model.xml").read_bytes(), (made / "model.bin").read_bytes()


def _run_child(model: ModelSpec, folder: Path, num_threads: int) -> None:
    # -P: whatever lies in the working directory is no module of ours.
    command = [sys.executable, "-P", "-m", "batchrec.models.backends.quantising_child", str(folder)]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(num_threads)}
    try:
        subprocess.run(command, env=environment, timeout=WITHIN_S, capture_output=True, check=True)  # noqa: S603
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines() or [str(error)]
        raise ModelError(
            f"{model.architecture} could not be quantised", found=said[-1][:200], advice="use --precision auto"
        ) from error


def _agreement(model: ModelSpec, images: NDArray[np.uint8], num_threads: int) -> Agreement:
    full, quantised = (list(_labels(model, precision, images, num_threads)) for precision in ("fp32", "int8"))
    return Agreement(len(images), int(np.count_nonzero(np.concatenate(full) == np.concatenate(quantised))))


def _labels(
    model: ModelSpec, precision: str, images: NDArray[np.uint8], num_threads: int
) -> Iterator[NDArray[np.int32]]:
    """Yield the first label of each image, batch by batch."""
    backend = OpenVinoBackend(
        model, precision=precision, batch_size=CPU_BATCH_SIZE, num_threads=num_threads, top_k=1, streams=1
    )
    batch = np.zeros((CPU_BATCH_SIZE, *images.shape[1:]), np.uint8)
    for first in range(0, len(images), CPU_BATCH_SIZE):
        piece = images[first : first + CPU_BATCH_SIZE]
        batch[: len(piece)] = piece
        yield backend.predict(batch).top_labels[: len(piece), 0]
