"""The API server's view of a custom resource: its schema, in which an unknown field is a fault and not pruned."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Plain = dict[str, Any]
_INT32 = {"minimum": -(2**31), "maximum": 2**31 - 1}


@cache
def crd(folder: Path, plural: str) -> Plain:
    """The schema of the version ``v1`` of a custom resource definition."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((folder / "kuberay" / f"ray.io_{plural}.yaml").read_bytes(), loader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Plain) -> Plain:
    """The schema with unknown fields refused wherever it names the known ones."""
    result = {name: value for name, value in schema.items() if not name.startswith("x-")}
    if "properties" in schema:
        result["properties"] = {name: closed(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            result[name] = closed(schema[name])
    if schema.get("format") == "int32":
        result = _INT32 | result
    return result


def misfits(schema: Plain, value: object) -> list[str]:
    """Where a value does not fit, and why."""
    errors = jsonschema.Draft7Validator(schema).iter_errors(value)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]
