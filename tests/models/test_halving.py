"""Out of memory: the same images again in smaller portions, and the portion that fitted is known next time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from batchrec.errors import ModelError
from batchrec.models import ModelSpec
from batchrec.models.backends import open_backend
from batchrec.models.backends.halving import Portions, is_out_of_memory
from batchrec.models.backends.torch_cpu import TorchCpuBackend

CPU_REFUSAL = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ..."


def no_room_for_more_than(most: int, error: Exception) -> Callable[[int], int]:
    def predict(portion: int) -> int:
        if portion > most:
            raise error
        return portion

    return predict


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(CPU_REFUSAL),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_the_batch_is_halved_until_it_fits(error: Exception, tmp_path: Path) -> None:
    portions = Portions(100, {"device": "a"}, tmp_path)
    emptied: list[None] = []
    assert portions.run(no_room_for_more_than(30, error), lambda: emptied.append(None)) == 25
    assert len(emptied) == 2
    assert portions.run(no_room_for_more_than(30, error)) == 25


def test_what_fitted_is_remembered_for_the_model_and_the_device(tmp_path: Path) -> None:
    error = MemoryError()
    Portions(100, {"device": "a"}, tmp_path).run(no_room_for_more_than(30, error))
    assert Portions(100, {"device": "a"}, tmp_path).size == 25
    assert Portions(100, {"device": "b"}, tmp_path).size == 100
    assert Portions(64, {"device": "a"}, tmp_path).size == 64
    Portions(100, {"device": "a"}, tmp_path).run(no_room_for_more_than(10, error))
    assert Portions(100, {"device": "a"}, tmp_path).size == 7


def test_a_batch_that_fits_is_not_remembered(tmp_path: Path) -> None:
    assert Portions(8, {}, tmp_path).run(lambda portion: portion) == 8
    assert list(tmp_path.iterdir()) == []


def test_one_image_that_does_not_fit_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="one image does not fit"):
        Portions(8, {}, tmp_path).run(no_room_for_more_than(0, MemoryError("none")))
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_passed_on_at_once(tmp_path: Path) -> None:
    portions = Portions(8, {}, tmp_path)
    with pytest.raises(RuntimeError, match="shapes"):
        portions.run(no_room_for_more_than(4, RuntimeError("shapes do not match")))
    assert portions.size == 8


def test_torch_says_what_is_looked_for_when_a_cpu_has_no_memory() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)


def test_the_same_images_are_redone_and_answered_alike(
    small_model: ModelSpec, noise: np.ndarray, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> TorchCpuBackend:
        backend, _ = open_backend(
            small_model, precision="fp32", device="cpu", backend="torch-eager", batch_size=8, num_threads=1, top_k=3
        )
        assert isinstance(backend, TorchCpuBackend)
        return backend

    backend = opened()
    whole = backend.predict(noise)
    network, seen = backend._network, []

    def narrow(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        if len(images) > 3:
            raise RuntimeError(CPU_REFUSAL)
        return network(images)

    monkeypatch.setattr(backend, "_network", narrow)
    found = backend.predict(noise)
    assert seen == [8, 4, 2, 2, 2, 2]
    np.testing.assert_array_equal(found.top_labels, whole.top_labels)
    np.testing.assert_allclose(found.top_scores, whole.top_scores, atol=1e-5)
    assert opened()._portions.size == 2
