"""Notes that outlive a worker: which images it was decoding when it died.

A note is a small file in this machine's folder for temporary files, mapped into the worker's memory: a row is
noted in less than a microsecond and stands there even if the process is killed in the next one. The worker holds
a lock on its note as long as it lives, so whoever gets the lock knows that it is dead. Notes are advisory: where
none can be made, or they are lost with their machine, shards that lose workers are decoded apart as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from batchrec.models.remembering import own_folder

_SLOT = struct.Struct("<qq")  # shard + 1, row; a slot of zeros is empty
#: Threads of a worker; were there more, some would share a slot, and what they had in hand would be less certain.
_NUM_SLOTS = 1024
_FORGET_AFTER_S = 30 * 86400
#: So many dead workers that were decoding rows of one shard, and all of the shard is decoded apart.
MAX_NOTED_LOSSES = 2


class Note:
    """What each decoding thread of this process has in hand.

    Args:
        file: Where it is kept; nowhere when None.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._descriptor = file, -1
        self._memory: mmap.mmap | bytearray = bytearray(_SLOT.size * _NUM_SLOTS)
        if file is not None:
            # Under its name only once it is locked, or who sweeps would take it for a dead worker's.
            staged = file.with_suffix(".new")
            self._descriptor = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            # Written, not cut to length: a full disk must be found out here, where it is an error and no signal.
            os.write(self._descriptor, self._memory)
            self._memory = mmap.mmap(self._descriptor, len(self._memory))
            staged.rename(file)

    def begin(self, slot: int, shard: int, row: int) -> None:
        """Note that a thread begins to decode a row."""
        _SLOT.pack_into(self._memory, slot % _NUM_SLOTS * _SLOT.size, shard + 1, row)

    def end(self, slot: int) -> None:
        """Note that it is through."""
        _SLOT.pack_into(self._memory, slot % _NUM_SLOTS * _SLOT.size, 0, 0)

    def close(self) -> None:
        """Leave it to whoever comes next if a thread still hangs, else remove it."""
        if self._file is None or self._descriptor < 0:
            return
        if not any(self._memory[:]):
            self._file.unlink(missing_ok=True)
        # The mapping keeps a descriptor of its own, and with it the lock.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = -1


class Notes:
    """The notes of one job's workers on this machine.

    Args:
        job: What tells the job, and its output, from others.
        folder: Where notes are kept; found when None.
    """

    def __init__(self, job: str, folder: Path | None = None) -> None:
        self._folder = folder or own_folder()
        self._prefix = hashlib.sha256(job.encode(errors="surrogatepass")).hexdigest()[:24]

    def open(self) -> Note:
        """Begin a note for this process, and remove those nobody needs any more."""
        if self._folder is None:
            return Note()
        self._sweep()
        try:
            return Note(self._folder / f"{self._prefix}-{os.getpid()}-{uuid.uuid4().hex[:8]}.rows")
        except OSError:
            return Note()

    def suspects(self, shard: int, num_rows: int) -> Collection[int]:
        """Return the rows of a shard that workers were decoding when they died; all rows after two such workers."""
        noted = [rows for _, slots in self._dead(f"{self._prefix}-*") if (rows := _rows_of(shard, slots))]
        return range(num_rows) if len(noted) >= MAX_NOTED_LOSSES else frozenset().union(*noted)

    def settle(self, shard: int) -> None:
        """Forget what was noted of a shard whose part stands."""
        for file, slots in self._dead(f"{self._prefix}-*"):
            kept = [slot for slot in slots if slot[0] not in (0, shard + 1)]
            with contextlib.suppress(OSError):
                file.write_bytes(b"".join(_SLOT.pack(*slot) for slot in kept)) if kept else file.unlink()

    def _sweep(self) -> None:
        for file, slots in self._dead("*"):
            with contextlib.suppress(OSError):
                if not any(map(any, slots)) or time.time() - file.stat().st_mtime > _FORGET_AFTER_S:
                    file.unlink()

    def _dead(self, pattern: str) -> Iterator[tuple[Path, list[tuple[int, int]]]]:
        """Yield the notes of dead workers, and what is in their slots."""
        for file in self._folder.glob(f"{pattern}.rows") if self._folder else ():
            with contextlib.suppress(OSError), file.open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: whoever else looks must find it dead too
                yield file, _slots(opened.read())


def _slots(memory: bytes) -> list[tuple[int, int]]:
    whole = len(memory) // _SLOT.size * _SLOT.size
    return list(_SLOT.iter_unpack(memory[:whole]))


def _rows_of(shard: int, slots: Collection[tuple[int, int]]) -> frozenset[int]:
    return frozenset(row for number, row in slots if number == shard + 1)
