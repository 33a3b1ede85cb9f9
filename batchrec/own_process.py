"""What a process that is all ours does first: a command, or an actor."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType


def begin_actor() -> None:
    """Get ready in the process of an actor."""
    os.dup2(2, 1)  # what a library prints must not get between the lines of our own stdout
    leave_out_pandas()


def leave_out_pandas() -> None:
    """Keep pyarrow from importing pandas to see whether a list it is given is one of its series.

    Where pandas is installed that takes a third of a second of each process, to ``python -X importtime`` on two
    cores; nothing of ours hands pyarrow any. Not for the process of somebody who calls us: theirs may.
    """
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])  # it asks once
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """A finder of modules that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Return None, so that others are asked, except for pandas."""
        if name == "pandas":
            raise ModuleNotFoundError("pandas is left out", name=name)
