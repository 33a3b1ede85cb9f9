"""A job's identity: what decides its rows, and nothing else.

The same id always means the same manifest rows, model, preprocessing, arithmetic and schema. Paths of the
same content, rows per shard, batch size, devices, retries and logging are not part of it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrec.errors import OutputError
from batchrec.manifest.definition import Manifest
from batchrec.models.bundle import ModelSpec
from batchrec.output.layout import OUTPUT_KEY, PREDICTIONS_PREFIX, job_id_of, lost_its_binding
from batchrec.output.schema import SCHEMA_VERSION
from batchrec.redacting import shown
from batchrec.spec import JobSpec
from batchrec.storage import KeyMissing, Store, create_or_compare
from batchrec.storage.json_objects import parse_object

_FORMAT = 1
_MAX_NAMED = 5
_LOST_BINDING = f"it looks like an output without its {OUTPUT_KEY}, which `batchrec repair` mends"
#: No ``_SUCCESS``: the seal could not put its own, after all the work. The last is what a new disk comes with.
_LEFT_BY_US = ("_batchrec/", "predictions/", "errors/", "report.json", "lost+found/")


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides a job's rows, as plain JSON values."""

    fields: Mapping[str, Any]

    @property
    def job_id(self) -> str:
        """SHA-256 of the canonical JSON of the fields, 64 hexadecimal characters."""
        return job_id_of(self.fields)


def identify(spec: JobSpec, manifest: Manifest, model: ModelSpec, precision: str) -> Identity:
    """Return a job's identity.

    Args:
        spec: What the user asked for.
        manifest: The opened manifest.
        model: The resolved model.
        precision: Class of arithmetic, resolved.
    """
    return Identity(
        {
            "manifest": [[file.name, file.size, file.footer_sha256] for file in manifest.files],
            "columns": {
                "uri": list(manifest.columns.uri),
                "id": manifest.columns.id,
                "passthrough": list(manifest.columns.passthrough),
            },
            "limit": spec.limit,
            "input_roots": sorted(map(os.path.abspath, spec.input_roots)),
            "allow_buckets": sorted(spec.allow_buckets),
            "image_limits": {
                "max_pixels": spec.image_limits.max_pixels,
                "max_bytes": spec.image_limits.max_bytes,
            },
            "model": {
                "architecture": model.architecture,
                "weights_sha256": model.weights_sha256,
                "labels_sha256": model.labels_sha256,
                "preprocess": model.preprocess.to_json(),
            },
            "top_k": spec.top_k,
            "precision": precision,
            "schema_version": SCHEMA_VERSION,
            # Left out where they are off, so that outputs made before there were any are still the same job.
            **({} if spec.embeddings == "off" else {"embeddings": spec.embeddings}),
            **({} if spec.decoding == "exact" else {"decoding": spec.decoding}),
            **({"allow_http": sorted(spec.allow_http)} if spec.allow_http else {}),
        }
    )


def refuse_other_job(store: Store, standing: Identity, wanted: Identity) -> None:
    """Refuse an output folder that is bound to another job.

    Raises:
        OutputError: It is; the message says what differs, field by field.
    """
    _refuse_difference(store, _as_record(standing), _as_record(wanted))


def bind(store: Store, identity: Identity) -> None:
    """Make the output folder this job's, or find that it is already.

    Raises:
        OutputError: It is another job's; the message says what differs, field by field.
    """
    record = _as_record(identity)

    def same(standing: bytes) -> bool:
        _refuse_difference(store, _record(store, standing), record)
        return True

    create_or_compare(store, OUTPUT_KEY, _pretty(record), same=same)


def bound_identity(store: Store) -> Identity | None:
    """Return the identity of the job an output folder is bound to; None for a folder of no job."""
    try:
        return Identity(_record(store, store.read(OUTPUT_KEY))["identity"])
    except KeyMissing:
        return None


