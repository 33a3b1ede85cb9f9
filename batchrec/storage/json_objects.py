"""JSON read back from a store, whatever became of it there."""

from __future__ import annotations

import json
from typing import Any


def parse_json(data: bytes | str) -> Any:
    """Return the value that JSON stands for.

    Raises:
        ValueError: It is none, or nests too deep.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("JSON that nests too deep") from None


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: It is none, or nests too deep.
    """
    plain = parse_json(data)
    if not isinstance(plain, dict):
        raise ValueError(f"JSON, but no object: {str(plain)[:20]!r}")
    return plain


def json_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object; an empty one where the bytes are none, or nest too deep."""
    try:
        return parse_object(data)
    except ValueError:
        return {}
