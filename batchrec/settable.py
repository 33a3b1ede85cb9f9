"""What a user can set: one table, from which flags, variables, job files and their schema are made."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from batchrec.spec import (
    BACKENDS,
    DECODE_WITHIN_S,
    DECODINGS,
    DEVICES,
    EMBEDDINGS,
    MAX_BATCH,
    MAX_COUNT,
    POOLS,
    PRECISIONS,
    STALL_S,
    ImageLimits,
)

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"^ *([0-9]+(?:\.[0-9]+)?) *([smhd]?) *$")


def _truth(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]


def _seconds(text: str) -> float:
    if not (match := _TIME.search(text)):
        raise ValueError(text)
    return float(match[1]) * _UNITS[match[2]]


def _count_or_auto(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _count_auto_or_off(text: str) -> int | None:
    return 0 if text == "off" else _count_or_auto(text)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting takes.

    Attributes:
        says: For people: `'x' is not ...`.
        parse: From text; raises ValueError or KeyError.
        metavar: On the command line.
        types: JSON types that stand for it in a job file.
        bounds: Of its numbers, as JSON Schema keywords.
        pattern: Of its text in a job file, where not all text will do.
    """

    says: str
    parse: Callable[[str], Any]
    metavar: str
    types: tuple[str, ...]
    bounds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    pattern: str | None = None


