"""How a job was made, for whoever wants to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchrec.settable import SETTINGS, Setting
from batchrec.spec import JobSpec

_MAX_FILES = 10
#: Settings that decide rows; the others say how a job is run.
_DECIDING = (
    "model",
    "labels",
    "uri_column",
    "id_column",
    "passthrough",
    "input_roots",
    "allow_buckets",
    "allow_http",
    "top_k",
    "embeddings",
    "precision",
    "decoding",
    "limit",
    "max_pixels",
    "max_bytes",
    "s3_requester_pays",
)


@dataclass(frozen=True, slots=True)
class Making:
    """What an output says of how it was made.

    Attributes:
        command: Makes the same rows in a folder NEW; empty where no command does.
        facts: Names and values of what decided the rows, for people.
    """

    command: str
    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, spec: JobSpec | None, identity: Mapping[str, Any], part: Mapping[str, Any]) -> Making:
        """Put together what is recorded in several places; whatever is missing is left out.

        Args:
            spec: The job's definition, its precision and columns resolved; None where it is not known.
            identity: What decides the job's rows.
            part: Facts of the footer of one of its parts.
        """
        # The manifest of a retry or a submission is a copy, whose place on no command line can be said.
        known = spec is not None and spec.manifest_root is None
        return cls(submit_command(spec) if known and spec is not None else "", tuple(_facts(identity, part)))


def submit_command(spec: JobSpec) -> str:
    """Return the command that makes the rows of a job again, in a folder NEW."""
    words = ["batchrec", "submit", *spec.source, "-o", "NEW"]
    for setting in SETTINGS:
        if setting.name in _DECIDING and (value := _value(spec, setting)) != setting.default and value is not None:
            words += _flags(setting, value)
    return shlex.join(words)


def _value(spec: JobSpec, setting: Setting) -> Any:
    if setting.name in ("max_pixels", "max_bytes"):
        return getattr(spec.image_limits, setting.name)
    if setting.name == "s3_requester_pays":
        return spec.store.requester_pays
    return getattr(spec, setting.name)


def _flags(setting: Setting, value: Any) -> list[str]:
    if value is True:
        return [setting.flag]
    values = value if setting.many else (value,)
    return [word for each in values for word in (setting.flag, str(each))]


def _facts(identity: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    files = _list(identity.get("manifest"))
    for file in files[:_MAX_FILES]:
        match _list(file):
            case [name, int(size), footer]:
                yield "manifest", f"{name}, {size:,} bytes, sha256 of its footer {footer}"
    if len(files) > _MAX_FILES:
        yield "manifest", f"and {len(files) - _MAX_FILES:,} files more"
    model = _mapping(identity.get("model"))
    for name, value in (
        ("architecture", model.get("architecture")),
        ("weights sha256", model.get("weights_sha256")),
        ("labels sha256", model.get("labels_sha256")),
        ("images", _images(_mapping(model.get("preprocess")))),
        ("precision", identity.get("precision")),
        ("versions", _versions(part)),
    ):
        if value:
            yield name, str(value)


def _images(preprocess: Mapping[str, Any]) -> str:
    if not {"resize", "crop", "interpolation"} <= preprocess.keys():
        return ""
    crop = preprocess["crop"]
    return f"short side {preprocess['resize']}, centre {crop}x{crop}, {preprocess['interpolation']}"


def _versions(part: Mapping[str, Any]) -> str:
    known = (("batchrec", part.get("batchrec")), ("Python", part.get("python")))
    return ", ".join(f"{name} {version}" for name, version in known if version)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
