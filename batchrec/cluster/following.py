"""Waiting for a submission: what it prints, line by line, and how it ended."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from batchrec.cluster.dashboard import Dashboard, RemoteJob
from batchrec.errors import BatchrecError, ClusterLost, Refused, Resumable, Stopped, UsageError
from batchrec.redacting import shown

POLL_S = 1.0
# A cluster that does not answer so long is given up; a head that restarts is back within it.
PATIENCE_S = 60.0
TELL_PENDING_EVERY_S = 30.0
_DRAIN_S = 5.0
_STOP_S = 15.0
_OUR_COMPLAINT = "batchrec: "
_BY_CODE: dict[int, type[BatchrecError]] = {2: UsageError, 3: Refused, 5: Resumable, 6: Stopped} | dict.fromkeys(
    (129, 130, 143), Stopped
)

#: How a coordinator ended that left no exit code, by Ray's type of the error: what to raise, what happened, what to do.
ENDINGS: dict[str, tuple[type[BatchrecError], str, str]] = {
    "RUNTIME_ENV_SETUP_FAILURE": (
        Refused,
        "the cluster could not set up the runtime environment",
        "read the message; without --ship-code and --env nothing has to be set up",
    ),
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": (
        ClusterLost,
        "the cluster had no room for the coordinator in time",
        "add a node with a free core, or raise RAY_JOB_START_TIMEOUT_SECONDS on the head; then run again",
    ),
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": (
        ClusterLost,
        "the cluster has no node for the coordinator",
        "look at its nodes with `ray status`, then run again",
    ),
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": (
        ClusterLost,
        "the cluster could not start the coordinator",
        "look at the head's log, then run again",
    ),
    "JOB_SUPERVISOR_ACTOR_DIED": (
        ClusterLost,
        "the cluster lost the coordinator with its node",
        "the same command resumes",
    ),
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": (
        ClusterLost,
        "the cluster lost the coordinator",
        "the same command resumes",
    ),
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": (
        Refused,
        "the coordinator's command could not be started",
        "the cluster's image needs a shell and Python",
    ),
}
#: Exit codes that are not batchrec's own: what happened, what to do.
FOREIGN_CODES: dict[int, tuple[str, str]] = {
    126: ("the cluster's image cannot run `python`", "use an image with batchrec installed"),
    127: ("the cluster's image has no `python` on its PATH", "use an image with batchrec installed"),
}
# What Ray itself puts at the beginning of every log, and the report at its end, which the waiting command prints.
_RAYS_OWN = re.compile(r" INFO job_manager\.py:|^Running entrypoint for job ")
_REPORT = re.compile(r"Complete(?:: |, but over )")
_NO_PACKAGE = re.compile(r"No module named '?batchrec\b")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a submission ended.

    Attributes:
        job: The cluster's last word.
        complaint: The coordinator's own last error line without its beginning, or else its last line.
    """

    job: RemoteJob
    complaint: str

    @property
    def is_verdict(self) -> bool:
        """Whether the coordinator sealed the output and said so."""
        return self.job.exit_code in (0, 4) or (self.job.exit_code is None and self.job.status == "SUCCEEDED")

    @property
    def exit_code(self) -> int:
        """What the command that waited ends with."""
        return (self.job.exit_code or 0) if self.is_verdict else self.error().exit_code

    def error(self) -> BatchrecError:
        """Return what to raise for an end without a verdict."""
        code = self.job.exit_code
        if code is not None and (number := _signal(code)):
            advice = "a full memory is the usual reason; the same command resumes"
            return ClusterLost("the coordinator was killed", found=f"signal {number}", advice=advice)
        if code is not None:
            return self._by_code(code)
        if self.job.status == "STOPPED":
            return Stopped("the job was stopped", found=self.job.submission_id, advice="the same command resumes")
        unknown = (ClusterLost, "the job ended without an exit code", "the same command resumes")
        kind, cause, advice = ENDINGS.get(self.job.error_type or "", unknown)
        return kind(cause, found=self.job.message[:300], advice=advice)

    def _by_code(self, code: int) -> BatchrecError:
        if _NO_PACKAGE.search(self.complaint):
            advice = "use an image with batchrec installed, or say --ship-code"
            return Refused("the cluster's image has no batchrec", found=self.complaint, advice=advice)
        if code in FOREIGN_CODES:
            cause, advice = FOREIGN_CODES[code]
            return Refused(cause, found=f"exit code {code}", advice=advice)
        error = _BY_CODE.get(code, BatchrecError)(
            self.complaint or "the coordinator ended without a word",
            found=f"exit code {code} on the cluster",
            advice=f"`batchrec logs {self.job.submission_id}` has its lines",
        )
        error.exit_code = code
        return error


