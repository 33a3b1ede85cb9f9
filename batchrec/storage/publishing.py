"""Opening the store a job writes to, and putting what must stand there once only."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

from batchrec.errors import OutputError, StorageLost, UsageError
from batchrec.spec import StoreOptions
from batchrec.storage.store import KeyExists, KeyMissing, ObjectInfo, Store, Uncertain

__all__ = [
    "KeyExists",
    "KeyMissing",
    "ObjectInfo",
    "Store",
    "Uncertain",
    "create_or_compare",
    "create_or_find",
    "open_store",
]

Found = TypeVar("Found")

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
S3_SCHEMES = ("s3", "s3a", "s3n")
MAX_PUTS = 6
PAUSE_S = 0.5


def open_store(url: str, options: StoreOptions) -> Store:
    """Open the store at a local path, ``file://`` or ``s3://`` URL. Makes no request.

    Raises:
        OutputError: The URL is of another kind.
        UsageError: It carries credentials, or names no bucket.
    """
    scheme = SCHEME.match(url)
    name = scheme.group(1).lower() if scheme else "file"
    if name in S3_SCHEMES:
        from batchrec.storage.s3_store import S3Store

        return S3Store(url, options)
    if name == "file":
        from batchrec.storage.local_store import LocalStore

        if url.lower().startswith(tuple(f"{each}:/" for each in S3_SCHEMES)):
            advice = "write s3://BUCKET/PREFIX, or ./ before the name of a folder that is called so"
            raise UsageError("a path that begins like an s3:// URL", advice=advice)
        return LocalStore(local_path(url))
    raise OutputError(
        "batchrec cannot write there", found=f"{name}://", advice="use a local folder, file:// or s3://BUCKET/PREFIX"
    )


def local_path(url: str) -> str:
    """Return the path of a local path or ``file://`` URL; only the URL's percent signs mean anything.

    Raises:
        UsageError: The URL names another host, or the path holds characters no path may.
    """
    path = url
    if url[:7].lower() == "file://":
        host, slash, rest = url[7:].partition("/")
        if host.lower() not in ("", "localhost"):
            raise UsageError("the file:// URL names another host", advice="write file:///PATH")
        path = unquote(slash + rest)
    if not path or "\0" in path:
        raise UsageError("an empty path, or one with a NUL, names no folder")
    return path


def is_s3(url: str) -> bool:
    """Return whether a URL names something in an S3 bucket."""
    scheme = SCHEME.match(url)
    return scheme is not None and scheme.group(1).lower() in S3_SCHEMES


def create_or_compare(store: Store, key: str, data: bytes, *, same: Callable[[bytes], bool]) -> bool:
    """Put an object that may stand only once; where one stands, compare it.

    Either way the key holds our value on return. After a lost answer nobody can tell whose put it was;
    that counts as not ours, so a value that must be ours alone has to carry a nonce that ``same`` checks.

    Args:
        store: Where to put it.
        key: Its key.
        data: Its bytes.
        same: Whether bytes found there mean the same value.

    Returns:
        True when this call created it, False when it stood already and is the same.

    Raises:
        OutputError: Something else stands there.
        StorageLost: The store would not say, however often it was asked.
    """

    def compare() -> bool:
        standing = store.read(key)
        return standing == data or same(standing)

    found = create_or_find(store, key, data, compare, clear=bool)
    if found is False:
        raise OutputError(f"another {key} stands in {store.url}", advice="choose another output folder")
    return found is None


def create_or_find(
    store: Store,
    key: str,
    data: bytes,
    find: Callable[[], Found],
    *,
    clear: Callable[[Found], bool],
    pause: Callable[[float], None] = time.sleep,
) -> Found | None:
    """Put an object where none is; on any answer but a plain yes, find out what stands there.

    Args:
        store: Where to put it.
        key: Its key.
        data: Its bytes.
        find: Reads the key back; raises KeyMissing where nothing stands, and then the put is made again.
        clear: Whether what was found needs no second look before it is believed.
        pause: Waits so many seconds.

    Returns:
        What stands there; None where this call put its own.

    Raises:
        StorageLost: The store would not say, however often it was asked.
    """
    for tried in range(MAX_PUTS):
        try:
            store.create(key, data)
        except (KeyExists, Uncertain):
            if (found := _look_twice(find, clear, pause)) is not None:
                return found
        else:
            return None
        pause(random.uniform(0.5, 1.0) * PAUSE_S * 2**tried)
    raise StorageLost(
        f"{store.url} neither took nor showed {key}",
        found=f"{MAX_PUTS} unclear answers in a row",
        advice="run the same command again",
    )


def _look_twice(
    find: Callable[[], Found], clear: Callable[[Found], bool], pause: Callable[[float], None]
) -> Found | None:
    found = _look(find)
    if found is not None and clear(found):
        return found
    pause(PAUSE_S)
    return _look(find)


def _look(find: Callable[[], Found]) -> Found | None:
    try:
        return find()
    except KeyMissing:
        return None
