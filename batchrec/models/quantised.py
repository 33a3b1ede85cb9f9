"""A quantised model as a file: a ZIP archive, not compressed, of an OpenVINO graph from uint8 images to logits."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from batchrec.errors import ModelError
from batchrec.records import Agreement

_GRAPH, _WEIGHTS = "model.xml", "model.bin"
_SUFFIX = ".int8.zip"


@dataclass(frozen=True, slots=True)
class Quantised:
    """A quantised model.

    Attributes:
        path: Local file, absolute.
        sha256: Of that file's bytes.
        agreement: With the model it was made of; of no images until that is measured.
    """

    path: str
    sha256: str
    agreement: Agreement = field(default_factory=lambda: Agreement(0, 0))


def quantised_file(folder: Path, key: str) -> Path:
    """Return where a folder keeps a quantised model."""
    return folder / "int8" / f"{key}{_SUFFIX}"


def write_graph(path: Path, graph: bytes, weights: bytes) -> None:
    """Write a quantised model, whole or not at all; the same graph gives the same bytes.

    Raises:
        ModelError: There is no room, or no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False)  # noqa: SIM115  closed next
        with staged, zipfile.ZipFile(staged, "w") as archive:
            for name, content in ((_GRAPH, graph), (_WEIGHTS, weights)):
                archive.writestr(zipfile.ZipInfo(name), content)
        Path(staged.name).replace(path)
    except OSError as error:
        raise ModelError("the quantised model cannot be written", found=str(error)) from error


def read_graph(path: Path) -> tuple[bytes, bytes]:
    """Return the graph and its weights, as OpenVINO reads them.

    Raises:
        ModelError: The file is not there, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_GRAPH), archive.read(_WEIGHTS)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            "the quantised model cannot be read", found=f"{path}: {error}", advice="remove it: it is made again"
        ) from error
