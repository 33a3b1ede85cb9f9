from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from batchrec.errors import ModelError
from batchrec.models import resolve_model
from batchrec.models.backends import hardware, open_backend, resolve_device, resolve_precision

needs_bf16 = pytest.mark.skipif(not hardware.cpu_has_bf16(), reason="this CPU has no bf16 instructions")


def opened(model, backend, *, precision="fp32", top_k=5, num_threads=1, **more):
    return open_backend(
        model,
        precision=precision,
        device="cpu",
        backend=backend,
        batch_size=8,
        num_threads=num_threads,
        top_k=top_k,
        **more,
    )[0]


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v3_small", "shufflenet_v2_x1_0"])
def architecture_model(request, draw_weights):
    return resolve_model(f"file:{draw_weights(request.param, 40)}+{request.param}")


def test_openvino_and_torch_agree_in_fp32(architecture_model, noise):
    ours, theirs = (opened(architecture_model, name).predict(noise) for name in ("openvino", "torch-eager"))
    np.testing.assert_array_equal(ours.top_labels[:, 0], theirs.top_labels[:, 0])
    np.testing.assert_allclose(ours.top_scores, theirs.top_scores, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ours.entropy, theirs.entropy, rtol=1e-3, atol=1e-4)


@needs_bf16
def test_bf16_is_close_to_fp32_and_not_it(architecture_model, noise):
    whole = opened(architecture_model, "openvino", top_k=40).predict(noise)
    half = opened(architecture_model, "openvino", precision="bf16", top_k=40).predict(noise)
    eager = opened(architecture_model, "torch-eager", precision="bf16", top_k=40).predict(noise)
    for other in (half, eager):
        np.testing.assert_allclose(by_label(other), by_label(whole), atol=0.05)
    assert not np.array_equal(half.top_scores, whole.top_scores)


def by_label(scores):
    return np.take_along_axis(scores.top_scores, np.argsort(scores.top_labels, axis=1), axis=1)


def test_the_reference_is_torchvision_itself(small_model, noise):
    import torch
    from safetensors.torch import load_file
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    model = shufflenet_v2_x0_5(num_classes=12).eval()
    model.load_state_dict(load_file(small_model.weights_path))
    preset = ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms(resize_size=224)
    with torch.inference_mode():
        scores = model(preset(torch.from_numpy(noise).permute(0, 3, 1, 2))).softmax(dim=1).numpy()
    ours = opened(small_model, "openvino", top_k=12).predict(noise)
    np.testing.assert_allclose(by_label(ours), scores, atol=1e-5)


def test_many_callers_get_their_own_answers(small_model, noise):
    backend = opened(small_model, "openvino", num_threads=2)
    assert backend.concurrency == 2
    batches = [np.roll(noise, shift, axis=0) for shift in range(8)]
    alone = [backend.predict(batch) for batch in batches]
    with ThreadPoolExecutor(4) as callers:
        together = list(callers.map(backend.predict, batches * 3))
    for index, scores in enumerate(together):
        np.testing.assert_array_equal(scores.top_scores, alone[index % 8].top_scores)


FIRST_TWO = """
import threading, time, numpy.lib
from batchrec.models.backends.openvino_cpu import import_openvino

openvino, version = import_openvino(), numpy.lib.NumpyVersion
numpy.lib.NumpyVersion = lambda text: time.sleep(0.2) or version(text)  # whoever asks for it lets the other run
threads = [threading.Thread(target=openvino.Type.u8.to_dtype) for _ in range(2)]
for step in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        step(thread)
"""


def test_the_first_two_threads_with_images_for_openvino_do_not_wait_for_each_other():
    subprocess.run([sys.executable, "-c", FIRST_TWO], timeout=60, check=True)


def test_scores_do_not_change_when_the_batch_is_reused(small_model, noise):
    backend = opened(small_model, "openvino")
    slab = noise.copy()
    first = backend.predict(slab)
    kept = first.top_scores.copy()
    slab[:] = 0
    backend.predict(slab)
    np.testing.assert_array_equal(first.top_scores, kept)


def test_read_only_images_are_taken(small_model, noise):
    frozen = noise.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(
        opened(small_model, "openvino").predict(frozen).top_labels,
        opened(small_model, "openvino").predict(noise).top_labels,
    )


