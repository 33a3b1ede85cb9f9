"""Mending a damaged output: look, say what would be moved, and move it while no coordinator can run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from batchrec.engine.claims import claim
from batchrec.engine.definition import identity_in, manifest_of, stored_spec
from batchrec.engine.identity import Identity
from batchrec.errors import OutputError, Refused
from batchrec.manifest.planning import Plan
from batchrec.output.layout import OUTPUT_KEY, Layout
from batchrec.output.repairing import Damage, Diagnosis, diagnose, move_away
from batchrec.spec import StoreOptions
from batchrec.storage import KeyMissing, Store, open_store
from batchrec.storage.json_objects import parse_object
from batchrec.storage.sweeping import find_leftovers, sweep

_JOB_FOLDER = re.compile(r"_batchrec/([0-9a-f]{64})/")


@dataclass(frozen=True, slots=True)
class Examined:
    """An output that was looked at.

    Attributes:
        store: Its folder.
        layout: Its keys.
        identity: What decides its rows, as far as the folder still says so.
        options: How it is reached.
        diagnosis: What is wrong with it.
        leftovers: What killed processes left behind.
    """

    store: Store
    layout: Layout
    identity: Mapping[str, Any] | None
    options: StoreOptions
    diagnosis: Diagnosis
    leftovers: list[str]


def examine(url: str, options: StoreOptions) -> Examined:
    """Find what is wrong with an output, reading every row of it. Changes nothing.

    Raises:
        OutputError: The folder is no job's.
        StorageLost: The store does not answer.
    """
    store = open_store(url, options)
    job_id, identity, damages, reasons = _binding(store)
    layout = Layout(job_id)
    plan = None
    try:
        plan = Plan.from_parquet(store.read(layout.plan_key))
    except KeyMissing:
        reasons.append(f"{layout.plan_key} is not there")
    except OutputError as error:
        damages.append(Damage(layout.plan_key, f"it cannot be read: {error.found}"))
        reasons.append(f"{layout.plan_key} is damaged")
    if plan is not None and identity and any(shard.file >= len(identity["manifest"]) for shard in plan):
        damages.append(Damage(layout.plan_key, "it names files that the manifest has not"))
        reasons.append(f"{layout.plan_key} is damaged")
        plan = None
    with suppress(KeyMissing):
        if identity_in(store.read(layout.spec_key), job_id) is None:
            damages.append(Damage(layout.spec_key, "it does not define this job"))
    files = [str(name) for name, *_ in identity["manifest"]] if identity else []
    diagnosis = diagnose(store, layout, list(plan) if plan is not None else None, files, damages, reasons)
    return Examined(store, layout, identity, options, diagnosis, find_leftovers(store))


def repair(
    examined: Examined, *, source: tuple[str, ...] = (), say: Callable[[str], None] = lambda _: None
) -> tuple[Examined, str | None]:
    """Move away what is damaged, as it is found once no coordinator can run any more.

    Args:
        examined: What was found before.
        source: Where the manifest lies now, if not where it was.
        say: Told when there is something to wait for.

    Returns:
        What was found and moved, and where to in the output; None where nothing was.

    Raises:
        OutputError: A coordinator runs.
        ManifestError: Rows would have to be done again and the manifest is not what it was.
    """
    store = examined.store
    if not examined.diagnosis.damages:
        sweep(store, examined.leftovers)
        return examined, None
    try:
        held = claim(store, examined.layout, say=say)
    except OutputError as error:
        raise OutputError(
            f"the job of {store.url} is running", found=error.found, advice="wait for it, or stop it, then repair"
        ) from error
    try:
        examined = examine(store.url, examined.options)
        _refuse_if_for_good(examined, source)
        moved_to = move_away(store, examined.diagnosis.damages) if examined.diagnosis.damages else None
        sweep(store, examined.leftovers)
    finally:
        held.release()
    return examined, moved_to


def _refuse_if_for_good(examined: Examined, source: tuple[str, ...]) -> None:
    """Refuse to open a complete output of which shards could not be done again."""
    diagnosis, identity = examined.diagnosis, examined.identity
    if not (diagnosis.reopens and diagnosis.num_redone and identity):
        return
    given = {"source": source} if source else {}
    spec = stored_spec(examined.store, examined.layout, examined.options)
    if spec is None:
        return  # made before folders said where their manifest is
    try:
        manifest_of(identity, spec.replace(**given))
    except Refused as error:
        raise type(error)(
            f"{diagnosis.num_redone:,} shards would have to be done again, and that is not possible: {error.cause}",
            found=error.found,
            advice="bring the manifest back, or say where it is with --manifest; nothing was changed",
        ) from error


def _binding(store: Store) -> tuple[str, Mapping[str, Any] | None, list[Damage], list[str]]:
    """Return whose folder it is, from its binding or, where that is damaged, from what lies in it."""
    try:
        plain = parse_object(store.read(OUTPUT_KEY))
        identity = Identity(dict(plain["identity"]))
        if identity.job_id == plain["job_id"]:
            return identity.job_id, identity.fields, [], []
        damages, reason = [Damage(OUTPUT_KEY, "it names another job than it describes")], f"{OUTPUT_KEY} is damaged"
    except KeyMissing:
        damages, reason = [], f"{OUTPUT_KEY} is not there"
    except (ValueError, KeyError, TypeError) as error:
        damages, reason = [Damage(OUTPUT_KEY, f"it cannot be read: {error}")], f"{OUTPUT_KEY} is damaged"
    matches = {match[1] for info in store.list("_batchrec/") if (match := _JOB_FOLDER.match(info.key))}
    if len(matches) != 1:
        raise OutputError(
            f"nobody can tell whose output {store.url} is",
            found=f"{reason}, and {len(matches)} folders of jobs below _batchrec/",
            advice="name the folder given with -o, or use another one",
        )
    job_id = matches.pop()
    return job_id, _kept_identity(store, Layout(job_id)), damages, [reason]


def _kept_identity(store: Store, layout: Layout) -> Mapping[str, Any] | None:
    try:
        identity = identity_in(store.read(layout.spec_key), layout.job_id)
    except KeyMissing:
        return None
    return identity.fields if identity is not None else None
