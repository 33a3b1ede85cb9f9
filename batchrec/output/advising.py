"""Small things every room does with an output's objects: look whether one stands, write one that only informs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batchrec.errors import BatchrecError
from batchrec.storage import KeyMissing, Store, Uncertain


def stands(store: Store, key: str) -> bool:
    """Whether an object stands under a key."""
    try:
        store.info(key)
    except KeyMissing:
        return False
    return True


def advise(store: Store, key: str, facts: Mapping[str, Any]) -> bool:
    """Write facts as JSON over whatever stands there; False when the store would not take them now."""
    return advise_bytes(store, key, json.dumps(facts, indent=1).encode())


def advise_bytes(store: Store, key: str, data: bytes) -> bool:
    """Write bytes over whatever stands there; False when the store would not take them now."""
    try:
        store.overwrite(key, data)
    except (BatchrecError, KeyMissing, Uncertain):
        return False
    return True
