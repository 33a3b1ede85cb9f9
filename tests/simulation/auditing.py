"""Judges every change of the bucket the moment it is made."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow.parquet as pq

from batchrec.engine.claims import PATIENCE_S
from batchrec.engine.ledger import MAX_FAILED
from batchrec.errors import CODES, ErrorCode
from batchrec.output.layout import OUTPUT_KEY, SUCCESS_KEY, Layout
from batchrec.output.parts import PartFooter, UnreadablePart, decode_footer
from tests.simulation.scheduling import Process
from tests.simulation.seams import MAX_LOST
from tests.simulation.storing import Bucket

#: Written over and over, and never read for correctness.
_ADVISORY = ("progress.json", ".beat", ".log", "report.json")
_ROUNDING_S = 0.001


@dataclass
class Run:
    """What one coordinator process was seen to do.

    Attributes:
        job: Which job it was asked for.
        job_id: The id of that job.
        takeover: Whether it was told to ask nobody.
        done_listed: Parts in the listing it began with.
        stood: Parts that stood when it began.
        num_failed: Failed attempts it was told of, by shard.
        num_lost: Lost attempts that count, by shard.
        met_denial: Whether it, or a worker of its, was answered 403.
        suspects: Shards that were in flight on a worker that was lost.
        may_still_be_had: Shards whose last attempt failed for want of access or store.
    """

    job: str
    job_id: str
    takeover: bool
    done_listed: frozenset[int] = frozenset()
    stood: frozenset[int] = frozenset()
    met_denial: bool = False
    num_failed: Counter[int] = field(default_factory=Counter)
    num_lost: Counter[int] = field(default_factory=Counter)
    suspects: set[int] = field(default_factory=set)
    may_still_be_had: set[int] = field(default_factory=set)

    def past_a_cap(self, shard: int) -> bool:
        """Whether the shard's rows may be given up."""
        return self.num_failed[shard] >= MAX_FAILED or self.num_lost[shard] >= MAX_LOST


