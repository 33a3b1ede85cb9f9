"""Writing objects of an output that only inform."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batchrec.errors import BatchrecError
from batchrec.storage import KeyMissing, Store, Uncertain


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
