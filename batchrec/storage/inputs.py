"""Finding and opening the files of a manifest, or the archives one is made from."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from batchrec.errors import AccessError, BatchrecError, ManifestError, StorageLost
from batchrec.spec import StoreOptions
from batchrec.storage.local_store import DENIED, open_regular
from batchrec.storage.publishing import is_s3, local_path
from batchrec.storage.s3_client import split_url
from batchrec.storage.s3_store import S3Store
from batchrec.storage.store import KeyMissing

MAGIC = re.compile(r"[*?\[]")
# What a job writes into its output folder; a manifest folder may hold one.
OUTPUT_MARK = re.compile(r"(.*?)(?:^|(?<=/))_batchrec/")

_KINDS = {".parquet": "manifest", ".tar": "archive"}


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of a manifest.

    Attributes:
        uri: A plain absolute path, or ``s3://bucket/key``; nothing in it is escaped.
        size: Its length in bytes.
    """

    uri: str
    size: int


def list_inputs(source: str, options: StoreOptions, suffix: str = ".parquet") -> list[InputFile]:
    """List the files a source names: one file, those with a suffix in a folder at any depth, or a glob; sorted.

    Inside folders, names beginning with ``.`` or ``_`` and the outputs of earlier jobs are passed over.

    Raises:
        ManifestError: Nothing matches.
        AccessError: It may not be read.
        StorageLost: The store does not answer.
    """
    try:
        found = _list_s3(source, options, suffix) if is_s3(source) else _list_local(local_path(source), suffix)
    except OSError as error:
        raise _meaning(error, source, suffix) from error
    if not found:
        looked = "files matching it" if MAGIC.search(source) else f"a file of that name, or *{suffix} below it"
        advice = "check the path, and the working folder"
        raise ManifestError(f"no {_KINDS[suffix]} at {source}", found=f"looked for {looked}", advice=advice)
    return sorted(found, key=lambda file: file.uri)


def open_input(uri: str, options: StoreOptions) -> BinaryIO:
    """Open a file of a manifest as a seekable reader; on S3 it fetches ranges of one version.

    Raises:
        ManifestError: It is not there, or is no regular file.
        AccessError: It may not be read.
        StorageLost: The store does not answer.
    """
    if not is_s3(uri):
        try:
            return open_regular(local_path(uri))
        except OSError as error:
            raise _meaning(error, uri) from error
    bucket, key = _bucket_and_key(uri)
    try:
        return S3Store(f"s3://{bucket}", options).open(key)
    except KeyMissing:
        raise ManifestError(f"no manifest at {uri}", advice="check the path") from None


def _meaning(error: OSError, source: str, suffix: str = ".parquet") -> BatchrecError:
    if error.errno in DENIED:
        return AccessError(f"{source} may not be read", found=str(error.strerror), advice="grant this user read access")
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or "regular" in str(error):
        advice = f"name a {suffix} file"
        return ManifestError(f"no {_KINDS[suffix]} at {source}", found=str(error.strerror), advice=advice)
    return StorageLost(
        f"{source} cannot be read", found=str(error.strerror), advice="check the disk, then run it again"
    )


def _list_local(path: str, suffix: str) -> list[InputFile]:
    path = os.path.abspath(path)  # noqa: PTH100 - keeps links, which may be how the user knows the place
    if Path(path).is_dir():
        return list(_local_folder(path, suffix))
    if os.path.lexists(path):
        open_regular(path).close()
        return [InputFile(path, Path(path).stat().st_size)]
    found: set[InputFile] = set()
    for match in glob.glob(path, recursive=True):  # noqa: PTH207 - the pattern is absolute
        if Path(match).is_dir():
            found.update(_local_folder(match, suffix))
        elif not _is_output(match):
            found.add(InputFile(match, Path(match).stat().st_size))
    return list(found)


def _local_folder(folder: str, suffix: str) -> Iterator[InputFile]:
    def stop(error: OSError) -> None:
        raise error

    for here, below, names in os.walk(folder, onerror=stop, followlinks=True):
        below[:] = [name for name in below if _is_open_name(name) and not _is_closed(f"{here}/{name}")]
        for name in names:
            path = Path(here, name)
            facts = path.stat() if name.endswith(suffix) and _is_open_name(name) else None
            if facts is not None and stat.S_ISREG(facts.st_mode):
                yield InputFile(str(path), facts.st_size)


def _is_open_name(name: str) -> bool:
    return not name.startswith((".", "_"))


def _is_closed(folder: str) -> bool:
    goes_round = Path(folder).is_symlink() and f"{Path(folder).absolute()}/".startswith(f"{os.path.realpath(folder)}/")
    return goes_round or _is_output(f"{folder}/")


def _is_output(path: str) -> bool:
    parts = path.split("/")
    return any(
        part in ("predictions", "errors", "_batchrec") and Path("/".join(parts[:depth]), "_batchrec").is_dir()
        for depth, part in enumerate(parts)
    )


def _list_s3(source: str, options: StoreOptions, suffix: str) -> list[InputFile]:
    bucket, key = _bucket_and_key(source)
    store = S3Store(f"s3://{bucket}", options)
    if key and not source.endswith("/"):
        try:
            return [InputFile(f"s3://{bucket}/{key}", store.info(key).size)]
        except KeyMissing:
            pass
    magic = MAGIC.search(key)
    prefix = key[: magic.start()] if magic else f"{key}/" if key else ""
    wanted = _glob_pattern(key) if magic else None
    files, outputs = {}, set()
    for info in store.scan(prefix):
        if (mark := OUTPUT_MARK.match(info.key)) is not None:
            outputs.add(mark.group(1))
        elif wanted.fullmatch(info.key) if wanted else _is_open(info.key[len(prefix) :], suffix):
            files[info.key] = info.size
    kept = _without_outputs(files, outputs)
    return [InputFile(f"s3://{bucket}/{key}", files[key]) for key in kept]


def _is_open(below: str, suffix: str) -> bool:
    return below.endswith(suffix) and all(_is_open_name(part) for part in below.split("/"))


def _without_outputs(keys: Iterable[str], outputs: set[str]) -> list[str]:
    refused = tuple(root + folder for root in outputs for folder in ("predictions/", "errors/"))
    return [key for key in keys if not key.startswith(refused)]


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, key = split_url(uri)
    if key and {"", ".", ".."} & set(key.split("/")):
        raise ManifestError(f"no manifest at {uri}", found="an empty, '.' or '..' part in the key", advice="correct it")
    return bucket, key


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    """Translate a glob: ``**/`` spans folders, ``*`` and ``?`` stay within one."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    spelt = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(spelt.get(part) or _literal_or_set(part) for part in parts), re.DOTALL)


def _literal_or_set(part: str) -> str:
    if len(part) > 2 and part.startswith("[") and part.endswith("]"):
        inner = part[1:-1].replace("\\", "\\\\")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(part)
