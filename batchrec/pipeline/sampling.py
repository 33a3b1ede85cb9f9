"""Some images of a manifest, read and decoded as its rows will be, for what must be known of them before any work."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from batchrec.errors import ImageError
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.resizing import Pixels
from batchrec.storage import ImageReader


@dataclass(frozen=True, slots=True)
class ImageSample:
    """Images that differ from each other.

    Attributes:
        pixels: As the model takes them, in the order of the rows they are of.
        faults: Why not, of each row looked at whose image cannot be had.
    """

    pixels: list[Pixels]
    faults: list[ImageError]


def read_sample(
    uris: Sequence[str | None], reader: ImageReader, decoder: Decoder, *, wanted: int, num_threads: int
) -> ImageSample:
    """Read images until enough are had; which come twice are taken once.

    Args:
        uris: Where they are, in order.
        reader: Reads them, as many at once as it likes.
        decoder: Decodes them.
        wanted: How many are enough.
        num_threads: How many may be decoded at once.
    """
    at_once = reader.concurrency()
    pixels: list[Pixels] = []
    faults: list[ImageError] = []
    seen: set[bytes] = set()
    with ThreadPoolExecutor(at_once) as reading, ThreadPoolExecutor(num_threads) as decoding:
        for first in range(0, len(uris), at_once):
            if len(pixels) >= wanted:
                break
            read = reading.map(lambda uri: _read(reader, uri), uris[first : first + at_once])
            new = [data for data in read if isinstance(data, ImageError) or _is_new(data, seen)]
            for found in decoding.map(lambda data: _decode(decoder, data), new):
                faults.append(found) if isinstance(found, ImageError) else pixels.append(found)
    return ImageSample(pixels[:wanted], faults)


def _is_new(data: bytes, seen: set[bytes]) -> bool:
    digest, before = hashlib.sha256(data).digest(), len(seen)
    seen.add(digest)
    return len(seen) > before


def _read(reader: ImageReader, uri: str | None) -> bytes | ImageError:
    try:
        return reader.read(uri)
    except ImageError as error:
        return error.bare()


def _decode(decoder: Decoder, data: bytes | ImageError) -> Pixels | ImageError:
    if isinstance(data, ImageError):
        return data
    try:
        return np.ascontiguousarray(decoder.decode(data)[0])
    except ImageError as error:
        return error.bare()
