"""Weights reach every node, once."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import tempfile
import threading
from pathlib import Path

import pytest

from batchrec.errors import ModelError
from batchrec.models.bundle import ModelSpec
from batchrec.models.carrying import carry_weights, staged_key, weights_here
from batchrec.models.weights import sha256_of
from batchrec.models.zoo import resolve_model
from batchrec.spec import StoreOptions
from batchrec.storage import Store, open_store


@pytest.fixture
def output(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"), StoreOptions())


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a machine that has seen no model yet."""
    monkeypatch.setenv("BATCHREC_CACHE", str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.fixture
def elsewhere() -> ModelSpec:
    """A model whose file the coordinator has and this machine has not."""
    model = resolve_model("apparel")
    return dataclasses.replace(model, weights_path="/another/machine/weights.safetensors")


def test_weights_that_lie_here_are_used_where_they_are(output: Store, node: Path) -> None:
    model = resolve_model("apparel")
    assert weights_here(model, output) == model


def test_weights_that_do_not_lie_here_come_from_the_output(output: Store, node: Path, elsewhere: ModelSpec) -> None:
    carry_weights(resolve_model("apparel"), output)
    found = weights_here(elsewhere, output)
    assert Path(found.weights_path).is_relative_to(node)
    assert sha256_of(Path(found.weights_path)) == elsewhere.weights_sha256


def test_a_node_fetches_once_however_many_workers_start(
    output: Store, node: Path, elsewhere: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_weights(resolve_model("apparel"), output)
    reads: list[str] = []
    read = type(output).read
    monkeypatch.setattr(type(output), "read", lambda store, key: (reads.append(key), read(store, key))[1])
    workers = [threading.Thread(target=weights_here, args=(elsewhere, output)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert reads == [staged_key(elsewhere)]


def test_a_node_without_a_cache_keeps_weights_where_no_other_user_can_put_any(
    output: Store, elsewhere: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BATCHREC_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)  # nor can files be locked
    carry_weights(resolve_model("apparel"), output)
    mine = Path(weights_here(elsewhere, output).weights_path).parents[1]
    assert (mine.name, mine.stat().st_mode & 0o777) == (f"batchrec-{os.getuid()}", 0o700)
    mine.chmod(0o777)
    assert Path(weights_here(elsewhere, output).weights_path).parents[1] != mine


def refuse(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_another_file_under_the_same_path_is_not_taken(output: Store, node: Path, tmp_path: Path) -> None:
    model = resolve_model("apparel")
    carry_weights(model, output)
    other = tmp_path / Path(model.weights_path).name
    other.write_bytes(b"another model")
    found = weights_here(dataclasses.replace(model, weights_path=str(other)), output)
    assert sha256_of(Path(found.weights_path)) == model.weights_sha256


def test_weights_that_are_nowhere_or_damaged_are_refused(output: Store, node: Path, elsewhere: ModelSpec) -> None:
    with pytest.raises(ModelError, match="are not on this machine"):
        weights_here(elsewhere, output)
    output.create(staged_key(elsewhere), b"half of them")
    with pytest.raises(ModelError, match="are damaged"):
        weights_here(elsewhere, output)
