"""What a worker is told of its job, and what it opens of that: a reader, a decoder, a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchrec.errors import ModelError
from batchrec.manifest.definition import Manifest
from batchrec.models.backends import Backend, open_backend
from batchrec.models.backends.halving import is_out_of_memory
from batchrec.models.backends.queues import CudaDevice
from batchrec.models.bundle import ModelSpec
from batchrec.pipeline.decoding import Decoder, PictureReader
from batchrec.pipeline.nvjpeg import NvJpegDecoder
from batchrec.records import EmbeddingSpec
from batchrec.spec import DECODE_WITHIN_S, ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """Everything a worker needs to know of the job; small and picklable.

    Attributes:
        job_id: The job.
        output: URL of the output folder.
        store: How to reach object stores.
        manifest: Where the rows are.
        policy: Where images may lie.
        limits: What is refused before decoding.
        model: What to run.
        precision: Class of arithmetic, resolved by the coordinator.
        device: ``cpu`` or ``cuda``.
        backend: ``auto`` or the name of one.
        batch_size: Images of one forward pass; chosen for the device when None.
        top_k: Labels kept for each image.
        num_threads: Cores this worker may use.
        embedding: What is kept of each image's embedding.
        decode_within_s: Seconds one image may take to decode.
        decode_helpers: Most decode helpers of one worker; as many as there is room for when None.
        shrink_to: Pixels of either side to which JPEGs may be shrunk while they are decoded; never when None.
        nvjpeg: Whether the model's device decodes JPEGs too while it would else wait.
        first_reads: Images it may read at once before it is told of more; as many as it likes when None.
        facts: What goes into each part's footer, for people.
    """

    job_id: str
    output: str
    store: StoreOptions
    manifest: Manifest
    policy: UriPolicy
    limits: ImageLimits
    model: ModelSpec
    precision: str
    device: str
    backend: str
    batch_size: int | None
    top_k: int
    num_threads: int
    embedding: EmbeddingSpec | None = None
    decode_within_s: float = DECODE_WITHIN_S
    decode_helpers: int | None = None
    shrink_to: int | None = None
    nvjpeg: bool = False
    first_reads: int | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


def open_reader(job: WorkerJob) -> ImageReader:
    """Return what fetches a job's images."""
    reader = ImageReader(job.policy, job.store, job.limits.max_bytes)
    if job.first_reads is not None:
        reader.allow(job.first_reads)
    return reader


def open_decoder(job: WorkerJob) -> Decoder:
    """Return what decodes them in this process."""
    return Decoder(job.model.preprocess, job.limits, PictureReader(job.limits, job.shrink_to).read)


def open_nvjpeg(job: WorkerJob, device: str) -> NvJpegDecoder | None:
    """Return what decodes them on the model's device; None where the job is to have them decoded by cores alone.

    Raises:
        ModelError: nvJPEG is not to be had here, or makes another picture of a JPEG than a core.
    """
    return NvJpegDecoder(job.model.preprocess, job.limits, CudaDevice(device)) if job.nvjpeg else None


def open_model(job: WorkerJob) -> tuple[Backend, str]:
    """Return what runs its model, and one printable line saying how that was chosen."""
    try:
        return open_backend(
            job.model,
            precision=job.precision,
            device=job.device,
            backend=job.backend,
            batch_size=job.batch_size,
            num_threads=job.num_threads,
            top_k=job.top_k,
            embeddings=job.embedding is not None,
        )
    except (RuntimeError, MemoryError) as error:
        if job.batch_size is None or not is_out_of_memory(error):
            raise
        raise ModelError(
            f"batches of {job.batch_size:,} images do not fit into memory",
            found=str(error).split("\n")[0][:200],
            advice="ask for fewer with --batch-size, or leave it out",
        ) from error
