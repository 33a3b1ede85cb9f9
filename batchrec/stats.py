"""Counters and stage times that add up: image to shard, shard to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STAGES = ("fetch", "decode", "predict", "write")


@dataclass(frozen=True, slots=True)
class ShardStats:
    """What one attempt, or any sum of attempts, did.

    ``*_s`` are thread-seconds spent inside a stage, so with several threads they add up to
    more than wall time.

    Attributes:
        num_ok: Images with a prediction.
        num_errors: Images by error code.
        read_bytes: Bytes of images fetched.
        written_bytes: Bytes of Parquet published.
        num_batches: Forward passes that held some of its images.
        num_on_device: Images that the model's device decoded.
        fetch_s: Time in reads of images.
        fetch_full_s: The same, each second by its share of the reads that were allowed at once: time in which a worker
            read all it might.
        decode_s: Time in decoding and resizing.
        predict_s: Time in the model.
        write_s: Time in building and publishing the part.
    """

    num_ok: int = 0
    num_errors: Counter[str] = field(default_factory=Counter)
    read_bytes: int = 0
    written_bytes: int = 0
    num_batches: int = 0
    num_on_device: int = 0
    fetch_s: float = 0.0
    fetch_full_s: float = 0.0
    decode_s: float = 0.0
    predict_s: float = 0.0
    write_s: float = 0.0

    @property
    def num_rows(self) -> int:
        """Rows accounted for, with a prediction or without."""
        return self.num_ok + self.num_failed

    @property
    def num_failed(self) -> int:
        """Rows without a prediction."""
        return self.num_errors.total()

    @property
    def stage_s(self) -> dict[str, float]:
        """Thread-seconds by stage, in the order of the data flow."""
        return {"fetch": self.fetch_s, "decode": self.decode_s, "predict": self.predict_s, "write": self.write_s}

    def __add__(self, other: ShardStats) -> ShardStats:
        return ShardStats(
            num_ok=self.num_ok + other.num_ok,
            num_errors=self.num_errors + other.num_errors,
            read_bytes=self.read_bytes + other.read_bytes,
            written_bytes=self.written_bytes + other.written_bytes,
            num_batches=self.num_batches + other.num_batches,
            num_on_device=self.num_on_device + other.num_on_device,
            fetch_s=self.fetch_s + other.fetch_s,
            fetch_full_s=self.fetch_full_s + other.fetch_full_s,
            decode_s=self.decode_s + other.decode_s,
            predict_s=self.predict_s + other.predict_s,
            write_s=self.write_s + other.write_s,
        )


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is.

    Attributes:
        num_ok: Images this run has a prediction for, in published shards or not.
        num_failed: Images it has none for.
        num_shards_done: Shards it published.
        stats: Sum over its published attempts.
        shards: Shards of the job by state: ``pending``, ``in_flight``, ``done``, ``abandoned``.
        workers: Workers by state: ``wanted``, ``ready``; and ``helpers``, which decode for them.
        attempts: Attempts of this run by what became of them: ``published``, ``failed``, ``lost``.
        fill: How full the workers' queues are on average, from 0 to 1, by name.
    """

    num_ok: int = 0
    num_failed: int = 0
    num_shards_done: int = 0
    stats: ShardStats = field(default_factory=ShardStats)
    shards: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    fill: Mapping[str, float] = field(default_factory=dict)


def mean_fill(fills: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how full queues are on average, by name; those that said nothing yet are left out."""
    filled = [fill for fill in fills if fill]
    return {name: sum(fill[name] for fill in filled) / len(filled) for name in (filled[0] if filled else ())}
