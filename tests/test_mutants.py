"""Each guard of the protocol is missed when it is taken out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
