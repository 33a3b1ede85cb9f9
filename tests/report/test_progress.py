"""How far a run is."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import sys

import pytest

from batchrec.report.progress import Progress, duration


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_plain_line_comes_every_half_minute_or_twentieth(clock):
    stream = io.StringIO()
    with Progress(10_000, 0, stream, clock) as progress:
        for second in range(1, 101):
            clock.now_s = 100.0 + second
            progress.update(second * 10, 0, 0)
        assert len(stream.getvalue().splitlines()) == 4
        for step in range(1, 11):
            progress.update(1_000 + step * 500, 0, 0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4 + 10
    assert not set(stream.getvalue()) & {"\r", "\x1b"}
    assert stream.getvalue().isascii()


def test_a_line_says_what_a_person_asks(clock):
    progress = Progress(2_000, 500, io.StringIO(), clock, num_shards=8)
    clock.now_s += 10
    progress.update(490, 10, 2, note="predict")
    assert progress.line() == (
        "1,000/2,000 images (50%) | 10 failed | shards 2/8 | 49 images/s now, 49 overall | ETA 0:20 | predict"
    )
    progress.close()


def test_rows_of_earlier_runs_are_no_speed_and_nothing_is_divided_by_zero(clock):
    progress = Progress(1_000, 900, io.StringIO(), clock)
    assert "900/1,000 images (90%)" in progress.line()
    assert "0 images/s now, 0 overall | ETA -" in progress.line()
    empty = Progress(0, 0, io.StringIO(), clock)
    empty.update(0, 0, 0)
    assert "0/0 images (100%)" in empty.line()


def test_images_that_no_longer_count_are_no_speed_backwards(clock):
    progress = Progress(1_000, 0, io.StringIO(), clock)
    for num_ok in (100, 200, 120):
        clock.now_s += 10
        progress.update(num_ok, 0, 0)
    assert "120/1,000 images (12%) | 0 failed | shards 0 | 0 images/s now, 4 overall | ETA -" in progress.line()
    clock.now_s += 10
    progress.update(220, 0, 0)
    assert "10 images/s now" in progress.line()
    progress.close()


def test_the_recent_rate_follows_a_change_the_overall_rate_hides(clock):
    progress = Progress(10**6, 0, io.StringIO(), clock)
    for _ in range(100):
        clock.now_s += 1
        progress.update(int(clock.now_s - 100) * 100, 0, 0)
    for _ in range(60):
        clock.now_s += 1
        progress.update(10_000, 0, 0)
    assert " 2 images/s now" in progress.line()
    assert "62 overall" in progress.line()


def test_the_last_state_is_printed_once_on_closing(clock):
    stream = io.StringIO()
    progress = Progress(1_000, 0, stream, clock)
    progress.update(10, 0, 1)
    progress.close()
    progress.close()
    assert stream.getvalue().count("10/1,000") == 1


def test_messages_keep_their_lines_and_lose_escapes_and_secrets(clock):
    stream = io.StringIO()
    with Progress(1_000, 0, stream, clock) as progress:
        progress.message("lost worker 3\nof https://u:canary@h/\x1b[2J\r")
    assert stream.getvalue() == "lost worker 3\nof https://***@h/\ufffd[2J\ufffd\n"


def test_a_closed_or_narrow_stream_does_not_end_the_run(clock):
    closed = io.StringIO()
    progress = Progress(10, 0, closed, clock)
    closed.close()
    progress.update(10, 0, 1)
    progress.message("ü")
    progress.close()
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii")
    with Progress(10, 0, narrow, clock) as progress:
        progress.message("größe")
    assert raw.getvalue() == b"gr??e\n"


@pytest.fixture
def terminal(monkeypatch):
    """A real terminal of 80 columns; gives its stream and what arrived there."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as stream:
        yield stream, lambda: b"".join(pieces(leader)).decode()
    os.close(leader)


def pieces(leader):
    """What a terminal hands over piece by piece, until it has no more."""
    while select.select([leader], [], [], 0.3)[0]:
        yield os.read(leader, 65_536)


def test_a_terminal_gets_one_live_line_with_messages_above(clock, terminal):
    stream, arrived = terminal
    with Progress(1_000, 0, stream, clock) as progress:
        clock.now_s += 1
        progress.update(100, 0, 1)
        progress.message("worker 2 [red]ready[/red] \x1b[2J " + "x" * 100)
        progress.update(200, 0, 2)
    text = arrived()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "worker 2 [red]ready[/red] \ufffd[2J " + "x" * 100 in plain.replace("\r\n", "")
    assert "200/1,000 images (20%)" in plain.splitlines()[-1]
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]+", plain) if "images" in line)
    assert text.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in text


def test_stdout_is_left_alone_while_the_line_is_live(clock, terminal, capsys):
    stream, arrived = terminal
    before = sys.stdout
    with Progress(1_000, 0, stream, clock):
        assert sys.stdout is before
        print("a result")
    assert "a result" not in arrived()
    assert capsys.readouterr().out == "a result\n"


def test_a_dumb_terminal_gets_plain_lines(clock, terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream, arrived = terminal
    with Progress(100, 0, stream, clock) as progress:
        progress.update(10, 0, 1)
    assert "\x1b" not in arrived()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (62, "1:02"), (3_599.6, "1:00:00"), (90_061, "25:01:01")])
def test_durations_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
