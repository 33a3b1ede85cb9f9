"""Takes out the guards of the protocol one by one, and sees whether anything notices.

Those the simulation must miss are taken out in a process of their own each, which plays histories until one fails.
The others are taken out in a copy of the tree, and the protocol's tests run there (``--simulated`` leaves them out).
The working tree is not touched.

A history or a test that hangs was noticed. All of them taking too long was not: a slow machine does that too, so such a
guard is undecided, and the run fails as it does for one that survived.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path

from tests.protocol_guards import GUARDS, Guard

ROOT = Path(__file__).parent.parent
NUM_SEEDS = 1200
#: Histories that must pass with every guard in place, before one is taken out.
NUM_INTACT = 300
#: One history takes milliseconds, one test seconds.
_HISTORY_WITHIN_S = 60
_TEST_WITHIN_S = 120
#: All histories of a guard, and the whole suite.
_SIMULATED_WITHIN_S = 300
_SUITE_WITHIN_S = 900
_UNDECIDED = 2
PROTOCOL_TESTS = (
    "tests/storage/test_publishing.py",
    "tests/storage/test_local_disk.py",
    "tests/output/test_parts.py",
    "tests/output/test_seal.py",
    "tests/engine/test_ledger.py",
    "tests/engine/test_budget.py",
    "tests/engine/test_coordinator.py",
    "tests/engine/test_claims.py",
    "tests/engine/test_identity.py",
    "tests/simulation/test_histories.py",
    "tests/test_crashes.py",
    "tests/test_job.py",
    "tests/test_job_s3.py",
    "tests/test_planning.py",
    "tests/engine/test_worker_counts.py",
)


class Undecided(Exception):
    """There was not time enough to tell whether anything notices."""


class _MutatedFile(SourceFileLoader):
    """Loads a module from its source without a guard."""

    guard: Guard

    def get_code(self, fullname: str) -> object:
        path = self.get_filename(fullname)
        return compile(self.guard.taken_out(Path(path).read_text()), path, "exec")


class _Finder(MetaPathFinder):
    """Finds one module without its guard, and leaves all others to Python."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self._guard.module:
            return None
        spec = PathFinder.find_spec(fullname, path)  # type: ignore[arg-type]
        assert spec is not None and spec.origin is not None
        loader = _MutatedFile(fullname, spec.origin)
        loader.guard = self._guard
        return importlib.util.spec_from_loader(fullname, loader)


def _play(guard: Guard | None, seeds: int, out: int, within_s: float) -> int:
    """Play histories until one fails, and write what was found; runs in a process of its own, whose code it returns."""
    give_up_at = time.monotonic() + within_s
    if guard is not None:
        sys.meta_path.insert(0, _Finder(guard))
    from tests.simulation import seams
    from tests.simulation.histories import play

    with seams.cut():
        first = guard.seed if guard else 0
        for seed in range(first, first + seeds):
            if time.monotonic() > give_up_at:
                return _UNDECIDED
            signal.alarm(_HISTORY_WITHIN_S)  # set anew for each: what ends this process is one that hangs
            try:
                play(seed)
            except Exception as error:  # noqa: BLE001  whatever breaks, the missing guard was noticed
                os.write(out, f"seed {seed}: {str(error) or type(error).__name__}".encode(errors="replace"))
                return 0
    return 0


def simulate(guard: Guard | None, seeds: int = NUM_SEEDS, *, within_s: float = _SIMULATED_WITHIN_S) -> str:
    """Return what the simulation finds wrong without a guard; empty when nothing.

    Raises:
        Undecided: Nothing was found, but the seeds were not all played in time.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            code = _play(guard, seeds, writing, within_s)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        found = stream.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"a history did not end within {_HISTORY_WITHIN_S} s"
    if os.WEXITSTATUS(status) == _UNDECIDED:
        raise Undecided(f"the simulation did not end within {within_s:g} s")
    return found


def run_without(tree: Path, guard: Guard) -> str:
    """Return the first of the protocol's tests that fails without a guard; empty when none does."""
    file = tree / (guard.module.replace(".", "/") + ".py")
    source = file.read_text()
    file.write_text(guard.taken_out(source))
    try:
        return run_suite(tree)
    finally:
        file.write_text(source)


def run_suite(tree: Path) -> str:
    """Return the first of the protocol's tests that fails or hangs in a tree; empty when none does.

    Raises:
        Undecided: None did, as far as they came in time.
    """
    hang = ["-o", f"faulthandler_timeout={_TEST_WITHIN_S}", "-o", "faulthandler_exit_on_timeout=true"]
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", *hang]
    command = [sys.executable, "-m", "pytest", *options, *PROTOCOL_TESTS]
    try:
        ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=_SUITE_WITHIN_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Undecided(f"the tests did not end within {_SUITE_WITHIN_S} s") from error
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    return failed[1] if failed else "" if ended.returncode == 0 else ended.stdout[-200:] or "a test hangs"


def _all_simulated(guards: list[Guard]) -> int:
    # Loaded once for all children; nothing of batchrec is.
    import fsspec
    import obstore
    import pyarrow.compute
    import pyarrow.parquet
    import yaml

    assert all((fsspec, obstore, pyarrow, yaml))
    if found := simulate(None, seeds=NUM_INTACT):
        print(f"the simulation fails with every guard in place: {found}")
        return 1
    return sum(not noticed(guard, simulate) for guard in guards if guard.simulated)


def _all_in_a_copy(guards: list[Guard]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("batchrec", "tests", "jobs", "docs", "deploy"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        if found := run_suite(tree):
            print(f"the tests fail with every guard in place: {found}")
            return 1
        return sum(not noticed(guard, partial(run_without, tree)) for guard in guards if not guard.simulated)


def noticed(guard: Guard, find: Callable[[Guard], str]) -> bool:
    """Print what finds that a guard is missing; whether anything does, or nothing can."""
    began = time.monotonic()
    try:
        found = find(guard)
        verdict = "killed" if found else "equivalent" if guard.equivalent else "SURVIVED"
    except Undecided as error:
        found, verdict = str(error), "UNDECIDED"
    seconds = time.monotonic() - began
    print(f"{verdict:10} {seconds:5.1f} s  {guard.name}: {found or guard.equivalent}"[:200], flush=True)
    return verdict in ("killed", "equivalent")


def main() -> int:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--simulated", action="store_true", help="only those the simulation must notice, in it alone")
    parser.add_argument("--only", default="", help="only those with this text in their name")
    asked = parser.parse_args()
    guards = [guard for guard in GUARDS if asked.only in guard.name]
    survived = _all_simulated(guards)
    if not asked.simulated:
        survived += _all_in_a_copy(guards)
    print(f"{survived} survived or undecided")
    return int(survived > 0)


if __name__ == "__main__":
    raise SystemExit(main())
