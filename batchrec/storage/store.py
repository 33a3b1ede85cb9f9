"""What a store must do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol

STAGING = "_batchrec/tmp/"


class KeyExists(Exception):
    """``create`` found an object under the key; it may be our own, put by an inner retry."""


class Uncertain(Exception):
    """The answer does not tell whether the object was put: read it back."""


class KeyMissing(Exception):
    """Nothing is stored under the key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of one object.

    Attributes:
        key: Its name below the store's root.
        size: Its length in bytes.
        modified: When it was last written, by the store's own clock.
        etag: Changes with the content; None where the store has none.
    """

    key: str
    size: int
    modified: datetime
    etag: str | None


class Store(Protocol):
    """A folder or bucket prefix that one job writes to. Safe to use from many threads.

    Every method may raise AccessError (permission, missing bucket) and StorageLost (full, unreachable,
    expired credentials) beside what it names. Neither says that nothing was written.

    Attributes:
        url: Where it is, without credentials; ``open_store(store.url, ...)`` opens the same store.
    """

    url: str

    def create(self, key: str, data: bytes) -> None:
        """Put an object under a key nobody holds; durable on return.

        Raises:
            KeyExists: Something is stored there, perhaps by our own inner retry.
            Uncertain: It may or may not have been put.
        """

    def overwrite(self, key: str, data: bytes) -> None:
        """Put an object whatever stands there; for heartbeats and progress only."""

    def read(self, key: str) -> bytes:
        """Return a whole object.

        Raises:
            KeyMissing: There is none.
        """

    def info(self, key: str) -> ObjectInfo:
        """Describe an object.

        Raises:
            KeyMissing: There is none.
        """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Describe every object whose key begins with a string, by key; own staging files never appear."""

    def top(self) -> tuple[str, ...]:
        """Name what lies at the top, folders with a slash at the end; of a bucket, as far as one request shows."""

    def open(self, key: str) -> BinaryIO:
        """Return a seekable reader, for ``pyarrow.parquet``.

        Raises:
            KeyMissing: There is no such object.
        """

    def delete(self, key: str) -> None:
        """Remove an object if it is there; for probe keys and repair only."""


def stands(store: Store, key: str) -> bool:
    """Whether an object stands under a key."""
    try:
        store.info(key)
    except KeyMissing:
        return False
    return True


def check_key(key: str) -> None:
    """Refuse keys that would leave the root or could not be stored everywhere.

    Raises:
        ValueError: The key is one.
    """
    if {"", ".", ".."} & set(key.split("/")) or not key.isprintable():
        raise ValueError(f"not a key below the store's root: {key!r}")
