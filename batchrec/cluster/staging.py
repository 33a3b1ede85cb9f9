"""What lies on the submitter's disk on its way to a cluster: put beside the output once, or refused with the reason.

Nothing of it travels in the job's working directory. With a filesystem the cluster shares, nothing travels at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from batchrec.engine.absolute import absolute_spec, is_local_model
from batchrec.errors import ManifestError, ModelError, OutputError, UsageError
from batchrec.manifest.definition import Manifest, ManifestFile
from batchrec.manifest.reading import RowReader, open_manifest
from batchrec.models.bundle import ModelSpec
from batchrec.models.carrying import staged_key
from batchrec.models.zoo import resolve_model
from batchrec.records import Shard
from batchrec.redacting import shown
from batchrec.spec import JobSpec
from batchrec.storage import KeyMissing, Store, create_or_compare
from batchrec.storage.policy import SCHEME
from batchrec.storage.publishing import is_s3
from batchrec.storage.uploading import upload_file

NUM_ROWS_LOOKED_AT = 1_000
# Up to here one conditional put; beyond it pieces, which S3 puts together without a condition.
MAX_SINGLE_BYTES = 8 * 2**20
_SHARED = "say --shared-filesystem if every node sees this path"


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file of this disk and where it goes; the key names its content."""

    path: Path
    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Staging:
    """A job as the cluster will read it, before anything was written.

    Attributes:
        spec: With staged or absolute paths.
        model: A model of this disk, resolved; None where the cluster resolves it.
        files: What has to be put beside the output.
    """

    spec: JobSpec
    model: ModelSpec | None
    files: tuple[StagedFile, ...]


def prepare_staging(spec: JobSpec, *, shared: bool) -> Staging:
    """Say what a cluster needs of this disk. Writes nothing.

    Args:
        spec: The job as the user wrote it.
        shared: Whether every node of the cluster sees this machine's paths.

    Raises:
        OutputError: The output lies on this disk and the cluster cannot reach it.
        ManifestError: The manifest cannot be used, or names images the cluster cannot reach.
        ModelError: The model cannot be used.
    """
    if shared:
        return Staging(absolute_spec(spec), None, ())
    if not is_s3(spec.output):
        raise OutputError(
            "the output folder is on this machine's disk, which the cluster cannot reach",
            found=spec.output,
            advice=f"use an s3:// folder, or {_SHARED}",
        )
    if spec.input_roots:
        raise ManifestError(
            "an --input-root is a folder of this machine, which the cluster cannot reach",
            found=spec.input_roots[0],
            advice=f"name the images by s3:// URIs, or {_SHARED}",
        )
    model, files = _staged_model(spec)
    spec = spec if model is None else spec.replace(labels=None)
    if all(map(is_s3, spec.source)):
        return Staging(spec, model, files)
    manifest = open_manifest(spec)
    _refuse_local_images(manifest, spec)
    staged = _staged_manifest(manifest)
    source = tuple(f"{spec.output.rstrip('/')}/{file.key}" for file in staged)
    return Staging(spec.replace(source=source, manifest_root=manifest.root), model, staged + files)


def stage(staging: Staging, store: Store, say: Callable[[str], None] = lambda _: None) -> None:
    """Put what the cluster needs beside the output, unless it stands there.

    Raises:
        ManifestError: A file changed since it was looked at.
        AccessError: These credentials may not write there.
        StorageLost: The store went away or is full.
    """
    for file in staging.files:
        try:
            if store.info(file.key).size == file.size:
                continue
        except KeyMissing:
            pass
        say(f"staging {shown(file.path.name)}, {file.size / 2**20:,.1f} MiB")
        try:
            _put(file, store, staging.spec)
        except OSError as error:
            raise ManifestError(f"{file.path} cannot be read", found=error.strerror or "") from error


def _put(file: StagedFile, store: Store, spec: JobSpec) -> None:
    if file.size <= MAX_SINGLE_BYTES:
        _create(file, store)
    else:
        _upload(file, store, spec)


def _create(file: StagedFile, store: Store) -> None:
    data = file.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise _changed(file)
    create_or_compare(store, file.key, data, same=lambda found: found == data)


def _upload(file: StagedFile, store: Store, spec: JobSpec) -> None:
    before = file.path.stat()
    if _sha256(file.path) != file.sha256:
        raise _changed(file)
    upload_file(store.url, file.key, file.path, spec.store)
    after = file.path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        store.delete(file.key)  # its name says what it is not
        raise _changed(file)


def _changed(file: StagedFile) -> ManifestError:
    return ManifestError(f"{file.path} changed while it was being staged", advice="run again when nobody writes to it")


def _staged_model(spec: JobSpec) -> tuple[ModelSpec | None, tuple[StagedFile, ...]]:
    if not is_local_model(spec.model) and spec.labels is None:
        return None, ()
    model = resolve_model(spec.model, labels=spec.labels)
    path = Path(model.weights_path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError("a file of the model cannot be read", found=str(error)) from error
    return model, (StagedFile(path, staged_key(model), size, model.weights_sha256),)


def _staged_manifest(manifest: Manifest) -> tuple[StagedFile, ...]:
    digests = [_sha256(Path(file.uri)) for file in manifest.files]
    if len(digests) == 1:
        folder = digests[0]
    else:
        names = [[file.name, digest] for file, digest in zip(manifest.files, digests, strict=True)]
        folder = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    pairs = zip(manifest.files, digests, strict=True)
    return tuple(StagedFile(Path(file.uri), _key(folder, file), file.size, digest) for file, digest in pairs)


def _key(folder: str, file: ManifestFile) -> str:
    if not file.name.isprintable():
        raise UsageError("a manifest file has a name that no bucket takes", found=shown(file.name), advice="rename it")
    return f"_batchrec/staged/{folder}/{file.name}"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ManifestError(f"{path} cannot be read", found=error.strerror or "") from error


def _refuse_local_images(manifest: Manifest, spec: JobSpec) -> None:
    """Look at the first rows, so that the common mistake costs seconds and not a cluster's hour."""
    if manifest.columns.images:
        return  # they are in the manifest, which is staged
    with RowReader(manifest, spec.store) as reader:
        num_rows = min(NUM_ROWS_LOOKED_AT, manifest.files[0].num_rows)
        uris = reader.read(Shard(0, 0, 0, num_rows, 0)).uris if num_rows else []
    if (found := _first_local(uris)) is not None:
        raise ManifestError(
            "the manifest names images on this machine's disk, which the cluster cannot read",
            found=f"row {found[0]}: {shown(found[1])[:120]}",
            advice=f"name them by s3:// URIs, put the manifest beside them in the bucket, or {_SHARED}",
        )


def _first_local(uris: Iterable[str | None]) -> tuple[int, str] | None:
    for row, uri in enumerate(uris):
        if uri and not uri.isspace():
            scheme = SCHEME.match(uri)
            if scheme is None or scheme[1].lower() == "file" or not scheme[2]:
                return row, uri
    return None
