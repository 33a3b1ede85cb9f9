"""One GPU kept busy from files on a local disk, in one process and without Ray; a tuned DataLoader beside it.

    python benchmarks/cuda.py [--images 64000] [--architecture resnet50] [--rounds 3] [--decoding nvjpeg]
    python benchmarks/cuda.py --device cpu --images 200 --rounds 1   # only to see that it runs

Draws images, then measures each term of the limit alone, then the whole job and the DataLoader in turn. The limit
is the least of: decoding and reading with all cores, the threads' own Python (a stream that decodes nothing), the copy
to the device, and the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import batchrec
from batchrec.engine.devices import available_cores
from batchrec.learning.drawing import draw_image
from batchrec.models.backends import Backend, Scores, open_backend, resolve_precision
from batchrec.models.backends.trial import images_per_s
from batchrec.models.zoo import resolve_model
from batchrec.pipeline.decoding import Decoder, ImageFacts
from batchrec.pipeline.stream import Stream
from batchrec.report.summary import binding
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy

SIZE = (500, 375)


def draw(folder: Path, index: int) -> str:
    (folder / f"{index}.jpg").write_bytes(draw_image(index, seed=0, size=SIZE)[1])
    return f"{index}.jpg"


def archive_of(folder: Path, num_images: int, num_distinct: int) -> list[str]:
    """Draw images, name them again and again in a manifest, and return the URIs."""
    with ProcessPoolExecutor(available_cores()) as painters:
        drawn = list(painters.map(partial(draw, folder), range(min(num_distinct, num_images)), chunksize=20))
    uris = [drawn[row % len(drawn)] for row in range(num_images)]
    pq.write_table(pa.table({"uri": uris}), folder / "manifest.parquet")
    return uris


def draw_weights(path: Path, architecture: str) -> None:
    """Write random weights whose norms have seen something, so that activations stay in range."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model(architecture).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, 64, 64))
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


class Nothing:
    """Decodes nothing and knows no model: what is left is the stream's own work."""

    name, device, precision = "nothing", "cuda:0", "fp32"
    concurrency = 3

    def __init__(self, batch_size: int, side: int) -> None:
        self.batch_size, self._shape = batch_size, (batch_size, side, side, 3)
        self._pixels = np.zeros(self._shape[1:], np.uint8)
        zeros = np.zeros(batch_size, np.float32)
        self._scores = Scores(zeros[:, None], zeros[:, None].astype(np.int32), zeros)

    def decode(self, data: bytes) -> tuple[np.ndarray, ImageFacts]:
        return self._pixels, ImageFacts(*SIZE)

    def new_slab(self) -> np.ndarray:
        return np.zeros(self._shape, np.uint8)

    def predict(self, images: np.ndarray) -> Scores:
        return self._scores


def stream_alone(folder: Path, uris: list[str], batch_size: int, side: int) -> tuple[float, float]:
    """Images a second through a stream that decodes nothing, and CPU seconds of each."""
    reader = ImageReader(UriPolicy(str(folder), (), ()), StoreOptions(), 2**28)
    nothing = Nothing(batch_size, side)
    stream = Stream(reader, nothing, nothing, num_threads=available_cores(), top_k=1)  # type: ignore[arg-type]
    began, used = time.perf_counter(), time.process_time()
    stream.submit(uris).result()
    took = time.perf_counter() - began, time.process_time() - used
    stream.close()
    return len(uris) / took[0], took[1] / len(uris)


def decode_rate(decoder: Decoder, images: list[bytes]) -> float:
    """Images a second that all cores decode together."""
    with ThreadPoolExecutor(available_cores()) as threads:
        began = time.perf_counter()
        for _ in threads.map(decoder.decode, images):
            pass
        return len(images) / (time.perf_counter() - began)


def copy_rate(backend: Backend) -> float:
    """Images a second from slabs to the device, nothing else running."""
    import torch

    if backend.device == "cpu":
        return float("inf")
    slab = torch.from_numpy(backend.new_slab())
    there = torch.empty_like(slab, device=backend.device)
    there.copy_(slab)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(50):
        there.copy_(slab, non_blocking=True)
    torch.cuda.synchronize()
    return 50 * backend.batch_size / (time.perf_counter() - began)


@contextmanager
def busy_shares(device: str) -> Iterator[list[tuple[float, int]]]:
    """Percent of the time some kernel ran, asked of the driver five times a second, and the seconds at which."""
    shares: list[tuple[float, int]] = []
    ended, began = threading.Event(), time.perf_counter()

    def watch() -> None:
        import torch

        while not ended.wait(0.2):
            try:
                shares.append((time.perf_counter() - began, torch.cuda.utilization()))
            except ModuleNotFoundError:
                return  # it asks through pynvml

    if device != "cpu":
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield shares
    finally:
        ended.set()


