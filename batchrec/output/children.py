"""Retries of a job, its children: where they write, which rows they did again, and whose those are.

A sealed output is never edited. A retry has a folder of its own; the parent keeps a create-only record of it, and
the child says in ``_batchrec/retry/RETRY.json`` which job it is a retry of. Both must agree before its rows count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from batchrec.errors import OutputError
from batchrec.output.layout import ORIGIN_KEY, OUTPUT_KEY, Layout
from batchrec.output.reading import Output
from batchrec.spec import StoreOptions
from batchrec.storage import KeyMissing, Store, create_or_find, open_store, stands
from batchrec.storage.json_objects import parse_object

_FORMAT = 1
_RECORD = re.compile(r"(\d{4,})\.json")
#: A retry of a retry of a retry ...: more is a folder that names itself.
MAX_DEPTH = 20


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """What a parent keeps of one retry.

    Attributes:
        number: Counts from 1.
        output: Folder of the retry.
        codes: Error codes of the rows it does again.
        settings: What decides its rows otherwise than the parent's, name and text of each ``--set``.
        nonce: Makes two records of one command different.
    """

    number: int
    output: str
    codes: tuple[str, ...]
    settings: Mapping[str, str]
    nonce: str


@dataclass(frozen=True, slots=True)
class OriginFile:
    """One file of a retry's manifest, as its job's identity has it."""

    key: str
    size: int
    num_rows: int
    footer_sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows of a retry come from; written once, when its manifest is whole.

    Attributes:
        parent_job_id: The job it is a retry of.
        parent_output: Where that one wrote.
        parent_row: Column of the manifest, and of the predictions, with each row's position in the parent.
        manifest_root: Folder relative image URIs started from, for people: it may have moved since.
        files: The manifest.
        max_failure_rate: What the job is held to that was submitted; a retry by itself is held to nothing.
        nonce: That of its parent's record; empty in those made before it was kept.
    """

    parent_job_id: str
    parent_output: str
    parent_row: str
    manifest_root: str
    files: tuple[OriginFile, ...]
    max_failure_rate: float = 1.0
    nonce: str = ""

    @property
    def num_rows(self) -> int:
        """Rows of the retry."""
        return sum(file.num_rows for file in self.files)


@dataclass(frozen=True, slots=True)
class Child:
    """One retry as its parent finds it.

    Attributes:
        record: What the parent keeps of it.
        url: Where it is now, or is to be.
        output: Its folder; None where no job has begun there.
        origin: What the folder says of its rows; None as long as it says nothing.
    """

    record: ChildRecord
    url: str
    output: Output | None
    origin: Origin | None

    @property
    def sealed(self) -> bool:
        """Whether its rows count."""
        return self.origin is not None and self.output is not None and self.output.seal is not None


def records_of(store: Store, layout: Layout) -> list[ChildRecord]:
    """Return the records of a job's retries, the first first.

    Raises:
        OutputError: One cannot be read.
    """
    keys = [info.key for info in store.list(layout.children_prefix)]
    matches = {key: _RECORD.fullmatch(key.removeprefix(layout.children_prefix)) for key in keys}
    found = [_parse_record(store, key, int(match[1]), store.read(key)) for key, match in matches.items() if match]
    return sorted(found, key=lambda record: record.number)


def add_record(store: Store, layout: Layout, record: ChildRecord) -> bool:
    """Write a record under its number; False where another retry took that number first."""
    key = layout.child_key(record.number)
    plain = {"format": _FORMAT, **{name: value for name, value in asdict(record).items() if name != "number"}}

    def standing() -> str:
        return _parse_record(store, key, record.number, store.read(key)).nonce

    found = create_or_find(store, key, json.dumps(plain, indent=1).encode(), standing, clear=bool)
    return found is None or found == record.nonce


def children_of(parent: Output, *, depth: int = 0) -> list[Child]:
    """Return every retry of a job, the first first, complete or not.

    Raises:
        OutputError: A record or a retry's folder is damaged, or retries go round.
    """
    if depth > MAX_DEPTH:
        raise OutputError(
            f"the retries of {parent.store.url} go round",
            found=f"{depth} retries of retries",
            advice=f"look at {parent.layout.children_prefix} there",
        )
    return [_find(parent, record) for record in records_of(parent.store, parent.layout)]


def read_origin(store: Store) -> Origin | None:
    """Return what a folder says of being a retry; None for one that is none.

    Raises:
        OutputError: It cannot be read.
    """
    try:
        plain = parse_object(store.read(ORIGIN_KEY))
        files = tuple(OriginFile(**file) for file in plain.pop("files"))
        plain.pop("format")
        return Origin(**plain, files=files)
    except KeyMissing:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(
            f"{store.url}/{ORIGIN_KEY} cannot be read",
            found=f"{type(error).__name__}: {error}",
            advice="it was damaged after it was written: retry into another folder with -o",
        ) from error


def keep_origin(store: Store, origin: Origin) -> Origin:
    """Write what a retry's rows are, once, and return what stands: of two that prepare at once, the first."""
    data = json.dumps({"format": _FORMAT, **asdict(origin)}, indent=1).encode()
    standing = create_or_find(store, ORIGIN_KEY, data, lambda: read_origin(store), clear=bool)
    return standing or origin


def _find(parent: Output, record: ChildRecord) -> Child:
    """Look for a retry beside its parent first, as both may have been moved together, then where it was."""
    for url in dict.fromkeys((_beside(parent.store.url, record.output), record.output)):
        store = open_store(url, parent.options)
        origin = read_origin(store)
        if origin is None or origin.parent_job_id != parent.job_id:
            continue
        if origin.nonce in ("", record.nonce):  # else it is another retry, whose folder has the same name
            return Child(record, store.url, _opened(url, parent.options, origin), origin)
    return Child(record, record.output, None, None)


def _beside(parent: str, child: str) -> str:
    folder, _, _ = parent.rstrip("/").rpartition("/")
    name = child.rstrip("/").rpartition("/")[2]
    return f"{folder}/{name}" if folder.rstrip("/") not in ("", "s3:") or parent.startswith("/") else child


def _opened(url: str, options: StoreOptions, origin: Origin) -> Output | None:
    if not stands(open_store(url, options), OUTPUT_KEY):
        return None  # prepared, never run
    output = Output.at(url, options)
    wanted = [[file.size, file.footer_sha256] for file in origin.files]
    if [list(file[1:]) for file in output.identity["manifest"]] != wanted:
        raise OutputError(
            f"{url} is not the retry that was prepared there",
            found="its job has another manifest",
            advice="retry into another folder with -o",
        )
    return output


def _parse_record(store: Store, key: str, number: int, data: bytes) -> ChildRecord:
    try:
        plain = parse_object(data)
        return ChildRecord(
            number,
            str(plain["output"]),
            tuple(map(str, plain["codes"])),
            {str(name): str(text) for name, text in plain["settings"].items()},
            str(plain["nonce"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{store.url}/{key} cannot be read",
            found=f"{type(error).__name__}: {error}",
            advice="it was damaged after it was written: move it away, and its retry no longer counts",
        ) from error
