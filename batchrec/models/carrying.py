"""Models on their way to other machines: put beside the output once, fetched by each node once.

A worker's node may not have the file the coordinator resolved or made: another disk, another installation. Files are
named by their hash alone, so whatever a node finds under it is the same model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path

from batchrec.errors import ModelError
from batchrec.models.bundle import ModelSpec
from batchrec.models.quantised import Quantised
from batchrec.models.remembering import one_at_a_time, private_folder
from batchrec.models.weights import sha256_of
from batchrec.storage import KeyMissing, Store, create_or_compare


def staged_key(model: ModelSpec) -> str:
    """Return where an output keeps the weights of a model for its nodes."""
    return _key(model.weights_sha256, Path(model.weights_path))


def carry_weights(model: ModelSpec, store: Store) -> None:
    """Put a model's weights beside the output, unless they are there.

    Raises:
        ModelError: The file cannot be read, or is no longer the one that was resolved.
        StorageLost: The store would not take it.
    """
    _carry(model.weights_sha256, Path(model.weights_path), store)


def carry_quantised(quantised: Quantised, store: Store) -> None:
    """Put a quantised model beside the output, unless it is there; raises as :func:`carry_weights` does."""
    _carry(quantised.sha256, Path(quantised.path), store)


def model_here(model: ModelSpec, store: Store) -> ModelSpec:
    """Return a model whose file lies on this machine, quantised or not, fetching it from the output if need be.

    Raises:
        ModelError: It is nowhere, or damaged on the way.
    """
    if model.quantised is None:
        return weights_here(model, store)
    return dataclasses.replace(model, quantised=quantised_here(model.quantised, store))


def weights_here(model: ModelSpec, store: Store) -> ModelSpec:
    """Return a model whose weights lie on this machine; see :func:`model_here`."""
    path = _here(model.weights_sha256, Path(model.weights_path), store, f"the weights of {model.name} are")
    return dataclasses.replace(model, weights_path=str(path))


def quantised_here(quantised: Quantised, store: Store) -> Quantised:
    """Return a quantised model that lies on this machine; see :func:`model_here`."""
    path = _here(quantised.sha256, Path(quantised.path), store, "the quantised model is")
    return dataclasses.replace(quantised, path=str(path))


def _key(sha256: str, path: Path) -> str:
    return f"_batchrec/staged/{sha256}/{path.name}"


def _carry(sha256: str, path: Path, store: Store) -> None:
    key = _key(sha256, path)
    try:
        store.info(key)
    except KeyMissing:
        create_or_compare(store, key, _read(path, sha256), same=lambda found: _sha256(found) == sha256)


def _here(sha256: str, path: Path, store: Store, subject: str) -> Path:
    if path.is_file() and sha256_of(path) == sha256:
        return path
    folder = private_folder()
    kept = folder / "weights" / f"{sha256}{path.suffix}"
    with one_at_a_time("weights", {"sha256": sha256}, folder=folder):
        if not (kept.is_file() and sha256_of(kept) == sha256):
            _fetch(sha256, path, store, kept, subject)
    return kept


def _fetch(sha256: str, path: Path, store: Store, kept: Path, subject: str) -> None:
    key = _key(sha256, path)
    try:
        data = store.read(key)
    except KeyMissing as error:
        raise ModelError(
            f"{subject} not on this machine",
            found=f"neither {path} nor {key} in the output",
            advice="run the same command again: it puts them there",
        ) from error
    if _sha256(data) != sha256:
        raise ModelError(
            f"{subject} damaged in the output",
            found=key,
            advice="remove that object and run the same command again",
        )
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix=".new-", delete=False) as staged:
            staged.write(data)
        Path(staged.name).replace(kept)
    except OSError as error:
        raise ModelError(f"{subject} not to be kept on this machine", found=str(error)) from error


def _read(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError("a file of the model cannot be read", found=str(error)) from error
    if _sha256(data) != sha256:
        raise ModelError(
            "the weights changed after the job was planned", found=str(path), advice="run the command again"
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
