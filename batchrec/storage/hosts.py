"""Hosts that images may be read from over HTTP: how they are written, and which addresses a name may lead to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote

from batchrec.errors import UsageError

MAX_TARGET = 8192
PORTS = {"http": 80, "https": 443}
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:@/\\?#%\s]{1,254})(?::([0-9]{1,5}))?")
NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
# What a resolver takes for a number of an address: 2130706433, 0x7f.1, 0177.0.0.1.
NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
# Beside what `ipaddress` knows to be private; some of it only in later versions of Python.
NOT_PUBLIC_4 = (
    IPv4Network("100.64.0.0/10"),  # shared by carriers and clouds; metadata of one of them
    IPv4Network("168.63.129.16/32"),  # Azure's host
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),  # relays of 6to4
)
PUBLIC_6 = IPv6Network("2000::/3")
NOT_PUBLIC_6 = (
    IPv6Network("2001::/23"),  # tunnels and trials
    IPv6Network("2001:db8::/32"),
    IPv6Network("2002::/16"),  # 6to4: an IPv4 address inside
    IPv6Network("3fff::/20"),
)
NAT64 = IPv6Network("64:ff9b::/96")
# Nobody's images lie there, so not even the command line opens them.
NEVER = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("100.100.100.200/32"),
    IPv4Network("168.63.129.16/32"),
    IPv4Network("192.0.0.192/32"),
    IPv4Network("224.0.0.0/3"),
)
NEVER_6 = (
    IPv6Network("::/128"),
    IPv6Network("fe80::/10"),
    IPv6Network("fd00:ec2::254/128"),
    IPv6Network("fd20:ce::254/128"),
    IPv6Network("ff00::/8"),
)


@dataclass(frozen=True, slots=True)
class Host:
    """A host the command line allowed.

    Attributes:
        name: Lower case, or an address as it is commonly written.
        port: The only one allowed; None for 443 with https and 80 with http.
        is_address: Whether the name is an address, which is then connected to as it is.
    """

    name: str
    port: int | None
    is_address: bool


@dataclass(frozen=True, slots=True)
class HttpObject:
    """What an ``http`` or ``https`` URI names; not looked up yet.

    Attributes:
        scheme: ``http`` or ``https``.
        host: As in :class:`Host`.
        port: Never None.
        is_address: As in :class:`Host`.
        target: Path and query, as they are sent.
    """

    scheme: str
    host: str
    port: int
    is_address: bool
    target: str

    @property
    def place(self) -> str:
        """Host, and port where it is not the scheme's own: what ``--allow-http`` takes."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == PORTS[self.scheme] else f"{name}:{self.port}"


def parse_hosts(texts: Sequence[str]) -> tuple[Host, ...]:
    """Return the hosts that ``--allow-http`` names.

    Raises:
        UsageError: One is no host, or one that is never read from; all are listed.
    """
    hosts, faults = [], []
    for text in texts:
        try:
            hosts.append(_allowed(text))
        except ValueError as error:
            faults.append(f"{text[:80]!r}: {error}" if "@" not in text else str(error))
    if faults:
        raise UsageError(
            "--allow-http is not valid: " + "; ".join(faults),
            advice="write HOST, HOST:PORT, 192.0.2.7:8080 or [ADDRESS]",
        )
    return tuple(hosts)


def _allowed(text: str) -> Host:
    host, is_address, port = _authority(text)
    if is_address and _is_within(ip_address(host), (*NEVER, *NEVER_6)):
        raise ValueError("a link-local, metadata or group address is never read from")
    return Host(host, port, is_address)


def parse_http(scheme: str, rest: str) -> HttpObject:
    """Return what a URI names, from its scheme and what follows ``://``.

    Raises:
        ValueError: It is none; the message does not repeat it.
    """
    authority, tail = _split(rest.partition("#")[0])
    host, is_address, port = _authority(authority)
    # What is escaped stays so; what no request line may hold is escaped now.
    target = quote(tail if tail.startswith("/") else f"/{tail}", safe="/?%:@!$&'()*+,;=~[]|")
    if len(target) > MAX_TARGET:
        raise ValueError(f"a URL over {MAX_TARGET} characters")
    return HttpObject(scheme, host, port or PORTS[scheme], is_address, target)


def _split(rest: str) -> tuple[str, str]:
    end = next((at for at, letter in enumerate(rest) if letter in "/?"), len(rest))
    return rest[:end], rest[end:]


def _authority(text: str) -> tuple[str, bool, int | None]:
    if "@" in text:
        raise ValueError("credentials in the URI")
    match = AUTHORITY.fullmatch(text)
    if match is None:
        raise ValueError("no valid host: write HOST or HOST:PORT")
    port = int(match[2]) if match[2] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError("no valid port")
    return *_host(match[1]), port


def _host(text: str) -> tuple[str, bool]:
    text = text.lower().removesuffix(".")
    try:
        address = ip_address(text[1:-1] if text.startswith("[") else text)
    except ValueError:
        address = None
    if address is not None and text.startswith("[") == (address.version == 6):
        return str(address), True
    if not NAME.fullmatch(text):
        raise ValueError("no valid host name: write it in ASCII letters, xn--... where it has others")
    if NUMBER.fullmatch(text):
        raise ValueError("an address in another form than 192.0.2.7")
    return text, False


def admits(hosts: Sequence[Host], place: HttpObject) -> bool:
    """Return whether a host and port were allowed by name."""
    default = place.port == PORTS[place.scheme]
    return any(
        host.name == place.host and (host.port == place.port or (host.port is None and default)) for host in hosts
    )


def is_public(text: str) -> bool:
    """Return whether an address is one of the public Internet, in whatever dress an IPv4 address comes.

    Args:
        text: An address, as a resolver gives it.
    """
    address = ip_address(text.partition("%")[0])
    if isinstance(address, IPv4Address):
        private = not address.is_global or address.is_multicast or address.is_reserved
        return not private and not _is_within(address, NOT_PUBLIC_4)
    if address in NAT64:
        return is_public(str(IPv4Address(int(address) & 0xFFFFFFFF)))
    return address in PUBLIC_6 and address.is_global and not _is_within(address, NOT_PUBLIC_6)


def _is_within(address: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return _is_within(address.ipv4_mapped, networks)
    return any(address in network for network in networks)
