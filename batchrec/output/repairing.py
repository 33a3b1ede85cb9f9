"""What has to be moved away from a damaged output so that its own command can finish it again.

Parts that are damaged or not this job's make room for the same shards done anew. A seal that no longer tells the truth
goes with its ``_SUCCESS``, so that the job is sealed again. Nothing is lost: what is moved lies in
``_batchrec/quarantine/``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from batchrec.errors import OutputError
from batchrec.output.layout import PREDICTIONS_PREFIX, QUARANTINE_PREFIX, REPORT_KEY, SUCCESS_KEY, Layout
from batchrec.output.parts import UnreadablePart, read_footer
from batchrec.output.seal import Seal, foreign_names, standing_parts
from batchrec.output.verifying import CheckedParts, check_parts, errors_faults, report_faults, seal_faults
from batchrec.records import Shard
from batchrec.storage import KeyMissing, Store, create_or_compare, stands
from batchrec.storage.json_objects import parse_json


@dataclass(frozen=True, slots=True)
class Damage:
    """One object that stands in the way.

    Attributes:
        key: Where it is.
        why: What is wrong with it, or with what depends on it.
    """

    key: str
    why: str


@dataclass(slots=True)
class Diagnosis:
    """What is wrong with an output.

    Attributes:
        damages: What has to be moved away, in that order.
        num_redone: Shards that have to be done again, or for the first time.
        left: What nobody can mend, for people.
    """

    damages: list[Damage] = field(default_factory=list)
    num_redone: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def reopens(self) -> bool:
        """Whether a complete output becomes one that its command has to finish."""
        return any(damage.key == SUCCESS_KEY for damage in self.damages)


def diagnose(
    store: Store,
    layout: Layout,
    plan: Sequence[Shard] | None,
    manifest_files: Sequence[str],
    known: Sequence[Damage] = (),
    reasons: Sequence[str] = (),
) -> Diagnosis:
    """Find what is wrong with an output, reading every row of it. Changes nothing.

    Args:
        store: The output folder.
        layout: Its keys.
        plan: The job's shards; None where they are not known.
        manifest_files: Names of the manifest's files.
        known: What was found wrong before: the binding, the plan.
        reasons: Why the output is not complete, whatever its seal says.
    """
    if plan is None:
        found, bad = Diagnosis(), _bad_without_plan(store, layout)
        found.damages = [*_pair(store, layout, [*reasons, *bad.values()]), *known, *_damages(bad)]
        return found
    standing = standing_parts(store, layout, len(plan))
    parts = check_parts(store, layout, plan, standing, manifest_files)
    sealed, seal_fault = _any_seal(store, layout)
    bad = _bad_parts(layout, parts, sealed)
    missing = [layout.part_key(shard.index) for shard in plan if shard.index not in standing]
    reasons = [
        *reasons,
        *(f"{key} is damaged" for key in bad),
        *(f"{key} is not there" for key in missing),
        *seal_fault,
        *_untruths(store, layout, plan, sealed, standing, parts),
    ]
    found = Diagnosis(num_redone=len(bad) + len(missing))
    found.damages = [*_pair(store, layout, reasons), *known, *_damages(bad)]
    if not bad and not missing:
        num_ok = sum(footer.num_ok for footer in parts.footers.values())
        faults = report_faults(store, layout.job_id, parts.num_rows, num_ok)
        found.damages += [Damage(REPORT_KEY, fault) for fault in faults]
    for name in foreign_names(store, layout, len(plan)):
        if name.endswith(".parquet") and name.isprintable():
            found.damages.append(Damage(name, "it is no part of this job"))
        elif name.endswith(".parquet"):
            found.left.append(f"{name!r} is no part of this job: move it away by hand")
    return found


def move_away(store: Store, damages: Sequence[Damage]) -> str:
    """Move objects into a new folder of the quarantine, and return its prefix.

    ``_SUCCESS`` goes first, so that whatever interrupts this leaves no output that is called complete and is not.
    """
    prefix = f"{QUARANTINE_PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}/"
    record = json.dumps([asdict(damage) for damage in damages], indent=1).encode()
    create_or_compare(store, prefix + "REPAIR.json", record, same=lambda _: False)
    for damage in damages:
        try:
            data = store.read(damage.key)
        except KeyMissing:
            continue
        create_or_compare(store, prefix + damage.key, data, same=lambda _: False)
        store.delete(damage.key)
    return prefix


def _damages(bad: dict[str, str]) -> list[Damage]:
    return [Damage(key, why) for key, why in bad.items()]


def _pair(store: Store, layout: Layout, reasons: Sequence[str]) -> list[Damage]:
    """Return the seal and what goes with it, where there is a reason not to believe it."""
    keys = (SUCCESS_KEY, layout.seal_key, layout.errors_key)
    return [Damage(key, reasons[0]) for key in keys if stands(store, key)] if reasons else []


def _bad_without_plan(store: Store, layout: Layout) -> dict[str, str]:
    bad = {}
    for key in (info.key for info in store.list(PREDICTIONS_PREFIX)):
        shard = layout.shard_of(key)
        if shard is None:
            continue
        try:
            footer = read_footer(store, key)
        except UnreadablePart as error:
            bad[key] = str(error)
        else:
            if (footer.job_id, footer.shard) != (layout.job_id, shard):
                bad[key] = "it belongs to another job or shard"
    return bad


def _bad_parts(layout: Layout, parts: CheckedParts, sealed: Seal | None) -> dict[str, str]:
    bad = {layout.part_key(shard): fault for shard, fault in reversed(parts.faults)}
    for part in sealed.parts if sealed else ():
        footer, key = parts.footers.get(part.shard), layout.part_key(part.shard)
        if footer is not None and footer.rows_sha256 != part.rows_sha256:
            bad.setdefault(key, f"{key} has other rows than were sealed")
    return dict(sorted(bad.items()))


def _any_seal(store: Store, layout: Layout) -> tuple[Seal | None, list[str]]:
    """Return the seal, ``_SUCCESS`` or not, and what keeps it from being one."""
    try:
        sealed = Seal.from_json(parse_json(store.read(layout.seal_key)))
    except KeyMissing:
        return None, ["_SUCCESS stands without a seal"] if stands(store, SUCCESS_KEY) else []
    except (ValueError, OutputError) as error:
        return None, [f"{layout.seal_key} cannot be read: {error}"]
    if sealed.job_id != layout.job_id:
        return None, [f"{layout.seal_key} is another job's"]
    return sealed, []


def _untruths(
    store: Store,
    layout: Layout,
    plan: Sequence[Shard],
    sealed: Seal | None,
    standing: dict[int, int],
    parts: CheckedParts,
) -> Iterator[str]:
    """Say what the seal and the errors tell that is not so."""
    if sealed is not None:
        yield from seal_faults(layout, plan, sealed, standing, parts)
        if stands(store, SUCCESS_KEY) and not _is_twin(store, sealed):
            yield f"{SUCCESS_KEY} and the seal disagree"
    if stands(store, SUCCESS_KEY) or stands(store, layout.errors_key):
        yield from errors_faults(store, layout, parts)


def _is_twin(store: Store, sealed: Seal) -> bool:
    try:
        return bool(parse_json(store.read(SUCCESS_KEY)) == sealed.totals())
    except ValueError:
        return False
