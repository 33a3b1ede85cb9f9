"""What a job file says, held against the table of settings: every fault at once, each with its line."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from batchrec.errors import UsageError
from batchrec.jobfile.reading import JobFile, Place
from batchrec.settable import BY_NAME, Setting, perhaps

# A file of a hundred thousand wrong names must not make a message of megabytes.
_MAX_FAULTS = 50
_MAX_SHOWN = 60

_BOUNDS = {
    "minimum": (operator.ge, "at least"),
    "maximum": (operator.le, "at most"),
    "exclusiveMinimum": (operator.gt, "more than"),
}
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_WORDS = {"array": "a list", "object": "names with values", "null": "nothing"}


def check_job_file(file: JobFile) -> dict[str, Any]:
    """Return the settings of a job file, by name.

    Raises:
        UsageError: Some are unknown, there twice or not of their type; each is named with its line.
    """
    faults = [(line, place, f"there twice, first in line {file.lines[place]}") for place, line in file.twice]
    found = ((file.lines[place], place, text) for place, text in _all_faults(file.values))
    faults = sorted([*faults[:_MAX_FAULTS], *islice(found, _MAX_FAULTS)], key=lambda fault: fault[0])
    if faults:
        listed = [f"{file.path}:{line}: {_name(place)}: {text}" for line, place, text in faults[:_MAX_FAULTS]]
        more = "; and more" if len(faults) >= _MAX_FAULTS else ""
        raise UsageError(f"the job file is not valid: {'; '.join(listed)}{more}", advice="correct all of them")
    return {name: _parsed(BY_NAME[name], value) for name, value in file.values.items()}


def _name(place: Place) -> str:
    first, *others = place
    return _cut(str(first)) + "".join(f"[{part}]" if isinstance(part, int) else f".{_cut(part)}" for part in others)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _all_faults(values: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for name, value in values.items():
        if name not in BY_NAME:
            yield from _unknown((name,), value)
        elif value is not None:
            yield from _faults_of(BY_NAME[name], (name,), value)


def _unknown(place: Place, value: Any) -> Iterator[tuple[Place, str]]:
    if isinstance(name := place[-1], str):
        # s3: {endpoint: ...} means s3_endpoint.
        whole = "" if place[0] in BY_NAME else "_".join(part for part in place if isinstance(part, str))
        yield place, f"unknown setting{perhaps(whole, BY_NAME) or perhaps(name, BY_NAME)}"
    yield from _below(place, value)


def _below(place: Place, value: Any) -> Iterator[tuple[Place, str]]:
    """Every name inside a value: settings stand at the top of the file only."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, each in inner:
        yield from _unknown((*place, part), each)


def _faults_of(setting: Setting, place: Place, value: Any) -> Iterator[tuple[Place, str]]:
    if setting.many and isinstance(value, list):
        for position, item in enumerate(value):
            yield from _faults_of_one(setting, (*place, position), item)
    else:
        yield from _faults_of_one(setting, place, value)


def _faults_of_one(setting: Setting, place: Place, value: Any) -> Iterator[tuple[Place, str]]:
    if fault := _fault(setting, value):
        yield place, fault
        yield from _below(place, value)


def _fault(setting: Setting, value: Any) -> str | None:
    kind, found = setting.kind, _json_type(value)
    if setting.choices:
        known = isinstance(value, str) and value in setting.choices
        near = perhaps(str(value), setting.choices)
        return None if known else f"{_shown(value)} is not one of {', '.join(setting.choices)}{near}"
    if found not in kind.types and not (found == "integer" and "number" in kind.types):
        return _wrong_type(setting, value)
    if isinstance(value, str):
        good = re.search(kind.pattern, value) if kind.pattern else value
        return None if good else f"{_shown(value) if value else 'nothing'} is not {kind.says}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not {kind.says}"
    return _out_of_bounds(setting, value) if isinstance(value, int | float) else None


def _out_of_bounds(setting: Setting, value: float) -> str | None:
    for keyword, bound in setting.kind.bounds.items():
        holds, words = _BOUNDS[keyword]
        if not holds(value, bound):
            return f"must be {words} {bound}, found {_shown(value)}"
    return None


def _json_type(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return "integer"
    return "null" if value is None else _JSON_TYPES.get(type(value), type(value).__name__)


def _wrong_type(setting: Setting, value: Any) -> str:
    says, found = setting.kind.says, _json_type(value)
    if isinstance(value, str):
        return f"{_shown(value)} is not {says}{_unquoted(setting, value)}"
    hint = ": put it in quotes" if "string" in setting.kind.types and found not in ("array", "object", "null") else ""
    return f"{says} is wanted, found {_WORDS.get(found) or _shown(value)}{hint}"


def _unquoted(setting: Setting, text: str) -> str:
    try:
        return ": write it without quotes" if str(setting.parse(text)) == text else ""
    except ValueError:
        return ""


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN:
        return "a huge number"  # Python refuses to write the longest ones out
    return _cut(repr(value))


def _parsed(setting: Setting, value: Any) -> Any:
    """Return a value without faults as the job takes it."""
    if value is None:
        return setting.default
    if setting.many:
        items = value if isinstance(value, list) else value.split(",")
        return tuple(item for item in items if item)
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return setting.parse(value)
    return float(value) if "number" in setting.kind.types else int(value)
