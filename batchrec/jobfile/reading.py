"""Job files: YAML that people write and partners send, so read with care."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from batchrec.errors import UsageError

MAX_JOB_FILE_BYTES = 1 << 20

#: Names and positions that lead from the top of a file to one value.
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a job file says, not checked yet.

    Attributes:
        path: As it was named.
        values: Plain values by name; names are text as written.
        lines: From 1, of each value by its place; a name's own line is its value's.
        twice: Places that are there more than once, each with the line of the later one.
    """

    path: str
    values: Mapping[str, Any]
    lines: Mapping[Place, int]
    twice: tuple[tuple[Place, int], ...]


class _PlainLoader(yaml.SafeLoader):
    """Takes no aliases, with which a few lines become gigabytes, and names as they are written."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _fault("aliases are not taken: write the value out", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            # Too many digits, a tag its value does not fit: PyYAML lets Python complain.
            raise _fault(f"no value can be made of this: {error}", node.start_mark) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.MappingNode):
            raise _fault("names with values are wanted", node.start_mark)
        if odd := [name for name, _ in node.value if not isinstance(name, yaml.ScalarNode)]:
            raise _fault("a name must be plain text", odd[0].start_mark)
        return {name.value: self.construct_object(value, deep) for name, value in node.value}


# Plain words mean what they mean in YAML 1.2, which editors read: PyYAML itself takes `off` for false, 1:30 for 90
# and 010 for 8.
_PlainLoader.yaml_implicit_resolvers = {}
for _kind, _form, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_form})\\Z"), _first)


def _fault(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_job_file(path: str) -> JobFile:
    """Return what a job file sets.

    Raises:
        UsageError: It cannot be read, is too large, or is no mapping of names to values.
    """
    data = _read(path)
    try:
        plain, lines = _parse(data)
    except RecursionError as error:
        raise UsageError(f"the job file {path} is nested too deep", advice="write name: value lines") from error
    except yaml.YAMLError as error:
        line, problem = _where(error, data)
        raise UsageError(f"the job file is not YAML: {path}:{line}: {problem}", advice="correct that line") from error
    if not isinstance(plain, Mapping):
        raise UsageError(
            f"the job file {path} holds no settings", found=type(plain).__name__, advice="write name: value lines"
        )
    return JobFile(path, plain, *_first_and_later(lines))


def _first_and_later(lines: list[tuple[Place, int]]) -> tuple[dict[Place, int], tuple[tuple[Place, int], ...]]:
    first: dict[Place, int] = {}
    later = []
    for place, line in lines:
        if place not in first:
            first[place] = line
        elif isinstance(place[-1], str):
            later.append((place, line))
    return first, tuple(later)


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_JOB_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"the job file {path} cannot be read", found=found, advice="check the path") from error
    if len(data) > MAX_JOB_FILE_BYTES:
        raise UsageError(f"the job file {path} is too large", advice="1 MiB is allowed")
    return data


def _parse(data: bytes) -> tuple[Any, list[tuple[Place, int]]]:
    loader = _PlainLoader(data)
    try:
        node = loader.get_single_node()
        return (loader.construct_document(node) if node else None) or {}, list(_lines(node, ()))
    finally:
        loader.dispose()


def _lines(node: Any, place: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield (*place, name.value), name.start_mark.line + 1
            yield from _lines(value, (*place, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield (*place, position), item.start_mark.line + 1
            yield from _lines(item, (*place, position))


def _where(error: yaml.YAMLError, data: bytes) -> tuple[int, str]:
    """Return the line of a fault, from 1, and what it is, on one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        return error.problem_mark.line + 1, " ".join(said.split())
    if isinstance(error, yaml.reader.ReaderError):
        # Counted in bytes where they are no text, in characters where one of them is not allowed.
        text: Any = data.decode(errors="replace") if error.encoding == "unicode" else data
        return text[: error.position].count(b"\n" if text is data else "\n") + 1, error.reason
    return 1, str(error)
