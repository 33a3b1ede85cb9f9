"""Clients of S3 buckets: one per bucket and way to reach it, and what their errors mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from obstore import exceptions as faults
from obstore.store import S3Store as Bucket

from batchrec.errors import AccessError, BatchrecError, OutputError, StorageLost, UsageError
from batchrec.spec import StoreOptions

if TYPE_CHECKING:
    from obstore.store import S3Credential

TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 5
MAX_RETRIES = 6
RETRY_TIMEOUT_S = 60
CREDENTIALS_TTL = timedelta(minutes=15)
BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# Variables with which the client finds credentials by itself.
OWN_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
FULL = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "BucketQuotaExceeded"}
# Where an error's text shows its structure. Each needs a line break, which no key can bring in: a key is
# quoted there, and may itself read like an answer.
STATUS = re.compile(r"\n\s+status: (\d{3}),")
CODE = re.compile(r"\n\s+body: Some\(\n.*?<Code>([A-Za-z0-9.]{1,64})</Code>")
KIND = re.compile(r"\n\s+HttpError \{\s+kind: (\w+)")
REDIRECT = re.compile(r"\n\s+inner: BareRedirect")
METADATA = re.compile(r"\n\s+uri: Some\(\s+http://[^/\s]+/latest/(?:api|meta-data)/")


class Trouble(Enum):
    """What kind of thing went wrong between us and the store."""

    EXISTS = auto()
    CONFLICT = auto()
    CHANGED = auto()
    NO_OBJECT = auto()
    NO_BUCKET = auto()
    DENIED = auto()
    ARCHIVED = auto()
    EXPIRED = auto()
    NO_CREDENTIALS = auto()
    UNREACHABLE = auto()
    TIMEOUT = auto()
    FULL = auto()
    ODD_KEY = auto()
    UNSUPPORTED = auto()
    REGION = auto()
    FAILED = auto()


_TRANSIENT_TROUBLE = (Trouble.FAILED, Trouble.TIMEOUT, Trouble.UNREACHABLE, Trouble.NO_CREDENTIALS)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A client's error in our words.

    Attributes:
        trouble: What kind of thing went wrong.
        detail: For people; holds no text of the store or the client, so no secret.
        status: Of the answer; 0 where none came.
    """

    trouble: Trouble
    detail: str
    status: int = 0

    @property
    def is_rejection(self) -> bool:
        """Whether the store said slow down."""
        return self.status in (429, 503)

    @property
    def is_transient(self) -> bool:
        """Whether the same request may well succeed a little later."""
        return self.status in (408, 429) or (
            (self.status == 0 or self.status >= 500) and self.trouble in _TRANSIENT_TROUBLE
        )


def split_url(url: str) -> tuple[str, str]:
    """Return bucket and key prefix of an ``s3://`` URL; a slash at the end does not matter.

    Raises:
        UsageError: It names no bucket, or carries credentials.
    """
    bucket, _, prefix = url.partition("://")[2].partition("/")
    if "@" in bucket:
        raise UsageError("the s3:// URL carries credentials", advice="set them in the usual AWS_* variables instead")
    if not BUCKET_NAME.fullmatch(bucket):
        raise UsageError("the s3:// URL names no valid bucket", found=bucket[:64], advice="write s3://BUCKET/PREFIX")
    return bucket, prefix.strip("/")


def connect(bucket: str, options: StoreOptions, *, retries: bool = True) -> Bucket:
    """Return the client of a bucket, the same one as long as the AWS variables stay the same. Makes no request.

    Args:
        bucket: Its name.
        options: How to reach it.
        retries: Whether it tries again by itself, and so keeps to itself that the store said slow down.

    Raises:
        UsageError: The endpoint is not a URL.
        AccessError: The AWS profile cannot be used.
    """
    variables = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _client(bucket, options, variables, retries)


@lru_cache(maxsize=256)
def _client(bucket: str, options: StoreOptions, variables: tuple[tuple[str, str], ...], retries: bool) -> Bucket:
    environment = dict(variables)
    session = _session(environment)
    profile = _profile(session)
    endpoint = _endpoint(options, environment, profile)
    region = options.region or _first_set(environment, "AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region")
    config: dict[str, Any] = {"region": region} if region else {}
    if endpoint:
        # The service's own variable outranks a plain endpoint inside the client, so name that one.
        config["aws_endpoint_url_s3"] = endpoint
    if options.requester_pays:
        config["request_payer"] = True
    return Bucket(
        bucket,
        config=config,  # type: ignore[arg-type]
        client_options={
            "allow_http": bool(endpoint) and urlsplit(endpoint).scheme == "http",
            "timeout": timedelta(seconds=TIMEOUT_S),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        },
        retry_config={
            "max_retries": MAX_RETRIES if retries else 0,
            "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
            "backoff": {"max_backoff": timedelta(seconds=5)},
        },
        credential_provider=None if _first_set(environment, *OWN_CREDENTIALS) else _provider(session),
    )


def _first_set(environment: dict[str, str], *names: str) -> str | None:
    return next((environment[name] for name in names if environment.get(name)), None)


