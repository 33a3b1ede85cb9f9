"""What one start works out and the next need not: small JSON values in the cache folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_LOCKED_WITHIN_S: Final = 300.0
_LOOK_EVERY_S: Final = 0.05


def cache_folder() -> Path | None:
    """Return the folder for things that can be made again, or None where none can be written.

    ``BATCHREC_CACHE`` names it; else ``batchrec`` under ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    named = os.environ.get("BATCHREC_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(named or f"{base}/batchrec").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def private_folder() -> Path:
    """Return a folder no other user writes to: the cache, else one among the temporary files, a new one if need be."""
    return cache_folder() or own_folder() or Path(tempfile.mkdtemp(prefix="batchrec-"))


def own_folder() -> Path | None:
    """Return a folder for temporary files that belongs to this user alone, or None where there can be none."""
    folder = Path(tempfile.gettempdir()) / f"batchrec-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    # Under a name anybody can foresee another user may have put a folder, or a link to one.
    mine = found.st_uid == os.getuid() and found.st_mode & 0o170077 == 0o040000
    return folder if mine else None


def digest(value: object) -> str:
    """Return the sha256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def remember(
    kind: str,
    key: Mapping[str, Any],
    compute: Callable[[], dict[str, Any]],
    *,
    folder: Path | None = None,
    holds: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """Return the value stored under a key, computing and storing it the first time.

    Of several processes of a machine one computes, and the others wait for what it finds.

    Args:
        kind: Subfolder of the cache.
        key: Everything the value depends on; JSON.
        compute: Makes the value; JSON. What it raises passes through and is not stored.
        folder: The cache folder; :func:`cache_folder` when None.
        holds: Whether a stored value still does.
    """
    folder = folder or cache_folder()
    if folder is None:
        return compute()
    known = recall(kind, key, folder=folder)
    if known is not None and holds(known):
        return known
    with one_at_a_time(kind, key, folder=folder):
        known = recall(kind, key, folder=folder)
        if known is None or not holds(known):
            known = compute()
            keep(kind, key, known, folder=folder)
    return known


def recall(kind: str, key: Mapping[str, Any], *, folder: Path | None = None) -> dict[str, Any] | None:
    """Return the value last kept under a key, or None; see :func:`remember` for the arguments."""
    folder = folder or cache_folder()
    return _read(folder / kind / f"{digest(key)[:32]}.json", key) if folder else None


def keep(kind: str, key: Mapping[str, Any], value: dict[str, Any], *, folder: Path | None = None) -> None:
    """Store a value under a key in place of any other; see :func:`remember` for the arguments."""
    folder = folder or cache_folder()
    if folder is not None:
        _write(folder / kind / f"{digest(key)[:32]}.json", {"key": key, "value": value})


@contextlib.contextmanager
def one_at_a_time(kind: str, key: Mapping[str, Any], *, folder: Path | None = None) -> Iterator[None]:
    """Hold off whoever else on this machine asks for the same; see :func:`remember` for the arguments.

    Where files cannot be locked nobody is held off, and nobody for longer than some minutes.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            folder = folder or cache_folder()
            if folder is not None:
                (folder / "locks").mkdir(parents=True, exist_ok=True)
                lock = held.enter_context((folder / "locks" / f"{kind}-{digest(key)[:32]}").open("ab"))
                _lock(lock.fileno())
                held.callback(fcntl.flock, lock.fileno(), fcntl.LOCK_UN)  # a process forked meanwhile has it too
        yield


def _lock(file: int) -> None:
    """Lock a file, or give up: whoever holds it may hang."""
    until = time.monotonic() + _LOCKED_WITHIN_S
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(_LOOK_EVERY_S)


def _read(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_bytes())
        value = stored["value"] if stored["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, dict) else None


def _write(path: Path, record: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new-", delete=False) as staged:
            json.dump(record, staged)
        Path(staged.name).replace(path)
    except OSError:
        # A full or read-only cache only costs the next start its shortcut.
        return