def _signal(code: int) -> int:
    """Return the signal that killed a process, which the shell around it may have turned into a code; 0 for none."""
    return -code if code < 0 else code - 128 if code > 128 and code not in _BY_CODE else 0


def follow(
    dashboard: Dashboard,
    submission_id: str,
    say: Callable[[str], None],
    *,
    whole: bool = False,
    patience_s: float = PATIENCE_S,
) -> Ending:
    """Wait until a submission ends, passing on what it prints.

    Args:
        dashboard: Its cluster.
        submission_id: Its name there.
        say: Given one line at a time.
        whole: Pass on Ray's own lines and the report too.
        patience_s: How long the cluster may be silent.

    Raises:
        ClusterLost: The cluster does not answer any more, or does not know the submission.
    """
    tail = _Tail(dashboard, submission_id, say, whole=whole)
    told_at = answered_at = time.monotonic()
    while True:
        try:
            job = dashboard.job(submission_id)
            answered_at = time.monotonic()
        except ClusterLost:
            if time.monotonic() - answered_at > patience_s:
                raise
            time.sleep(POLL_S)
            continue
        if job is None:
            raise unknown_submission(dashboard, submission_id)
        if job.has_ended:
            tail.finish(job)
            return Ending(job, tail.complaint)
        if job.status == "RUNNING":
            tail.start()
        elif time.monotonic() - told_at >= TELL_PENDING_EVERY_S:
            told_at = time.monotonic()
            say(f"pending: {job.message}")
        time.sleep(POLL_S)


def unknown_submission(dashboard: Dashboard, submission_id: str) -> ClusterLost:
    """Return the error for a submission that a cluster does not know."""
    return ClusterLost(
        f"the cluster at {dashboard.address.url} knows no submission {submission_id}",
        advice="it was of a cluster that is gone, or of another one; name the output folder instead",
    )


def stop(dashboard: Dashboard, submission_id: str, *, patience_s: float = _STOP_S) -> tuple[RemoteJob, bool]:
    """Ask a submission to end and wait until it has.

    Returns:
        What it is now, and whether this call ended it.

    Raises:
        ClusterLost: The cluster does not know it.
    """
    job = dashboard.job(submission_id)
    if job is None:
        raise unknown_submission(dashboard, submission_id)
    if job.has_ended:
        return job, False
    dashboard.stop(submission_id)
    until = time.monotonic() + patience_s
    while not job.has_ended and time.monotonic() < until:
        time.sleep(POLL_S / 4)
        job = dashboard.job(submission_id) or job
    return job, job.has_ended


class _Tail:
    """The log of a submission, passed on by a thread; a connection that breaks is made anew."""

    def __init__(self, dashboard: Dashboard, submission_id: str, say: Callable[[str], None], *, whole: bool) -> None:
        self._dashboard, self._id, self._say, self._whole = dashboard, submission_id, say, whole
        self._passed = 0
        self._rest = ""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._in_report = self._complained = False
        self.complaint = ""

    def start(self) -> None:
        """Begin, unless it is running."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="batchrec-tail", daemon=True)
            self._thread.start()

    def finish(self, job: RemoteJob) -> None:
        """Pass on what is left once the submission has ended."""
        if self._thread is not None:
            self._thread.join(_DRAIN_S)
        self._closed.set()
        try:
            text = self._dashboard.logs(job.submission_id) or ""
        except BatchrecError:
            text = ""  # its node is gone, and its log with it
        self._take(text, 0)
        if self._rest:
            self._line(self._rest)

    def _run(self) -> None:
        try:
            asyncio.run(self._read())
        except ClusterLost:
            return  # whoever waits sees whether the cluster is there, and starts again

    async def _read(self) -> None:
        position = 0
        async for text in self._dashboard.tail(self._id):
            if self._closed.is_set():
                return
            self._take(text, position)
            position += len(text)

    def _take(self, text: str, position: int) -> None:
        """Pass on the lines of a piece of the log, leaving out what an earlier connection brought."""
        new = text[max(0, self._passed - position) :]
        self._passed = max(self._passed, position + len(text))
        *lines, self._rest = (self._rest + new).split("\n")
        for line in lines:
            self._line(line)

    def _line(self, line: str) -> None:
        said = shown(line.replace("\t", " ").rstrip())
        if not said or (_RAYS_OWN.search(said) and not self._whole):
            return
        if said.startswith(_OUR_COMPLAINT):
            self.complaint, self._complained = said.removeprefix(_OUR_COMPLAINT), True
        elif not self._complained:
            self.complaint = said  # perhaps the last line of a traceback
        self._in_report = self._in_report or _REPORT.match(said) is not None
        if self._whole or not self._in_report:
            self._say(said)
