"""What each optimisation brings: whole jobs with one of them off at a time, in turn.

    python benchmarks/ablations.py --archive DIR [--images 2000] [--model file:R18.pt+resnet18] [--rounds 3] [--record]

The product has no switches for most of them, so each is taken out from here, at a named seam; a seam that is gone
ends the run. Jobs run in one process each (`--pool inline`), everything on, then each one off, round by round;
medians count. The archive is drawn where it is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import batchrec
from batchrec.engine import sites, worker_job
from batchrec.engine.inline_pool import InlinePool
from batchrec.learning.drawing import draw_archive
from batchrec.models.backends import open_backend
from batchrec.pipeline import decoding
from batchrec.pipeline.resizing import Pixels, Resizer, Window
from batchrec.pipeline.stream import Stream
from batchrec.storage import local_store
from benchmarks.history import record

ALL_ON = "everything on"
Settings = dict[str, Any]


def swap(room: object, name: str, stand_in: object) -> None:
    """Put something else in a place that must be there."""
    assert hasattr(room, name), f"{room} has no {name} any more"
    setattr(room, name, stand_in)


def one_stream() -> None:
    """Run one forward pass at a time, with all threads inside it."""
    swap(worker_job, "open_backend", partial(open_backend, streams=1))


def threads_of_their_own() -> None:
    """Give decoding as many threads as there are cores, and the model its own beside them."""

    def loops(stream: Any, num_threads: int) -> list[tuple[str, Callable[[], None]]]:
        predict = partial(stream._compute_all, decodes=False, predicts=True)
        return [("predict", predict)] * stream._backend.concurrency + [("decode", stream._decode_all)] * num_threads

    swap(Stream, "_loops", loops)


def pillow_decodes() -> None:
    """Leave plain JPEGs to Pillow, as the model's preset does, with its resize of the whole image."""
    swap(decoding, "_decode_plain_jpeg", lambda data, jpeg, shrink_to: None)


def whole_image_resized() -> None:
    """Resize all of an image, and then crop."""

    def with_torch(resizer: Any, pixels: Pixels, window: Window) -> Pixels:
        rows, columns = window.rows, window.columns
        image = resizer._from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
        whole = resizer._kernel(image, [rows.resized, columns.resized], False, None, None)
        kept: Pixels = whole[0, :, rows.start : rows.end, columns.start : columns.end].permute(1, 2, 0).numpy()
        return kept

    swap(Resizer, "_with_torch", with_torch)


def shards_one_by_one() -> None:
    """Begin a shard only when the one before is published."""
    swap(sites, "InlinePool", partial(InlinePool, shards_per_worker=1))


def nothing_synced() -> None:
    """Trust the page cache: parts may be lost with the machine's power."""

    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data)

    swap(local_store, "_write_synced", write)
    swap(local_store, "_sync_folder", lambda folder: None)


def untouched() -> None:
    """Leave everything in place."""


ABLATIONS: dict[str, tuple[Callable[[], None], Settings]] = {
    ALL_ON: (untouched, {}),
    "torch inductor instead of OpenVINO": (untouched, {"backend": "torch-inductor"}),
    "torch eager instead of OpenVINO": (untouched, {"backend": "torch-eager"}),
    "fp32 instead of the default precision": (untouched, {"precision": "fp32"}),
    "batches of 8 instead of 32": (untouched, {"batch_size": 8}),
    "one forward pass at a time": (one_stream, {}),
    "decoding and model on threads of their own": (threads_of_their_own, {}),
    "Pillow decodes and resizes": (pillow_decodes, {}),
    "the whole image resized, then cropped": (whole_image_resized, {}),
    "shards one by one": (shards_one_by_one, {}),
    "nothing synced to disk (less than we promise)": (nothing_synced, {}),
}


def run(name: str, manifest: str, model: str, images: int) -> dict[str, float]:
    """Run one job in this process and return how fast it was."""
    prepare, settings = ABLATIONS[name]
    prepare()
    with tempfile.TemporaryDirectory() as scratch:
        fixed = {"output": f"{scratch}/out", "model": model, "pool": "inline", "limit": images, "max_failure_rate": 1.0}
        summary = batchrec.submit(manifest, **fixed, **settings)
    assert summary.num_rows == min(images, summary.num_rows)
    return {"images_per_s": summary.steady_images_per_s, "wall_s": summary.wall_s}


def run_apart(name: str, asked: argparse.Namespace) -> dict[str, float]:
    """Run one job in a process of its own."""
    options = ["--archive", str(asked.archive), "--images", str(asked.images), "--model", asked.model]
    command = [sys.executable, __file__, *options, "--one", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--model", default="apparel")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names that hold this, beside everything on")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--one", choices=ABLATIONS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    manifest = asked.archive / "manifest.parquet"
    if asked.one:
        print(json.dumps(run(asked.one, str(manifest), asked.model, asked.images)))
        return
    if not manifest.exists():
        draw_archive(asked.archive, num_images=asked.images, size=(500, 375))
    names = [name for name in ABLATIONS if name == ALL_ON or (asked.only or "") in name]
    found: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(asked.rounds):
        for name in names:
            found[name].append(run_apart(name, asked))
            print(f"round {number + 1}: {name}: {found[name][-1]['images_per_s']:.0f} images/s", flush=True)
    tell(found, asked)


def tell(found: dict[str, list[dict[str, float]]], asked: argparse.Namespace) -> None:
    """Print the medians as a table, and keep them if asked to."""
    rates = {name: statistics.median(each["images_per_s"] for each in runs) for name, runs in found.items()}
    print(f"\n| {asked.images} images, {asked.model} | images/s | of everything on |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / rates[ALL_ON]:.2f} |")
    if asked.record:
        figure = f"steady, {asked.model.rpartition('+')[2]}, {asked.images} images, {{}}, images/s"
        record([(figure.format(name), rate, "higher") for name, rate in rates.items()])


if __name__ == "__main__":
    main()
