"""What int8 brings: images a second in bf16 and in int8, in turn, and how often int8 gives the label of fp32.

    python benchmarks/int8.py --photographs DIR [--models random:resnet18,random:resnet50,random:mobilenet_v3_large]

Rates are of the model alone on all cores. With random weights the agreement says little: their scores lie close
together. On the photographs the bundled model is measured as jobs do, by a sample, and then on all of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path

import numpy as np
from material import archive_of, model_string

from batchrec.engine.calibrating import NUM_CALIBRATED, NUM_CHECKED
from batchrec.engine.devices import available_cores
from batchrec.models.backends import Backend, open_backend
from batchrec.models.backends.openvino_cpu import OpenVinoBackend
from batchrec.models.backends.quantising import quantise
from batchrec.models.backends.trial import images_per_s
from batchrec.models.bundle import ModelSpec
from batchrec.models.zoo import resolve_model
from batchrec.pipeline.decoding import Decoder
from batchrec.spec import ImageLimits


def pixels_of(model: ModelSpec, paths: list[Path]) -> np.ndarray:
    decoder = Decoder(model.preprocess, ImageLimits())
    return np.stack([decoder.decode(path.read_bytes())[0] for path in paths])


def opened(model: ModelSpec, precision: str) -> Backend:
    return open_backend(
        model,
        precision=precision,
        device="cpu",
        backend="openvino",
        batch_size=None,
        num_threads=available_cores(),
        top_k=1,
    )[0]


def in_turn(model: ModelSpec, precisions: tuple[str, ...], rounds: int) -> dict[str, float]:
    """Medians of images a second."""
    backends = {precision: opened(model, precision) for precision in precisions}
    rates: dict[str, list[float]] = {precision: [] for precision in precisions}
    for _ in range(rounds):
        for precision, backend in backends.items():
            rates[precision].append(images_per_s(backend, model.preprocess.crop, seconds=2.0))
    return {precision: statistics.median(found) for precision, found in rates.items()}


def agreeing(model: ModelSpec, paths: list[Path]) -> int:
    """How many photographs get the label of fp32, batch by batch so that memory does not grow."""
    cores, same = available_cores(), 0
    full, quantised = (
        OpenVinoBackend(model, precision=precision, batch_size=32, num_threads=cores, top_k=1, streams=1)
        for precision in ("fp32", "int8")
    )
    for first in range(0, len(paths), 32):
        piece = pixels_of(model, paths[first : first + 32])
        batch = np.concatenate([piece, np.zeros((32 - len(piece), *piece.shape[1:]), np.uint8)])
        labels = [backend.predict(batch).top_labels[: len(piece), 0] for backend in (full, quantised)]
        same += int((labels[0] == labels[1]).sum())
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs")
    parser.add_argument("--models", default="random:resnet18,random:resnet50,random:mobilenet_v3_large")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        drawn = archive_of(Path(scratch) / "drawn", NUM_CALIBRATED + NUM_CHECKED, "320x240").parent
        names = [*filter(None, arguments.models.split(",")), *(["apparel"] if arguments.photographs else [])]
        for name in names:
            folder = Path(arguments.photographs if name == "apparel" else drawn)
            paths = sorted(path for path in folder.rglob("*.jp*g") if path.is_file())
            model = resolve_model(model_string(name, Path(scratch)))
            # Evenly spread, and as many as a job takes.
            sample = pixels_of(model, paths[:: max(1, len(paths) // (NUM_CALIBRATED + NUM_CHECKED))])
            calibration, check = sample[::3], np.concatenate([sample[1::3], sample[2::3]])
            made = quantise(model, calibration[:NUM_CALIBRATED], check, num_threads=available_cores())
            model = dataclasses.replace(model, quantised=made)
            rates = in_turn(model, ("fp32", "bf16", "int8"), arguments.rounds)
            told = ", ".join(f"{precision} {rate:.0f}/s" for precision, rate in rates.items())
            print(f"{name}: {told}, int8/bf16 {rates['int8'] / rates['bf16']:.2f}; int8 gives {made.agreement}")
            if name == "apparel":
                print(f"  on all photographs {agreeing(model, paths)} of {len(paths)}", flush=True)


if __name__ == "__main__":
    main()
