"""The CUDA backend's own logic, on devices that stand in for one: which batch's answers come back, whatever is late."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from batchrec.models import ModelSpec, resolve_model
from batchrec.models.backends import open_backend, torch_cuda
from batchrec.models.backends.recogniser import Recogniser, without_norms
from batchrec.models.backends.torch_cuda import TorchCudaBackend
from batchrec.models.building import build_model
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.stream import Stream
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import ImageReader, UriPolicy
from tests.models import devices
from tests.models.devices import HostDevice, LateDevice

BATCH = 4


@pytest.fixture(scope="module")
def recognise(small_model: ModelSpec) -> Recogniser:
    """A model that answers the colours of an image's quarters: of no two images the same."""
    recognise = Recogniser(small_model, precision="fp32", device="cpu", top_k=3)
    recognise._network = lambda pixels: torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)
    return recognise


@pytest.fixture(scope="module")
def batches(noise: np.ndarray) -> list[np.ndarray]:
    """Batches of which no two have an image in common at the same place."""
    return [np.roll(noise, shift, axis=0)[:BATCH] for shift in range(8)]


@pytest.fixture(scope="module")
def expected(recognise: Recogniser, batches: list[np.ndarray]) -> list[np.ndarray]:
    found = [recognise(torch.from_numpy(batch))[0].numpy() for batch in batches]
    assert all(np.abs(ours - theirs).max() > 0.01 for ours, theirs in itertools.combinations(found, 2))
    return found


def on(device: HostDevice, recognise: Recogniser, batch_size: int = BATCH) -> TorchCudaBackend:
    return TorchCudaBackend(recognise, device, batch_size=batch_size)


def poisoning(backend: TorchCudaBackend, batch: np.ndarray, slab: np.ndarray) -> np.ndarray:
    """Recognise a batch in a slab, and spoil the slab as soon as that is allowed."""
    slab[:] = batch
    found = backend.predict(slab)
    slab[:] = 255
    return found.top_scores


