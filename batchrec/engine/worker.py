"""A worker: one process, one model, one device. Reads its rows, predicts, publishes one part a shard."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from batchrec.engine.decode_helper import DecodeHelper
from batchrec.engine.help_pool import HelpPool
from batchrec.engine.helping import Helping
from batchrec.engine.identity import require_same_output
from batchrec.engine.pool import LiveCounts
from batchrec.engine.systemic import refuse_systemic
from batchrec.engine.worker_job import WorkerJob, open_decoder, open_model, open_nvjpeg, open_reader
from batchrec.errors import AccessError, AccessLost
from batchrec.manifest.rows import RowReader, Rows
from batchrec.models.backends import Backend
from batchrec.models.carrying import model_here
from batchrec.output.layout import Layout
from batchrec.output.parts import PartFooter, encode_part, find_part, publish_part
from batchrec.output.rows import prediction_rows
from batchrec.pipeline.collecting import ShardPredictions
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.isolating import IsolatedReader
from batchrec.pipeline.noting import Notes
from batchrec.pipeline.stream import Stream
from batchrec.records import Attempt, ShardResult, WorkerFacts
from batchrec.stats import ShardStats
from batchrec.storage import ImageReader, open_store, probe


class Worker:
    """Runs attempts of one job. ``run`` may be called from several threads at once; shards then overlap."""

    def __init__(self, job: WorkerJob) -> None:
        self._job = job
        self._layout = Layout(job.job_id)
        self._reading = threading.Lock()
        self._stream: Stream | None = None
        self._reader: ImageReader | None = None
        self._num_allowed = job.first_reads or 0
        self._helping: Helping | None = None
        self._notes = Notes(f"{job.output} {job.job_id}")
        self._note = self._notes.open()
        self._hands = Hands(self._note)
        self._apart = IsolatedReader(job.limits, job.decode_within_s, job.shrink_to)

    def start(self, help_pool: HelpPool | None = None) -> WorkerFacts:
        """Load the model, prove the store takes conditional puts from here, and get ready.

        Args:
            help_pool: Where decode helpers come from, should the device starve; None where there are none.

        Raises:
            Refused: The model or the store cannot be used from this machine.
        """
        began = time.monotonic()
        job = self._job
        self._store = open_store(job.output, job.store)
        require_same_output(self._store, job.job_id)
        self._rows = RowReader(job.manifest, job.store, max_image_bytes=job.limits.max_bytes)
        with ThreadPoolExecutor(max_workers=1) as beside:
            proof = beside.submit(probe, self._store)  # waits for answers, while loading a model computes
            try:
                backend, trial = self._open_model()
            finally:
                proof.result()  # what the store lacks says more than that a model cannot be loaded
        reader = self._reader = open_reader(job)
        self._stream = Stream(
            reader,
            open_decoder(job),
            backend,
            num_threads=job.num_threads,
            top_k=min(job.top_k, job.model.num_outputs),
            embedding=job.embedding,
            decoder_apart=Decoder(job.model.preprocess, job.limits, self._apart.read),
            nvjpeg=open_nvjpeg(job, backend.device),
            hands=self._hands,
        )
        if help_pool is not None and _may_be_helped(job, backend):
            self._helping = self._open_helping(help_pool, backend.concurrency)
        self._facts = {
            **job.facts,
            "backend": backend.name,
            "device": backend.device,
            "precision": backend.precision,
            "python": platform.python_version(),
        }
        return WorkerFacts(
            host=socket.gethostname(),
            pid=os.getpid(),
            device=backend.device,
            backend=backend.name,
            precision=backend.precision,
            batch_size=backend.batch_size,
            trial=trial,
            start_s=time.monotonic() - began,
            num_cores=job.num_threads,
            num_fetching=reader.concurrency(),
            num_decoding=job.num_threads,
            num_predicting=backend.concurrency,
            device_decodes=job.nvjpeg,
        )

    def _open_model(self) -> tuple[Backend, str]:
        return open_model(replace(self._job, model=model_here(self._job.model, self._store)))

    def _open_helping(self, help_pool: HelpPool, concurrency: int) -> Helping:
        assert self._stream is not None, "helpers take its rows"
        job = self._job
        return Helping(
            self._stream,
            help_pool,
            partial(DecodeHelper, job, open_reader, open_decoder),
            num_cores=job.num_threads,
            concurrency=concurrency,
            row_bytes=3 * job.model.preprocess.crop**2,
            most=job.decode_helpers,
            decode_within_s=job.decode_within_s,
        )

    def run(self, attempt: Attempt) -> ShardResult:
        """Predict one shard and publish its part.

        Raises:
            ManifestError: The manifest changed since the job was planned.
            AccessLost: Most rows met one systemic fault, so nothing was published.
            StorageLost: The store would not take the part; trying again is safe.
            OutputError: Another job's part stands in its place.
        """
        try:
            return self._run(attempt)
        except AccessError as error:
            # The store could be read and written when the worker started: this is access lost in mid-run.
            raise AccessLost(
                error.cause, found=error.found, advice=f"{error.advice}; the same command resumes"
            ) from error

    def _run(self, attempt: Attempt) -> ShardResult:
        hand, shard = self._hands.mine(), attempt.shard.index
        if attempt.number > 1:
            with hand.at("read", shard):
                found = self._find(shard)
            if found is not None:
                return self._take_over(found)
        with hand.at("read", shard), self._reading:
            rows = self._rows.read(attempt.shard)
        predictions = self._predict(attempt, rows)
        try:
            refuse_systemic(predictions)
            with hand.at("write", shard):
                return self._publish(attempt, rows, predictions)
        except Exception:
            assert self._stream is not None, "it predicted them"
            self._stream.tally.uncount(predictions.stats)  # they are done again, and count then
            raise

    def _find(self, shard: int) -> PartFooter | None:
        """Look for a shard's part: an attempt that looked lost, or failed, may have published it."""
        return find_part(self._store, self._layout.part_key(shard), job_id=self._job.job_id, shard=shard)

    def _take_over(self, found: PartFooter) -> ShardResult:
        assert self._stream is not None, "start() comes first"
        stats, now = ShardStats(num_ok=found.num_ok, num_errors=Counter(found.num_errors)), time.time()
        self._stream.tally.count(stats)
        self._notes.settle(found.shard)
        return ShardResult(found.shard, found.attempt_id, False, stats, first_row_at=now, last_row_at=now)

    def _predict(self, attempt: Attempt, rows: Rows) -> ShardPredictions:
        """Run a shard's images through the stream; apart from it those that may be what killed a worker."""
        assert self._stream is not None, "start() comes first"
        assert self._reader is not None, "start() comes first"
        shard, num_rows = attempt.shard.index, attempt.shard.num_rows
        suspects = range(num_rows) if attempt.isolated else self._notes.suspects(shard, num_rows)
        images = rows.images or self._reader.members(rows.uris)
        predictions = self._stream.submit(rows.uris, shard=shard, apart=suspects, images=images).result()
        self._apart.rest()  # more rows may have come under suspicion meanwhile
        return predictions

    def _publish(self, attempt: Attempt, rows: Rows, predictions: ShardPredictions) -> ShardResult:
        began = time.perf_counter()
        table = prediction_rows(rows, predictions, attempt, self._job.model.labels)
        data = encode_part(
            table,
            job_id=self._job.job_id,
            shard=attempt.shard.index,
            attempt_id=attempt.attempt_id,
            facts=self._facts,
        )
        standing = publish_part(self._store, self._layout.part_key(attempt.shard.index), data)
        self._notes.settle(attempt.shard.index)
        stats = replace(
            predictions.stats, written_bytes=len(data), write_s=predictions.stats.write_s + time.perf_counter() - began
        )
        return ShardResult(
            shard=attempt.shard.index,
            attempt_id=standing.attempt_id,
            published=standing.attempt_id == attempt.attempt_id,
            stats=stats,
            first_row_at=predictions.first_row_at,
            last_row_at=predictions.last_row_at,
        )

    def live_counts(self) -> LiveCounts:
        """Return how many images this worker has finished with, in published shards or not, and how full it is."""
        if self._stream is None:
            return LiveCounts()
        num_ok, num_errors = self._stream.tally.counts()
        return LiveCounts(
            num_ok,
            num_errors.total(),
            fill=self._stream.fill(),
            in_hand=self._hands.in_hand(),
            num_errors=num_errors,
            num_allowed=self._num_allowed,  # before what is under way: no read begins by an earlier word after this one
            num_reading=self._stream.num_reading(),
            num_helpers=self._helping.num_helpers() if self._helping is not None else 0,
        )

    def allow(self, num_reads: int) -> None:
        """Read no more images at once than these from now on."""
        assert self._reader is not None, "start() comes first"
        self._reader.allow(num_reads)
        self._num_allowed = num_reads

    def close(self) -> None:
        """Stop the stream's threads; shards in flight are given up."""
        if self._helping is not None:
            self._helping.close()
        self._apart.close()
        if self._stream is not None:
            self._stream.close()
            with self._reading:
                self._rows.close()
        self._note.close()
        if self._reader is not None:
            self._reader.close()


def _may_be_helped(job: WorkerJob, backend: Backend) -> bool:
    """Tell whether helpers could decode for a worker.

    A model on the CPU has a use for every core itself, a bound on all reads together does not count helpers', and
    images that lie in the manifest are here already.
    """
    return (
        job.decode_helpers != 0
        and backend.device != "cpu"
        and job.first_reads is None
        and not job.manifest.columns.images
    )
