"""What it costs to decode apart, and to note what is being decoded; one thread, sides in turn, best of the rounds.

python benchmarks/isolating.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.isolating import IsolatedReader
from batchrec.pipeline.noting import Notes
from batchrec.spec import ImageLimits

SIZES = ((40, 40), (500, 375), (1600, 1200), (4000, 3000))
NOTES = 100_000


def draw(width: int, height: int) -> bytes:
    """A JPEG of smooth colours."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=88)
    return file.getvalue()


def per_s(decode: Callable[[bytes], object], data: bytes, count: int) -> float:
    """Decode one image ``count`` times."""
    began = time.perf_counter()
    for _ in range(count):
        decode(data)
    return count / (time.perf_counter() - began)


def noting_us() -> float:
    """Microseconds to note a row and to clear the note."""
    with tempfile.TemporaryDirectory() as folder:
        note = Notes("benchmark", Path(folder)).open()
        hand = Hands(note).mine()
        began = time.perf_counter()
        for row in range(NOTES):
            hand.take_noted("decode", 1, row)
            hand.lay_down_noted()
        took_s = time.perf_counter() - began
        note.close()
    return took_s / NOTES * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    limits = ImageLimits()
    reader = IsolatedReader(limits, 60.0)
    decoders = {
        "in the worker": Decoder(Preprocess(), limits),
        "apart": Decoder(Preprocess(), limits, reader.read),
    }
    began = time.perf_counter()
    decoders["apart"].decode(draw(40, 40))
    print(f"first image of a child: {time.perf_counter() - began:.2f} s")
    for size in SIZES:
        data, count = draw(*size), max(5, 20_000_000 // (size[0] * size[1] + 20_000))
        runs = [{name: per_s(each.decode, data, count) for name, each in decoders.items()} for _ in range(rounds)]
        best = {name: max(run[name] for run in runs) for name in decoders}
        print(f"{size[0]} x {size[1]}: " + ", ".join(f"{name} {rate:.1f} images/s" for name, rate in best.items()))
    reader.close()
    print(f"noting an image: {min(noting_us() for _ in range(rounds)):.2f} us")


if __name__ == "__main__":
    main()
