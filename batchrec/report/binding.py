"""What held a run back: from the time spent inside each stage to one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchrec.records import WorkerFacts
from batchrec.stats import STAGES, ShardStats

BUSY = 0.80
"""Share of its cores, or of a stage's slots, from which something counts as the limit."""
MIN_SPAN_S = 1.0
"""Seconds below which a run says nothing about what bound it."""


@dataclass(frozen=True, slots=True)
class Threads:
    """How many images each stage could work on at once, over all workers.

    Attributes:
        fetch: Reads in flight at once.
        decode: Decoding threads.
        predict: Forward passes at once.
        cores: CPU cores the workers may use; fractional under a quota.
        write: Parts published at once.
    """

    fetch: int
    decode: int
    predict: int
    cores: float
    write: int = 1

    @classmethod
    def of(cls, workers: Sequence[WorkerFacts], stats: ShardStats) -> Threads:
        """Add up what workers said of themselves; each publishes up to two parts at once.

        How many reads were allowed at once changed while they read: their mean counts, as far as it is known.
        """
        fetch = sum(facts.num_fetching for facts in workers)
        if stats.fetch_full_s > 0:
            fetch = max(1, round(len(workers) * stats.fetch_s / stats.fetch_full_s))
        return cls(
            fetch=fetch,
            decode=sum(facts.num_decoding for facts in workers),
            predict=sum(facts.num_predicting for facts in workers),
            cores=sum(facts.num_cores for facts in workers),
            write=max(1, 2 * len(workers)),
        )


@dataclass(frozen=True, slots=True)
class Binding:
    """What held a run back.

    Attributes:
        kind: ``cpu``, ``fetch``, ``decode``, ``predict``, ``write``, ``start`` or ``unclear``.
        core_shares: Estimated share of all core time by stage, with ``idle``; adds to 1. Fetching is
            counted as waiting. A model on the CPU is taken to use its even share of the cores while it runs.
        busy: Share of time each stage's slots were in use, from 0 to 1.
        sentence: For people.
        advice: What would help; empty where nothing is known to.
    """

    kind: str
    core_shares: dict[str, float]
    busy: dict[str, float]
    sentence: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, shares rounded to a tenth of a percent."""
        return {
            "kind": self.kind,
            "core_shares": {name: round(share, 3) for name, share in self.core_shares.items()},
            "busy": {name: round(share, 3) for name, share in self.busy.items()},
            "sentence": self.sentence,
            "advice": self.advice,
        }


def weigh(stats: ShardStats, span_s: float, threads: Threads, *, on_gpu: bool) -> Binding:
    """Say what bound the work done in a span of time.

    A stage binds when its slots are nearly always in use. On a machine whose cores are used up the
    stages slow each other down, so the cores bind, whichever queue is full.

    Args:
        stats: Thread-seconds by stage.
        span_s: Wall seconds they were spent in, start-up not included.
        threads: Slots of each stage and cores.
        on_gpu: Whether the model runs beside the CPU.
    """
    if span_s < MIN_SPAN_S or not stats.num_rows:
        return Binding("unclear", {}, {}, "too short a run to say what bound it", "")
    shares = _core_shares(stats, span_s, threads, on_gpu=on_gpu)
    slots = {"fetch": threads.fetch, "decode": threads.decode, "predict": threads.predict, "write": threads.write}
    busy = {name: min(1.0, stats.stage_s[name] / (span_s * max(1, slots[name]))) for name in STAGES}
    kind = _kind(shares, busy)
    return Binding(
        kind, shares, busy, _sentence(kind, shares, busy, on_gpu=on_gpu), _advice(kind, shares, on_gpu=on_gpu)
    )


def _core_shares(stats: ShardStats, span_s: float, threads: Threads, *, on_gpu: bool) -> dict[str, float]:
    cores_of_a_pass = 0.0 if on_gpu else max(1.0, threads.cores / max(1, threads.predict))
    used_s = {"decode": stats.decode_s, "predict": stats.predict_s * cores_of_a_pass, "write": stats.write_s}
    # Threads that wait for a core count that wait as work, so the sum may exceed what there is.
    whole_s = max(span_s * max(threads.cores, 0.1), sum(used_s.values()))
    shares = {name: seconds / whole_s for name, seconds in used_s.items()}
    return shares | {"idle": max(0.0, 1.0 - sum(shares.values()))}


def _kind(shares: dict[str, float], busy: dict[str, float]) -> str:
    if 1.0 - shares["idle"] >= BUSY:
        return "cpu"
    fullest = max(busy, key=lambda name: busy[name])
    return fullest if busy[fullest] >= BUSY else "unclear"


def _sentence(kind: str, shares: dict[str, float], busy: dict[str, float], *, on_gpu: bool) -> str:
    if kind == "cpu":
        stages = sorted((name for name in shares if name != "idle"), key=lambda name: -shares[name])
        parts = [f"{name} {shares[name]:.0%}".replace("%", " %") for name in stages if shares[name] >= 0.005]
        return f"CPU-bound: {', '.join(parts)}"
    percent = {name: f"{share:.0%}".replace("%", " %") for name, share in busy.items()}
    idle = f"{shares['idle']:.0%}".replace("%", " %")
    if kind == "fetch":
        return f"fetch-bound (waiting on the store): reads in flight {percent['fetch']} of the time, cores {idle} idle"
    if kind == "predict":
        where = "GPU" if on_gpu else "model"
        return f"predict-bound: the {where} was at work {percent['predict']} of the time, cores {idle} idle"
    if kind in ("decode", "write"):
        return f"{kind}-bound: its threads were at work {percent[kind]} of the time, cores {idle} idle"
    fullest = max(busy, key=lambda name: busy[name])
    return f"no stage was full: {fullest} came nearest with {percent[fullest]}, cores {idle} idle"


def _advice(kind: str, shares: dict[str, float], *, on_gpu: bool) -> str:
    if kind == "cpu":
        model_first = not on_gpu and shares["predict"] >= shares["decode"]
        return "a GPU, or more cores" if model_first else "more cores"
    return {
        "fetch": "more reads in flight, or workers nearer to the store",
        "decode": "more decoding threads",
        "predict": "a faster or a second GPU" if on_gpu else "more forward passes at once",
        "write": "a store that takes objects faster, or larger shards",
    }.get(kind, "")
