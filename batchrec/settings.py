"""Settings of a job from every place they can come from, each with its origin.

Precedence: flag, ``--set``, ``BATCHREC_*``, job file, default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrec.errors import UsageError
from batchrec.jobfile import check_job_file, read_job_file
from batchrec.settable import BY_NAME, OTHER_VARIABLES, SOURCE, perhaps
from batchrec.spec import ImageLimits, JobSpec, StoreOptions

_PREFIX = "BATCHREC_"
# What Kubernetes sets in every pod for a Service whose name begins with batchrec.
_OF_A_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)?)$")


@dataclass(frozen=True, slots=True)
class Settings:
    """Resolved settings.

    Attributes:
        values: By name.
        origins: Where each value comes from, for people.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def to_spec(self) -> JobSpec:
        """Return the job they define.

        Raises:
            UsageError: They define none; all faults are listed.
        """
        values = {name: value for name, value in self.values.items() if name != "address"}
        limits = ImageLimits(values.pop("max_pixels"), values.pop("max_bytes"))
        store = StoreOptions(values.pop("s3_endpoint"), values.pop("s3_region"), values.pop("s3_requester_pays"))
        if values["output"] is None:
            values["output"] = default_output(values[SOURCE.name])
        values["output"] = at_home(values["output"])
        values[SOURCE.name] = tuple(map(at_home, values[SOURCE.name]))
        return JobSpec(**values, image_limits=limits, store=store)


def at_home(path: str) -> str:
    """Return a path with ``~`` at its beginning put right: no shell looked into a job file or between quotes."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


def default_output(source: Sequence[str]) -> str:
    """Return the output folder beside a local manifest.

    Raises:
        UsageError: There are several sources, or they are in an object store: the user must say.
    """
    if not source:
        raise UsageError("no manifest is named", advice="name a Parquet file, a folder of them or a quoted glob")
    if len(source) != 1 or "://" in source[0] or any(sign in source[0] for sign in "*?["):
        raise UsageError("no output folder is named", advice="name one with -o")
    return source[0].rstrip("/") + ".batchrec"


def resolve_settings(
    source: Sequence[str],
    flags: Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    job_file: str | None = None,
) -> Settings:
    """Put the layers on top of each other.

    Args:
        source: Manifests named on the command line.
        flags: Values of flags that were given, by setting name.
        sets: ``name=value`` of each ``--set``.
        environ: The environment's variables.
        job_file: Path of the YAML job file.

    Raises:
        UsageError: Something is unknown or not of its type; all faults of a layer are listed.
    """
    values: dict[str, Any] = {name: setting.default for name, setting in BY_NAME.items()}
    origins = dict.fromkeys(values, "default")
    layers = [
        (f"job file {job_file}", check_job_file(read_job_file(job_file)) if job_file else {}),
        ("environment", _from_environment(environ or {})),
        ("--set", _from_sets(sets)),
        ("flag", {**flags, **({SOURCE.name: tuple(source)} if source else {})}),
    ]
    for origin, layer in layers:
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    return Settings(values, origins)


def checked(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Parse settings given as plain values, by name.

    Raises:
        UsageError: Some are unknown or not of their type; all are listed.
    """
    return _parse_all("the call", plain)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found = {name: environ[variable] for name in BY_NAME if (variable := _PREFIX + name.upper()) in environ}
    return _parse_all("the environment", found)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return what to say of each ``BATCHREC_*`` variable that nothing reads: its name, and the nearest that is read."""
    known = [*OTHER_VARIABLES, *(_PREFIX + name.upper() for name in BY_NAME)]
    unread = [name for name in sorted(environ) if name.startswith(_PREFIX) and name not in known]
    return [name + _nearest(name, known) for name in unread if not _OF_A_SERVICE.search(name)]


def _nearest(variable: str, known: Sequence[str]) -> str:
    # Without the prefix, which would make all of them alike.
    near = perhaps(variable.removeprefix(_PREFIX).upper(), [name.removeprefix(_PREFIX) for name in known])
    return near.replace("perhaps ", f"perhaps {_PREFIX}")


def _from_sets(sets: Sequence[str]) -> dict[str, Any]:
    pairs = [text.partition("=") for text in sets]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise UsageError(f"--set {wrong[0]} has no value", advice="write --set name=value")
    return _parse_all("--set", {name: value for name, _, value in pairs})


def _parse_all(place: str, plain: Mapping[str, Any]) -> dict[str, Any]:
    parsed, faults = {}, []
    for name, value in plain.items():
        try:
            parsed[name] = _parse(name, value)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise UsageError(f"{place} is not valid: " + "; ".join(faults))
    return parsed


def _parse(name: str, value: Any) -> Any:
    if name not in BY_NAME:
        raise ValueError(f"unknown setting{perhaps(name, BY_NAME)}")
    setting = BY_NAME[name]
    if value is None:
        return setting.default
    if setting.many:
        items = value if isinstance(value, (list, tuple)) else str(value).split(",")
        if any(isinstance(item, (list, tuple, Mapping)) for item in items):
            raise ValueError("a list of plain values is wanted")
        return tuple(str(item) for item in items if item not in ("", None))
    if isinstance(value, (list, tuple, set, Mapping)):
        raise ValueError(f"one value is wanted, found a {type(value).__name__}")
    return setting.parse(str(value))
