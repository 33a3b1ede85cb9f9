"""The long tier's own way of finding and naming a history that fails."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.histories import play
from tests.simulation.soak import soak


def play_but_one(seed: int) -> Any:
    if seed == 107:
        raise AssertionError("a row is lost")
    return play(seed)


def test_a_soak_plays_every_seed_and_says_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak(first=0, num_seeds=30, seconds=1e9, num_processes=2) == 0
    assert capsys.readouterr().out.startswith("30 histories, ")


def test_a_soak_names_the_seed_that_fails_and_how_to_replay_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak(first=100, num_seeds=20, seconds=1e9, num_processes=1, play=play_but_one) == 1
    said = capsys.readouterr().out
    assert "seed 107 after" in said
    assert "AssertionError: a row is lost" in said
    assert "python -m tests.simulation.soak --seed 107" in said
