"""Where a job runs: the address of a cluster, resolved by us and told with its origin.

Order: the setting ``address``, ``RAY_API_SERVER_ADDRESS``, ``RAY_ADDRESS``, a Ray this user started on this
machine, else none: a Ray of the run's own.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from batchrec.errors import UsageError

RAY_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
OWN_RAY = "local"
_ORIGINS = {"flag": "--address", "environment": "BATCHREC_ADDRESS"}
_ANSWER_S = 1.0
_LOOKUP_S = 20.0
# Ray's own way from its control service to its dashboard; apart, because it leaves connections and modes behind.
_LOOKUP = "import sys; from ray.dashboard.utils import ray_address_to_api_server_url as u; print(u(sys.argv[1]))"


@dataclass(frozen=True, slots=True)
class Address:
    """A cluster's dashboard.

    Attributes:
        url: ``http://HOST:PORT``, without a slash at its end.
        origin: Who said so, for people.
    """

    url: str
    origin: str

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there does not leave this machine by itself; a tunnel may still take it elsewhere."""
        return _is_loopback(urlsplit(self.url).hostname or "")

    def is_same(self, url: str) -> bool:
        """Whether another URL, perhaps spelled otherwise, leads to the same dashboard."""
        return _canonical(self.url) == _canonical(url)

    def __str__(self) -> str:
        return f"{self.url} (from {self.origin})"


def resolve_address(
    setting: str | None, origin: str, environ: Mapping[str, str] | None = None, *, look_here: bool = True
) -> Address | None:
    """Return where to run, or None for a Ray of the run's own.

    Args:
        setting: What the user set: a URL, ``auto``, a Ray address, or ``local``.
        origin: Where that came from.
        environ: The environment's variables.
        look_here: Whether a cluster running on this machine counts, where nobody names one.

    Raises:
        UsageError: What was named is no address of a dashboard; says what to give.
    """
    environ = os.environ if environ is None else environ
    said = [(setting, _ORIGINS.get(origin, origin))]
    said += [(environ.get(name), name) for name in RAY_VARIABLES]
    for text, source in said:
        if text and text.strip():
            return None if text.strip() == OWN_RAY else Address(_dashboard(text.strip(), source, environ), source)
    return _running_here(environ) if look_here else None


@contextmanager
def without_ray_variables() -> Iterator[None]:
    """Take Ray's address variables away: inside its client they silently override the address it is given."""
    held = {name: os.environ.pop(name) for name in RAY_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def is_this_machine(host: str) -> bool:
    """Whether an IP address is one of this machine's own."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True


def _dashboard(text: str, source: str, environ: Mapping[str, str]) -> str:
    scheme, mark, _ = text.partition("://")
    if mark and scheme.lower() in ("http", "https"):
        return _checked(text, source)
    if scheme.lower() == "ray":
        raise _refused(source, text, f"ray:// is the port of Ray's client: {_advice(urlsplit(text))}")
    if mark:
        raise _refused(source, text, _advice(urlsplit(text)))
    if text == "auto":
        running = _running_here(environ)
        if running is None:
            raise _refused(source, text, "no Ray of yours with a dashboard runs on this machine: give http://HEAD:8265")
        return running.url
    return _of_ray_address(text, source)


def _checked(text: str, source: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise _refused(source, "", "the host or port is not one: give http://HEAD:8265") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        advice = "give http://HEAD:8265 and put the token into RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        raise UsageError(f"the address from {source} carries credentials", advice=advice)
    if not parts.hostname or port == 0 or parts.query or parts.fragment or any(map(str.isspace, text)):
        raise _refused(source, "", "give http://HEAD:8265")
    return f"{parts.scheme.lower()}://{parts.netloc}{parts.path}".rstrip("/")


def _of_ray_address(text: str, source: str) -> str:
    """Return the dashboard behind ``host:port``, which may be its own port or that of Ray's control service."""
    if ":" not in text or "@" in text or "/" in text:
        raise _refused(source, "" if "@" in text else text, "give http://HEAD:8265")
    host = text.rpartition(":")[0].strip("[]")
    url = _checked(f"http://{text}", source)
    if _answers(url):
        return url
    found = _looked_up(text)
    if found is None or (_is_loopback(urlsplit(found).hostname or "") and not _is_loopback(host)):
        raise _refused(source, text, "the URL of its dashboard could not be found: give http://HEAD:8265")
    return found


def _running_here(environ: Mapping[str, str]) -> Address | None:
    """Return the cluster that Ray noted on this machine, if it is this user's and its dashboard answers now."""
    folder = next((environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if environ.get(name)), "/tmp")  # noqa: S108
    note = Path(folder, "ray", "ray_current_cluster")
    try:
        # Anybody may write such a note, and our token goes where it leads.
        if note.stat().st_uid != os.geteuid():
            return None
        url = _looked_up(note.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return None
    return Address(url, "the Ray running on this machine") if url and _answers(url) else None


def _looked_up(ray_address: str) -> str | None:
    """Ask Ray's control service for the URL of its dashboard."""
    host, _, port = ray_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
        environment = {name: value for name, value in os.environ.items() if name not in RAY_VARIABLES}
        command = [sys.executable, "-c", _LOOKUP, ray_address]
        found = subprocess.run(command, capture_output=True, text=True, timeout=_LOOKUP_S, env=environment)  # noqa: S603
    except (OSError, ValueError, OverflowError, subprocess.TimeoutExpired):
        return None
    lines = found.stdout.split()
    return lines[-1] if found.returncode == 0 and lines and lines[-1].startswith("http://") else None


def _answers(url: str) -> bool:
    """Whether a dashboard answers within a second; one that wants a token does so too."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=_ANSWER_S):  # noqa: S310  always http or https
            return True
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _canonical(url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    return (
        parts.scheme.lower(),
        "127.0.0.1" if host in ("localhost", "::1") else host,
        parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower()),
        parts.path.rstrip("/"),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _advice(parts: SplitResult) -> str:
    host = parts.hostname or "HEAD"
    return f"give the dashboard's, http://{f'[{host}]' if ':' in host else host}:8265"


def _refused(source: str, text: str, advice: str) -> UsageError:
    found = "" if "@" in text else text
    return UsageError(f"the address from {source} is not that of a cluster's dashboard", found=found, advice=advice)
