"""A job whose local paths mean the same in every folder of every node."""

from __future__ import annotations

import os
import re
from pathlib import Path

from batchrec.models.weights import SUFFIXES
from batchrec.spec import JobSpec
from batchrec.storage import local_path
from batchrec.storage.publishing import is_s3


def absolute_spec(spec: JobSpec) -> JobSpec:
    """Return a job with every local path made absolute; nothing has to be there."""
    return spec.replace(
        source=tuple(map(_absolute_path, spec.source)),
        output=_absolute_path(spec.output),
        input_roots=tuple(map(_absolute_path, spec.input_roots)),
        labels=None if spec.labels is None else _absolute_path(spec.labels),
        model=_absolute_model(spec.model),
    )


def is_local_model(name: str) -> bool:
    """Whether a model string names something on this disk."""
    scheme, colon, rest = name.partition(":")
    if colon and scheme == "torchvision":
        return _is_file_name(rest.partition("@")[2])
    return (bool(colon) and scheme == "file") or (not re.fullmatch(r"[\w-]+", name)) or Path(name).is_dir()


def _absolute_path(url: str) -> str:
    return url if is_s3(url) else os.path.abspath(os.path.expanduser(local_path(url)))  # noqa: PTH100, PTH111


def _absolute_model(name: str) -> str:
    scheme, _, rest = name.partition(":")
    if scheme == "file":
        path, plus, architecture = rest.rpartition("+")
        return f"file:{_absolute_path(path)}+{architecture}" if plus and path else name
    if scheme == "torchvision":
        architecture, at, weights = rest.partition("@")
        return f"torchvision:{architecture}@{_absolute_path(weights)}" if at and _is_file_name(weights) else name
    return _absolute_path(name) if is_local_model(name) else name


def _is_file_name(weights: str) -> bool:
    return "/" in weights or weights.endswith(SUFFIXES)
