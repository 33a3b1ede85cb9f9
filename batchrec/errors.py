"""What can go wrong, drawn as one tree.

    BatchrecError                  exit 1   a fault of batchrec itself
    ├── UsageError                 exit 2   the command or job file is wrong
    ├── Refused                    exit 3   nothing was started
    │   ├── ManifestError                   the manifest cannot be used
    │   ├── ModelError                      the model, its weights or its labels cannot be used
    │   ├── AccessError                     a store or file may not be read or written
    │   └── OutputError                     the output folder is another job's, or cannot hold one
    ├── Resumable                  exit 5   run the same command again
    │   ├── StorageLost                     the store went away, or is full
    │   ├── AccessLost                      credentials ran out during the run
    │   ├── WorkersLost                     no worker is left to run on
    │   └── ClusterLost                     the cluster does not answer, or lost the coordinator
    ├── Stopped                    exit 6   somebody or something ended the run
    │   ├── Superseded                      another coordinator took the job over
    │   ├── DeadlineReached
    │   └── TooManyFailed                   more images failed than --fail-fast allows
    └── ImageError                 -        one image; becomes a row, never leaves the worker

Every error says what happened (``cause``), what was found and what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BatchrecError(Exception):
    """Anything batchrec raises on purpose."""

    exit_code = 1

    def __init__(self, cause: str, *, found: str = "", advice: str = "") -> None:
        super().__init__(cause, found, advice)
        self.cause = cause
        self.found = found
        self.advice = advice

    def __str__(self) -> str:
        found = f" (found: {self.found})" if self.found else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.cause}{found}{advice}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; keyword-only arguments do not survive the default pickling.
        return _rebuild, (type(self), self.cause, self.found, self.advice)


def _rebuild(kind: type[BatchrecError], cause: str, found: str, advice: str) -> BatchrecError:
    return kind(cause, found=found, advice=advice)


class UsageError(BatchrecError):
    """The command line or the job file is wrong."""

    exit_code = 2


class Refused(BatchrecError):
    """The job was refused before any work."""

    exit_code = 3


class ManifestError(Refused):
    """The manifest cannot be used."""


class ModelError(Refused):
    """The model, its weights or its labels cannot be used."""


class AccessError(Refused):
    """A store or file may not be read or written."""


class OutputError(Refused):
    """The output folder belongs to another job, or cannot hold one."""


class Resumable(BatchrecError):
    """The run ended early through no fault of the job; the same command resumes it."""

    exit_code = 5


class StorageLost(Resumable):
    """The store stopped answering, or is full."""


class AccessLost(Resumable):
    """Most images of a shard met one systemic fault (denied, expired, unreachable)."""


class WorkersLost(Resumable):
    """No worker is left to run on."""


class ClusterLost(Resumable):
    """The cluster does not answer, or lost the coordinator."""


class Stopped(BatchrecError):
    """The run was ended; the same command resumes it."""

    exit_code = 6


class Superseded(Stopped):
    """Another coordinator took this job over."""


class DeadlineReached(Stopped):
    """The time given with ``--deadline`` is over."""


class TooManyFailed(Stopped):
    """More images failed than ``--fail-fast`` lets pass."""


class ErrorCode(StrEnum):
    """Why an image has no prediction. A closed list: it is part of the output's schema."""

    URI_MISSING = "uri_missing"
    URI_INVALID = "uri_invalid"
    URI_REFUSED = "uri_refused"
    NOT_FOUND = "not_found"
    ACCESS_DENIED = "access_denied"
    CREDENTIALS_EXPIRED = "credentials_expired"
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    TIMEOUT = "timeout"
    SERVER_ERROR = "server_error"
    READ_FAILED = "read_failed"
    CHANGED_WHILE_READ = "changed_while_read"
    TOO_MANY_BYTES = "too_many_bytes"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too_many_pixels"
    BAD_DIMENSIONS = "bad_dimensions"
    OUT_OF_MEMORY = "out_of_memory"
    DECODER_CRASH = "decoder_crash"
    DECODE_TIMEOUT = "decode_timeout"
    PREDICTION_FAILED = "prediction_failed"
    SHARD_FAILED = "shard_failed"


