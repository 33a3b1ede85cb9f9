"""The JSON Schema of job files, for editors and for whoever writes them by program."""

from __future__ import annotations

from typing import Any

from batchrec.settable import BY_NAME, Setting

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ABOUT = (
    "One setting a line. Each may be left out or left empty: then its default holds, "
    "and a flag, --set or a BATCHREC_ variable overrides it."
)


def job_schema() -> dict[str, Any]:
    """Return the schema: a job file is taken if, and only if, it allows what the file says."""
    return {
        "$schema": DIALECT,
        "title": "batchrec job file",
        "description": _ABOUT,
        "type": ["object", "null"],
        "properties": {name: _property(setting) for name, setting in BY_NAME.items()},
        "additionalProperties": False,
    }


def _property(setting: Setting) -> dict[str, Any]:
    about: dict[str, Any] = {"description": setting.help}
    if setting.default is not None:
        about["default"] = list(setting.default) if setting.many else setting.default
    if setting.choices:
        return {**about, "enum": [*setting.choices, None]}
    # Bounds bind numbers alone, patterns and lengths text alone: JSON Schema passes over them elsewhere.
    rule: dict[str, Any] = {**setting.kind.bounds}
    if "string" in setting.kind.types:
        rule |= {"pattern": setting.kind.pattern} if setting.kind.pattern else {"minLength": 1}
    types = [*setting.kind.types, "null"]
    if setting.many:
        return {**about, "type": ["array", *types], **rule, "items": {"type": setting.kind.types[0], **rule}}
    return {**about, "type": types, **rule}
