"""A store on a local disk: staged, synced, linked into place."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from batchrec.errors import AccessError, BatchrecError, OutputError, StorageLost
from batchrec.storage.store import STAGING, KeyExists, KeyMissing, ObjectInfo, Uncertain, check_key

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


class LocalStore:
    """A folder. Creates it on the first write."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - Path.resolve would follow symlinks
        self.url = str(self._root)

    def create(self, key: str, data: bytes) -> None:
        """Put an object under a key nobody holds; synced to disk on return."""
        target = self._path(key)
        with self._faults(target), self._staged(data) as staged:
            _make_folder(target.parent)
            try:
                os.link(staged, target)
            except FileExistsError:
                _refuse_obstacle(target)
                # Whoever linked it may not have synced the folder yet, and we are about to say that it stands.
                _sync_folder(target.parent)
                raise KeyExists(key) from None
            except OSError as error:
                if error.errno in NO_LINKS:
                    raise self._no_links(error) from error
                raise
            try:
                _sync_folder(target.parent)
            except OSError as error:
                raise Uncertain(key) from error

    def overwrite(self, key: str, data: bytes) -> None:
        """Put an object whatever stands there, in one step."""
        target = self._path(key)
        with self._faults(target), self._staged(data) as staged:
            _make_folder(target.parent)
            staged.replace(target)

    def read(self, key: str) -> bytes:
        """Return a whole object."""
        with self.open(key) as file, self._faults(self._path(key)):
            return file.read()

    def info(self, key: str) -> ObjectInfo:
        """Describe an object."""
        path = self._path(key)
        with self._faults(path):
            facts = _facts(path)
        if facts is None:
            raise KeyMissing(key)
        _refuse_obstacle(path)
        return _info(key, facts)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Describe every object whose key begins with a string, by key."""
        folder, _, _ = prefix.rpartition("/")
        base = self._path(folder) if folder else self._root
        with self._faults(base):
            keys = sorted(key for key in _keys(base, f"{folder}/" if folder else "", ()) if key.startswith(prefix))
        for key in keys:
            with self._faults(self._root / key):
                facts = _facts(self._root / key)
            if facts is not None and stat.S_ISREG(facts.st_mode):
                yield _info(key, facts)

    def top(self) -> tuple[str, ...]:
        """Name what lies at the top."""
        with self._faults(self._root):
            try:
                entries = list(os.scandir(self._root))
            except FileNotFoundError:
                return ()
            return tuple(sorted(f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries))

    def open(self, key: str) -> BinaryIO:
        """Return a seekable reader."""
        path = self._path(key)
        with self._faults(path):
            try:
                return open_regular(path)
            except (FileNotFoundError, NotADirectoryError):
                raise KeyMissing(key) from None
            except OSError:
                _refuse_obstacle(path)
                raise

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        path = self._path(key)
        with self._faults(path):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    @contextmanager
    def _staged(self, data: bytes) -> Iterator[Path]:
        folder = self._root / STAGING
        _make_folder(folder)
        staged = folder / uuid.uuid4().hex
        try:
            _write_synced(staged, data)
            yield staged
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)

    @contextmanager
    def _faults(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._meaning(error, path) from error

    def _meaning(self, error: OSError, path: Path) -> BatchrecError:
        found = f"{error.strerror} at {path}"
        if error.errno in FULL:
            return StorageLost(
                f"no space left for {self.url}",
                found=f"{error.strerror}; {free_bytes(self._root)} bytes free",
                advice="make room or raise the quota, then run the same command again",
            )
        if error.errno in DENIED:
            return AccessError(f"{self.url} cannot be used", found=found, advice="grant this user read and write there")
        if error.errno in IN_THE_WAY:
            return OutputError(
                f"{self.url} cannot hold a job", found=found, advice="move that away, or choose another output folder"
            )
        return StorageLost(f"{self.url} failed", found=found, advice="check the disk, then run the same command again")

    def _no_links(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.url} lies on a filesystem without hard links, so parts cannot be published once only",
            found=str(error.strerror),
            advice="choose a local disk, NFS or an S3 bucket",
        )


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; anything else raises, and nothing hangs.

    Raises:
        IsADirectoryError: It is a folder.
        OSError: It is a pipe, device or socket, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(code, "not a regular file", str(path))


def free_bytes(folder: Path) -> int:
    """Return the bytes free where a folder is, or would be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keys(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    try:
        facts = folder.stat()
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (facts.st_dev, facts.st_ino)
    if here in above or prefix.startswith(STAGING):
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _keys(folder / entry.name, f"{prefix}{entry.name}/", (*above, here))
        else:
            yield prefix + entry.name


def _facts(path: Path) -> os.stat_result | None:
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    return facts


def _refuse_obstacle(path: Path) -> None:
    """Refuse what is no file where one belongs; nobody but its owner knows whether it may go."""
    facts = _facts(path)
    if path.is_file() or (facts is None and not path.is_symlink()):
        return
    kind = "a link that leads nowhere" if facts is None else "a pipe, socket or device"
    raise OutputError(
        f"{path} is no file, and one of a job's belongs there",
        found="a folder" if path.is_dir() else kind,
        advice="move it away, then run the same command again",
    )


def _info(key: str, facts: os.stat_result) -> ObjectInfo:
    modified = datetime.fromtimestamp(facts.st_mtime_ns / 1e9, UTC)
    return ObjectInfo(key, facts.st_size, modified, f"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that goes round