@dataclass(frozen=True, slots=True)
class CodeFacts:
    """What is known of an error code.

    Attributes:
        advice: One line telling the owner of the archive what to do.
        retryable: Whether trying the same image again later can help.
        systemic: Whether the cause lies with the run, not the image; shards made of
            such rows are not published.
    """

    advice: str
    retryable: bool = False
    systemic: bool = False


CODES: dict[ErrorCode, CodeFacts] = {
    ErrorCode.URI_MISSING: CodeFacts("the manifest row has no URI: fill it or drop the row"),
    ErrorCode.URI_INVALID: CodeFacts("the URI cannot name an object: correct it in the manifest"),
    ErrorCode.URI_REFUSED: CodeFacts(
        "the URI points outside what this job may read: see --input-root, --allow-bucket and --allow-http"
    ),
    ErrorCode.NOT_FOUND: CodeFacts("nothing is stored under this URI: compare the manifest with the archive"),
    ErrorCode.ACCESS_DENIED: CodeFacts("grant read access to this object", retryable=True, systemic=True),
    ErrorCode.CREDENTIALS_EXPIRED: CodeFacts("renew the credentials and run again", retryable=True, systemic=True),
    ErrorCode.ENDPOINT_UNREACHABLE: CodeFacts("check the endpoint and the network", retryable=True, systemic=True),
    ErrorCode.TIMEOUT: CodeFacts("the store was too slow: retry these rows", retryable=True, systemic=True),
    ErrorCode.SERVER_ERROR: CodeFacts("the store failed: retry these rows", retryable=True, systemic=True),
    ErrorCode.READ_FAILED: CodeFacts("the file could not be read: check the disk, then retry", retryable=True),
    ErrorCode.CHANGED_WHILE_READ: CodeFacts("the object was being rewritten: retry when it is at rest", retryable=True),
    ErrorCode.TOO_MANY_BYTES: CodeFacts("larger than --max-bytes: raise it if such files are meant"),
    ErrorCode.EMPTY: CodeFacts("the object has no bytes: upload it again"),
    ErrorCode.NOT_AN_IMAGE: CodeFacts("the bytes are not an image (HTML, XML, text, ...): check what was uploaded"),
    ErrorCode.UNSUPPORTED_FORMAT: CodeFacts("convert to JPEG, PNG, WebP, GIF, BMP or TIFF"),
    ErrorCode.TRUNCATED: CodeFacts("the image ends early: upload it again"),
    ErrorCode.CORRUPT: CodeFacts("the image is damaged: replace it"),
    ErrorCode.TOO_MANY_PIXELS: CodeFacts("larger than --max-pixels: raise it if such images are meant"),
    ErrorCode.BAD_DIMENSIONS: CodeFacts("width or height is zero or out of proportion: replace it"),
    ErrorCode.OUT_OF_MEMORY: CodeFacts("decoding needs more memory than the worker has", retryable=True),
    ErrorCode.DECODER_CRASH: CodeFacts("the decoder died on this image: replace it"),
    ErrorCode.DECODE_TIMEOUT: CodeFacts("decoding took too long: replace it, or raise --decode-within"),
    ErrorCode.PREDICTION_FAILED: CodeFacts(
        "the model answered no numbers (NaN or infinite) for this image: try --precision fp32, else look at the weights"
    ),
    ErrorCode.SHARD_FAILED: CodeFacts(
        "its shard failed as a whole: read the log, then retry these rows", retryable=True
    ),
}


class ImageError(BatchrecError):
    """One image cannot be recognised; becomes its row's ``error_code`` and ``error_detail``."""

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        super().__init__(code.value, found=detail)
        self.code = code
        self.detail = detail

    def bare(self) -> ImageError:
        """Return it without the frames it came through, which would keep the image's bytes as long as it is kept."""
        return ImageError(self.code, self.detail)

    def __reduce__(self) -> tuple[object, ...]:
        return ImageError, (self.code, self.detail)
