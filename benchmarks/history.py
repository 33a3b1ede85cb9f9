"""Figures of earlier runs, so that a loss is seen.

    python benchmarks/history.py [--tolerance 0.05]

Benchmarks that are given `--record` append what they measured to benchmarks/history.jsonl: figure, value, machine,
date, commit. This prints each figure whose latest value is worse than the one before it on the same machine
by more than the tolerance, and exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

HISTORY = Path(__file__).parent / "history.jsonl"


@dataclass(frozen=True)
class Figure:
    """One value of one run.

    Attributes:
        figure: What was measured, at which size and with which settings; only equal names are compared.
        value: In the unit that the name says.
        better: ``lower`` or ``higher``.
        machine: Its processor, cores and memory.
        date: When, to the second.
        commit: Of the code that ran; with a plus where it was changed.
    """

    figure: str
    value: float
    better: str
    machine: str
    date: str
    commit: str


def record(figures: Iterable[tuple[str, float, str]], path: Path = HISTORY) -> None:
    """Append figures of this run: name, value, and whether ``lower`` or ``higher`` is better."""
    about = {"machine": machine(), "date": now(), "commit": commit()}
    with path.open("a") as lines:
        for name, value, better in figures:
            lines.write(json.dumps(asdict(Figure(name, value, better, **about))) + "\n")


def machine() -> str:
    """Name this machine by what decides its speed."""
    with Path("/proc/cpuinfo").open() as facts:
        models = [line.partition(":")[2].strip() for line in facts if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{models[0] if models else platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB"


def now() -> str:
    """Return the time in UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Name the commit of the code that runs, with a plus where it was changed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(HISTORY.parent), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../batchrec", "*.py")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if changed else "")


def read(path: Path = HISTORY) -> list[Figure]:
    """Return what was recorded, in that order."""
    return [Figure(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def losses(history: Iterable[Figure], tolerance: float) -> Iterator[str]:
    """Say of each figure of each machine whether its latest value is worse than the one before."""
    latest: dict[tuple[str, str], list[Figure]] = {}
    for each in history:
        latest.setdefault((each.machine, each.figure), []).append(each)
    for *_, before, last in (values for values in latest.values() if len(values) > 1):
        loss = last.value / before.value - 1 if last.better == "lower" else 1 - last.value / before.value
        if loss > tolerance:
            yield (
                f"{last.figure}: {before.value:g} ({before.commit}) -> {last.value:g} ({last.commit}), "
                f"{loss:.0%} worse on {last.machine}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tolerance", type=float, default=0.05)
    found = list(losses(read(), parser.parse_args().tolerance))
    print("\n".join(found) or "no figure got worse")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
