"""Objects that only inform people: nothing of a job depends on them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batchrec.errors import BatchrecError
from batchrec.storage import KeyMissing, Store, Uncertain


def advise(store: Store, key: str, facts: Mapping[str, Any]) -> bool:
    """Write facts as JSON over whatever stands there; False when the store would not take them now."""
    try:
        store.overwrite(key, json.dumps(facts, indent=1).encode())
    except (BatchrecError, KeyMissing, Uncertain):
        return False
    return True
