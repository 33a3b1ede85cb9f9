"""Images per second of one core from JPEG bytes to the model's input, three ways, in turn.

    python benchmarks/preprocessing.py [--images 200] [--rounds 5] [--threads 1 2]

(a) torchvision's reference preset on a Pillow image, up to the uint8 crop; (b) Pillow with the crop
folded into the resize; (c) batchrec's Decoder. The images are drawn in memory: 500 x 375, about 110 KB.
``--threads`` adds how the Decoder scales: CPU time for an image stays the same where no lock is fought over.
"""

from __future__ import annotations

import argparse
import io
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import functional

from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.spec import ImageLimits

PREPROCESS = Preprocess(resize=256, crop=224)
SIZE = (500, 375)
TARGET_BYTES = 110_000


def draw(seed: int) -> bytes:
    """A picture with the spectrum of a photograph, in a JPEG of about the target size."""
    random = np.random.default_rng(seed)
    layers = np.zeros((SIZE[1], SIZE[0], 3))
    for cell, weight in ((96, 90), (32, 45), (8, 25), (2, 14), (1, 14)):
        small = random.integers(0, 256, (SIZE[1] // cell + 2, SIZE[0] // cell + 2, 3), np.uint8)
        layer = Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC)
        layers += (np.asarray(layer, np.float64) - 128) * weight / 100
    image = Image.fromarray(np.clip(layers + 128, 0, 255).astype(np.uint8)).filter(ImageFilter.SMOOTH)
    candidates = [encode(image, quality) for quality in (75, 80, 85, 90, 93, 95, 97)]
    return min(candidates, key=lambda data: abs(len(data) - TARGET_BYTES))


def encode(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def with_torchvision(data: bytes) -> torch.Tensor:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    resized = functional.resize(image, [PREPROCESS.resize], antialias=True)
    return functional.pil_to_tensor(functional.center_crop(resized, [PREPROCESS.crop]))


def with_pillow_box(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short, long = sorted(image.size)
    resized = [PREPROCESS.resize if side == short else int(PREPROCESS.resize * long / short) for side in image.size]
    left, top = (round((side - PREPROCESS.crop) / 2.0) for side in resized)
    across, down = image.width / resized[0], image.height / resized[1]
    box = (left * across, top * down, (left + PREPROCESS.crop) * across, (top + PREPROCESS.crop) * down)
    size = (PREPROCESS.crop, PREPROCESS.crop)
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


def with_batchrec(decoder: Decoder, slot: np.ndarray, data: bytes) -> None:
    slot[...], _ = decoder.decode(data)


def images_per_s(way: Callable[[bytes], object], images: list[bytes]) -> float:
    started = time.perf_counter()
    for data in images:
        way(data)
    return len(images) / (time.perf_counter() - started)


def compare(images: list[bytes], rounds: int) -> None:
    decoder, slot = Decoder(PREPROCESS, ImageLimits()), np.empty((PREPROCESS.crop, PREPROCESS.crop, 3), np.uint8)
    ways: dict[str, Callable[[bytes], object]] = {
        "a  torchvision preset on Pillow": with_torchvision,
        "b  Pillow, resize(box=)": with_pillow_box,
        "c  batchrec Decoder": lambda data: with_batchrec(decoder, slot, data),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(images_per_s(way, images))
    first = statistics.median(rates["a  torchvision preset on Pillow"])
    print(f"{'one thread':34}{'images/s':>10}{'min':>8}{'max':>8}{'against a':>11}")
    for name, found in rates.items():
        median = statistics.median(found)
        print(f"{name:34}{median:10.0f}{min(found):8.0f}{max(found):8.0f}{median / first:10.2f}x")


def scale(images: list[bytes], num_threads: int) -> None:
    """Print the Decoder's rate and its CPU time for an image on several threads."""
    decoder = Decoder(PREPROCESS, ImageLimits())
    slots = threading.local()

    def work(data: bytes) -> None:
        if not hasattr(slots, "slot"):
            slots.slot = np.empty((PREPROCESS.crop, PREPROCESS.crop, 3), np.uint8)
        with_batchrec(decoder, slots.slot, data)

    with ThreadPoolExecutor(num_threads) as pool:
        started, used = time.perf_counter(), time.process_time()
        list(pool.map(work, images))
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - used
    cpu_ms = cpu_s / len(images) * 1000
    print(f"Decoder on {num_threads} threads {len(images) / wall_s:10.0f} images/s, {cpu_ms:.2f} ms of CPU each")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images = [draw(seed) for seed in range(asked.images)]
    sizes = [len(data) / 1000 for data in images]
    print(f"{len(images)} images of {SIZE[0]} x {SIZE[1]}, {statistics.mean(sizes):.0f} KB on average")
    compare(images, asked.rounds)
    for num_threads in asked.threads:
        scale(images * 2, num_threads)


if __name__ == "__main__":
    main()
