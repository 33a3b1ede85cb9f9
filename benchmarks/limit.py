"""How near a whole job comes to what this machine allows: decode and model measured alone, then the job.

    python benchmarks/limit.py --images 8000 --size 500x375 --model random:resnet18
    python benchmarks/limit.py --images 400 --drawn 100 --size 4000x3000 --model random:resnet18
    python benchmarks/limit.py --images 40000 --drawn 4000 --size 64x64 --model random:mobilenet_v3_large
    python benchmarks/limit.py --images 8000 --drawn 1000 --kind png --model random:resnet18

Limit for work that shares cores: cores / (seconds of one core to decode an image + to predict it).
The parts are measured alone before and after the job, in the same process tree, and their medians count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from material import archive_of, model_string

import batchrec
from batchrec.engine.devices import available_cores
from batchrec.models.backends import Backend, open_backend, resolve_precision
from batchrec.models.zoo import resolve_model
from batchrec.pipeline.decoding import Decoder
from batchrec.spec import ImageLimits


def decode_rate(decoder: Decoder, images: list[bytes]) -> float:
    """Images a second that one core decodes."""
    began = time.perf_counter()
    for data in images:
        decoder.decode(data)
    return len(images) / (time.perf_counter() - began)


def model_rate(backend: Backend, crop: int, num_batches: int = 12) -> float:
    """Images a second of the model with all its cores and nothing else running."""
    batch = np.random.default_rng(0).integers(0, 255, (backend.batch_size, crop, crop, 3), dtype=np.uint8)

    def run() -> None:
        for _ in range(num_batches):
            backend.predict(batch)

    threads = [threading.Thread(target=run) for _ in range(backend.concurrency)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return backend.concurrency * num_batches * backend.batch_size / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--drawn", type=int, help="different images among them; all when left out")
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--kind", choices=("jpeg", "png"), default="jpeg")
    parser.add_argument("--model", default="apparel", help="random:ARCHITECTURE for weights drawn here")
    parser.add_argument("--pool", default="ray")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archive", help="drawn before; drawn anew otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(arguments.archive or f"{scratch}/archive")
        archive_of(archive, arguments.images, arguments.size, arguments.kind, arguments.drawn)
        arguments.model = model_string(arguments.model, Path(scratch))
        uris = pq.read_table(archive / "manifest.parquet", columns=["uri"]).column("uri").to_pylist()
        images = [(archive / uri).read_bytes() for uri in uris[:500]]
        mean_kb = sum(map(len, images)) / len(images) / 1024
        print(f"{len(uris)} images, {mean_kb:.0f} KiB mean, {available_cores()} cores")
        measure(arguments, archive, images, scratch)


def measure(arguments: argparse.Namespace, archive: Path, images: list[bytes], scratch: str) -> None:
    model, cores = resolve_model(arguments.model), available_cores()
    decoder = Decoder(model.preprocess, ImageLimits())
    precision = resolve_precision("auto", "cpu")
    backend, line = open_backend(
        model, precision=precision, device="cpu", backend="auto", batch_size=None, num_threads=cores, top_k=5
    )
    print(line)
    decoded, predicted, steady = [], [], []
    for number in range(arguments.rounds):
        decoded.append(decode_rate(decoder, images))
        predicted.append(model_rate(backend, model.preprocess.crop))
        summary = batchrec.submit(
            str(archive / "manifest.parquet"),
            output=f"{scratch}/out{number}",
            model=arguments.model,
            pool=arguments.pool,
            max_failure_rate=1.0,
        )
        steady.append(summary.steady_images_per_s)
        limit = 1 / (1 / (cores * decoded[-1]) + 1 / predicted[-1])
        print(
            f"round {number}: decode {decoded[-1]:.0f}/s a core, model {predicted[-1]:.0f}/s, limit {limit:.0f}/s, "
            f"steady {steady[-1]:.0f}/s, ratio {steady[-1] / limit:.3f}, whole {summary.wall_s:.1f} s",
            flush=True,
        )
    decode, predict = statistics.median(decoded), statistics.median(predicted)
    limit = 1 / (1 / (cores * decode) + 1 / predict)
    achieved = statistics.median(steady)
    print(f"median: limit {limit:.0f}/s, steady {achieved:.0f}/s, ratio {achieved / limit:.3f}")


if __name__ == "__main__":
    main()
