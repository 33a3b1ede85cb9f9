"""What one image costs here, term by term: the worker's own reader, decoder, backend and publisher, each alone."""

from __future__ import annotations

import hashlib
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, cycle

import numpy as np

from batchrec.engine.worker_job import WorkerJob
from batchrec.errors import CODES, ImageError, Refused
from batchrec.manifest.rows import Rows
from batchrec.models.backends import Backend
from batchrec.models.backends.transfer import copied_bytes_per_s
from batchrec.models.backends.trial import images_per_s
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.rows import prediction_rows
from batchrec.pipeline.collecting import Collector, ShardPredictions
from batchrec.pipeline.decoding import Decoder, ImageFacts
from batchrec.records import Attempt, Shard
from batchrec.report.limit import FetchTerm, ModelTerm, WriteTerm
from batchrec.storage import ImageReader, Store

#: How long each term is looked at, at most.
FETCH_S, DECODE_S, MODEL_S, CORES_S = 3.0, 1.5, 1.5, 0.5
#: Encoded images that each half of a sample is kept of.
_MAX_SAMPLE_BYTES = 128 * 2**20
_NUM_PARTS = 5
_BUSY_BYTES = bytes(2**20)

#: What came of one read, and the seconds it took.
Read = tuple[bytes | ImageError, float]


def busy_cores(num_threads: int) -> float:
    """Return how many cores this process gets when so many threads want one each: a quota anywhere shows."""
    began, began_cpu = time.perf_counter(), time.process_time()

    def work(_: int) -> None:
        while time.perf_counter() < began + CORES_S:
            hashlib.sha256(_BUSY_BYTES)  # lets other threads of this process run

    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(work, range(num_threads)))
    return (time.process_time() - began_cpu) / (time.perf_counter() - began)


def measure_fetch(reader: ImageReader, uris: Sequence[str | None], source: str) -> tuple[FetchTerm, list[bytes]]:
    """Read images with as many reads in flight as a worker has; return what that took, and their bytes.

    The first half opens connections, and lets the reader find how many reads the source takes; the second counts.

    Args:
        reader: The worker's.
        uris: What to read, each once.
        source: Where they lie, for people.

    Raises:
        Refused: Not one of the second half can be read.
    """
    half = len(uris) // 2
    warmed = _read_side_by_side(reader, uris[:half])
    num_in_flight = reader.concurrency()
    began, began_cpu = time.perf_counter(), time.process_time()
    found = _read_side_by_side(reader, uris[half:])
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    read_s = [each_s for data, each_s in found if isinstance(data, bytes)]
    images = [data for data, _ in (*warmed, *found) if isinstance(data, bytes)]
    if not read_s:
        raise _none_usable("read", [data for data, _ in (*warmed, *found) if isinstance(data, ImageError)])
    mean_bytes = statistics.fmean(map(len, images))
    rate, core_s = len(read_s) / wall_s, cpu_s / len(read_s)
    return FetchTerm(source, rate, statistics.median(read_s), num_in_flight, mean_bytes, core_s), images


def measure_decode(decoder: Decoder, images: Sequence[bytes], num_threads: int) -> float:
    """Return the core-seconds a readable image costs while all cores decode.

    Core time, not the clock's: neither what other processes take nor waits for the interpreter's lock are the machine's
    limit.

    Raises:
        Refused: Not one of them can be decoded.
    """
    turns, until = cycle(images), time.perf_counter() + DECODE_S
    with ThreadPoolExecutor(num_threads) as threads:
        costs = threads.map(lambda _: _decode_until(decoder, turns, until), range(num_threads))
        found = list(chain.from_iterable(costs))
    spent_s = [each for each in found if isinstance(each, float)]
    if not spent_s:
        raise _none_usable("decoded", [each for each in found if isinstance(each, ImageError)])
    return statistics.fmean(spent_s)


def measure_model(backend: Backend, crop: int) -> ModelTerm:
    """Return how fast a model is with nothing beside it."""
    rate = images_per_s(backend, crop, MODEL_S)
    return ModelTerm(backend.name, backend.device, backend.precision, backend.batch_size, rate)


