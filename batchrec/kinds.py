"""Whether a value read from JSON is of the kind a field is declared to be."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, get_args, get_origin


def fits(value: object, declared: Any) -> bool:
    """Return whether a plain value, or a list of them, is of a declared kind; whoever reads the others checks them.

    Args:
        value: As JSON gave it.
        declared: A type, ``X | Y`` or ``tuple[X, ...]``, as ``typing.get_type_hints`` gives it. Any number is an
            int and a float, no bool is either.
    """
    if isinstance(declared, UnionType):
        return any(fits(value, each) for each in get_args(declared))
    if get_origin(declared) is tuple:
        return isinstance(value, list | tuple) and all(fits(each, get_args(declared)[0]) for each in value)
    if declared in (int, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, declared) if declared in (str, bool, NoneType) else True
