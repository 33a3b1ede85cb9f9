"""JobSpec: what the user asked for, checked at once with every fault listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from batchrec.errors import UsageError
from batchrec.kinds import fits

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
EMBEDDINGS = ("off", "float16", "float32")
DECODINGS = ("exact", "scaled", "nvjpeg")
POOLS = ("ray", "inline")
DEVICES = ("auto", "cpu", "cuda")
BACKENDS = ("auto", "openvino", "torch-inductor", "torch-eager")
#: The largest whole number of JSON, which every reader of it knows exactly.
MAX_COUNT = 2**53 - 1
#: Images of one forward pass; at 224 x 224 pixels these are 10 GB of bytes.
MAX_BATCH = 65_536
#: Seconds one image may take to decode; one of 100 megapixels takes about two.
DECODE_WITHIN_S = 60.0
#: Seconds a worker with work may finish no row.
STALL_S = 600.0


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to reach an object store, beside what the usual AWS variables say.

    Attributes:
        endpoint: URL of the S3 endpoint, e.g. ``http://127.0.0.1:9000``.
        region: Region of the buckets.
        requester_pays: Whether reads are billed to the reader.
    """

    endpoint: str | None = None
    region: str | None = None
    requester_pays: bool = False


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What is refused from its header, before decoding."""

    max_pixels: int = 100_000_000
    max_bytes: int = 256 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job as the user wrote it.

    The first group decides the rows and is part of the job's identity; the second only says
    how the job is run and may differ from run to run of one job.

    Attributes:
        source: Manifest files, folders or globs, local or ``s3://``.
        output: Folder the job owns, local or ``s3://``.
        model: Model string, see :mod:`batchrec.models.zoo`.
        labels: File with one label a line, for models that carry none.
        uri_column: Column with the image URIs; by name when None.
        id_column: Column with the image ids; the row position when None.
        passthrough: Columns carried into the predictions unchanged.
        input_roots: Local folders images may lie in, beside the manifest's own.
        allow_buckets: Buckets images may lie in, beside the manifest's own.
        allow_http: Hosts, or ``HOST:PORT``, images may be fetched from over HTTP.
        top_k: Labels kept for each image.
        embeddings: What each image's embedding is kept as, or ``off``.
        precision: Class of arithmetic; ``auto`` is resolved once by the coordinator.
        decoding: ``exact``; ``scaled``: JPEGs far larger than the model's input are shrunk while they are decoded;
            ``nvjpeg``: the model's CUDA device decodes JPEGs too while it would else wait.
        limit: Only the first rows of the manifest.
        manifest_root: Folder relative image URIs start from, where the manifest itself is a staged copy.
        image_limits: What is refused before decoding.
        pool: ``ray`` or ``inline``.
        device: ``auto``, ``cpu`` or ``cuda``.
        backend: ``auto`` or the name of one.
        workers: Number of workers; as many as there is room for when None.
        cores_per_worker: Cores each worker gets; chosen for the machines when None.
        decode_helpers: Most decode helpers of one worker; none for 0, as many as there is room for when None.
        batch_size: Images of one forward pass; chosen for the device when None.
        rows_per_shard: Overrides the plan's own size, for a job not yet planned.
        max_requests: Images read at once by all workers together; as many as bring more when None.
        max_failure_rate: Share of failed rows above which the verdict is exit 4.
        fail_fast: Stop, resumable, once so many rows of a run have failed, instead of judging the finished job.
        deadline_s: Seconds after which the run stops, resumable.
        takeover: Take a job over from a coordinator that still seems alive.
        workers_within_s: Seconds the run waits without a single worker before it ends, resumable.
        stall_s: Seconds without a finished row after which a worker that has work is replaced; never less than
            three times ``decode_within_s``.
        decode_within_s: Seconds one image may take to decode.
        store: How to reach an object store.
    """

    source: tuple[str, ...]
    output: str
    model: str = "apparel"
    labels: str | None = None
    uri_column: str | None = None
    id_column: str | None = None
    passthrough: tuple[str, ...] = ()
    input_roots: tuple[str, ...] = ()
    allow_buckets: tuple[str, ...] = ()
    allow_http: tuple[str, ...] = ()
    top_k: int = 5
    embeddings: str = "off"
    precision: str = "auto"
    decoding: str = "exact"
    limit: int | None = None
    manifest_root: str | None = None
    image_limits: ImageLimits = ImageLimits()

    pool: str = "ray"
    device: str = "auto"
    backend: str = "auto"
    workers: int | None = None
    cores_per_worker: int | None = None
    decode_helpers: int | None = None
    batch_size: int | None = None
    rows_per_shard: int | None = None
    max_requests: int | None = None
    max_failure_rate: float = 0.05
    fail_fast: bool = False
    deadline_s: float | None = None
    takeover: bool = False
    workers_within_s: float | None = 1800.0
    stall_s: float = STALL_S
    decode_within_s: float = DECODE_WITHIN_S
    store: StoreOptions = StoreOptions()

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise UsageError("the job is not valid: " + "; ".join(faults), advice="correct all of them and run again")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, for a coordinator on another machine."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> JobSpec:
        """Read it back.

        Raises:
            UsageError: The values define no job, or were written by a version that knows other settings.
        """
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        try:
            hints = get_type_hints(cls)
            if unfit := [name for name, value in values.items() if name in hints and not fits(value, hints[name])]:
                raise TypeError(f"{', '.join(unfit)} of another kind")
            limits, store = ImageLimits(**values.pop("image_limits")), StoreOptions(**values.pop("store"))
            return cls(**values, image_limits=limits, store=store)
        except (KeyError, TypeError) as error:
            raise UsageError(
                "this job was written by another version of batchrec",
                found=str(error),
                advice="use the same version on both sides",
            ) from error

    def replace(self, **changes: object) -> JobSpec:
        """Return a copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def _faults(spec: JobSpec) -> list[str]:
    faults = []
    if not spec.source:
        faults.append("no manifest is named")
    if not spec.output:
        faults.append("no output folder is named")
    choices = {
        "embeddings": EMBEDDINGS,
        "precision": PRECISIONS,
        "decoding": DECODINGS,
        "pool": POOLS,
        "device": DEVICES,
        "backend": BACKENDS,
    }
    for name, allowed in choices.items():
        if (value := getattr(spec, name)) not in allowed:
            faults.append(f"{name} is {value!r}, not one of {', '.join(allowed)}")
    for name in ("top_k", "limit", "workers", "cores_per_worker", "batch_size", "rows_per_shard", "max_requests"):
        value = getattr(spec, name)
        most = MAX_BATCH if name == "batch_size" else MAX_COUNT
        if value is not None and not 1 <= value <= most:
            faults.append(f"{name} is {_short(value)}, must be from 1 to {most}")
    if spec.max_requests is not None and (spec.workers or 1) > spec.max_requests > 0:
        faults.append(f"max_requests is {spec.max_requests}, too few for {spec.workers} workers to read one image each")
    if spec.precision == "int8" and spec.backend not in ("auto", "openvino"):
        faults.append(f"backend is {spec.backend!r}, and only openvino computes in int8")
    if spec.decode_helpers is not None and spec.decode_helpers < 0:
        faults.append(f"decode_helpers is {spec.decode_helpers}, must not be negative")
    if not 0 <= spec.max_failure_rate <= 1:
        faults.append(f"max_failure_rate is {spec.max_failure_rate}, must be from 0 to 1")
    times = {
        "deadline_s": spec.deadline_s,
        "workers_within_s": spec.workers_within_s,
        "stall_s": spec.stall_s,
        "decode_within_s": spec.decode_within_s,
    }
    faults += [
        f"{name} is {time_s}, must be positive" for name, time_s in times.items() if time_s is not None and time_s <= 0
    ]
    if spec.image_limits.max_pixels < 1 or spec.image_limits.max_bytes < 1:
        faults.append("max_pixels and max_bytes must be at least 1")
    return faults


def _short(value: int) -> str:
    return str(value) if abs(value) <= MAX_COUNT else "a larger number" if value > 0 else "a negative one"