def test_one_stream_uses_all_threads_for_one_caller(small_model, noise):
    assert opened(small_model, "openvino", num_threads=2, streams=1).concurrency == 1


def test_the_trial_is_remembered(small_model, fresh_cache):
    arguments = {"precision": "fp32", "device": "cpu", "backend": "auto", "batch_size": 2, "num_threads": 1, "top_k": 1}
    _, first = open_backend(small_model, **arguments)
    _, second = open_backend(small_model, **arguments)
    assert first == second
    assert first.startswith(("openvino fp32, ", "torch-eager fp32, "))
    assert "images/s alone (" in first
    assert len(list((fresh_cache / "trials").iterdir())) == 1


def test_a_named_backend_is_not_tried_against_others(small_model, fresh_cache):
    backend, line = open_backend(
        small_model, precision="fp32", device="cpu", backend="torch-eager", batch_size=2, num_threads=1, top_k=1
    )
    assert (backend.name, line) == ("torch-eager", "torch-eager fp32, as asked")
    assert not (fresh_cache / "trials").exists()


def test_a_damaged_converted_model_is_converted_again(small_model, fresh_cache, noise):
    before = opened(small_model, "openvino").predict(noise)
    (kept,) = (fresh_cache / "ir").iterdir()
    (kept / "model.bin").write_bytes(b"")
    after = opened(small_model, "openvino").predict(noise)
    np.testing.assert_array_equal(before.top_scores, after.top_scores)
    assert (kept / "model.bin").stat().st_size > 0


def test_no_cache_is_no_hindrance(small_model, tmp_path, monkeypatch, noise):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BATCHREC_CACHE", str(tmp_path / "file" / "cache"))
    assert opened(small_model, "openvino").predict(noise).entropy.shape == (8,)


def test_precision_is_of_the_machine(monkeypatch):
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(hardware, "cpu_has_bf16", lambda has=has: has)
        assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ModelError, match="CUDA"):
        resolve_precision("fp16", "cpu")


def test_cuda_where_there_is_none_is_refused():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ModelError, match="no CUDA device"):
        resolve_device("cuda")
    assert resolve_device("auto") == "cpu"


def test_openvino_is_not_used_for_a_precision_it_would_not_honour(small_model, monkeypatch):
    from batchrec.models import backends

    monkeypatch.setattr(backends, "cpu_has_bf16", lambda: False)
    with pytest.raises(ModelError, match="no bf16 instructions"):
        opened(small_model, "openvino", precision="bf16")


def test_an_unknown_backend_is_refused(small_model):
    with pytest.raises(ModelError, match="no such backend"):
        opened(small_model, "abacus")


@pytest.mark.slow
def test_inductor_agrees_with_eager(small_model, noise):
    ours, theirs = (opened(small_model, name).predict(noise) for name in ("torch-inductor", "torch-eager"))
    np.testing.assert_array_equal(ours.top_labels[:, 0], theirs.top_labels[:, 0])
    np.testing.assert_allclose(ours.top_scores, theirs.top_scores, rtol=1e-3, atol=1e-5)


def test_without_openvino_torch_is_tried_alone(small_model, fresh_cache, monkeypatch):
    from batchrec.models.backends import openvino_cpu, torch_cpu

    def no_compiler(self):
        raise hardware.BackendUnavailable("torch-inductor cannot compile here")

    monkeypatch.setattr(openvino_cpu, "openvino_version", lambda: None)
    monkeypatch.setattr(torch_cpu.TorchCpuBackend, "_compile", no_compiler)
    backend, line = open_backend(
        small_model, precision="fp32", device="cpu", backend="auto", batch_size=2, num_threads=1, top_k=1
    )
    assert backend.name == "torch-eager"
    assert line.startswith("torch-eager fp32, ")


@pytest.mark.slow
def test_a_vision_transformer_is_converted_too(draw_weights, noise):
    from safetensors.torch import save_file
    from torchvision.models import get_model

    path = draw_weights("shufflenet_v2_x0_5", 3).with_name("vit.safetensors")
    save_file(get_model("vit_b_32", num_classes=20).state_dict(), path)
    model = resolve_model(f"file:{path}+vit_b_32")
    ours, theirs = (opened(model, name, top_k=20).predict(noise) for name in ("openvino", "torch-eager"))
    np.testing.assert_allclose(by_label(ours), by_label(theirs), atol=1e-5)
