"""Plays histories by the hundred thousand, or one of them aloud: ``python -m tests.simulation.soak --help``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any

from tests.simulation import seams
from tests.simulation.histories import play

_SAYS_EVERY_S = 10.0
_LOT = 200
_HELD = ExitStack()

Play = Callable[[int], Any]


def soak(first: int, num_seeds: int, seconds: float, num_processes: int, play: Play = play) -> int:
    """Play histories until the seeds or the seconds are over, or one fails; the exit code."""
    began = said_at = time.monotonic()
    until = began + seconds
    done = steps = 0
    lots = (range(at, min(at + _LOT, first + num_seeds)) for at in range(first, first + num_seeds, _LOT))
    # Forked, a process would begin with locks of threads that it has not.
    with ProcessPoolExecutor(num_processes, get_context("spawn"), initializer=_cut_for_good) as processes:
        # Only so many are handed out that a failure, or the end of the time, is near.
        pending = {processes.submit(_play, play, lot) for lot in islice(lots, 2 * num_processes)}
        while pending:
            over, pending = wait(pending, timeout=_SAYS_EVERY_S, return_when=FIRST_COMPLETED)
            for lot in (each.result() for each in over):
                if lot.fault:
                    print(f"seed {lot.seed} after about {done:,} histories: {lot.fault}")
                    print(f"replay it with: python -m tests.simulation.soak --seed {lot.seed}", flush=True)
                    for each in pending:
                        each.cancel()
                    return 1
                done, steps = done + lot.num_played, steps + lot.steps
            now = time.monotonic()
            if now < until:
                pending |= {processes.submit(_play, play, lot) for lot in islice(lots, len(over))}
            if now - said_at > _SAYS_EVERY_S or not pending:
                said_at = now
                rate = done / max(now - began, 1e-9)
                print(f"{done:,} histories, {steps:,} steps, 0 violations, {rate:.0f} a second", flush=True)
    return 0


@dataclass(frozen=True)
class _Lot:
    """What came of some histories; ``seed`` and ``fault`` of the one that failed."""

    num_played: int
    steps: int
    seed: int = 0
    fault: str = ""


def _play(play: Play, seeds: range) -> _Lot:
    steps = 0
    for seed in seeds:
        try:
            steps += play(seed).scheduler.steps
        except Exception as error:  # noqa: BLE001  whatever it is, the seed is what to print
            return _Lot(seed - seeds.start, steps, seed, f"{type(error).__name__}: {error}")
    return _Lot(len(seeds), steps)


def _cut_for_good() -> None:
    """Set the seams of this process, which does nothing else."""
    _HELD.enter_context(seams.cut())


def main() -> int:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.soak", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one only, and print what happens")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seeds", type=int, default=100_000, help="how many (default 100000)")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at once (default all cores)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    asked = parser.parse_args()
    if asked.seed is None:
        return soak(asked.first, asked.seeds, asked.seconds, asked.processes)
    with seams.cut():
        play(asked.seed, tell=print)
    print("every invariant holds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
