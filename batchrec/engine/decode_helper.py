"""A decode helper: it reads and decodes images as the job's workers do, for one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchrec.engine.identity import require_same_output
from batchrec.engine.worker_job import WorkerJob
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.feeding import Feed
from batchrec.pipeline.hands import Hands
from batchrec.pipeline.lending import Slab
from batchrec.records import InHand
from batchrec.storage import ImageReader, open_store


class DecodeHelper:
    """Decodes lots on one core; see :class:`batchrec.engine.help_pool.Helper`.

    Args:
        job: What its worker knows of the job.
        open_reader: Opens what fetches the job's images.
        open_decoder: Opens what decodes them.
    """

    def __init__(
        self,
        job: WorkerJob,
        open_reader: Callable[[WorkerJob], ImageReader],
        open_decoder: Callable[[WorkerJob], Decoder],
    ) -> None:
        self._job, self._hands = job, Hands()
        self._open_reader, self._open_decoder = open_reader, open_decoder
        self._feed: Feed | None = None

    def start(self) -> None:
        """Get ready.

        Raises:
            OutputError: This machine has another folder, and so perhaps other images, under the same path.
        """
        job = self._job
        require_same_output(open_store(job.output, job.store), job.job_id)
        reader, decoder = self._open_reader(job), self._open_decoder(job)
        self._feed = Feed(reader, decoder, num_threads=1, crop=job.model.preprocess.crop, hands=self._hands)

    def decode(self, uris: Sequence[str | None]) -> Slab:
        """Return what can be decoded of some images."""
        assert self._feed is not None, "start() comes first"
        return self._feed.decode(uris)

    def in_hand(self) -> tuple[InHand, ...]:
        """Return what its threads have had in hand for a while, longest first."""
        return self._hands.in_hand()