def ours(arguments: argparse.Namespace, manifest: Path, model: str, out: Path) -> float:
    """Run the whole job, say how it went, and return its images a second from first to last row."""
    with busy_shares(arguments.device) as shares:
        summary = batchrec.submit(
            str(manifest),
            output=str(out),
            model=model,
            pool="inline",
            device=arguments.device,
            decoding=arguments.decoding,
            top_k=1,
        )
    steady_from, steady_to = summary.start_s, summary.start_s + summary.steady_s
    at_work = [share for second, share in shares if steady_from < second < steady_to]
    busy = f"{statistics.mean(at_work):.0f} %" if at_work else "not measured"
    print(
        f"  ours {summary.steady_images_per_s:.0f}/s, whole {summary.wall_s:.1f} s, {summary.num_ok} ok, "
        f"device busy {busy}; {binding(summary).sentence}",
        flush=True,
    )
    return summary.steady_images_per_s


def theirs(arguments: argparse.Namespace, manifest: Path, weights: Path, decoder: str, batch_size: int) -> float:
    """Run the DataLoader in a process of its own."""
    script = Path(__file__).with_name("cuda_dataloader.py")
    command = [sys.executable, str(script), str(manifest), str(manifest.with_name("theirs.parquet"))]
    command += ["--weights", str(weights), "--architecture", arguments.architecture, "--decoder", decoder]
    command += ["--workers", str(available_cores()), "--batch", str(batch_size), "--device", arguments.device]
    command += ["--no-compile"] if arguments.device == "cpu" else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"  DataLoader, {decoder}: failed\n{done.stderr[-2000:]}")
        return float("nan")
    rate = float(json.loads(done.stdout.splitlines()[-1])["images_per_s"])
    print(f"  DataLoader, {decoder}: {rate:.0f}/s", flush=True)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--distinct", type=int, default=2000)
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--decoding", choices=("exact", "nvjpeg"), default="exact")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="where to draw; a disk in memory is best, e.g. /dev/shm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        measure(arguments, Path(scratch))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    uris = archive_of(folder, arguments.images, arguments.distinct)
    weights, manifest = folder / "weights.safetensors", folder / "manifest.parquet"
    draw_weights(weights, arguments.architecture)
    name = f"file:{weights}+{arguments.architecture}"
    batch_size, limit = limit_of(arguments, folder, uris, name)
    rates: dict[str, list[float]] = {"ours": [], "torchvision": [], "pillow": []}
    for number in range(arguments.rounds):
        print(f"round {number}")
        rates["ours"].append(ours(arguments, manifest, name, folder / f"out{number}"))
        for decoder in ("torchvision", "pillow"):
            rates[decoder].append(theirs(arguments, manifest, weights, decoder, batch_size))
    median = {who: statistics.median(found) for who, found in rates.items()}
    print(f"median: ours {median['ours']:.0f}/s, limit {limit:.0f}/s, ratio {median['ours'] / limit:.3f}")
    for decoder in ("torchvision", "pillow"):
        print(f"ours / DataLoader with {decoder}: {median['ours'] / median[decoder]:.2f}")
    print(f"imported: {', '.join(sorted({'ray', 'openvino'} & sys.modules.keys())) or 'neither ray nor openvino'}")


def limit_of(arguments: argparse.Namespace, folder: Path, uris: list[str], name: str) -> tuple[int, float]:
    """Measure each term alone, print them, and return the batch size chosen and the least of the terms."""
    model, cores = resolve_model(name), available_cores()
    backend, line = open_backend(
        model,
        precision=resolve_precision("auto", arguments.device),
        device=arguments.device,
        backend="auto",
        batch_size=None,
        num_threads=cores,
        top_k=1,
    )
    print(line)
    images = [(folder / uri).read_bytes() for uri in uris[:2000]]
    print(f"{len(uris)} images, {sum(map(len, images)) / len(images) / 1024:.0f} KiB mean, {cores} cores", flush=True)
    predict = images_per_s(backend, model.preprocess.crop, 3.0)
    decode = decode_rate(Decoder(model.preprocess, ImageLimits()), images)
    alone, each_s = stream_alone(folder, uris[:20_000], backend.batch_size, model.preprocess.crop)
    on_cores_s = 1 / decode + each_s / cores + (1 / predict if backend.device == "cpu" else 0.0)
    terms = {"cores": 1 / on_cores_s, "python": alone, "copy": copy_rate(backend), "model": predict}
    print(f"decode {decode:.0f}/s with all cores; terms: {', '.join(f'{of} {rate:.0f}' for of, rate in terms.items())}")
    binds = min(terms, key=lambda of: terms[of])
    print(f"limit {terms[binds]:.0f}/s, {binds}")
    return backend.batch_size, terms[binds]


if __name__ == "__main__":
    main()