class Audit:
    """The invariants that must hold at every moment.

    Args:
        bucket: What is judged.
        now: The time.
        fail: Told of what does not hold.
    """

    def __init__(self, bucket: Bucket, now: Callable[[], float], fail: Callable[[str], None]) -> None:
        self._bucket, self._now, self._fail = bucket, now, fail
        self.epoch = 0
        self.runs: dict[Process, Run] = {}
        self.garbage: set[str] = set()
        self.garbage_ever = False
        self._beats: dict[str, list[float]] = {}
        self._drivers: dict[str, Process] = {}

    def wiped(self) -> None:
        """Begin anew: an operator emptied the folder."""
        self.epoch += 1
        self.garbage.clear()
        self._beats.clear()
        self._drivers.clear()

    def bound_job_id(self) -> str | None:
        """Return the id of the job the folder belongs to."""
        held = self._bucket.objects.get(OUTPUT_KEY)
        return json.loads(held.data)["job_id"] if held else None

    def created(self, process: Process, key: str, data: bytes) -> None:
        """Judge an object put where none was."""
        if process.epoch == self.epoch and key != OUTPUT_KEY:
            self._judge_owner(process, key)
        if key == SUCCESS_KEY:
            self._judge_success(data)
        elif key.endswith("/SEAL.json"):
            self._judge_seal(key, data)
        elif key.startswith("predictions/"):
            self._judge_part(process, key, data)
        elif "/drivers/" in key:
            self._drivers[key] = process
            self._beats[key] = [self._now()]

    def superseded_for_s(self, process: Process) -> float:
        """Return for how long a higher claim than a coordinator's has stood; 0 while none does."""
        mine = max((key for key, owner in self._drivers.items() if owner is process), default="")
        of_this_job = [key for key in self._drivers if key.rpartition("/")[0] == mine.rpartition("/")[0]]
        later = [self._beats[key][0] for key in of_this_job if key > mine]
        return self._now() - min(later) if later else 0.0

    def foreign(self, key: str) -> bool:
        """Whether what stands under the name of a part is another's, or no part."""
        footer = footer_of(self._bucket.objects[key].data) if key in self._bucket.objects else None
        return footer is None or (footer.job_id, key) != (
            self.bound_job_id(),
            Layout(footer.job_id).part_key(footer.shard),
        )

    def overwritten(self, process: Process, key: str, data: bytes) -> None:
        """Judge an object put whatever stood there."""
        if not key.endswith(_ADVISORY):
            self._fail(f"{process.name} wrote over {key}")
        if key.endswith(".beat") and process.epoch == self.epoch:
            claim = key.removesuffix(".beat") + ".json"
            held = self._bucket.objects.get(claim)
            if held is not None and json.loads(held.data)["nonce"] != json.loads(data)["nonce"]:
                self._fail(f"{process.name} beats for {claim}, which is another's")
            self._beats.setdefault(claim, []).append(self._now())

    def claiming(self, process: Process, key: str) -> None:
        """Judge a claim when it is sent."""
        prefix, name = key.rsplit("/", 1)
        number = int(name.split(".")[0])
        before = f"{prefix}/{number - 1:08d}.json"
        run = self.runs[process]
        if process.epoch != self.epoch or number == 1 or key in self._bucket.objects:
            return  # where a claim stands already, sending another is harmless
        if before not in self._bucket.objects:
            self._fail(f"{process.name} claims {number}, but nobody holds {number - 1}")
        elif not run.takeover and not self._may_pass(before, process):
            self._fail(f"{process.name} passes {before}, whose owner lives and beats")

    def _may_pass(self, claim: str, by: Process) -> bool:
        owner = self._drivers.get(claim)
        beat = self._bucket.objects.get(claim.removesuffix(".json") + ".beat")
        if owner is None or owner is by or not owner.alive or (beat and json.loads(beat.data)["ended"]):
            return True
        signs = [*self._beats[claim], self._now()]
        return max(b - a for a, b in itertools.pairwise(signs)) >= PATIENCE_S - _ROUNDING_S

    def _judge_owner(self, process: Process, key: str) -> None:
        run, bound = self.runs.get(process), self.bound_job_id()
        if run is not None and run.job_id != bound:
            self._fail(f"{process.name} of job {run.job_id[:12]} put {key} into the folder of {bound}")

    def _judge_success(self, data: bytes) -> None:
        bound = self.bound_job_id()
        seal = self._bucket.objects.get(Layout(str(bound)).seal_key)
        said = json.loads(data)
        if seal is None:
            self._fail(f"_SUCCESS of job {said['job_id'][:12]} without a seal of the folder's job")
            return
        sealed = json.loads(seal.data)
        if any(sealed[name] != value for name, value in said.items()):
            self._fail("_SUCCESS says other than the seal")
        if Layout(str(bound)).errors_key not in self._bucket.objects:
            self._fail("_SUCCESS before the errors")
        self._judge_seal(Layout(str(bound)).seal_key, seal.data)

    def _judge_seal(self, key: str, data: bytes) -> None:
        sealed = json.loads(data)
        layout = Layout(sealed["job_id"])
        if key != layout.seal_key:
            self._fail(f"{key} is the seal of job {sealed['job_id'][:12]}")
        for part in sealed["parts"]:
            name = layout.part_key(part["shard"])
            held = self._bucket.objects.get(name)
            footer = footer_of(held.data) if held else None
            if held is None or footer is None or name in self.garbage:
                self._fail(f"{name} is sealed, but is {'no part' if held else 'not there'}")
            elif (footer.rows_sha256, len(held.data)) != (part["rows_sha256"], part["size"]):
                self._fail(f"{name} is sealed with other rows than it holds")

    def _judge_part(self, process: Process, key: str, data: bytes) -> None:
        footer, run = footer_of(data), self.runs[process]
        if footer is None or key != Layout(footer.job_id).part_key(footer.shard):
            self._fail(f"{key} is not a part of its job and shard")
        elif any(CODES[ErrorCode(code)].systemic for code in footer.num_errors):
            self._fail(f"{key} holds rows that only say that access was lost: {dict(footer.num_errors)}")
        elif ErrorCode.SHARD_FAILED in footer.num_errors:
            shard = footer.shard
            if not run.past_a_cap(shard) or shard in run.may_still_be_had:
                self._fail(f"{process.name} gave up shard {shard}, which is not past its caps")


@lru_cache(1024)
def footer_of(data: bytes) -> PartFooter | None:
    """Return the footer of a part; None of what is none."""
    try:
        return decode_footer(pq.read_metadata(io.BytesIO(data)))
    except (UnreadablePart, OSError, ValueError):
        return None
