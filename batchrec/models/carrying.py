"""Weights on their way to other machines: put beside the output once, fetched by each node once.

A worker's node may not have the file the coordinator resolved: another disk, another installation. Weights are
named by their hash alone, so whatever a node finds under it is the same model.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec.errors import ModelError
from batchrec.models.bundle import ModelSpec
from batchrec.models.remembering import cache_folder
from batchrec.models.weights import sha256_of
from batchrec.storage import KeyMissing, Store, create_or_compare


def staged_key(model: ModelSpec) -> str:
    """Return where an output keeps the weights of a model for its nodes."""
    return f"_batchrec/staged/{model.weights_sha256}/{Path(model.weights_path).name}"


def carry_weights(model: ModelSpec, store: Store) -> None:
    """Put a model's weights beside the output, unless they are there.

    Raises:
        ModelError: The file cannot be read, or is no longer the one that was resolved.
        StorageLost: The store would not take it.
    """
    key = staged_key(model)
    try:
        store.info(key)
    except KeyMissing:
        create_or_compare(store, key, _read(model), same=lambda found: _sha256(found) == model.weights_sha256)


def weights_here(model: ModelSpec, store: Store) -> ModelSpec:
    """Return a model whose weights lie on this machine, fetching them from the output if need be.

    Raises:
        ModelError: They are nowhere, or damaged on the way.
    """
    path = Path(model.weights_path)
    if path.is_file() and sha256_of(path) == model.weights_sha256:
        return model
    folder = cache_folder() or Path(tempfile.gettempdir())
    kept = folder / "weights" / f"{model.weights_sha256}{path.suffix}"
    with _one_at_a_time(kept):
        if not (kept.is_file() and sha256_of(kept) == model.weights_sha256):
            _fetch(model, store, kept)
    return dataclasses.replace(model, weights_path=str(kept))


def _fetch(model: ModelSpec, store: Store, path: Path) -> None:
    try:
        data = store.read(staged_key(model))
    except KeyMissing as error:
        raise ModelError(
            f"the weights of {model.name} are not on this machine",
            found=f"neither {model.weights_path} nor {staged_key(model)} in the output",
            advice="run the same command again: it puts them there",
        ) from error
    if _sha256(data) != model.weights_sha256:
        raise ModelError(
            f"the weights of {model.name} in the output are damaged",
            found=staged_key(model),
            advice="remove that object and run the same command again",
        )
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as staged:
        staged.write(data)
    Path(staged.name).replace(path)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let one worker of this machine fetch while the others wait for what it fetches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(model: ModelSpec) -> bytes:
    try:
        data = Path(model.weights_path).read_bytes()
    except OSError as error:
        raise ModelError("a file of the model cannot be read", found=str(error)) from error
    if _sha256(data) != model.weights_sha256:
        raise ModelError(
            "the weights changed after the job was planned", found=model.weights_path, advice="run the command again"
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
