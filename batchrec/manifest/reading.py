"""From what the user named to a Manifest, reading footers only."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath

from batchrec.errors import ManifestError
from batchrec.manifest.columns import check_same_columns, choose_columns
from batchrec.manifest.definition import Columns, Manifest, ManifestFile
from batchrec.manifest.footers import Footer, load_footer
from batchrec.manifest.rows import RowReader, Rows
from batchrec.spec import JobSpec
from batchrec.storage.publishing import is_s3, local_path
from batchrec.storage.reading import InputFile, list_inputs

__all__ = ["Columns", "Manifest", "ManifestFile", "RowReader", "Rows", "open_manifest"]

_FOOTER_THREADS = 16
_GLOB = frozenset("*?[")
# Where a submitter puts copies of local manifests for a cluster: what lies below keeps its names.
_STAGED = re.compile(r"(.*/_batchrec/staged/[0-9a-f]{64})/")


def open_manifest(spec: JobSpec) -> Manifest:
    """Open the manifest of a job: list its files, read their footers, choose and check its columns.

    Raises:
        ManifestError: There is nothing, it is not Parquet, it has no rows, or a column does not fit.
        AccessError: A file may not be read.
        StorageLost: The store does not answer.
    """
    files, root = _inputs(spec)
    footers = _footers(files, spec)
    first = footers[0]
    columns = choose_columns(
        first.schema, uri_column=spec.uri_column, id_column=spec.id_column, passthrough=spec.passthrough
    )
    names = [_name(file.uri, root) for file in files]
    for name, footer in zip(names[1:], footers[1:], strict=True):
        check_same_columns(columns, first.schema, names[0], footer.schema, name)
    listed = tuple(_manifest_file(*each) for each in zip(files, names, footers, strict=True))
    manifest = Manifest(files=listed, root=spec.manifest_root or root, columns=columns)
    if not manifest.num_rows:
        found = f"{len(files)} file{'s' if len(files) > 1 else ''} with 0 rows"
        raise ManifestError(f"the manifest {_sources(spec)} has no rows", found=found, advice="list at least one image")
    return manifest


def _sources(spec: JobSpec) -> str:
    return ", ".join(spec.source)


def _manifest_file(file: InputFile, name: str, footer: Footer) -> ManifestFile:
    return ManifestFile(
        uri=file.uri, name=name, size=footer.size, num_rows=footer.num_rows, footer_sha256=footer.sha256
    )


def _inputs(spec: JobSpec) -> tuple[list[InputFile], str]:
    """List the files of all sources, in order, and the one folder they start from."""
    files: list[InputFile] = []
    roots: dict[str, str] = {}
    for source in spec.source:
        found = list_inputs(source, spec.store)
        if not found:
            advice = "give a Parquet file, a folder of them, or a quoted glob"
            raise ManifestError(f"no manifest at {source}", found="no Parquet file", advice=advice)
        files += found
        roots.setdefault(_root(source, found), source)
    _check_each_once(files)
    if len(roots) > 1:
        raise ManifestError(
            "the manifest's files start from different folders, so relative image URIs have no one meaning",
            found=", ".join(roots),
            advice="give the folder they share or one quoted glob, or run them as separate jobs",
        )
    return files, next(iter(roots))


def _check_each_once(files: list[InputFile]) -> None:
    seen: set[str] = set()
    for file in files:
        if file.uri in seen:
            raise ManifestError("a manifest file is named twice", found=file.uri, advice="name each file once")
        seen.add(file.uri)


def _root(source: str, files: list[InputFile]) -> str:
    """Return the folder a source's relative names start from: its own, or a glob's fixed part."""
    here = _absolute(source)
    if (staged := _STAGED.match(here)) is not None:
        return staged[1]
    if len(files) == 1 and _absolute(files[0].uri) == here:
        return here.rpartition("/")[0] or "/"
    if not _GLOB & set(source):
        return here
    if all(_absolute(file.uri).startswith(f"{here}/") for file in files):
        return here  # a folder whose own name holds a bracket
    fixed = here[: min(here.index(character) for character in _GLOB & set(here))]
    return fixed.rpartition("/")[0] or "/"


def _absolute(uri: str) -> str:
    if is_s3(uri):
        return uri.rstrip("/")
    return os.path.abspath(local_path(uri))  # noqa: PTH100 - lexical on purpose: a link is followed when it is read


def _name(uri: str, root: str) -> str:
    path = _absolute(uri)
    inside = path.removeprefix(root.rstrip("/") + "/")
    return inside if inside != path else PurePosixPath(path).name


def _footers(files: list[InputFile], spec: JobSpec) -> list[Footer]:
    load = partial(load_footer, options=spec.store)
    with ThreadPoolExecutor(max_workers=min(_FOOTER_THREADS, len(files)), thread_name_prefix="footer") as threads:
        return list(threads.map(load, [file.uri for file in files]))
