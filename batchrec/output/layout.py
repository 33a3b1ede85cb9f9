"""Where things lie in an output folder.

OUT/
  predictions/job=<job12>/part-<shard>.parquet   create-only: this object is the commit of its shard
  errors/job=<job12>/errors.parquet              derived when sealing
  report.json                                    the latest run, for people
  _batchrec/OUTPUT.json                          binds the folder to one job
  _batchrec/<job_id>/...                         spec, plan, drivers, progress, seal, children
  _batchrec/retry/...                            of a retry: the rows it does again, and whose they are
  _batchrec/quarantine/...                       what `repair` moved away
  _SUCCESS                                       last
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

OUTPUT_KEY = "_batchrec/OUTPUT.json"
SUCCESS_KEY = "_SUCCESS"
REPORT_KEY = "report.json"
PREDICTIONS_PREFIX = "predictions/"
RETRY_PREFIX = "_batchrec/retry/"
ORIGIN_KEY = RETRY_PREFIX + "RETRY.json"
QUARANTINE_PREFIX = "_batchrec/quarantine/"

_PART_NAME = re.compile(r"part-(\d{8,})\.parquet")


def lost_its_binding(names: Collection[str]) -> bool:
    """Whether the top of a folder without ``OUTPUT.json`` is that of a complete output all the same."""
    return {SUCCESS_KEY, "_batchrec/"} <= set(names)


def job_id_of(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of what decides a job's rows, 64 hexadecimal characters."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # The name of a manifest file need not be text.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Layout:
    """Keys of one job's objects in its output folder."""

    job_id: str

    @property
    def parts_prefix(self) -> str:
        """Prefix of all parts."""
        return f"{PREDICTIONS_PREFIX}job={self.job_id[:12]}/"

    @property
    def private_prefix(self) -> str:
        """Prefix of what only batchrec reads."""
        return f"_batchrec/{self.job_id}/"

    @property
    def errors_key(self) -> str:
        """Table of the rows that are not ok."""
        return f"errors/job={self.job_id[:12]}/errors.parquet"

    @property
    def spec_key(self) -> str:
        """Identity and definition of the job."""
        return self.private_prefix + "spec.json"

    @property
    def plan_key(self) -> str:
        """Boundaries of the shards."""
        return self.private_prefix + "plan.parquet"

    @property
    def quantised_key(self) -> str:
        """Which quantised model the job runs, where it runs one."""
        return self.private_prefix + "int8.json"

    @property
    def seal_key(self) -> str:
        """Every part with its size, counts and digest."""
        return self.private_prefix + "SEAL.json"

    @property
    def progress_key(self) -> str:
        """Advisory progress of the running coordinator."""
        return self.private_prefix + "progress.json"

    @property
    def drivers_prefix(self) -> str:
        """Claims and heartbeats of coordinators."""
        return self.private_prefix + "drivers/"

    @property
    def children_prefix(self) -> str:
        """Records of the retries of this job."""
        return self.private_prefix + "children/"

    def child_key(self, number: int) -> str:
        """Record of the n-th retry, counted from 1."""
        return f"{self.children_prefix}{number:04d}.json"

    def log_key(self, driver: int) -> str:
        """What the n-th coordinator said, for people."""
        return f"{self.drivers_prefix}{driver:08d}.log"

    def part_key(self, shard: int) -> str:
        """Key of one shard's part."""
        return f"{self.parts_prefix}part-{shard:08d}.parquet"

    def shard_of(self, key: str) -> int | None:
        """Return the shard whose part lies under ``key``; None for foreign names."""
        match = _PART_NAME.fullmatch(key.removeprefix(self.parts_prefix))
        return int(match[1]) if match and key == self.part_key(int(match[1])) else None
