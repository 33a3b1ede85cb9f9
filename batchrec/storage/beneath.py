"""Opening files beneath a folder, where the kernel sees to it that nothing leads out."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from functools import cache

SYS_OPENAT2 = 437  # the same on every Linux architecture
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
MAX_RENAME_RACES = 16
# Non-blocking, so that a pipe somebody put there cannot hold a thread.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC


class LeadsOutError(OSError):
    """A path, or a link on the way, leads out of the folders that may be read."""


class OpenHow(ctypes.Structure):
    """The kernel's ``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW = OpenHow(READ, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)


class Roots:
    """Folders that may be read, each held open; safe to use from many threads."""

    def __init__(self, folders: tuple[str, ...]) -> None:
        self._folders = folders
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()

    def open(self, root: str, path: str) -> int:
        """Return a descriptor of the file at a path beneath a root; its type is not checked.

        Raises:
            LeadsOutError: The path or a link on the way leaves every root.
            OSError: It cannot be opened.
        """
        try:
            return _open_beneath(self._descriptor(root), path)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ELOOP):
                raise
        return self._open_target(os.path.realpath(os.path.join(root, path)))  # noqa: PTH118 - hot path's sibling

    def close(self) -> None:
        """Let go of the folders."""
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])

    def _open_target(self, target: str) -> int:
        """Open where links lead, if that is beneath a root; a link put there meanwhile is refused again."""
        for root in self._folders:
            beginning = os.path.realpath(root).rstrip("/") + "/"
            if target.startswith(beginning):
                try:
                    return _open_beneath(self._descriptor(root), target[len(beginning) :])
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.ELOOP):
                        raise
        raise LeadsOutError(errno.EXDEV, "leads out of the folders that may be read")

    def _descriptor(self, root: str) -> int:
        descriptor = self._descriptors.get(root)
        if descriptor is not None:
            return descriptor
        with self._lock:
            if root not in self._descriptors:
                self._descriptors[root] = os.open(root, FOLDER)
            return self._descriptors[root]


def _open_beneath(folder: int, path: str) -> int:
    return _open_by_kernel(folder, path) if kernel_resolves() else open_stepwise(folder, path)


def _open_by_kernel(folder: int, path: str) -> int:
    name = os.fsencode(path)
    for _ in range(MAX_RENAME_RACES):
        descriptor: int = _syscall()(SYS_OPENAT2, folder, name, ctypes.byref(_HOW), ctypes.sizeof(_HOW))
        if descriptor >= 0:
            return descriptor
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code))


def open_stepwise(folder: int, path: str) -> int:
    """Open a path step by step, following no link: for kernels without ``openat2``.

    Raises:
        OSError: With ELOOP where a step is a link or goes up.
    """
    *folders, name = path.split("/")
    here = os.dup(folder)
    try:
        for step in folders:
            _refuse_link(step, here)
            below = os.open(step, FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = below
        _refuse_link(name, here)
        return os.open(name, READ | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def _refuse_link(step: str, here: int) -> None:
    # Only for the message: O_NOFOLLOW refuses a link that appears after this look.
    if step == ".." or stat.S_ISLNK(os.stat(step, dir_fd=here, follow_symlinks=False).st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


@cache
def kernel_resolves() -> bool:
    """Return whether this kernel, and whatever filters its calls, knows ``openat2``."""
    try:
        call = _syscall()
    except (OSError, AttributeError):
        return False
    how = OpenHow(FOLDER, 0, RESOLVE_BENEATH)
    folder = os.open("/", FOLDER)
    try:
        descriptor: int = call(SYS_OPENAT2, folder, b".", ctypes.byref(how), ctypes.sizeof(how))
        if descriptor >= 0:
            os.close(descriptor)
        return descriptor >= 0
    finally:
        os.close(folder)


@cache
def _syscall() -> ctypes._NamedFuncPointer:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    return call
