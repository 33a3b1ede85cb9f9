"""Embeddings are the inputs of the last layer, from every backend and known before any image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from batchrec.errors import ModelError
from batchrec.models import ModelSpec, resolve_model
from batchrec.models.backends import hardware, open_backend
from batchrec.models.backends.openvino_cpu import load_graph
from batchrec.models.embedding import resolve_embedding
from batchrec.records import EmbeddingSpec

needs_bf16 = pytest.mark.skipif(not hardware.cpu_has_bf16(), reason="this CPU has no bf16 instructions")
SHIFTS = range(6)


def opened(model, backend="openvino", *, precision="fp32", embeddings=True, num_threads=1, device="cpu"):
    return open_backend(
        model,
        precision=precision,
        device=device,
        backend=backend,
        batch_size=8,
        num_threads=num_threads,
        top_k=3,
        embeddings=embeddings,
    )[0]


@pytest.fixture(scope="module")
def model(draw_weights) -> ModelSpec:
    return resolve_model(f"file:{draw_weights('resnet18', 40)}+resnet18")


@pytest.fixture(scope="module")
def features(model, noise) -> np.ndarray:
    """What torchvision's own resnet18 hands to its last layer, by a hook."""
    import torch
    from safetensors.torch import load_file
    from torchvision.models import ResNet18_Weights, resnet18

    network, seen = resnet18(num_classes=40).eval(), []
    network.load_state_dict(load_file(model.weights_path))
    network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    preset = ResNet18_Weights.DEFAULT.transforms(resize_size=224)
    with torch.inference_mode():
        network(preset(torch.from_numpy(noise).permute(0, 3, 1, 2)))
    return seen[0].numpy()


@pytest.mark.parametrize(
    ("backend", "precision", "tolerance"),
    [
        ("openvino", "fp32", 1e-4),
        ("torch-eager", "fp32", 1e-4),
        pytest.param("torch-inductor", "fp32", 1e-4, marks=pytest.mark.slow),
        pytest.param("openvino", "bf16", 0.05, marks=needs_bf16),
        pytest.param("torch-eager", "bf16", 0.05, marks=needs_bf16),
    ],
)
def test_embeddings_are_what_a_hook_sees(model, noise, features, backend, precision, tolerance):
    found = opened(model, backend, precision=precision).predict(noise).embeddings
    assert (found.shape, found.dtype) == ((8, 512), np.float32)
    np.testing.assert_allclose(found, features, atol=tolerance * np.abs(features).max())


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-2), ("bf16", 0.05), ("fp16", 0.02)])
def test_embeddings_of_cuda_are_what_a_hook_sees(model, noise, features, precision, tolerance):
    found = opened(model, "auto", precision=precision, device="cuda").predict(noise).embeddings
    assert (found.shape, found.dtype) == ((8, 512), np.float32)
    np.testing.assert_allclose(found, features, atol=tolerance * np.abs(features).max())


@pytest.mark.parametrize("backend", ["openvino", "torch-eager"])
def test_scores_are_the_same_with_and_without_embeddings(model, noise, backend):
    on, off = (opened(model, backend, embeddings=wanted).predict(noise) for wanted in (True, False))
    assert off.embeddings is None
    np.testing.assert_array_equal(on.top_labels, off.top_labels)
    np.testing.assert_allclose(on.top_scores, off.top_scores, rtol=1e-4)


def test_a_batch_keeps_its_embeddings_while_others_run(model, noise):
    backend = opened(model)
    first = backend.predict(noise).embeddings
    kept = first.copy()
    for shift in SHIFTS:
        rolled = backend.predict(np.roll(noise, shift, axis=0)).embeddings
        np.testing.assert_allclose(rolled, np.roll(kept, shift, axis=0), atol=1e-5)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.usefixtures("fresh_cache")
def test_graphs_with_and_without_embeddings_are_kept_apart(model, fresh_cache):
    for wanted in (True, False, True, False):
        assert len(load_graph(model, 1, embeddings=wanted).outputs) == 1 + wanted
    assert len(list((fresh_cache / "ir").iterdir())) == 2


@pytest.mark.parametrize(
    ("architecture", "dimension"),
    [
        ("resnet18", 512),
        ("mobilenet_v3_small", 1024),
        ("efficientnet_b0", 1280),
        ("convnext_tiny", 768),
        ("googlenet", 1024),
        ("inception_v3", 2048),
        ("maxvit_t", 512),
        ("swin_t", 768),
        ("vit_b_32", 768),
        ("vgg11", 4096),
        ("regnet_y_400mf", 440),
    ],
)
def test_the_dimension_comes_from_the_architecture(architecture, dimension, small_model):
    model = replace(small_model, architecture=architecture, weights_path="/nowhere")
    assert resolve_embedding("float16", model) == EmbeddingSpec("float16", dimension)


def test_no_embeddings_are_resolved_without_looking_at_the_model(small_model):
    assert resolve_embedding("off", replace(small_model, architecture="squeezenet1_1")) is None


def test_a_model_without_a_linear_layer_is_refused(small_model):
    with pytest.raises(ModelError, match=r"no embeddings.*squeezenet1_1.*--embeddings off"):
        resolve_embedding("float32", replace(small_model, architecture="squeezenet1_1"))


def test_the_dimension_is_known_the_next_time_without_torch(small_model, monkeypatch):
    from batchrec.models import building

    first = resolve_embedding("float32", small_model)
    monkeypatch.setattr(building, "count_features", None)
    assert resolve_embedding("float32", small_model) == first == EmbeddingSpec("float32", 1024)
