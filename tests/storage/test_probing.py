"""Stores that lie about put-if-absent, each in its own way."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from batchrec.errors import OutputError
from batchrec.spec import StoreOptions
from batchrec.storage import KeyExists, KeyMissing, Store, open_store, probe
from batchrec.storage.local_store import LocalStore


class SaysYes(LocalStore):
    """Keeps the first object and calls every later create a success."""

    def create(self, key: str, data: bytes) -> None:
        try:
            super().create(key, data)
        except KeyExists:
            return


class LosesRaces(LocalStore):
    """Lets one of several rivals win, then keeps another's object."""

    def create(self, key: str, data: bytes) -> None:
        super().create(key, data)
        if key.endswith("-race"):
            super().overwrite(key, b"another rival")


class Forgets(LocalStore):
    """Takes objects and cannot show them."""

    def read(self, key: str) -> bytes:
        raise KeyMissing(key)


@pytest.mark.parametrize("kind", [SaysYes, LosesRaces, Forgets])
def test_a_lying_store_is_refused_and_left_clean(kind: type[LocalStore], tmp_path: Path):
    store = kind(tmp_path)
    with pytest.raises(OutputError, match="only where none is"):
        probe(store)
    assert list(store.list("")) == []


def test_probes_of_one_store_do_not_disturb_each_other(tmp_path: Path):
    store: Store = open_store(str(tmp_path), StoreOptions())
    threads = [threading.Thread(target=probe, args=(store,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(store.list("")) == []