def require_same_output(store: Store, job_id: str) -> None:
    """Refuse a folder that is not the coordinator's: a local path means another disk on another machine.

    Raises:
        OutputError: It is no job's, or another's.
    """
    standing = bound_identity(store)
    if standing is None or standing.job_id != job_id:
        raise OutputError(
            f"{store.url} on {socket.gethostname()} is not the folder the coordinator prepared",
            found="no job" if standing is None else f"job {standing.job_id[:12]}",
            advice="use an output all nodes share: s3://, or a folder on a shared filesystem",
        )


def refuse_foreign_content(store: Store, parts_prefix: str = PREDICTIONS_PREFIX) -> None:
    """Refuse a folder of no job in which other things lie: a job shares its folder with nothing.

    What an earlier run of batchrec may have left does not count, nor do hidden files.

    Args:
        store: The folder.
        parts_prefix: Where the job's own parts may lie; readers would take others there for its rows.

    Raises:
        OutputError: It holds such things; the message names the first few.
    """
    names = store.top()
    foreign = [name for name in names if name not in _LEFT_BY_US and not name.startswith(".")]
    if PREDICTIONS_PREFIX in names:
        foreign += [info.key for info in store.list(PREDICTIONS_PREFIX) if not info.key.startswith(parts_prefix)]
    if foreign:
        more = f" and {len(foreign) - _MAX_NAMED} more" if len(foreign) > _MAX_NAMED else ""
        raise OutputError(
            f"the output folder {store.url} holds other things already",
            found=", ".join(map(shown, foreign[:_MAX_NAMED])) + more,
            advice=_LOST_BINDING
            if lost_its_binding(names)
            else "name a folder of its own with -o: a new one, or an empty one",
        )


def _as_record(identity: Identity) -> dict[str, Any]:
    return {"format": _FORMAT, "job_id": identity.job_id, "identity": dict(identity.fields)}


def _record(store: Store, data: bytes) -> dict[str, Any]:
    try:
        plain = parse_object(data)
        return {**plain, "job_id": str(plain["job_id"]), "identity": dict(plain["identity"])}
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{store.url}/{OUTPUT_KEY} cannot be read",
            found=f"{type(error).__name__}: {error}",
            advice="it was not written by batchrec: use another output folder",
        ) from error


def _refuse_difference(store: Store, standing: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    if standing["job_id"] == wanted["job_id"]:
        return
    differences = list(_differences(standing["identity"], wanted["identity"]))
    raise OutputError(
        f"the output folder {store.url} belongs to another job, {standing['job_id'][:12]}",
        found="; ".join(differences) or f"format {standing.get('format')}",
        advice="use another output folder (-o), or the manifest and settings it was made with",
    )


def _differences(standing: Any, wanted: Any, path: str = "") -> list[str]:
    if path == "manifest" and standing != wanted and _are_files(standing) and _are_files(wanted):
        return [f"manifest: {_file_differences(standing, wanted)}"]
    if isinstance(standing, Mapping) and isinstance(wanted, Mapping):
        keys = sorted(standing.keys() | wanted.keys())
        return [
            line
            for key in keys
            for line in _differences(standing.get(key), wanted.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if standing == wanted else [f"{path} was {_short(standing)}, is now {_short(wanted)}"]


def _are_files(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, list) and len(each) == 3 for each in value)


def _file_differences(standing: list[list[Any]], wanted: list[list[Any]]) -> str:
    before, now = ({str(name): facts for name, *facts in files} for files in (standing, wanted))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    told = [f"{shown(name)} {_change(before.get(name), now.get(name))}" for name in names[:_MAX_NAMED]]
    more = f" and {len(names) - _MAX_NAMED} more files differ" if len(names) > _MAX_NAMED else ""
    return ", ".join(told) + more or "the same files in another order, or one of them twice"


def _change(before: list[Any] | None, now: list[Any] | None) -> str:
    if before is None or now is None:
        return "is new" if before is None else "is gone"
    same_size = before[0] == now[0]
    return f"has other content of {now[0]} bytes" if same_size else f"was {before[0]} bytes, is now {now[0]}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _pretty(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False).encode(errors="surrogatepass")
