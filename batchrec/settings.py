"""Settings of a job from every place they can come from, each with its origin.

Precedence: flag, ``--set``, ``BATCHREC_*``, job file, default. One table names them all; flags, variables,
job files and ``--print-config`` are derived from it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrec.errors import UsageError
from batchrec.jobfile import read_job_file
from batchrec.spec import BACKENDS, DEVICES, POOLS, PRECISIONS, ImageLimits, JobSpec, StoreOptions

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing a user can set.

    Attributes:
        name: In job files, ``--set`` and, in capitals, ``BATCHREC_*``.
        flag: On the command line.
        parse: From text; raises ValueError.
        help: One line.
        choices: Allowed values, where there are few.
        many: Whether several values may be given.
        default: Used when nobody says anything.
    """

    name: str
    flag: str
    parse: Callable[[str], Any]
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    default: Any = None


def _truth(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValueError(f"{text!r} is neither true nor false")
    return known[text.lower()]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a time like 90, 30m or 12h")
    return float(match[1]) * _UNITS[match[2]]


def _auto_or_count(text: str) -> int | None:
    if text != "auto" and not text.isdecimal():
        raise ValueError(f"{text!r} is neither a whole number nor auto")
    return None if text == "auto" else int(text)


_LIMITS = ImageLimits()

SETTINGS: tuple[Setting, ...] = (
    Setting("output", "--output", str, "Folder the job owns, local or s3://; MANIFEST.batchrec beside a local one"),
    Setting(
        "model",
        "--model",
        str,
        "apparel, torchvision:NAME[@WEIGHTS], file:PATH+ARCH or a bundle folder",
        default="apparel",
    ),
    Setting("labels", "--labels", str, "File with one label a line, for models that carry none"),
    Setting("uri_column", "--uri-col", str, "Column with the image URIs; found by name otherwise"),
    Setting("id_column", "--id-col", str, "Column with the image ids"),
    Setting(
        "passthrough",
        "--passthrough",
        str,
        "Column to carry into the predictions; may be repeated",
        many=True,
        default=(),
    ),
    Setting(
        "input_roots",
        "--input-root",
        str,
        "Local folder images may lie in, beside the manifest's own",
        many=True,
        default=(),
    ),
    Setting(
        "allow_buckets",
        "--allow-bucket",
        str,
        "Bucket images may lie in, beside the manifest's own",
        many=True,
        default=(),
    ),
    Setting("top_k", "--top-k", int, "Labels kept for each image", default=5),
    Setting("precision", "--precision", str, "Class of arithmetic", choices=PRECISIONS, default="auto"),
    Setting("limit", "--limit", int, "Only the first rows of the manifest"),
    Setting(
        "max_pixels", "--max-pixels", int, "Larger images are refused from their header", default=_LIMITS.max_pixels
    ),
    Setting("max_bytes", "--max-bytes", int, "Larger files are refused unread", default=_LIMITS.max_bytes),
    Setting("pool", "--pool", str, "Where workers run", choices=POOLS, default="ray"),
    Setting("device", "--device", str, "What workers run on", choices=DEVICES, default="auto"),
    Setting("backend", "--backend", str, "What runs the model on a CPU", choices=BACKENDS, default="auto"),
    Setting("workers", "--workers", int, "Number of workers; one for each device otherwise"),
    Setting("batch_size", "--batch-size", _auto_or_count, "Images of one forward pass, or auto"),
    Setting("rows_per_shard", "--rows-per-shard", int, "Rows of one part, for a job not begun yet"),
    Setting(
        "max_failure_rate",
        "--max-failure-rate",
        float,
        "Share of failed rows above which the exit code is 4",
        default=0.05,
    ),
    Setting("address", "--address", str, "Ray cluster to run on: http://HEAD:8265; `local` for a Ray of the run's own"),
    Setting("workers_within_s", "--workers-within", _seconds, "Stop, resumable, after so long without any worker: 10m"),
    Setting("deadline_s", "--deadline", _seconds, "Stop after this time, resumable: 90, 30m, 12h"),
    Setting(
        "takeover", "--takeover", _truth, "Take the job over from a coordinator that still seems alive", default=False
    ),
    Setting("s3_endpoint", "--s3-endpoint", str, "URL of the S3 endpoint"),
    Setting("s3_region", "--s3-region", str, "Region of the buckets"),
    Setting("s3_requester_pays", "--s3-requester-pays", _truth, "Reads are billed to you", default=False),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}
_SOURCE = "source"


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
            values["output"] = default_output(values[_SOURCE])
        values["output"] = _at_home(values["output"])
        values[_SOURCE] = tuple(map(_at_home, values[_SOURCE]))
        return JobSpec(**values, image_limits=limits, store=store)


def _at_home(path: str) -> str:
    # No shell has looked at what stands in a job file or between quotes.
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
    values: dict[str, Any] = {setting.name: setting.default for setting in SETTINGS} | {_SOURCE: ()}
    origins = dict.fromkeys(values, "default")
    layers = [
        (f"job file {job_file}", _parse_all(f"the job file {job_file}", read_job_file(job_file)) if job_file else {}),
        ("environment", _from_environment(environ or {})),
        ("--set", _from_sets(sets)),
        ("flag", {**flags, **({_SOURCE: tuple(source)} if source else {})}),
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
    found = {name: environ[variable] for name in _BY_NAME if (variable := f"BATCHREC_{name.upper()}") in environ}
    return _parse_all("the environment", found)


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
    if name != _SOURCE and name not in _BY_NAME:
        nearest = difflib.get_close_matches(name, [*_BY_NAME, _SOURCE], 1)
        raise ValueError("unknown setting" + (f", perhaps {nearest[0]}" if nearest else ""))
    many = name == _SOURCE or _BY_NAME[name].many
    if value is None:
        return () if many else _BY_NAME[name].default
    if many:
        items = value if isinstance(value, (list, tuple)) else str(value).split(",")
        if any(isinstance(item, (list, tuple, Mapping)) for item in items):
            raise ValueError("a list of plain values is wanted")
        return tuple(str(item) for item in items if item not in ("", None))
    if isinstance(value, (list, tuple, set, Mapping)):
        raise ValueError(f"one value is wanted, found a {type(value).__name__}")
    return parse_text(_BY_NAME[name], str(value))


def parse_text(setting: Setting, text: str) -> Any:
    """Parse the text of a setting.

    Raises:
        ValueError: It is not of the setting's kind; the message is for people.
    """
    if setting.choices and text not in setting.choices:
        raise ValueError(f"{text!r} is not one of {', '.join(setting.choices)}")
    try:
        return setting.parse(text)
    except ValueError as error:
        kind = {int: "a whole number", float: "a number"}.get(setting.parse)  # type: ignore[call-overload]
        raise ValueError(f"{text!r} is not {kind}" if kind else str(error)) from error
