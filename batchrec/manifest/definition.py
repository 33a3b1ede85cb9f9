"""What a manifest is, once opened: frozen values small enough to send to every worker."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One Parquet file of a manifest.

    Attributes:
        uri: Where it is read from.
        name: Path relative to the manifest's root; part of the job's identity.
        size: Bytes.
        num_rows: Rows according to its footer.
        footer_sha256: Hex digest of the raw Parquet footer.
    """

    uri: str
    name: str
    size: int
    num_rows: int
    footer_sha256: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the manifest are used, and for what.

    Attributes:
        uri: The column of image URIs; two for the bucket and key of an S3 Inventory.
        id: The column of image ids; the row's position is the id when None.
        passthrough: Columns carried into the predictions.
        schema: The pass-through columns as carried (dictionaries decoded), in order, then the
            id column as string unless it is carried too.
        images: The parts of the URI column where it holds the images themselves: their bytes and, in a struct, the
            path; empty where it holds URIs.
        unfit_id: The column that would give the ids by its name but cannot by its type, and that type; None
            where there is none, or ids come from another.
    """

    uri: tuple[str, ...]
    id: str | None
    passthrough: tuple[str, ...]
    schema: pa.Schema
    unfit_id: tuple[str, str] | None = None
    images: tuple[str, ...] = ()

    @property
    def passthrough_schema(self) -> pa.Schema:
        """The pass-through columns alone, as carried."""
        return pa.schema([self.schema.field(name) for name in self.passthrough])

    @property
    def read(self) -> tuple[str, ...]:
        """Every column a worker has to read, each once."""
        return self._with_others(self.uri)

    @property
    def read_with_rows(self) -> tuple[str, ...]:
        """The same without the bytes of images, which are read one by one."""
        return self._with_others(self.images[1:] if self.images else self.uri)

    def _with_others(self, names: tuple[str, ...]) -> tuple[str, ...]:
        wanted = (*names, *((self.id,) if self.id is not None else ()), *self.passthrough)
        return tuple(dict.fromkeys(wanted))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The list of images of a job.

    Attributes:
        files: Parquet files in the order of their rows.
        root: Folder relative image URIs start from: an absolute local path or ``s3://bucket/prefix``.
        columns: Which columns are used.
    """

    files: tuple[ManifestFile, ...]
    root: str
    columns: Columns

    @property
    def num_rows(self) -> int:
        """Rows of all files, whatever the job's limit."""
        return sum(file.num_rows for file in self.files)
