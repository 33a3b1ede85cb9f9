"""What batchrec leaves behind where it was killed: files being written to a local disk, tries of a store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchrec.storage.probing import OWN_FOLDERS, PROBES
from batchrec.storage.publishing import is_s3
from batchrec.storage.store import STAGING, Store

#: No write and no try takes so long.
OLD_S = 3600.0


def find_leftovers(store: Store, *, older_than_s: float = OLD_S) -> list[str]:
    """Return the names of staged files and tries of the store that nobody can be using any more."""
    before = time.time() - older_than_s
    found = [info.key for info in store.list(PROBES) if info.modified.timestamp() < before]
    return [*_old_staged(store, before), *found]


def sweep(store: Store, leftovers: list[str]) -> None:
    """Remove what :func:`find_leftovers` found.

    Raises:
        AccessError: These credentials may not delete there.
    """
    for name in leftovers:
        store.delete(name)


def _old_staged(store: Store, before: float) -> Iterator[str]:
    if is_s3(store.url):
        return
    # A store never lists its own staging.
    with suppress(FileNotFoundError):
        for path in sorted(Path(store.url, STAGING).iterdir()):
            if path.is_file() and path.stat().st_mtime < before:
                yield STAGING + path.name


@contextmanager
def leaving_no_folder(store: Store) -> Iterator[None]:
    """Remove the empty folders that a write to a local store makes for itself; those that were there stay."""
    root = Path(store.url)
    wanted = [] if is_s3(store.url) else [root / name for name in OWN_FOLDERS]
    made = [folder for folder in wanted if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
