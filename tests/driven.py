"""Commands in processes of their own: real ones, to stop and to kill, with the constants of claims or the clock moved.

They are forked from a server that has imported everything once, so that starting one costs no ten seconds.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["batchrec.job", "batchrec.cli.main", "openvino", "torch", "pyarrow.dataset", "rich.table"]
)
DAY_S = 24 * 3600.0
YEAR_S = 365 * DAY_S


@dataclass(frozen=True, slots=True)
class Seams:
    """What is different in a process from a plain command.

    Attributes:
        beat_s: Seconds between the beats of its claim.
        patience_s: How long it waits for another's sign of life.
        elsewhere: Whether it says that it is of another machine.
        clock: ``ahead`` or ``behind`` by a year, ``leaping`` or ``falling`` by a day with every look at it.
    """

    beat_s: float = 10.0
    patience_s: float = 30.0
    elsewhere: bool = False
    clock: str = "true"


@dataclass(slots=True)
class Ended:
    """How a command ended; ``code`` is negative where a signal killed it."""

    code: int
    out: str
    err: str

    @property
    def verdict(self) -> str:
        """The one line of an error: there is no other that begins like it, and none after it."""
        lines = self.err.splitlines()
        assert [line.startswith("batchrec: ") for line in lines[-1:]] == [True], self.err
        assert "Traceback" not in self.err, self.err
        return lines[-1]


@dataclass(slots=True)
class Command:
    """One typed command, running from the start."""

    folder: Path
    words: tuple[object, ...]
    seams: Seams = field(default_factory=Seams)
    process: multiprocessing.process.BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        words = [str(word) for word in self.words]
        self.process = _FORKS.Process(target=_run, args=(words, str(self.folder), self.seams, dict(os.environ)))
        self.process.start()

    def send(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        while number == signal.SIGSTOP and psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)  # one of its threads may still be in the middle of a call

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def ended(self, within_s: float = 120) -> Ended:
        self.process.join(within_s)
        assert self.process.exitcode is not None, f"still running after {within_s} s: {self.err}"
        return Ended(self.process.exitcode, (self.folder / "out").read_text(), self.err)

    def close(self) -> None:
        if self.running:
            self.process.kill()
        self.process.join()


def _run(words: list[str], folder: str, seams: Seams, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    from batchrec.cli.main import main

    _move(seams)
    sys.argv = ["batchrec", *words]
    main()


def _move(seams: Seams) -> None:
    import batchrec.job
    from batchrec.engine import claims, drivers

    claims.Claim.__init__.__kwdefaults__["beat_s"] = seams.beat_s
    batchrec.job.claim = functools.partial(claims.claim, patience_s=seams.patience_s)
    if seams.elsewhere:
        drivers._boot_id = lambda: "another boot"
    true, looks = time.time, itertools.count()
    match seams.clock:
        case "ahead":
            time.time = lambda: true() + YEAR_S
        case "behind":
            time.time = lambda: true() - YEAR_S
        case "leaping":
            time.time = lambda: true() + next(looks) * DAY_S
        case "falling":
            time.time = lambda: true() - next(looks) * DAY_S
