"""What travels with a submission: the command, and a runtime environment without secrets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from batchrec.cluster.submission import Submission
from batchrec.errors import UsageError
from batchrec.redacting import redact
from batchrec.spec import StoreOptions

ENTRYPOINT = ("python", "-m", "batchrec", "run")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_WORDS = frozenset({"KEY", "KEYS", "TOKEN", "TOKENS", "PASS", "PASSPHRASE", "PWD", "AUTHORIZATION"})
_SECRET_PIECES = ("SECRET", "PASSW", "CREDENTIAL", "APIKEY", "ACCESSKEY", "PRIVATEKEY", "AUTHTOKEN")
_SECRET_VALUE = re.compile(
    r"(?:AKIA|ASIA)[A-Z0-9]{16}|(?<![A-Za-z0-9/+=])[A-Za-z0-9/+=]{40}(?![A-Za-z0-9/+=])|-----BEGIN"
    r"|\beyJ[\w-]{10,}\.|\bgh[pousr]_\w{20,}|\bhf_\w{20,}"
)


def checked_variables(pairs: Iterable[str]) -> dict[str, str]:
    """Parse ``NAME=VALUE`` of each ``--env``.

    Raises:
        UsageError: One has no name or value, or looks like a secret: everybody who may look at the cluster sees it.
    """
    found = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not _NAME.fullmatch(name):
            raise UsageError("--env takes NAME=VALUE", found=redact(name)[:80])
        if _is_secret(name, value):
            raise UsageError(
                f"--env {name} looks like a secret, and everybody who may look at the cluster would see it",
                advice="give the cluster's service account access, or set it in the cluster's own pods",
            )
        found[name] = value
    return found


def _is_secret(name: str, value: str) -> bool:
    upper = name.upper()
    in_name = _SECRET_WORDS & set(upper.split("_")) or any(piece in upper.replace("_", "") for piece in _SECRET_PIECES)
    return bool(in_name or _SECRET_VALUE.search(value) or redact(value) != value)


def runtime_env(variables: Mapping[str, str], *, ship_code: bool) -> dict[str, Any]:
    """Return what Ray sets up before the coordinator starts.

    Args:
        variables: Environment variables, checked.
        ship_code: Whether this installation's package goes along, in place of the image's.
    """
    found: dict[str, Any] = {"env_vars": dict(variables)} if variables else {}
    if ship_code:
        found |= {"py_modules": list(map(str, _package_folders())), "excludes": ["__pycache__"]}
    return found


def _package_folders() -> list[Path]:
    """Return the package and, where it is installed, what says its version."""
    facts = distribution("batchrec")
    folders = [Path(__file__).parent.parent, Path(str(facts.locate_file(f"batchrec-{facts.version}.dist-info")))]
    return [folder for folder in folders if folder.is_dir()]


def command_line(submission: Submission, options: StoreOptions, entrypoint: tuple[str, ...] = ENTRYPOINT) -> str:
    """Return the command that coordinates a submission, for a shell on the cluster."""
    words = [*entrypoint, submission.url]
    words += ["--s3-endpoint", options.endpoint] if options.endpoint else []
    words += ["--s3-region", options.region] if options.region else []
    return shlex.join(words)
