"""Plays histories by the hundred thousand, or one of them aloud: ``python -m tests.simulation.soak --help``."""

from __future__ import annotations

import argparse
import time
from itertools import count

from tests.simulation import seams
from tests.simulation.histories import play

_SAYS_EVERY_S = 10.0


def soak(first: int, num_seeds: int, seconds: float) -> int:
    """Play histories until the seeds or the seconds are over, or one fails; the exit code."""
    began = said_at = time.monotonic()
    steps = 0
    for done in count():
        now = time.monotonic()
        if now - said_at > _SAYS_EVERY_S or done == num_seeds or now - began > seconds:
            said_at = now
            rate = done / max(now - began, 1e-9)
            print(f"{done:,} histories, {steps:,} steps, 0 violations, {rate:.0f} a second", flush=True)
        if done == num_seeds or now - began > seconds:
            return 0
        seed = first + done
        try:
            steps += play(seed).scheduler.steps
        except Exception as error:  # noqa: BLE001  whatever it is, the seed is what to print
            print(f"seed {seed} after {done:,} histories: {type(error).__name__}: {error}")
            print(f"replay it with: python -m tests.simulation.soak --seed {seed}")
            return 1
    return 0


def main() -> int:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.soak", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this one only, and print what happens")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seeds", type=int, default=100_000, help="how many (default 100000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    asked = parser.parse_args()
    with seams.cut():
        if asked.seed is None:
            return soak(asked.first, asked.seeds, asked.seconds)
        play(asked.seed, tell=print)
    print("every invariant holds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
