"""The token a cluster asks for: found where Ray keeps it, sent in a header, never shown, written or passed on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batchrec.cluster.addresses import Address
from batchrec.errors import AccessError

PLACES = "RAY_AUTH_TOKEN, a file named by RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it came from; its text does not appear when it is printed."""

    text: str = field(repr=False)
    origin: str

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that carry it."""
        return {"Authorization": f"Bearer {self.text}"}


def token_for(address: Address, *, no_auth: bool = False, environ: Mapping[str, str] | None = None) -> Token | None:
    """Return the token to send to a cluster; None to send none.

    Args:
        address: The cluster.
        no_auth: The user says that it has no token authentication.
        environ: The environment's variables.

    Raises:
        AccessError: The cluster is elsewhere and there is no token, or what is there cannot be one.
    """
    if no_auth:
        return None
    token = _find(os.environ if environ is None else environ)
    if token is None and not address.is_loopback:
        raise AccessError(
            f"there is no token for the cluster at {address.url}",
            found=f"none in {PLACES}",
            advice="put the cluster's token there, or say --no-auth if the cluster has none",
        )
    return token


def _find(environ: Mapping[str, str]) -> Token | None:
    if text := environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(text, "RAY_AUTH_TOKEN")
    if named := environ.get("RAY_AUTH_TOKEN_PATH"):
        return _checked(_read(Path(named).expanduser(), "RAY_AUTH_TOKEN_PATH"), "RAY_AUTH_TOKEN_PATH")
    home = environ.get("HOME")
    if not home or not (path := Path(home, ".ray", "auth_token")).is_file():
        return None
    text = _read(path, str(path))
    return _checked(text, str(path)) if text else None


def _read(path: Path, origin: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(65_536).decode("latin-1").strip()
    except OSError as error:
        raise AccessError(
            f"the token file of {origin} cannot be read",
            found=error.strerror or "",
            advice="correct it or say --no-auth",
        ) from error


def _checked(text: str, origin: str) -> Token:
    # Neither the token nor a part of it may be in the message.
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        found = "nothing" if not text else "characters that no token has"
        raise AccessError(
            f"{origin} holds no token", found=found, advice="write the cluster's token there, on one line"
        )
    return Token(text, origin)
