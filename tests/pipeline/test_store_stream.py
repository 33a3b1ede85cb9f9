"""A whole stream over a real S3 server: reads adapt to it, and their connections are used again."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from batchrec.models.preprocessing import Preprocess
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.stream import Stream
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy, reading
from tests.pipeline.test_stream import SIDE, GreyBackend
from tests.s3_server import Fault, Request, S3Server

MakeStream = Callable[[], tuple[ImageReader, Stream]]


@pytest.fixture
def make_stream(s3_server: S3Server) -> Iterator[MakeStream]:
    """Makes streams over a bucket with one image."""
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (7, 7, 7)).save(file, "png")
    s3_server.put("photos", "a.png", file.getvalue())
    made: list[Stream] = []

    def make() -> tuple[ImageReader, Stream]:
        reader = ImageReader(UriPolicy("s3://photos"), StoreOptions(), 2**20)
        preprocess = Preprocess(resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
        decoder, backend = Decoder(preprocess, ImageLimits()), GreyBackend()
        made.append(Stream(reader, decoder, backend, num_threads=2, top_k=1))
        return reader, made[-1]

    yield make
    for stream in made:
        stream.close()


def test_latency_is_hidden_by_more_reads(
    s3_server: S3Server, make_stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "REMOTE_CONCURRENCY", 2)
    s3_server.fault = lambda request: Fault(delay_s=0.05)
    reader, stream = make_stream()
    assert stream.submit(["a.png"] * 400).result(60).stats.num_ok == 400
    assert reader.concurrency() >= 6
    assert stream.num_fetch_threads >= 6


def test_a_store_that_rejects_gets_fewer_reads_and_every_image_comes(
    s3_server: S3Server, make_stream: MakeStream
) -> None:
    begun: list[float] = []

    def at_most_150_a_second(request: Request) -> Fault:
        now = time.monotonic()
        recent = sum(1 for at in begun[-40:] if at > now - 0.1)
        if recent >= 15:
            return Fault(status=503, code="SlowDown")
        begun.append(now)
        return Fault(delay_s=0.03)

    s3_server.fault = at_most_150_a_second
    reader, stream = make_stream()
    assert stream.submit(["a.png"] * 500).result(60).stats.num_ok == 500
    assert reader.concurrency() < reading.REMOTE_CONCURRENCY


def test_connections_are_used_again(s3_server: S3Server, make_stream: MakeStream) -> None:
    _, stream = make_stream()
    stream.submit(["a.png"] * 300).result(60)
    assert len(s3_server.log) == 300
    assert s3_server.num_connections <= reading.BUCKET_CONCURRENCY / 4


def test_an_allowance_bounds_the_reads_under_way(s3_server: S3Server, make_stream: MakeStream) -> None:
    seen: list[int] = []

    def look(request: Request) -> Fault:
        seen.append(len(s3_server.under_way))
        return Fault(delay_s=0.01)

    s3_server.fault = look
    reader, stream = make_stream()
    reader.allow(3)
    assert stream.submit(["a.png"] * 100).result(60).stats.num_ok == 100
    assert max(seen) <= 3
