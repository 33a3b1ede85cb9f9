"""How much memory decoding takes at its worst, as the system counts it: with what C libraries ask for.

    python -m tests.pipeline.metering FOLDER...

Decodes every file below the folders, and writes a line of JSON for each: its path in its folder, how that ended, the
bytes it took and the pixels its header names. ``tracemalloc`` would see Python's own objects only.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Beside the process's own memory: some for every pixel the header names, and some in any case.
BYTES_PER_PIXEL, SPARE_BYTES = 24, 16 * 2**20
MOST_PIXELS = 100_000_000  # the limit of a job that names none


def held_bytes() -> int:
    """What this process holds now; its peak starts anew from here."""
    # What the C library kept of earlier images would hide as much of the next one's.
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_bytes("VmRSS")


def peak_bytes() -> int:
    """The most it held since :func:`held_bytes`."""
    return _memory_bytes("VmHWM")


def _memory_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def pixels_named(data: bytes, most: int = MOST_PIXELS) -> int:
    """Return width x height from the header, and no more than may be decoded."""
    from batchrec.errors import ImageError
    from batchrec.pipeline.headers import read_header
    from batchrec.pipeline.sniffing import kind_of

    try:
        size = read_header(kind_of(data), data).size
    except (ImageError, IndexError):
        return 0
    return min(size[0] * size[1], most) if size else most


def measured(folders: list[Path]) -> Iterator[dict[str, Any]]:
    from batchrec.errors import ImageError
    from batchrec.models.preprocessing import Preprocess
    from batchrec.pipeline.decoding import Decoder
    from batchrec.spec import ImageLimits
    from tests.pipeline.damaged_images import GOOD

    decoder = Decoder(Preprocess(), ImageLimits(MOST_PIXELS))
    for data in GOOD.values():
        decoder.decode(data)  # what libraries load once is not the memory of these files
    files = [(path, folder) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    for path, folder in files:
        data, ended = path.read_bytes(), "ok"
        before = held_bytes()
        try:
            decoder.decode(data)
        except ImageError as error:
            ended = error.code.value
        took = {"ended": ended, "bytes": peak_bytes() - before, "pixels": pixels_named(data)}
        yield {"name": str(path.relative_to(folder)), **took}


if __name__ == "__main__":
    for line in measured([Path(folder) for folder in sys.argv[1:]]):
        print(json.dumps(line))
