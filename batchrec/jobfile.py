"""Job files: YAML that people write and partners send, so read with care."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from batchrec.errors import UsageError

MAX_JOB_FILE_BYTES = 1 << 20


class _PlainLoader(yaml.SafeLoader):
    """Takes no aliases, with which a few lines become gigabytes, and no setting twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value]
        if twice := sorted({str(name) for name in names if names.count(name) > 1}):
            raise yaml.YAMLError(f"{', '.join(twice)}: there twice")
        return super().construct_mapping(node, deep)


def read_job_file(path: str) -> dict[str, Any]:
    """Return what a job file sets, as plain values by name, not checked yet.

    Raises:
        UsageError: It cannot be read, is too large, or is no mapping of names to values.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_JOB_FILE_BYTES + 1)
        if len(data) > MAX_JOB_FILE_BYTES:
            raise UsageError(f"the job file {path} is too large", advice="1 MiB is allowed")
        plain = yaml.load(data, _PlainLoader) or {}  # noqa: S506  a safe loader that takes less
    except OSError as error:
        raise UsageError(f"the job file {path} cannot be read", found=error.strerror or str(error)) from error
    except RecursionError as error:
        raise UsageError(f"the job file {path} is nested too deep", advice="write name: value lines") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"the job file {path} is not YAML", found=" ".join(str(error).split())) from error
    if not isinstance(plain, Mapping):
        raise UsageError(
            f"the job file {path} holds no settings", found=type(plain).__name__, advice="write name: value lines"
        )
    return {str(name): value for name, value in plain.items()}
