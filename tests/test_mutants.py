"""Each guard of the protocol is missed when it is taken out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import mutants
from tests.protocol_guards import GUARDS, Guard

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_every_guard_is_where_the_mutants_look_for_it(guard: Guard) -> None:
    source = (ROOT / (guard.module.replace(".", "/") + ".py")).read_text()
    assert guard.taken_out(source) != source


def test_the_simulation_misses_every_guard_it_must_miss() -> None:
    assert sum(guard.simulated for guard in GUARDS) >= 20
    command = [sys.executable, "-m", "tests.mutants", "--simulated"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


GUARD = GUARDS[0]


def out_of_time(guard: Guard) -> str:
    raise mutants.Undecided("the simulation did not end within 0 s")


@pytest.mark.parametrize(
    ("find", "verdict", "noticed"),
    [
        (lambda _: "seed 7: a row twice", "killed", True),
        (lambda _: "", "SURVIVED", False),
        (out_of_time, "UNDECIDED", False),
    ],
)
def test_a_guard_for_which_there_was_no_time_does_not_count_as_missed(
    capsys: pytest.CaptureFixture[str], find: Callable[[Guard], str], verdict: str, noticed: bool
) -> None:
    assert mutants.noticed(GUARD, find) is noticed
    assert capsys.readouterr().out.startswith(verdict)


# Apart from this process, whose threads a fork would not take along.
HANGING = """
import time
from tests import mutants
from tests.simulation import histories
histories.play = lambda seed: time.sleep(60)
mutants._HISTORY_WITHIN_S = 1
print(mutants.simulate(None, seeds=1))
try:
    mutants.simulate(None, seeds=1, within_s=0.0)
except mutants.Undecided:
    print("undecided")
"""


def test_one_history_that_hangs_is_noticed_and_too_little_time_for_all_of_them_is_undecided() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == ["a history did not end within 1 s", "undecided"], ended.stderr
