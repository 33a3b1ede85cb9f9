"""On a CUDA device itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from batchrec.models.backends import open_backend
from batchrec.models.backends.cuda_choice import Choice
from batchrec.models.backends.queues import CudaDevice, CudaMark, CudaQueue
from batchrec.models.backends.recogniser import Recogniser
from batchrec.models.backends.torch_cuda import TorchCudaBackend

pytestmark = pytest.mark.gpu

#: So many that copying a batch takes far longer than starting what must wait for it.
LARGE = 256


@pytest.fixture(scope="module", autouse=True)
def device() -> CudaDevice:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return CudaDevice("cuda:0")


def on(device, model, precision, backend="torch-eager", **more):
    return open_backend(
        model, precision=precision, device=device, backend=backend, batch_size=8, num_threads=1, top_k=5, **more
    )[0]


@pytest.fixture(scope="module")
def colours(small_model):
    """A model that answers the colours of an image's quarters: of no two images the same."""
    import torch

    recognise = Recogniser(small_model, precision="fp32", device="cuda:0", top_k=5)
    recognise._network = lambda pixels: torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)
    return recognise


@pytest.fixture(scope="module")
def batches(noise):
    """Large batches of which no two have an image in common at the same place."""
    return [np.roll(noise, shift, axis=0).repeat(LARGE // 8, axis=0) for shift in range(8)]


@pytest.fixture(scope="module")
def expected(colours, batches):
    import torch

    return [colours(torch.from_numpy(batch).cuda())[0].cpu().numpy() for batch in batches]


def all_right(backend, batches, expected):
    """Recognise in slabs that are spoilt as soon as that is allowed, with more callers than lanes."""

    def run(caller):
        slab, right = backend.new_slab(), True
        for turn in range(caller, 40, 5):
            slab[:] = batches[turn % 8]
            found = backend.predict(slab)
            slab[:] = 255
            right &= np.allclose(found.top_scores, expected[turn % 8], atol=1e-4)
        return right

    with ThreadPoolExecutor(5) as callers:
        return all(callers.map(run, range(5)))


def test_slabs_poisoned_after_predict_spoil_no_answer(device, colours, batches, expected):
    backend = TorchCudaBackend(colours, device, batch_size=LARGE)
    assert backend.recorded
    assert all_right(backend, batches, expected)


def test_leaving_out_the_wait_for_the_copy_would_be_seen(device, colours, batches, expected, monkeypatch):
    monkeypatch.setattr(CudaQueue, "wait_for", lambda self, mark: None)
    assert not all_right(TorchCudaBackend(colours, device, batch_size=LARGE), batches, expected)


def test_leaving_out_the_wait_for_the_answers_would_be_seen(device, colours, batches, expected, monkeypatch):
    backend = TorchCudaBackend(colours, device, batch_size=LARGE)
    monkeypatch.setattr(CudaMark, "wait", lambda self: None)
    assert not all_right(backend, batches, expected)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.05), ("fp16", 0.02)])
def test_cuda_agrees_with_the_cpu(small_model, noise, precision, tolerance):
    ours = on("cuda", small_model, precision, embeddings=True).predict(noise)
    theirs = on("cpu", small_model, "fp32", embeddings=True).predict(noise)
    np.testing.assert_allclose(ours.top_scores[:, 0], theirs.top_scores[:, 0], atol=tolerance)
    np.testing.assert_allclose(ours.entropy, theirs.entropy, atol=10 * tolerance)
    assert ours.top_labels.dtype == np.int32
    assert ours.embeddings.shape == theirs.embeddings.shape


def test_inductor_agrees_with_the_cpu(small_model, noise):
    ours = on("cuda", small_model, "bf16", "torch-inductor").predict(noise)
    theirs = on("cpu", small_model, "fp32").predict(noise)
    np.testing.assert_allclose(ours.top_scores[:, 0], theirs.top_scores[:, 0], atol=0.05)


def test_a_choice_is_made_once_and_remembered(small_model, device, fresh_cache):
    lines = [Choice(small_model, device, precision="bf16", top_k=5).open("auto", None)[1] for _ in range(2)]
    assert lines[0] == lines[1]
    assert lines[0].startswith(("torch-eager bf16, ", "torch-inductor bf16, "))
    assert "torch-eager" in lines[0]
    assert "torch-inductor" in lines[0]


def test_running_out_of_memory_halves_the_batch_and_is_remembered(small_model, noise, device, fresh_cache, monkeypatch):
    import torch

    recognise = Recogniser(small_model, precision="bf16", device="cuda:0", top_k=5)
    whole, answer = TorchCudaBackend(recognise, device, batch_size=8).predict(noise), recognise._answer

    def narrow(images):
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("too much")
        return answer(images)

    monkeypatch.setattr(recognise, "_answer", narrow)
    backend = TorchCudaBackend(recognise, device, batch_size=8)
    np.testing.assert_allclose(backend.predict(noise).top_scores, whole.top_scores, atol=0.01)
    assert backend.portion == 2
    assert TorchCudaBackend(recognise, device, batch_size=8).portion == 2
