"""Damage good files by seed and number, and decode them in a process that may die of it.

    python -m tests.pipeline.mutating SEED FIRST END [DIE_AT]

Each line of its output is one JSON: the number of a mutant about to be decoded, or how that ended. A crash is the end
of the output, and its last line is whose. ``python -m tests.pipeline.mutating 7 1234 1235`` does one of them again.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.pipeline import damaged_images, good_images
from tests.pipeline.metering import BYTES_PER_PIXEL, SPARE_BYTES, held_bytes, peak_bytes, pixels_named

MAX_PIXELS = 1_000_000
WITHIN_S = 5
_MAX_FILE_BYTES = 30_000
_HEAD_BYTES = 200
_WORTH_TRYING = (
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\0\0",
    b"\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff" * 4,
    bytes(4),
)


def seeds() -> dict[str, bytes]:
    """Good files of every kind that is read, small enough to decode thousands of times."""
    variants = {name: good.data for name, good in good_images.GOOD.items() if not name.startswith("turned")}
    noise = {f"noise: {name}": data for name, data in damaged_images.GOOD.items()}
    return {name: data for name, data in (variants | noise).items() if len(data) < _MAX_FILE_BYTES}


def flip(data: bytearray, at: int, rng: random.Random) -> None:
    data[at] ^= 1 << rng.randrange(8)


def flip_several(data: bytearray, at: int, rng: random.Random) -> None:
    for place, bit in {(position(data, rng), rng.randrange(8)) for _ in range(rng.randint(2, 8))}:
        data[place] ^= 1 << bit


def overwrite(data: bytearray, at: int, rng: random.Random) -> None:
    new = rng.choice(_WORTH_TRYING)
    data[at : at + len(new)] = new


def delete(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at : at + rng.randint(1, 8)]


def insert(data: bytearray, at: int, rng: random.Random) -> None:
    data[at:at] = rng.randbytes(rng.randint(1, 8))


def repeat(data: bytearray, at: int, rng: random.Random) -> None:
    start = position(data, rng)
    data[at:at] = data[start : start + rng.randint(1, 64)]


def cut(data: bytearray, at: int, rng: random.Random) -> None:
    del data[at:]


def position(data: bytearray, rng: random.Random) -> int:
    # Headers are short and decide most: half of the damage goes there.
    return rng.randrange(min(len(data), _HEAD_BYTES) if rng.random() < 0.5 else len(data))


Damage = Callable[[bytearray, int, random.Random], None]
FLIPS: tuple[Damage, ...] = (flip, flip_several)
OTHER_DAMAGES: tuple[Damage, ...] = (overwrite, delete, insert, repeat, cut)
#: Of so many mutants in a row all but the last have flipped bits and nothing else.
EVERY = 6


def mutant(files: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """What it was made of, and its bytes."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(files))
    damage = rng.choice(OTHER_DAMAGES if number % EVERY == EVERY - 1 else FLIPS)
    data = bytearray(files[name])
    damage(data, position(data, rng), rng)
    return f"{name}, {damage.__name__}", bytes(data)


def outcomes(seed: int, first: int, end: int) -> Iterator[dict[str, Any]]:
    """Before each mutant its number; after it how it ended, in how long, and memory beyond what it may take."""
    from batchrec.errors import ImageError
    from batchrec.pipeline.decoding import PictureReader
    from batchrec.spec import ImageLimits

    reader, files = PictureReader(ImageLimits(MAX_PIXELS)), seeds()
    for data in files.values():
        reader.read(data)  # what libraries load once is not the mutants' memory
    for number in range(first, end):
        name, data = mutant(files, seed, number)
        yield {"number": number, "of": name}
        before, started = held_bytes(), time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, WITHIN_S)
        try:
            width, height = reader.read(data).size
            ended = "ok" if 0 < width * height <= MAX_PIXELS else f"{width} x {height} pixels"
        except ImageError as error:
            ended = error.code.value
        except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
            ended = f"raised {error!r}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        took_s, took_bytes = time.monotonic() - started, peak_bytes() - before
        beyond = took_bytes - SPARE_BYTES - BYTES_PER_PIXEL * pixels_named(data, MAX_PIXELS)
        yield {"number": number, "ended": ended, "took_s": took_s, "beyond_bytes": max(0, beyond)}


def main() -> None:
    seed, first, end, *die_at = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process whatever the decoder does
    for line in outcomes(seed, first, end):
        print(json.dumps(line), flush=True)
        if line["number"] in die_at:  # as a decoder would
            os.abort()


if __name__ == "__main__":
    main()