def measure_transfer(backend: Backend, crop: int) -> float | None:
    """Return how many images a second reach the device of a model; None where it has none of its own."""
    if backend.device == "cpu":
        return None
    image_bytes = crop * crop * 3
    return copied_bytes_per_s(backend.device, backend.batch_size * image_bytes) / image_bytes


def measure_write(job: WorkerJob, store: Store, rows: Rows, shard: Shard, backend: Backend) -> WriteTerm:
    """Build rows into parts and publish them, one after the other.

    Args:
        job: Whose parts.
        store: Where to; the keys are of no job's.
        rows: What the manifest says of the images.
        shard: Where those rows stand in it.
        backend: Gives their scores.
    """
    predictions = _predictions(job, rows, backend)
    began, began_cpu = time.perf_counter(), time.thread_time()
    folder = f"measured/{secrets.token_hex(4)}"  # a part that stands already is not written
    for number in range(_NUM_PARTS):
        attempt = Attempt(shard, 1, f"measured-{number}")
        table = prediction_rows(rows, predictions, attempt, job.model.labels)
        data = encode_part(table, job_id=job.job_id, shard=shard.index, attempt_id=attempt.attempt_id, facts=job.facts)
        publish_part(store, f"{folder}/part-{number}.parquet", data)
    num_rows = _NUM_PARTS * len(rows.uris)
    return WriteTerm(num_rows / (time.perf_counter() - began), (time.thread_time() - began_cpu) / num_rows)


def _predictions(job: WorkerJob, rows: Rows, backend: Backend) -> ShardPredictions:
    """Return predictions of blank images, gathered as a worker gathers them."""
    crop = job.model.preprocess.crop
    scores = backend.predict(np.zeros((backend.batch_size, crop, crop, 3), np.uint8))
    collector = Collector(rows.uris, scores.top_labels.shape[1], job.embedding)
    for first in range(0, len(rows.uris), backend.batch_size):
        batch = list(range(first, min(first + backend.batch_size, len(rows.uris))))
        for row in batch:
            collector.decoded(row, ImageFacts(crop, crop), 0.0)
        collector.predicted(batch, scores, 0, 0.0)
    return collector.future.result()


def _read_side_by_side(reader: ImageReader, uris: Sequence[str | None]) -> list[Read]:
    num_in_flight = reader.concurrency()
    turns, until, most_bytes = iter(uris), time.perf_counter() + FETCH_S, _MAX_SAMPLE_BYTES // num_in_flight
    with ThreadPoolExecutor(num_in_flight) as threads:
        reads = threads.map(lambda _: _read_until(reader, turns, until, most_bytes), range(num_in_flight))
        return list(chain.from_iterable(reads))


def _read_until(reader: ImageReader, uris: Iterator[str | None], until: float, most_bytes: int) -> list[Read]:
    """Read what no other thread has taken; one image at least where there is one."""
    found, num_bytes = [], 0
    for uri in uris:
        began = time.perf_counter()
        data = _read(reader, uri)
        found.append((data, time.perf_counter() - began))
        num_bytes += len(data) if isinstance(data, bytes) else 0
        if time.perf_counter() > until or num_bytes > most_bytes:
            break
    return found


def _read(reader: ImageReader, uri: str | None) -> bytes | ImageError:
    try:
        return reader.read(uri)
    except ImageError as error:
        return error.bare()


def _decode_until(decoder: Decoder, images: Iterator[bytes], until: float) -> list[float | ImageError]:
    """Decode what no other thread has taken; the core-seconds of each, or why it cannot be decoded."""
    found: list[float | ImageError] = []
    for data in images:
        began = time.thread_time()
        try:
            decoder.decode(data)
            found.append(time.thread_time() - began)
        except ImageError as error:
            found.append(error.bare())
        if time.perf_counter() > until:
            break
    return found


def _none_usable(done: str, errors: Sequence[ImageError]) -> Refused:
    codes = Counter(error.code.value for error in errors)
    return Refused(
        f"no image of the sample could be {done}, so nothing can be measured",
        found=", ".join(f"{count} {code}" for code, count in codes.most_common()),
        advice=CODES[errors[0].code].advice,
    )