TEXT = Kind("text", str, "TEXT", ("string",))
TRUTH = Kind("true or false", _truth, "VALUE", ("boolean", "string"), pattern="^(true|false|yes|no)$")
_FROM_ONE = {"minimum": 1, "maximum": MAX_COUNT}
COUNT = Kind("a whole number", int, "N", ("integer",), _FROM_ONE)
BATCH = Kind(
    "a whole number or auto",
    _count_or_auto,
    "VALUE",
    ("integer", "string"),
    {"minimum": 1, "maximum": MAX_BATCH},
    pattern="^auto$",
)
COUNT_AUTO_OR_OFF = Kind(
    "a whole number, auto or off",
    _count_auto_or_off,
    "VALUE",
    ("integer", "string"),
    _FROM_ONE | {"minimum": 0},
    pattern="^(auto|off)$",
)
SHARE = Kind("a number", float, "X", ("number",), {"minimum": 0, "maximum": 1})
TIME = Kind(
    "a time like 90, 30m or 12h",
    _seconds,
    "VALUE",
    ("number", "string"),
    {"exclusiveMinimum": 0, "maximum": 10**9},
    pattern=r"^ *(?=[0-9.]*[1-9])[0-9]+(\.[0-9]+)? *[smhd]? *$",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing a user can set.

    Attributes:
        name: In job files, ``--set`` and, in capitals, ``BATCHREC_*``.
        flag: On the command line.
        kind: What it takes.
        help: One line.
        choices: Allowed values, where there are few.
        many: Whether several values may be given.
        default: Used when nobody says anything.
    """

    name: str
    flag: str
    kind: Kind
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    default: Any = None

    def parse(self, text: str) -> Any:
        """Parse its text.

        Raises:
            ValueError: It is not of the setting's kind; the message is for people.
        """
        if self.choices and text not in self.choices:
            raise ValueError(f"{text!r} is not one of {', '.join(self.choices)}{perhaps(text, self.choices)}")
        try:
            return self.kind.parse(text)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{text!r} is not {self.kind.says}") from error


def perhaps(written: str, known: Iterable[str]) -> str:
    """Return `, perhaps NAME` for the nearest known name, or nothing where none is near."""
    nearest = difflib.get_close_matches(written, list(known), 1)
    return f", perhaps {nearest[0]}" if nearest else ""


_LIMITS = ImageLimits()

SOURCE = Setting(
    "source",
    "SOURCE",
    TEXT,
    "Manifest: a Parquet file, a folder of them or a glob, local or s3://; or several",
    many=True,
    default=(),
)

SETTINGS: tuple[Setting, ...] = (
    Setting("output", "--output", TEXT, "Folder the job owns, local or s3://; MANIFEST.batchrec beside a local one"),
    Setting(
        "model",
        "--model",
        TEXT,
        "apparel, torchvision:NAME[@WEIGHTS], file:PATH+ARCH or a bundle folder",
        default="apparel",
    ),
    Setting("labels", "--labels", TEXT, "File with one label a line, for models that carry none"),
    Setting("uri_column", "--uri-col", TEXT, "Column with the image URIs; found by name otherwise"),
    Setting("id_column", "--id-col", TEXT, "Column with the image ids"),
    Setting(
        "passthrough",
        "--passthrough",
        TEXT,
        "Column to carry into the predictions; may be repeated",
        many=True,
        default=(),
    ),
    Setting(
        "input_roots",
        "--input-root",
        TEXT,
        "Local folder images may lie in, beside the manifest's own",
        many=True,
        default=(),
    ),
    Setting(
        "allow_buckets",
        "--allow-bucket",
        TEXT,
        "Bucket images may lie in, beside the manifest's own",
        many=True,
        default=(),
    ),
    Setting(
        "allow_http",
        "--allow-http",
        TEXT,
        "Host, or HOST:PORT, images may be fetched from over https or http",
        many=True,
        default=(),
    ),
    Setting("top_k", "--top-k", COUNT, "Labels kept for each image", default=5),
    Setting(
        "embeddings",
        "--embeddings",
        TEXT,
        "Keep the model's last features of each image, as numbers of this type",
        choices=EMBEDDINGS,
        default="off",
    ),
    Setting(
        "precision",
        "--precision",
        TEXT,
        "Class of arithmetic; int8 is calibrated on images of the manifest and refused where labels differ",
        choices=PRECISIONS,
        default="auto",
    ),
    Setting(
        "decoding",
        "--decoding",
        TEXT,
        "exact; scaled: JPEGs of twice the model's size or more are shrunk while decoding; nvjpeg: the GPU decodes too",
        choices=DECODINGS,
        default="exact",
    ),
    Setting("limit", "--limit", COUNT, "Only the first rows of the manifest"),
    Setting(
        "max_pixels", "--max-pixels", COUNT, "Larger images are refused from their header", default=_LIMITS.max_pixels
    ),
    Setting("max_bytes", "--max-bytes", COUNT, "Larger files are refused unread", default=_LIMITS.max_bytes),
    Setting("pool", "--pool", TEXT, "Where workers run", choices=POOLS, default="ray"),
    Setting("device", "--device", TEXT, "What workers run on", choices=DEVICES, default="auto"),
    Setting("backend", "--backend", TEXT, "What runs the model", choices=BACKENDS, default="auto"),
    Setting("workers", "--workers", COUNT, "Number of workers; one for each device otherwise"),
    Setting("cores_per_worker", "--cores-per-worker", COUNT, "Cores each worker gets; about eight otherwise"),
    Setting(
        "decode_helpers",
        "--decode-helpers",
        COUNT_AUTO_OR_OFF,
        "Processes on free cores that decode for a starved GPU worker: most of them for each, auto or off",
    ),
    Setting("batch_size", "--batch-size", BATCH, "Images of one forward pass, or auto"),
    Setting("rows_per_shard", "--rows-per-shard", COUNT, "Rows of one part, for a job not begun yet"),
    Setting("max_requests", "--max-requests", COUNT, "Images read at once by all workers together"),
    Setting(
        "max_failure_rate",
        "--max-failure-rate",
        SHARE,
        "Share of failed rows above which the exit code is 4",
        default=0.05,
    ),
    Setting(
        "fail_fast",
        "--fail-fast",
        TRUTH,
        "Stop, resumable, as soon as more than that share of a run's rows failed, after the first 200",
        default=False,
    ),
    Setting(
        "address", "--address", TEXT, "Ray cluster to run on: http://HEAD:8265; `local` for a Ray of the run's own"
    ),
    Setting(
        "workers_within_s",
        "--workers-within",
        TIME,
        "Stop, resumable, after so long without any worker: 10m",
        default=1800.0,
    ),
    Setting(
        "stall_s",
        "--stall",
        TIME,
        "Replace a worker that has work and finished no row for so long: 10m",
        default=STALL_S,
    ),
    Setting(
        "decode_within_s", "--decode-within", TIME, "Time one image may take to decode: 60s", default=DECODE_WITHIN_S
    ),
    Setting("deadline_s", "--deadline", TIME, "Stop after this time, resumable: 90, 30m, 12h"),
    Setting(
        "takeover", "--takeover", TRUTH, "Take the job over from a coordinator that still seems alive", default=False
    ),
    Setting("s3_endpoint", "--s3-endpoint", TEXT, "URL of the S3 endpoint"),
    Setting("s3_region", "--s3-region", TEXT, "Region of the buckets"),
    Setting("s3_requester_pays", "--s3-requester-pays", TRUTH, "Reads are billed to you", default=False),
)
BY_NAME = {setting.name: setting for setting in (SOURCE, *SETTINGS)}

#: Variables that are read elsewhere and are no settings.
OTHER_VARIABLES = ("BATCHREC_CACHE", "BATCHREC_TEST_DATA")