def all_right(backend: TorchCudaBackend, batches: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Recognise all batches twice with more callers than lanes, each reusing its slab at once."""

    def run(caller: int) -> bool:
        slab = backend.new_slab()
        turns = range(caller, 2 * len(batches), 4)
        found = {turn % 8: poisoning(backend, batches[turn % 8], slab) for turn in turns}
        return all(np.allclose(scores, expected[turn], atol=1e-6) for turn, scores in found.items())

    with ThreadPoolExecutor(4) as callers:
        return all(callers.map(run, range(4)))


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
def test_every_caller_gets_its_own_answers_however_late_the_device_is(
    recognise: Recogniser, batches: list[np.ndarray], expected: list[np.ndarray], seed: int | None
) -> None:
    assert all_right(on(LateDevice(seed), recognise), batches, expected)


def test_leaving_out_the_wait_for_the_copy_would_be_seen(
    recognise: Recogniser, batches: list[np.ndarray], expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices._Queue, "wait_for", lambda self, mark: None)
    assert not all_right(on(LateDevice(), recognise), batches, expected)


def test_leaving_out_the_wait_for_the_answers_would_be_seen(
    recognise: Recogniser, batches: list[np.ndarray], expected: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = on(LateDevice(), recognise)
    monkeypatch.setattr(devices._Mark, "wait", lambda self: None)
    assert not all_right(backend, batches, expected)


def test_a_batch_is_copied_while_the_model_has_not_begun_with_the_one_before(
    recognise: Recogniser, batches: list[np.ndarray]
) -> None:
    device = LateDevice()
    backend = on(device, recognise)
    first, second = backend._lanes.get(), backend._lanes.get()
    backend._copying.put(partial(first.take, batches[0]))
    backend._compute(first, backend._copying.mark())
    backend._copying.put(partial(second.take, batches[1]))
    backend._copying.mark().wait()
    copying, computing = device.queues
    assert not copying.pending
    assert computing.pending


def test_a_slab_is_not_read_any_more_when_the_model_has_failed(
    recognise: Recogniser, batches: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = LateDevice()
    backend = on(device, recognise)

    def fail(portion: int) -> None:
        raise RuntimeError("the model failed")

    monkeypatch.setattr(backend, "_pass_of", fail)
    with pytest.raises(RuntimeError, match="the model failed"):
        backend.predict(batches[0])
    assert not device.queues[0].pending


def test_it_agrees_with_torch_on_the_cpu(small_model: ModelSpec, noise: np.ndarray) -> None:
    recognise = Recogniser(small_model, precision="fp32", device="cpu", top_k=5, embeddings=True)
    ours = on(HostDevice(), recognise, len(noise)).predict(noise)
    backend, _ = open_backend(
        small_model,
        precision="fp32",
        device="cpu",
        backend="torch-eager",
        batch_size=len(noise),
        num_threads=1,
        top_k=5,
        embeddings=True,
    )
    theirs = backend.predict(noise)
    np.testing.assert_array_equal(ours.top_labels, theirs.top_labels)
    np.testing.assert_allclose(ours.top_scores, theirs.top_scores, atol=1e-5)
    np.testing.assert_allclose(ours.entropy, theirs.entropy, atol=1e-4)
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, atol=1e-3)
    assert (ours.top_labels.dtype, ours.top_scores.dtype) == (np.int32, np.float32)


def test_of_equal_scores_the_lower_label_comes_first(
    small_model: ModelSpec, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognise = Recogniser(small_model, precision="bf16", device="cpu", top_k=12)
    monkeypatch.setattr(recognise, "_network", lambda pixels: torch.tensor([[1.0, 2, 2, 0] * 3] * len(pixels)))
    labels = recognise(torch.from_numpy(noise))[1]
    assert labels[0].tolist() == [1, 2, 5, 6, 9, 10, 0, 4, 8, 3, 7, 11]


def test_running_out_of_memory_halves_the_batch_and_is_remembered(
    recognise: Recogniser, noise: np.ndarray, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = on(HostDevice(), recognise, 7)
    whole, answer, seen = backend.predict(noise[:7]), recognise._answer, []

    def narrow(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(len(images))
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("too much")
        return answer(images)

    monkeypatch.setattr(recognise, "_answer", narrow)
    found = backend.predict(noise[:7])
    assert (seen[:2], set(seen[2:])) == ([7, 4], {2})
    np.testing.assert_array_equal(found.top_labels, whole.top_labels)
    assert backend.portion == 2
    assert on(HostDevice(), recognise, 7).portion == 2


def test_a_pass_takes_what_memory_batches_under_way_leave(
    recognise: Recogniser, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    lane, run = torch_cuda._Lane.__init__, torch_cuda._Pass.__init__
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda shape, **kw: (made.append(f"{shape[0]}"), zeros(shape, **kw))[1])
    monkeypatch.setattr(torch_cuda._Pass, "__init__", lambda self, *a: (made.append("pass"), run(self, *a))[1])
    monkeypatch.setattr(torch_cuda._Lane, "__init__", lambda self, *a: (made.append("lane"), lane(self, *a))[1])
    on(HostDevice(), recognise)
    assert made[: made.index("pass")] == ["4"] * TorchCudaBackend.concurrency


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_folding_norms_away_changes_no_answer(draw_weights, architecture: str) -> None:
    model = resolve_model(f"file:{draw_weights(architecture, 12)}+{architecture}")
    network = build_model(model, embeddings=True)
    folded = without_norms(network)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(folded(images), network(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_what_is_compiled_is_the_same_for_any_number_of_labels(
    small_model: ModelSpec, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    for top_k in (1, 3):
        Recogniser(small_model, precision="fp32", device="cpu", top_k=top_k).compile(BATCH)
    one, three = (function(torch.from_numpy(noise)) for function in compiled)
    assert [each.shape for each in one] == [each.shape for each in three]


@pytest.mark.slow
def test_inductor_changes_no_answer_and_leaves_its_kernels_for_the_next(
    small_model: ModelSpec, noise: np.ndarray, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    recognise = Recogniser(small_model, precision="fp32", device="cpu", top_k=3)
    plain = on(HostDevice(), recognise).predict(noise[:BATCH])
    recognise.compile(BATCH)
    compiled = on(HostDevice(), recognise).predict(noise[:BATCH])
    np.testing.assert_array_equal(compiled.top_labels, plain.top_labels)
    np.testing.assert_allclose(compiled.top_scores, plain.top_scores, atol=1e-5)
    assert any((fresh_cache / "inductor").iterdir())


def test_a_stream_that_feeds_a_late_device_gives_every_row_its_own_answer(
    recognise: Recogniser, noise: np.ndarray, tmp_path: Path
) -> None:
    preprocess = recognise.model.preprocess
    for number, image in enumerate(noise):
        Image.fromarray(image).resize((preprocess.resize, preprocess.resize)).save(tmp_path / f"{number}.png")
    decoder = Decoder(preprocess, ImageLimits())
    pixels = [decoder.decode((tmp_path / f"{number}.png").read_bytes())[0] for number in range(len(noise))]
    expected = recognise(torch.from_numpy(np.stack(pixels)))[0].numpy()
    backend = on(LateDevice(5), recognise)
    backend.device = "cuda:0"  # as the stream understands it: threads that predict do not decode
    reader = ImageReader(UriPolicy(str(tmp_path), (), ()), StoreOptions(), 2**20)
    stream = Stream(reader, decoder, backend, num_threads=2, top_k=3)
    rows = [[(shard + row) % len(noise) for row in range(26)] for shard in range(3)]
    futures = [stream.submit([f"{row}.png" for row in shard]) for shard in rows]
    for shard, future in zip(rows, futures, strict=True):
        np.testing.assert_allclose(future.result(timeout=60).top_scores, expected[shard], atol=1e-6)
    stream.close()
