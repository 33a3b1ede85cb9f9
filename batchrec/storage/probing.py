"""Trying a store before trusting it: does put-if-absent hold?"""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from batchrec.errors import AccessError, OutputError
from batchrec.storage.publishing import create_or_compare
from batchrec.storage.store import STAGING, KeyExists, KeyMissing, Store, Uncertain

PROBES = "_batchrec/probe/"
#: Folders a probe makes in a local store, deepest first.
OWN_FOLDERS = (PROBES, STAGING, "_batchrec/")
NUM_RIVALS = 8
MAX_TRIES = 4


def probe(store: Store) -> None:
    """Check that of several creates of one key exactly one wins, one after the other and all at once.

    Raises:
        OutputError: The store has no put-if-absent, or loses what it took.
        AccessError: These credentials may not write or read there.
        StorageLost: It is unreachable or full.
    """
    name = uuid.uuid4().hex
    keys = f"{PROBES}{name}-twice", f"{PROBES}{name}-race"
    try:
        _probe_twice(store, keys[0])
        _probe_race(store, keys[1])
    except OutputError:
        _forget(store, keys)
        raise
    _forget(store, keys)


def _probe_twice(store: Store, key: str) -> None:
    create_or_compare(store, key, b"first", same=lambda data: False)
    accepted = _put(store, key, b"second")
    if accepted or _read(store, key) != b"first":
        raise _broken(store, "a second create of one key was accepted")


def _probe_race(store: Store, key: str) -> None:
    start = threading.Barrier(NUM_RIVALS)

    def compete(number: int) -> bool:
        start.wait()
        return _put(store, key, b"%d" % number)

    with ThreadPoolExecutor(NUM_RIVALS) as threads:
        won = list(threads.map(compete, range(NUM_RIVALS)))
    winners = [number for number in range(NUM_RIVALS) if won[number]]
    stands = _read(store, key)
    # A winner whose answer was lost is told that the key exists, so there may be none by the answers alone.
    if any(stands != b"%d" % number for number in winners):
        raise _broken(store, f"of {NUM_RIVALS} creates of one key at once, one that does not stand was accepted")


def _put(store: Store, key: str, data: bytes) -> bool:
    """Return whether a create was accepted; a lost answer is no acceptance."""
    for _ in range(MAX_TRIES):
        try:
            store.create(key, data)
        except KeyExists:
            return False
        except Uncertain:
            continue
        return True
    return False


def _read(store: Store, key: str) -> bytes:
    try:
        return store.read(key)
    except KeyMissing:
        raise _broken(store, "an object that was put cannot be read") from None


def _forget(store: Store, keys: tuple[str, ...]) -> None:
    try:
        for key in keys:
            store.delete(key)
    except AccessError:
        # Deleting is no permission a job needs; the probe's few bytes stay.
        return


def _broken(store: Store, found: str) -> OutputError:
    return OutputError(
        f"{store.url} cannot put an object only where none is, so nothing would stop two writers",
        found=found,
        advice="use a store with conditional PUT (If-None-Match) or a local disk",
    )
