"""A model as a value, and as a folder: weights, labels and preprocessing that belong together.

The folder's format is described in ``docs/formats.md``, section "Bundle".
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from batchrec.errors import ModelError
from batchrec.models.labels import require_count
from batchrec.models.preprocessing import Preprocess
from batchrec.models.quantised import Quantised
from batchrec.models.remembering import digest
from batchrec.models.weights import sha256_of

if TYPE_CHECKING:
    import numpy as np

FORMAT: Final = "batchrec-bundle"
FORMAT_VERSION: Final = 1
BUNDLE_FILE: Final = "bundle.json"
WEIGHTS_FILE: Final = "weights.safetensors"
LABELS_FILE: Final = "labels.json"
CARD_FILE: Final = "card.md"
_MAX_JSON_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything a worker needs to run a model; small and picklable.

    Attributes:
        name: What the user typed.
        architecture: Name of a torchvision classifier, e.g. ``resnet18``.
        weights_path: Local file, absolute: safetensors, or a torch file of plain tensors.
        weights_sha256: Of that file's bytes, so that it is known without importing torch.
        num_outputs: Classes the model answers.
        labels: Their names, in order.
        preprocess: How images become its input.
        quantised: What runs in its place where a job asks for int8, once that is made.
    """

    name: str
    architecture: str
    weights_path: str
    weights_sha256: str
    num_outputs: int
    labels: tuple[str, ...]
    preprocess: Preprocess
    quantised: Quantised | None = None

    @property
    def labels_sha256(self) -> str:
        """sha256 of the labels as canonical JSON."""
        return digest(list(self.labels))


def load_bundle(folder: str | Path) -> ModelSpec:
    """Read a bundle, checking that every file is the one it was saved with.

    Raises:
        ModelError: If a file is missing, changed or damaged, or the format is not known.
    """
    folder = Path(folder).expanduser().resolve()
    header = _read_header(folder)
    for name in (WEIGHTS_FILE, LABELS_FILE):
        _require_unchanged(folder / name, header)
    labels = _read_labels(folder / LABELS_FILE)
    require_count(labels, header["num_outputs"], source=LABELS_FILE)
    return ModelSpec(
        name=str(folder),
        architecture=header["architecture"],
        weights_path=str(folder / WEIGHTS_FILE),
        weights_sha256=header["files"][WEIGHTS_FILE],
        num_outputs=header["num_outputs"],
        labels=labels,
        preprocess=Preprocess.from_json(header["preprocess"]),
    )


def save_bundle(
    folder: str | Path,
    *,
    architecture: str,
    weights: Mapping[str, np.ndarray],
    labels: tuple[str, ...],
    preprocess: Preprocess,
    card: str,
    facts: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Write a bundle, whole or not at all; a bundle already there is replaced.

    Args:
        folder: Where; must not be a folder holding anything else.
        architecture: Name of a torchvision classifier.
        weights: Tensors by name; float16 is widened when loaded.
        labels: Names of the outputs, in order.
        preprocess: How images become input.
        card: Markdown for people: data, licence, accuracy, limits.
        facts: The same for programs; JSON, kept under ``facts``.

    Raises:
        ModelError: If the folder holds something else, or cannot be written.
    """
    from safetensors.numpy import save_file

    folder = Path(folder).expanduser().absolute()
    if folder.exists() and not (folder / BUNDLE_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError("a bundle needs a folder of its own", found=str(folder), advice="name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=".bundle-", dir=folder.parent))
        staged.chmod(0o755)
        save_file(dict(sorted(weights.items())), staged / WEIGHTS_FILE)
        (staged / WEIGHTS_FILE).chmod(0o644)
        _write_json(staged / LABELS_FILE, list(labels))
        (staged / CARD_FILE).write_text(card, encoding="utf-8")
        header = _header(staged, architecture, len(labels), preprocess, facts or {})
        _write_json(staged / BUNDLE_FILE, header)
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
    except OSError as error:
        raise ModelError("the bundle cannot be written", found=str(error)) from error
    return load_bundle(folder)


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Return what ``bundle.json`` says of training and accuracy."""
    facts = _read_header(Path(folder)).get("facts", {})
    return facts if isinstance(facts, dict) else {}


def _header(
    folder: Path, architecture: str, num_outputs: int, preprocess: Preprocess, facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "architecture": architecture,
        "num_outputs": num_outputs,
        "preprocess": preprocess.to_json(),
        "files": {name: sha256_of(folder / name) for name in (WEIGHTS_FILE, LABELS_FILE, CARD_FILE)},
        "facts": dict(facts),
    }


def _read_header(folder: Path) -> dict[str, Any]:
    if not (folder / BUNDLE_FILE).is_file():
        raise ModelError(
            "this folder is not a bundle",
            found=f"{folder} has no {BUNDLE_FILE}",
            advice="name the folder that holds it; docs/bundle.md says what one is",
        )
    header = _read_json(folder / BUNDLE_FILE)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ModelError(
            "this folder is not a bundle",
            found=f"{folder / BUNDLE_FILE} is of another format",
            advice="name the folder of one; docs/bundle.md says what it is",
        )
    if header.get("version") != FORMAT_VERSION:
        raise ModelError(
            "the bundle is of a version this batchrec does not know",
            found=f"version {header.get('version')!r}, known is {FORMAT_VERSION}",
            advice="upgrade batchrec, or save the bundle again",
        )
    kinds = {"architecture": str, "num_outputs": int, "preprocess": dict, "files": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(header.get(name), kind)]
    if wrong:
        raise ModelError("the bundle's description is damaged", found=f"{BUNDLE_FILE}: {', '.join(wrong)}")
    return header


def _require_unchanged(path: Path, header: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise ModelError("the bundle is not complete", found=f"{path} is missing", advice="copy the whole folder")
    if sha256_of(path) != header["files"].get(path.name):
        raise ModelError(
            "a file of the bundle is not the one it was saved with",
            found=f"sha256 of {path}",
            advice="copy the bundle again from where it was made",
        )


def _read_labels(path: Path) -> tuple[str, ...]:
    labels = _read_json(path)
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise ModelError("the bundle's labels are not a list of names", found=str(path))
    return tuple(labels)


def _read_json(path: Path) -> object:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_JSON_BYTES + 1)
        if len(content) > _MAX_JSON_BYTES:
            raise ValueError(f"larger than {_MAX_JSON_BYTES} bytes")
        return json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError("the bundle cannot be read", found=f"{path}: {error}") from error


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
