"""Which images a job may read: manifests come from strangers."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from batchrec.errors import ErrorCode, ImageError
from batchrec.redacting import redact
from batchrec.storage.hosts import Host, HttpObject, admits, is_public, parse_hosts, parse_http
from batchrec.storage.places import HEADER_BYTES, MEMBER, LocalFile, Place, S3Object, TarMember, may_name_member
from batchrec.storage.publishing import S3_SCHEMES, is_s3, local_path

MAX_PATH_BYTES = 4095
MAX_KEY_BYTES = 1024
MAX_DETAIL = 300
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,63}):(//)?")
CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::|.*::[A-Za-z][A-Za-z0-9+.-]*:")
WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
# With these, one colon makes a URI; any other name before a single colon may be part of a file's name.
BARE_SCHEMES = {
    "data",
    "file",
    "http",
    "https",
    "ftp",
    "javascript",
    "blob",
    "about",
    "mailto",
    "urn",
    "arn",
    *S3_SCHEMES,
}


@dataclass(frozen=True, slots=True)
class UriPolicy:
    """What the URIs of one manifest may name.

    Attributes:
        manifest_root: The folder, or ``s3://bucket/prefix``, the manifest lies in; relative URIs start there.
        input_roots: More local folders.
        allow_buckets: More buckets.
        allow_http: Hosts, or ``HOST:PORT``, images may be fetched from.

    Raises:
        UsageError: ``allow_http`` names what is no host.
    """

    manifest_root: str
    input_roots: tuple[str, ...] = ()
    allow_buckets: tuple[str, ...] = ()
    allow_http: tuple[str, ...] = ()
    _bucket: str | None = field(init=False, repr=False, compare=False)
    _prefix: str = field(init=False, repr=False, compare=False)
    _roots: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _spellings: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)
    _hosts: tuple[Host, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bucket, prefix = None, ""
        folders = [os.path.abspath(local_path(root)) for root in self.input_roots]  # noqa: PTH100 - keeps links
        if is_s3(self.manifest_root):
            bucket, _, prefix = self.manifest_root.partition("://")[2].partition("/")
        else:
            folders.insert(0, os.path.abspath(local_path(self.manifest_root)))  # noqa: PTH100
        object.__setattr__(self, "_bucket", bucket)
        object.__setattr__(self, "_prefix", prefix.strip("/"))
        object.__setattr__(self, "_roots", tuple(folders))
        # An absolute URI may spell a root's true path where the root was named through a link.
        spellings = [(f"{spelt.rstrip('/')}/", root) for root in folders for spelt in (root, os.path.realpath(root))]
        object.__setattr__(self, "_spellings", tuple(spellings))
        object.__setattr__(self, "_hosts", parse_hosts(self.allow_http))

    @property
    def roots(self) -> tuple[str, ...]:
        """The local folders images may lie in; the manifest's own comes first where it is local."""
        return self._roots

    @property
    def buckets(self) -> tuple[str, ...]:
        """The buckets images may lie in; the manifest's own comes first where it is remote."""
        named = (self._bucket, *self.allow_buckets)
        return tuple(bucket for bucket in named if bucket and BUCKET_NAME.fullmatch(bucket))

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts images may be fetched from."""
        return self._hosts

    @property
    def is_remote(self) -> bool:
        """Whether relative URIs lie in a bucket."""
        return self._bucket is not None

    def resolve(self, uri: str | None) -> Place:
        """Return what a URI names. Touches neither disk nor network.

        Raises:
            ImageError: ``uri_missing``, ``uri_invalid`` or ``uri_refused``; the detail never repeats the URI.
        """
        if uri is None or uri == "" or (isinstance(uri, str) and uri.isspace()):
            raise ImageError(ErrorCode.URI_MISSING)
        _check_text(uri)
        if may_name_member(uri) and (member := MEMBER.fullmatch(uri)) is not None:
            return self._resolve_member(*member.groups())
        return self._resolve_whole(uri)

    def _resolve_whole(self, uri: str) -> LocalFile | S3Object | HttpObject:
        scheme = SCHEME.match(uri)
        if scheme is not None and (scheme.group(2) or scheme.group(1).lower() in BARE_SCHEMES):
            return self._resolve_scheme(scheme.group(1).lower(), uri[scheme.end() :], authority=bool(scheme.group(2)))
        if CHAIN.match(uri):
            raise _refused("'::' chains are not followed: name the object itself")
        if WINDOWS.match(uri):
            raise _invalid("a Windows path: write it with '/' and relative to the manifest")
        if uri.startswith("/"):
            return self._resolve_absolute(uri)
        return self._resolve_relative(uri)

    def _resolve_member(self, archive: str, offset: str, size: str, crc: str) -> TarMember:
        if int(offset) < HEADER_BYTES:
            raise _invalid("a member of an archive that begins before its header")
        place = self._resolve_whole(archive)
        if isinstance(place, HttpObject):
            raise _refused("members of archives are read from disks and buckets only")
        return TarMember(place, int(offset), int(size), int(crc, 16))

    def _resolve_scheme(self, scheme: str, rest: str, *, authority: bool) -> LocalFile | S3Object | HttpObject:
        if scheme in ("http", "https") and authority:
            return self._resolve_http(scheme, rest)
        if "::" in rest and CHAIN.match(rest):
            raise _refused("'::' chains are not followed: name the object itself")
        if scheme in S3_SCHEMES and authority:
            return self._resolve_s3(rest)
        if scheme == "file":
            return self._resolve_absolute(_file_path(rest, authority=authority))
        raise _refused(f"scheme {scheme[:20]!r} is not read: use a path, file:// or s3://")

    def _resolve_s3(self, rest: str) -> S3Object:
        bucket, _, key = rest.partition("/")
        if "@" in bucket or ":" in bucket:
            raise _invalid("credentials or a port in an s3 URI: write s3://BUCKET/KEY")
        if not BUCKET_NAME.fullmatch(bucket):
            raise _invalid("no valid bucket name: write s3://BUCKET/KEY")
        if bucket != self._bucket and bucket not in self.allow_buckets:
            raise _refused(f"another bucket than the manifest's: allow it with --allow-bucket {bucket[:128]}")
        return _s3_object(bucket, key)

    def _resolve_http(self, scheme: str, rest: str) -> HttpObject:
        try:
            place = parse_http(scheme, rest)
        except ValueError as error:
            raise (
                _invalid(str(error))
                if self._hosts
                else _refused(f"{scheme} is read from hosts named with --allow-http only")
            ) from None
        if CHAIN.match(place.target):
            raise _refused("'::' chains are not followed: name the object itself")
        if admits(self._hosts, place):
            return place
        if place.is_address and not is_public(place.host):
            raise _refused("an address of a private network, which --allow-http does not name")
        raise _refused(f"a host that is not allowed: allow it with --allow-http {_short(place.place)}")

    def _resolve_absolute(self, path: str) -> LocalFile:
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise _invalid(f"a path over {MAX_PATH_BYTES} bytes")
        has_secret = redact(path) != path  # a URL without its scheme
        path = "/" + posixpath.normpath(path).lstrip("/")
        for beginning, root in self._spellings:
            if path.startswith(beginning) and path != beginning:
                return LocalFile(root, path[len(beginning) :])
        folder = "DIR" if has_secret else _short(posixpath.dirname(path))
        raise _refused(f"an absolute path outside the manifest's folder: allow it with --input-root {folder}")

    def _resolve_relative(self, path: str) -> LocalFile | S3Object:
        if self._bucket is not None:
            return self._resolve_relative_key(path)
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise _invalid(f"a path over {MAX_PATH_BYTES} bytes")
        path = posixpath.normpath(path)
        if path == ".." or path.startswith("../"):
            raise _refused(
                "it leads out of the manifest's folder: write the full path and allow it with --input-root DIR"
            )
        if path == ".":
            raise _invalid("it names the manifest's folder itself")
        return LocalFile(self._roots[0], path)

    def _resolve_relative_key(self, path: str) -> S3Object:
        assert self._bucket is not None
        if "//" in path or path.endswith("/"):
            raise _invalid("a key with an empty part, which the S3 client cannot ask for")
        key = posixpath.normpath(path)
        if key == ".." or key.startswith("../"):
            raise _refused(
                "it leads out of the manifest's folder: write s3://BUCKET/KEY (--allow-bucket for another one)"
            )
        return _s3_object(self._bucket, f"{self._prefix}/{key}" if self._prefix else key)


def _check_text(uri: str) -> None:
    if not isinstance(uri, str):
        raise _invalid("not a text")
    if CONTROL.search(uri):
        raise _invalid("a NUL, newline or other control character")
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise _invalid("not valid Unicode") from None


def _file_path(rest: str, *, authority: bool) -> str:
    host, slash, path = rest.partition("/") if authority else ("", "/", rest.removeprefix("/"))
    if host.lower() not in ("", "localhost"):
        raise _refused("a file:// URI of another host: write file:///PATH and allow it with --input-root DIR")
    try:
        text = unquote_to_bytes(slash + path).decode()
    except UnicodeDecodeError:
        raise _invalid("percent signs that do not spell UTF-8") from None
    if not slash or CONTROL.search(text):
        raise _invalid("no path, or one with control characters")
    return text


def _s3_object(bucket: str, key: str) -> S3Object:
    if len(key.encode()) > MAX_KEY_BYTES:
        raise _invalid(f"a key over {MAX_KEY_BYTES} bytes")
    if not key:
        raise _invalid("no key: write s3://BUCKET/KEY")
    if {"", ".", ".."} & set(key.split("/")):
        raise _invalid("a key with an empty, '.' or '..' part, which the S3 client cannot ask for")
    return S3Object(bucket, key)


def _short(text: str, limit: int = 150) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _invalid(detail: str) -> ImageError:
    return ImageError(ErrorCode.URI_INVALID, detail[:MAX_DETAIL])


def _refused(detail: str) -> ImageError:
    return ImageError(ErrorCode.URI_REFUSED, detail[:MAX_DETAIL])