def _endpoint(options: StoreOptions, environment: dict[str, str], profile: dict[str, str]) -> str:
    variable = _first_set(environment, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = options.endpoint or variable or profile.get("endpoint_url") or ""
    parts = urlsplit(endpoint)
    if endpoint and (parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc):
        raise UsageError(
            "the S3 endpoint is not a URL of a host",
            advice="write http://HOST:PORT or https://HOST, without credentials",
        )
    return endpoint.rstrip("/")


def _session(environment: dict[str, str]) -> Any:
    """Return a botocore session where only it can read what is set: profiles, SSO, credential processes."""
    files = ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), ("AWS_CONFIG_FILE", "~/.aws/config")
    there = any(Path(environment.get(name) or default).expanduser().is_file() for name, default in files)
    if not there and not environment.get("AWS_PROFILE"):
        return None
    try:
        from botocore import session  # type: ignore[import-untyped]
    except ImportError:
        return None
    return session.get_session()


def _profile(session: Any) -> dict[str, str]:
    """Return the region and endpoint of the user's profile, where it has them."""
    return dict(_ask_profile(session.get_scoped_config)) if session else {}


def _provider(session: Any) -> Callable[[], S3Credential] | None:
    credentials = _ask_profile(session.get_credentials) if session else None
    if credentials is None:
        return None

    def provide() -> S3Credential:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_TTL,
        }

    return provide


def _ask_profile(ask: Callable[[], Any]) -> Any:
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    try:
        return ask()
    except BotoCoreError as error:
        raise AccessError(
            "the AWS profile cannot be used", found=type(error).__name__, advice="check AWS_PROFILE and ~/.aws"
        ) from None


def diagnose(error: Exception) -> Diagnosis:
    """Say what a client's error means."""
    text = str(error)
    status, code, kind = (_first(pattern, text) for pattern in (STATUS, CODE, KIND))
    detail = " ".join(filter(None, (f"HTTP {status}" if status else "", code)))
    trouble = _trouble(error, text, int(status or 0), code, kind)
    return Diagnosis(trouble, detail or trouble.name.lower().replace("_", " "), int(status or 0))


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match.group(1) if match else ""


def _trouble(error: Exception, text: str, status: int, code: str, kind: str) -> Trouble:
    if isinstance(error, faults.InvalidPathError | ValueError):
        return Trouble.ODD_KEY
    if METADATA.search(text):
        return Trouble.NO_CREDENTIALS
    if code in EXPIRED:
        return Trouble.EXPIRED
    if code in FULL or status == 507:
        return Trouble.FULL
    if code == "NoSuchBucket":
        return Trouble.NO_BUCKET
    if code == "InvalidObjectState":
        return Trouble.ARCHIVED
    if status == 409:
        return Trouble.CONFLICT
    if isinstance(error, faults.AlreadyExistsError):
        return Trouble.EXISTS
    if status in (412, 304) or isinstance(error, faults.PreconditionError | faults.NotModifiedError):
        return Trouble.CHANGED
    if isinstance(error, FileNotFoundError) or status == 404:
        return Trouble.NO_OBJECT
    if status in (401, 403) or isinstance(error, faults.PermissionDeniedError | faults.UnauthenticatedError):
        return Trouble.DENIED
    if REDIRECT.search(text) or status in (301, 307) or code == "AuthorizationHeaderMalformed":
        return Trouble.REGION
    if status == 501 or code in ("NotImplemented", "InvalidArgument"):
        return Trouble.UNSUPPORTED
    return {"Connect": Trouble.UNREACHABLE, "Timeout": Trouble.TIMEOUT}.get(kind, Trouble.FAILED)


def store_error(found: Diagnosis, url: str) -> BatchrecError:
    """Return the error a store raises for a diagnosis."""
    kind, cause, advice = _MEANINGS.get(found.trouble, _MEANINGS[Trouble.FAILED])
    return kind(f"{cause}: {url}", found=found.detail, advice=advice)


_AGAIN = "then run the same command again"
_MEANINGS: dict[Trouble, tuple[type[BatchrecError], str, str]] = {
    Trouble.NO_BUCKET: (AccessError, "the bucket does not exist", "create it or correct its name"),
    Trouble.DENIED: (AccessError, "the store denied access", "grant these credentials access to it"),
    Trouble.ARCHIVED: (AccessError, "the object is archived", "restore it first"),
    Trouble.NO_CREDENTIALS: (AccessError, "no AWS credentials were found", "set the AWS_* variables or AWS_PROFILE"),
    Trouble.REGION: (AccessError, "the bucket is in another region", "set AWS_REGION to the bucket's region"),
    Trouble.ODD_KEY: (
        AccessError,
        "a key there has an empty, '.', '..' or control part, which the S3 client can neither list nor read",
        "rename it, or name the files one by one",
    ),
    Trouble.UNSUPPORTED: (OutputError, "the store does not know a request batchrec needs", "use another store"),
    Trouble.EXPIRED: (StorageLost, "the credentials have expired", f"renew them, {_AGAIN}"),
    Trouble.UNREACHABLE: (
        StorageLost,
        "the endpoint cannot be reached",
        f"check AWS_ENDPOINT_URL and the network, {_AGAIN}",
    ),
    Trouble.TIMEOUT: (StorageLost, "the store did not answer in time", f"check the network, {_AGAIN}"),
    Trouble.FULL: (StorageLost, "no space is left in the store", f"make room, {_AGAIN}"),
    Trouble.CHANGED: (AccessError, "the object changed while it was read", "run again when nobody writes to it"),
    Trouble.FAILED: (StorageLost, "the store failed", f"wait for it to recover, {_AGAIN}"),
}
