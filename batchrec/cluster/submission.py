"""What was handed to a cluster, as a record in the output folder: the coordinator there reads it, people here too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from batchrec.errors import OutputError, UsageError
from batchrec.models.bundle import ModelSpec
from batchrec.models.preprocessing import Preprocess
from batchrec.redacting import shown
from batchrec.spec import JobSpec, StoreOptions
from batchrec.storage import KeyMissing, Store, create_or_compare, open_store
from batchrec.storage.json_objects import parse_object

SUBMISSIONS_PREFIX = "_batchrec/submissions/"
_FORMAT = 1
_ID = re.compile(r"(batchrec-[0-9a-f]{12})-(\d{1,6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One attempt to run a job on a cluster.

    Attributes:
        spec: The job as the cluster reads it: staged or shared paths only.
        model: A model of the submitter's own disk, resolved there; None where the cluster resolves ``spec.model``.
        address: URL of the cluster's dashboard.
        submission_id: Its name on the cluster.
        attempt: Counts from 1 for one and the same command.
        version: The batchrec that submitted.
        submitted_at: In Unix seconds, by the submitter's clock.
    """

    spec: JobSpec
    model: ModelSpec | None
    address: str
    submission_id: str
    attempt: int
    version: str
    submitted_at: float

    @property
    def key(self) -> str:
        """Where the record lies in the output folder."""
        return submission_key(self.submission_id)

    @property
    def url(self) -> str:
        """Where the record lies, as the cluster is told."""
        return f"{self.spec.output.rstrip('/')}/{self.key}"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        model = None
        if self.model is not None:
            plain = {each.name: getattr(self.model, each.name) for each in dataclasses.fields(self.model)}
            model = {**plain, "preprocess": self.model.preprocess.to_json()}
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {"format": _FORMAT, **plain, "spec": self.spec.to_json(), "model": model}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Read it back.

        Raises:
            UsageError: It was written by a version that knows other settings.
        """
        try:
            if plain["format"] != _FORMAT:
                raise ValueError(f"format {plain['format']!r}, not {_FORMAT}")
            model = None if plain["model"] is None else _model(plain["model"])
            return cls(
                spec=JobSpec.from_json(plain["spec"]),
                model=model,
                address=str(plain["address"]),
                submission_id=str(plain["submission_id"]),
                attempt=int(plain["attempt"]),
                version=str(plain["version"]),
                submitted_at=float(plain["submitted_at"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "this submission was written by another version of batchrec",
                found=f"{type(error).__name__}: {error}",
                advice="use the same version on both sides",
            ) from error


def _model(plain: Mapping[str, Any]) -> ModelSpec:
    values = {**plain, "labels": tuple(plain["labels"]), "preprocess": Preprocess.from_json(plain["preprocess"])}
    return ModelSpec(**values)


def submission_key(submission_id: str) -> str:
    """Return where the record of a submission lies in its output folder."""
    return f"{SUBMISSIONS_PREFIX}{submission_id}.json"


def name_of(spec: JobSpec, model: ModelSpec | None) -> str:
    """Return what all attempts of one command share: the same words, the same content, the same name.

    Args:
        spec: The job as the cluster reads it; what was staged is named by its content there.
        model: A model resolved by the submitter.
    """
    weights = model and [model.weights_sha256, model.labels_sha256]
    text = json.dumps([spec.to_json(), weights], sort_keys=True, separators=(",", ":"))
    return f"batchrec-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]}"


def is_submission_id(text: str) -> bool:
    """Whether a text is the name of a submission, and so no folder."""
    return _ID.fullmatch(text) is not None


def read_submission(url: str, options: StoreOptions) -> Submission:
    """Read the record of a submission.

    Args:
        url: ``OUT/_batchrec/submissions/<id>.json``, local or ``s3://``.
        options: How to reach the store.

    Raises:
        OutputError: There is none, or it cannot be read.
        UsageError: Another version of batchrec wrote it.
    """
    folder, mark, name = url.rpartition(f"/{SUBMISSIONS_PREFIX}")
    if not mark or not name.endswith(".json"):
        raise UsageError(
            "this is no record of a submission", found=url, advice=f"name OUT/{SUBMISSIONS_PREFIX}<id>.json"
        )
    store = open_store(folder, options)
    try:
        return _parsed(store, SUBMISSIONS_PREFIX + name)
    except KeyMissing as error:
        raise OutputError(
            f"{url} is not there",
            advice="the output folder must be one that this machine reaches too: a bucket, or a shared filesystem",
        ) from error


def keep_submission(store: Store, submission: Submission) -> Submission:
    """Write a record once, and return the one that stands: of two that asked the same at once, the first.

    Raises:
        OutputError: Another submission has this name.
    """
    wanted = submission.to_json()
    standing: dict[str, Any] = {}

    def same(data: bytes) -> bool:
        standing.update(_json(store, submission.key, data))
        return all(standing.get(name) == _plain(wanted[name]) for name in ("spec", "model", "submission_id"))

    created = create_or_compare(store, submission.key, json.dumps(wanted, indent=1).encode(), same=same)
    return submission if created or not standing else Submission.from_json(standing)


def latest_attempt(store: Store, name: str) -> Submission | None:
    """Return the last attempt of one command; None where it was never made.

    Raises:
        OutputError: Its record cannot be read.
    """
    keys = [info.key for info in store.list(f"{SUBMISSIONS_PREFIX}{name}-")]
    matches = [_ID.fullmatch(key.removeprefix(SUBMISSIONS_PREFIX).removesuffix(".json")) for key in keys]
    numbers = [int(match[2]) for match in matches if match]
    return _parsed(store, submission_key(f"{name}-{max(numbers)}")) if numbers else None


def submissions_of(store: Store, unreadable: Callable[[str], None] = lambda _: None) -> list[Submission]:
    """Return the submissions to an output folder that can be read, the first first.

    Args:
        store: The folder.
        unreadable: Told a line about each that cannot: another version's, or damaged.
    """
    found = []
    for info in store.list(SUBMISSIONS_PREFIX):
        if info.key.endswith(".json"):
            try:
                found.append(_parsed(store, info.key))
            except (OutputError, UsageError) as error:
                unreadable(f"left out {shown(info.key)}: {error.cause}")
            except KeyMissing:
                continue  # removed since it was listed
    return sorted(found, key=lambda each: (each.submitted_at, each.attempt))


def _parsed(store: Store, key: str) -> Submission:
    return Submission.from_json(_json(store, key, store.read(key)))


def _json(store: Store, key: str, data: bytes) -> dict[str, Any]:
    try:
        return parse_object(data)
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"{store.url}/{key} cannot be read", found=str(error), advice="it was not written by batchrec: move it away"
        ) from error


def _plain(value: object) -> object:
    return json.loads(json.dumps(value))
