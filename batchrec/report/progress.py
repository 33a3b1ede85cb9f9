"""How far a run is: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TextIO

from batchrec.redacting import printable, redact

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_EVERY_S = 30.0
PLAIN_LINES_OF_A_RUN = 20
RECENT_S = 30.0


@dataclass(frozen=True, slots=True)
class _State:
    """What the latest update said, in this run alone."""

    num_ok: int = 0
    num_failed: int = 0
    num_shards_done: int = 0
    note: str = ""


class Progress:
    """Shows the progress of one run on stderr.

    Call :meth:`update` at every turn of the loop, with counts that grow: nothing is shown more often
    than a person can read. Losing the terminal does not end the run.

    Args:
        total_rows: Rows of the job.
        done_rows: Rows that earlier runs finished; they count as done but not as speed.
        stream: Where to write; stderr when None.
        clock: Seconds that only grow.
        num_shards: Shards left to this run; shown when given.
    """

    def __init__(
        self,
        total_rows: int,
        done_rows: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        num_shards: int | None = None,
    ) -> None:
        self._total_rows = total_rows
        self._done_rows = done_rows
        self._num_shards = num_shards
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._started_s = clock()
        self._state = _State()
        self._recent: deque[tuple[float, int]] = deque([(self._started_s, 0)])
        self._printed = _State()
        self._printed_s = self._started_s
        self._printed_step = self._step()
        self._closed = False
        self._live = _start_live(self._stream) if _is_terminal(self._stream) else None

    def update(self, num_ok: int, num_failed: int, num_shards_done: int, note: str = "") -> None:
        """Tell how far this run is.

        Args:
            num_ok: Images with a prediction so far, in this run.
            num_failed: Images without one so far, in this run.
            num_shards_done: Shards published so far, in this run.
            note: What binds, or what is waited for.
        """
        self._state = _State(num_ok, num_failed, num_shards_done, note)
        now_s = self._clock()
        if not num_ok or num_ok < self._recent[-1][1]:
            # Waiting for the first image is not slowness, and those of a shard that was not published count no longer.
            self._recent.clear()
            self._recent.append((now_s, num_ok))
        elif num_ok != self._recent[-1][1]:
            self._recent.append((now_s, num_ok))
        while len(self._recent) > 2 and self._recent[1][0] <= now_s - RECENT_S:
            self._recent.popleft()
        if self._live is not None:
            self._refresh(self._live)
        elif now_s - self._printed_s >= PLAIN_EVERY_S or self._step() > self._printed_step:
            self._print_plain(now_s)

    def message(self, text: str) -> None:
        """Print a line of its own, above the live line."""
        text = redact(printable(text, keep="\n\t"))
        if self._live is None:
            self._write(text)
            return
        from rich.text import Text

        with contextlib.suppress(OSError, ValueError):
            self._live.console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Show the last state and let go of the terminal; may be called again."""
        if self._closed:
            return
        self._closed = True
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._refresh(self._live)
                self._live.stop()
        elif self._state != self._printed:
            self._print_plain(self._clock())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def line(self) -> str:
        """Return the state as one line of ASCII."""
        state, now_s = self._state, self._clock()
        done = self._done_rows + state.num_ok + state.num_failed
        parts = [f"{done:,}/{self._total_rows:,} images ({self._share():.0%})", f"{state.num_failed:,} failed"]
        of = "" if self._num_shards is None else f"/{self._num_shards:,}"
        parts.append(f"shards {state.num_shards_done:,}{of}")
        overall = _rate(state.num_ok, now_s - self._started_s)
        parts.append(f"{self._rate_now(now_s):,.0f} images/s now, {overall:,.0f} overall")
        parts.append(f"ETA {self._eta(now_s)}")
        if state.note:
            parts.append(printable(state.note))
        return " | ".join(parts)

    def _share(self) -> float:
        done = self._done_rows + self._state.num_ok + self._state.num_failed
        return done / self._total_rows if self._total_rows else 1.0

    def _step(self) -> int:
        done = self._done_rows + self._state.num_ok + self._state.num_failed
        return done * PLAIN_LINES_OF_A_RUN // self._total_rows if self._total_rows else PLAIN_LINES_OF_A_RUN

    def _rate_now(self, now_s: float) -> float:
        since_s, since_ok = self._recent[0]
        return _rate(self._state.num_ok - since_ok, now_s - since_s)

    def _eta(self, now_s: float) -> str:
        num_ok = self._state.num_ok
        finished = num_ok + self._state.num_failed
        left = self._total_rows - self._done_rows - finished
        rows_per_s = self._rate_now(now_s) * finished / num_ok if num_ok else 0.0
        if left <= 0:
            return "0:00"
        return duration(left / rows_per_s) if rows_per_s else "-"

    def _print_plain(self, now_s: float) -> None:
        self._printed, self._printed_s, self._printed_step = self._state, now_s, self._step()
        self._write(self.line())

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        # A closed pipe or a terminal that went away must not end a run of many hours.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()

    def _refresh(self, live: Live) -> None:
        from rich.text import Text

        with contextlib.suppress(OSError, ValueError):
            live.update(Text(self.line(), no_wrap=True, overflow="ellipsis"))


def duration(seconds: float) -> str:
    """Return seconds as ``1:02`` or ``3:04:05``."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02}" if hours else f"{minutes}:{rest_s:02}"


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    except ValueError:  # closed
        return False


def _start_live(stream: TextIO) -> Live:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    live = Live(console=console, refresh_per_second=4, redirect_stdout=False, redirect_stderr=stream is sys.stderr)
    live.start()
    return live
