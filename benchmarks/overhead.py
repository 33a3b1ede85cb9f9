"""CPU time of one tiny image in a worker: reading, decoding, and what the stream around them adds.

    python benchmarks/overhead.py [--images 8000] [--size 64x64] [--rounds 5]

The model answers at once, so that nothing else is measured. Times are of the CPU, in turn, medians; the stream's is
shown with as many threads as cores and with one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from material import archive_of

from batchrec.engine.devices import available_cores
from batchrec.models.backends import Scores
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.stream import Stream
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy


class AtOnce:
    """A model that takes no time."""

    name, device, precision, batch_size = "none", "cpu", "fp32", 32

    def __init__(self, concurrency: int, crop: int) -> None:
        self.concurrency = concurrency
        scores, labels = np.full((32, 5), 0.2, np.float32), np.zeros((32, 5), np.int32)
        self._slab_shape = (32, crop, crop, 3)
        self._scores = Scores(scores, labels, np.ones(32, np.float32))

    def new_slab(self) -> np.ndarray:
        return np.zeros(self._slab_shape, np.uint8)

    def predict(self, images: np.ndarray) -> Scores:
        return self._scores


def cpu_us(work: Callable[[], object], num_images: int) -> float:
    began = time.process_time()
    work()
    return (time.process_time() - began) / num_images * 1e6


def streamed(reader: ImageReader, decoder: Decoder, crop: int, uris: list[str], num_threads: int) -> None:
    stream = Stream(reader, decoder, AtOnce(num_threads, crop), num_threads=num_threads, top_k=5)
    shards = [stream.submit(uris[first : first + 256]) for first in range(0, len(uris), 256)]
    assert sum(shard.result().stats.num_ok for shard in shards) == len(uris)
    stream.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = archive_of(Path(scratch) / "tiny", arguments.images, arguments.size, num_drawn=1000)
        uris = pq.read_table(manifest).column("uri").to_pylist()
        reader = ImageReader(UriPolicy(str(manifest.parent), (), (), ()), StoreOptions(), 2**28)
        preprocess = Preprocess()
        decoder = Decoder(preprocess, ImageLimits())
        images = [reader.read(uri) for uri in uris]
        work: dict[str, Callable[[], object]] = {
            "read": lambda: [reader.read(uri) for uri in uris],
            "decode": lambda: [decoder.decode(data) for data in images],
            "stream": lambda: streamed(reader, decoder, preprocess.crop, uris, available_cores()),
            "stream, one thread": lambda: streamed(reader, decoder, preprocess.crop, uris, 1),
        }
        times: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(arguments.rounds):
            for name, do in work.items():
                times[name].append(cpu_us(do, len(uris)))
        median = {name: statistics.median(found) for name, found in times.items()}
        for name, found in times.items():
            print(f"{name:20} {median[name]:6.0f} us CPU an image ({min(found):.0f} to {max(found):.0f})")
        added = median["stream"] - median["read"] - median["decode"]
        print(f"the stream adds {added:.0f} us, {added / median['stream']:.0%} of what an image costs in it")


if __name__ == "__main__":
    main()
