"""Notes: what a process was decoding when it died is known to the next one on its machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrec.pipeline.hands import Hands
from batchrec.pipeline.noting import Note, Notes

Die = Callable[..., None]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes("a job", tmp_path)


@pytest.fixture
def die(tmp_path: Path) -> Die:
    """Run a process that is killed while its threads have rows in hand, as (shard, row)."""

    def die_decoding(*in_hand: tuple[int, int], job: str = "a job") -> None:
        code = f"""
import os, signal
from pathlib import Path
from batchrec.pipeline.noting import Notes
note = Notes({job!r}, Path({str(tmp_path)!r})).open()
note.begin(0, 1, 1); note.end(0)
for slot, (shard, row) in enumerate({in_hand!r}):
    note.begin(slot, shard, row)
os.kill(os.getpid(), signal.SIGKILL)
"""
        assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL

    return die_decoding


def test_rows_in_hand_of_a_killed_process_are_suspects_and_nothing_else_is(notes: Notes, die: Die) -> None:
    die((3, 0), (3, 17), (4, 5))
    assert notes.suspects(3, 100) == {0, 17}
    assert notes.suspects(4, 100) == {5}
    assert not notes.suspects(1, 100)
    assert not notes.suspects(0, 100)


def test_after_two_processes_died_of_a_shard_all_of_it_is_suspect(notes: Notes, die: Die) -> None:
    die((3, 0))
    die((3, 9))
    assert notes.suspects(3, 100) == range(100)


def test_a_living_process_has_no_suspects(notes: Notes) -> None:
    note = notes.open()
    note.begin(0, 3, 17)
    assert not notes.suspects(3, 100)
    note.close()


def test_another_job_has_other_suspects(notes: Notes, die: Die) -> None:
    die((3, 0), job="another")
    assert not notes.suspects(3, 100)


def test_a_settled_shard_is_forgotten_and_the_others_are_not(notes: Notes, die: Die, tmp_path: Path) -> None:
    die((3, 0), (4, 5))
    notes.settle(3)
    assert not notes.suspects(3, 100)
    assert notes.suspects(4, 100) == {5}
    notes.settle(4)
    assert list(tmp_path.iterdir()) == []


def test_a_note_closed_with_nothing_in_hand_is_gone(notes: Notes, tmp_path: Path) -> None:
    note = notes.open()
    assert len(list(tmp_path.iterdir())) == 1
    note.begin(0, 3, 17)
    note.end(0)
    note.close()
    assert list(tmp_path.iterdir()) == []


def test_a_note_closed_while_a_thread_hangs_is_for_the_next_attempt_even_of_this_process(notes: Notes) -> None:
    note = notes.open()
    note.begin(0, 3, 17)
    note.close()
    assert notes.suspects(3, 100) == {17}


def test_notes_that_say_nothing_or_are_old_are_swept(notes: Notes, die: Die, tmp_path: Path) -> None:
    die()
    die((3, 0), job="long ago")
    old = next(file for file in tmp_path.iterdir() if any(file.read_bytes()))
    os.utime(old, (time.time() - 31 * 86400,) * 2)
    die((3, 0), job="yesterday")
    note = notes.open()
    assert len(list(tmp_path.iterdir())) == 2
    note.close()


def test_a_note_that_is_damaged_is_no_obstacle(notes: Notes, tmp_path: Path, die: Die) -> None:
    die((3, 5))
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:23])
    assert notes.suspects(3, 100) == {5}
    notes.settle(3)


def test_where_no_note_can_be_kept_decoding_goes_on_without(tmp_path: Path) -> None:
    notes = Notes("a job", tmp_path / "absent")
    note = notes.open()
    note.begin(0, 3, 17)
    note.end(0)
    assert not notes.suspects(3, 100)
    notes.settle(3)
    note.close()


def test_what_a_thread_has_in_hand_is_told_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(Note())
    hands.mine().take_noted("decode", 3, 17)
    assert hands.in_hand() == ()
    later = time.monotonic() + 90
    monkeypatch.setattr("batchrec.pipeline.hands.time.monotonic", lambda: later)
    (told,) = hands.in_hand()
    assert (told.stage, told.shard, told.row, round(told.for_s)) == ("decode", 3, 17, 90)
    hands.mine().lay_down_noted()
    assert hands.in_hand() == ()
