"""Batch size and kernels on a device: found by measuring, once, and never at the price of a start."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from batchrec.errors import ModelError
from batchrec.models import ModelSpec
from batchrec.models.backends import cuda_choice
from batchrec.models.backends.compiling import compiled_rate
from batchrec.models.backends.cuda_choice import Choice, open_cuda
from batchrec.models.backends.recogniser import Recogniser
from tests.models.devices import HostDevice

EAGER, COMPILED = "torch-eager", "torch-inductor"


@pytest.fixture
def choice(small_model: ModelSpec, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Choice:
    monkeypatch.setattr(cuda_choice, "BATCH_SIZES", (1, 2, 4, 8))
    return again(small_model)


def again(model: ModelSpec) -> Choice:
    return Choice(model, HostDevice(), precision="fp32", top_k=3)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes inductor was asked for."""
    asked: list[int] = []

    def written(recognise: Recogniser, num_images: int, cache_dir: Path | None) -> None:
        recognise.compiled = True
        asked.append(num_images)

    monkeypatch.setattr(Recogniser, "compile", written)
    return asked


def goes(monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], compiled: float | None = None) -> list[int]:
    """Let batches of a size go at a rate, and return the list of sizes measured."""
    measured: list[int] = []

    def rate(backend, side):
        measured.append(backend.batch_size)
        return rates[backend.batch_size]

    monkeypatch.setattr(cuda_choice, "images_per_s", rate)
    monkeypatch.setattr(cuda_choice, "compiled_rate", lambda *_, **__: compiled)
    return measured


def test_batches_grow_while_that_is_worth_it_and_it_is_remembered(small_model, choice, monkeypatch) -> None:
    measured = goes(monkeypatch, {1: 100, 2: 190, 4: 195, 8: 900})
    assert [choice.best_batch_size(), again(small_model).best_batch_size()] == [2, 2]
    assert measured == [1, 2, 4]


def test_the_largest_batch_is_taken_where_each_was_faster(choice, monkeypatch) -> None:
    goes(monkeypatch, {1: 100, 2: 190, 4: 300, 8: 900})
    assert choice.best_batch_size() == 8


def test_a_batch_that_must_be_halved_is_no_larger_batch(choice, monkeypatch) -> None:
    measured = goes(monkeypatch, {1: 100, 2: 190, 4: 300, 8: 900})
    monkeypatch.setattr(
        cuda_choice.TorchCudaBackend, "portion", property(lambda self: min(self.batch_size, 2)), raising=True
    )
    assert choice.best_batch_size() == 2
    assert measured == [1, 2]


@pytest.mark.parametrize(("rate", "winner"), [(None, EAGER), (99.0, EAGER), (250.0, COMPILED)])
def test_inductor_is_used_where_it_was_faster_in_time(
    small_model, choice, compiled, monkeypatch, rate: float | None, winner: str
) -> None:
    measured = goes(monkeypatch, {4: 100.0}, rate)
    backend, line = choice.open("auto", 4)
    assert line.startswith(f"{winner} fp32, ")
    assert line.endswith(", 4 images a batch")
    assert (backend.name, backend.batch_size) == ("torch-cuda", 4)
    assert again(small_model).open("auto", 4)[1] == line
    assert measured == [4]
    assert compiled == ([4, 4] if winner == COMPILED else [])


def test_kernels_that_are_asked_for_are_not_tried_against_others(choice, compiled, monkeypatch) -> None:
    assert goes(monkeypatch, {}) == []
    assert choice.open(COMPILED, 4)[1] == "torch-inductor fp32, as asked, 4 images a batch"
    assert compiled == [4]


def test_workers_do_not_wait_for_kernels_that_are_there(small_model, choice, compiled, monkeypatch) -> None:
    choice.open(COMPILED, 4)
    monkeypatch.setattr(fcntl, "flock", pytest.fail)
    again(small_model).open(COMPILED, 4)
    assert compiled == [4, 4]


def test_a_compiler_that_failed_is_tried_again_after_an_hour(small_model, choice, compiled, monkeypatch) -> None:
    measured = goes(monkeypatch, {4: 100.0}, None)
    for _ in range(2):
        assert again(small_model).open("auto", 4)[1].startswith("torch-eager fp32, 100 images/s")
    assert measured == [4]
    goes(monkeypatch, {4: 100.0}, 250.0)
    now = cuda_choice.time.time()
    monkeypatch.setattr(cuda_choice.time, "time", lambda: now + 3601)
    assert again(small_model).open("auto", 4)[1].startswith("torch-inductor fp32, 250 images/s")


def test_where_inductor_is_faster_and_cannot_be_opened_any_more_the_model_runs_as_it_is(
    small_model, choice, monkeypatch
) -> None:
    import torch

    def fail(*_, **__):
        raise torch._dynamo.exc.TorchDynamoException("no C compiler")

    goes(monkeypatch, {4: 100.0}, 250.0)
    monkeypatch.setattr(torch, "compile", lambda function, **_: fail)
    backend, line = choice.open("auto", 4)
    said = "torch-eager fp32, as torch-inductor cannot compile here any more (no C compiler), 4 images a batch"
    assert line == said
    assert backend.predict(backend.new_slab()).top_labels.shape == (4, 3)
    with pytest.raises(ModelError, match="cannot compile here"):
        again(small_model).open(COMPILED, 4)


def test_where_no_batch_fits_the_smallest_is_taken(choice, monkeypatch) -> None:
    goes(monkeypatch, {1: 1.0})
    monkeypatch.setattr(cuda_choice.TorchCudaBackend, "portion", property(lambda self: 0))
    assert choice.best_batch_size() == 1


def test_openvino_is_refused_on_a_cuda_device(small_model) -> None:
    with pytest.raises(ModelError, match="not for CUDA devices"):
        open_cuda(
            small_model,
            precision="bf16",
            device="cuda:0",
            backend="openvino",
            batch_size=None,
            top_k=1,
            embeddings=False,
            cache_dir=None,
        )


@pytest.mark.parametrize("within_s", [0.05, 60.0])
def test_a_compiler_that_takes_too_long_or_fails_is_no_answer(small_model, tmp_path, within_s: float) -> None:
    # A device that does not exist ends the process soon after torch is there.
    rate = compiled_rate(
        small_model,
        "cuda:99",
        precision="bf16",
        batch_size=2,
        embeddings=False,
        cache_dir=tmp_path,
        within_s=within_s,
    )
    assert rate is None
