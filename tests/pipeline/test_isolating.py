"""Decoding apart: the same pixels, and whatever an image does to its process becomes its code."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import simplejpeg  # noqa: F401  the real one, before the path of this process is changed
from PIL import Image

from batchrec.errors import ErrorCode, ImageError, WorkersLost
from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.isolating import IsolatedReader
from batchrec.spec import ImageLimits
from tests import poison

LIMITS = ImageLimits(max_pixels=2_000_000)
WITHIN_S = 1.0


def encoded(kind: str, size: tuple[int, int] = (61, 47), mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.default_rng(3).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise, "RGBA" if mode == "RGBA" else None).convert(mode).save(file, kind, **options)
    return file.getvalue()


JPEG = encoded("JPEG")


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[IsolatedReader]:
    """Reads in processes whose decoder does what marked images ask for."""
    monkeypatch.setattr(sys, "path", [poison.FOLDER, *sys.path])
    made = IsolatedReader(LIMITS, WITHIN_S)
    yield made
    made.close()


def decoders() -> list[psutil.Process]:
    """The processes that decode for this one; not its other children, such as the session's Ray."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "batchrec.pipeline.isolated_child" in " ".join(child.cmdline())
    ]


def code_of(reader: IsolatedReader, data: bytes) -> ErrorCode:
    with pytest.raises(ImageError) as failed:
        reader.read(data)
    return failed.value.code


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    "data",
    [
        JPEG,
        encoded("JPEG", mode="L"),
        encoded("JPEG", mode="CMYK"),
        encoded("JPEG", exif=turned(6)),
        encoded("PNG", mode="RGBA"),
        encoded("PNG", mode="P"),
        encoded("WEBP", exif=turned(3)),
        encoded("TIFF", (900, 700)),
        encoded("JPEG", (3, 900)),
    ],
)
def test_an_image_decoded_apart_has_the_same_pixels_to_the_bit(reader: IsolatedReader, data: bytes) -> None:
    preprocess = Preprocess(resize=40, crop=32)
    here, here_facts = Decoder(preprocess, LIMITS).decode(data)
    apart, apart_facts = Decoder(preprocess, LIMITS, reader.read).decode(data)
    assert np.array_equal(here, apart)
    assert here_facts == apart_facts


@pytest.mark.parametrize(
    "data", [b"", b"text", JPEG[:200], b"\x89PNG\r\n\x1a\n", encoded("PNG", (2001, 1000)), encoded("GIF")[:40]]
)
def test_an_image_that_cannot_be_decoded_has_the_same_error_apart(reader: IsolatedReader, data: bytes) -> None:
    with pytest.raises(ImageError) as here:
        Decoder(Preprocess(), LIMITS).decode(data)
    with pytest.raises(ImageError) as apart:
        reader.read(data)
    assert (apart.value.code, apart.value.detail) == (here.value.code, here.value.detail)


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        ("abort", ErrorCode.DECODER_CRASH),
        ("segfault", ErrorCode.DECODER_CRASH),
        ("exit", ErrorCode.DECODER_CRASH),
        ("eat", ErrorCode.OUT_OF_MEMORY),
        ("hang", ErrorCode.DECODE_TIMEOUT),
        ("hang_with_the_lock", ErrorCode.DECODE_TIMEOUT),
    ],
)
def test_what_an_image_does_to_its_process_becomes_its_code_and_the_next_is_decoded(
    reader: IsolatedReader, deed: str, code: ErrorCode
) -> None:
    assert reader.read(JPEG).size == (61, 47)
    assert code_of(reader, poison.poisoned(JPEG, deed)) == code
    assert reader.read(JPEG).size == (61, 47)


def test_an_image_is_not_blamed_for_a_process_that_an_earlier_one_broke(reader: IsolatedReader) -> None:
    reader.read(JPEG)
    for child in decoders():
        child.kill()
    assert reader.read(JPEG).size == (61, 47)


def test_threads_that_decode_at_once_have_a_process_each(reader: IsolatedReader) -> None:
    slow = poison.poisoned(JPEG, "slow")
    threads = [threading.Thread(target=reader.read, args=(slow,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoders()) == 2
    reader.rest()
    assert decoders() == []
    assert reader.read(JPEG).size == (61, 47)


def test_closing_blames_no_image_and_leaves_no_process(reader: IsolatedReader) -> None:
    ended: list[BaseException] = []

    def read() -> None:
        try:
            reader.read(poison.poisoned(JPEG, "slow"))
        except (RuntimeError, ImageError) as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    give_up_at = time.monotonic() + 10
    while not decoders():
        assert time.monotonic() < give_up_at
    reader.close()
    thread.join(10)
    assert [(type(error), str(error)) for error in ended] == [(RuntimeError, "the stream was closed")]
    assert decoders() == []


def test_a_process_that_cannot_start_is_no_fault_of_the_image(
    reader: IsolatedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkersLost, match="did not start"):
        reader.read(JPEG)


def test_a_child_ends_when_its_parent_is_killed_even_in_the_middle_of_an_image() -> None:
    code = f"""
import sys; sys.path.insert(0, {poison.FOLDER!r})
from batchrec.pipeline.isolating import IsolatedReader
from batchrec.spec import ImageLimits
IsolatedReader(ImageLimits(), 2.0).read(sys.stdin.buffer.read())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert parent.stdin
    parent.stdin.write(poison.poisoned(JPEG, "hang_with_the_lock"))
    parent.stdin.close()
    give_up_at = time.monotonic() + 20
    while not (children := psutil.Process(parent.pid).children()):
        assert time.monotonic() < give_up_at
    time.sleep(1.0)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
