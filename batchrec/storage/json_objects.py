"""JSON objects read back from a store, whatever became of them there."""

from __future__ import annotations

import json
from typing import Any


def json_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one where the bytes are none, or nest too deep."""
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}
