"""The rows a retry does again: which failed, where they are in the parent's manifest, and a manifest of them alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchrec.errors import OutputError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.selecting import position_column, select_rows
from batchrec.models.bundle import ModelSpec
from batchrec.output.children import Origin, OriginFile
from batchrec.output.layout import RETRY_PREFIX
from batchrec.output.opening import OpenedOutput
from batchrec.output.reading import Output
from batchrec.redacting import MASK
from batchrec.spec import JobSpec
from batchrec.storage import Store, create_or_compare


@dataclass(frozen=True, slots=True)
class Parent:
    """The job whose rows are done again, with what they need.

    Attributes:
        output: Its folder.
        spec: Its definition.
        manifest: Its manifest, where that lies now.
        model: Its model.
        own: Where its own rows come from, if it is a retry itself.
    """

    output: Output
    spec: JobSpec
    manifest: Manifest
    model: ModelSpec
    own: Origin | None

    @property
    def own_position(self) -> str | None:
        """Column of its manifest with each row's position in a parent of its own."""
        return self.own.parent_row if self.own else None

    @property
    def max_failure_rate(self) -> float:
        """What the job that was submitted is held to."""
        return self.own.max_failure_rate if self.own else self.spec.max_failure_rate

    @property
    def columns(self) -> list[str]:
        """Columns of its manifest that its retry needs."""
        return [name for name in self.manifest.columns.read if name != self.own_position]


def failed_rows(parent: OpenedOutput, codes: Sequence[str]) -> Any:
    """Return the rows that still have one of some codes, as a table of errors."""
    errors = parent.errors()
    return errors.filter(np.isin(errors["error_code"].to_numpy(), codes))


def refuse_credentials(parent: Output, errors: Any) -> None:
    """Refuse rows whose URIs hold what outputs never show: their retry would keep it with the rows to do."""
    masked = [uri for uri in errors["uri"].to_pylist() if uri is not None and MASK in uri]
    if masked:
        raise OutputError(
            f"{len(masked):,} of {len(errors):,} failed rows of {parent.store.url} have credentials in their URIs",
            found=masked[0],
            advice="submit them with new URIs as a manifest of their own, or say --keep-credentials: the folder of the "
            "retry then holds them as they are",
        )


def require_images(parent: Output, own: Origin, manifest: Manifest) -> None:
    """Refuse to do rows of a retry again whose images would all be missing: only its own parent is told of a move."""
    if "://" not in manifest.root and not Path(manifest.root).is_dir():
        raise OutputError(
            f"the images of {parent.store.url} are not where they were",
            found=f"no folder {manifest.root}",
            advice=f"bring it back, or retry the job itself: `batchrec retry {shlex.quote(own.parent_output)} "
            "--set source=MANIFEST` with the manifest's new place",
        )


def _positions(errors: Any, parent: Parent) -> npt.NDArray[np.int64]:
    """Return where failed rows are in the manifest, as a whole; every pointer has to lead there."""
    rows: npt.NDArray[np.int64] = errors["row"].to_numpy()
    files = parent.manifest.files
    ends = np.cumsum([file.num_rows for file in files])
    file = np.searchsorted(ends, rows, side="right")
    names = np.array([str(name).encode(errors="replace").decode() for name, *_ in parent.output.identity["manifest"]])
    within = rows - (ends - [each.num_rows for each in files])[np.minimum(file, len(files) - 1)]
    same = (file < len(files)) & (np.diff(rows, prepend=-1) > 0) & (within == errors["file_row"].to_numpy())
    if not (same & (names[np.minimum(file, len(files) - 1)] == errors["manifest_file"].to_numpy())).all():
        raise OutputError(
            f"{parent.output.store.url}/{parent.output.layout.errors_key} is damaged",
            found="a failed row whose pointer does not lead to it",
            advice="`batchrec repair` mends it",
        )
    return rows


def put_rows(parent: Parent, store: Store, errors: Any, nonce: str) -> Origin:
    """Put the manifest of a retry into its folder, under names that say what it holds."""
    name = position_column(parent.columns)
    files: list[OriginFile] = []
    for file in select_rows(parent.manifest, _positions(errors, parent), parent.columns, name, parent.spec.store):
        key = f"{RETRY_PREFIX}{len(files):05d}-{file.footer_sha256[:12]}.parquet"
        create_or_compare(store, key, file.data, same=lambda _: False)
        files.append(OriginFile(key, len(file.data), file.num_rows, file.footer_sha256))
    output = parent.output
    root, limit = parent.manifest.root, parent.max_failure_rate
    return Origin(output.job_id, output.store.url, name, root, tuple(files), limit, nonce)
