"""Drivers: which process drives a job, and whether one of this machine still lives."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

# Nonces of claims this process let go of, in case the store would not take their last beat.
_released: set[str] = set()


@dataclass(frozen=True, slots=True)
class Driver:
    """Which process claimed a job.

    Attributes:
        host: Name of the machine.
        boot_id: Its boot and space of process numbers, so that a number of a process before a reboot, or in
            another container of the same name, is not mistaken.
        pid: The process.
        pid_started: Its start in clock ticks since boot, so that a reused number is not mistaken.
        nonce: Makes two claims of one process different.
    """

    host: str
    boot_id: str
    pid: int
    pid_started: int
    nonce: str

    @classmethod
    def this_process(cls) -> Driver:
        """Describe the calling process, with a new nonce."""
        pid = os.getpid()
        return cls(socket.gethostname(), _boot_id(), pid, _pid_started(pid) or 0, uuid.uuid4().hex)

    def is_here(self, other: Driver) -> bool:
        """Whether both live on the same boot of the same machine and see each other's numbers."""
        return bool(self.boot_id) and (self.host, self.boot_id) == (other.host, other.boot_id)

    def is_dead(self) -> bool:
        """Whether the process, known to be of this machine, is gone."""
        if self.pid == os.getpid() and self.nonce in _released:
            return True
        try:
            return _pid_started(self.pid) != self.pid_started
        except PermissionError:
            return False  # another user's, where users see only their own


def _boot_id() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _pid_started(pid: int) -> int | None:
    """Return when a process started; None for one that is gone or a zombie."""
    try:
        # The command name may hold spaces and parentheses; what follows its last one is plain.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat[0] in "ZX" else int(stat[19])


def let_go(driver: Driver) -> None:
    """Remember that this process drives no longer as it did."""
    _released.add(driver.nonce)
