"""Random weights of small architectures, and a cache of this session's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from batchrec.models import ModelSpec, Preprocess, resolve_model, save_bundle


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHREC_CACHE", str(folder))
        yield folder


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fresh-cache"
    monkeypatch.setenv("BATCHREC_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def draw_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function writing random weights of an architecture as safetensors."""

    def draw(architecture: str, num_outputs: int) -> Path:
        import torch
        from safetensors.torch import save_file
        from torchvision.models import get_model

        torch.manual_seed(1)
        model = get_model(architecture, num_classes=num_outputs).train()
        with torch.no_grad():
            # A pass in training gives the norms something to measure, so that outputs spread.
            for _ in range(3):
                model(torch.randn(8, 3, 64, 64))
        path = tmp_path_factory.mktemp("weights") / f"{architecture}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
        return path

    return draw


@pytest.fixture(scope="session")
def weights_file(draw_weights: Callable[..., Path]) -> Path:
    return draw_weights("shufflenet_v2_x0_5", 12)


@pytest.fixture(scope="session")
def small_model(weights_file: Path) -> ModelSpec:
    return resolve_model(f"file:{weights_file}+shufflenet_v2_x0_5")


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """One batch of 8 images of smooth colours, different from each other."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 7, 7, 3)).repeat(32, axis=1).repeat(32, axis=2)
    return np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def bundle(tmp_path: Path, weights_file: Path) -> Path:
    from safetensors.numpy import load_file

    folder = tmp_path / "bundle"
    save_bundle(
        folder,
        architecture="shufflenet_v2_x0_5",
        weights=load_file(weights_file),
        labels=tuple("abcdefghijkl"),
        preprocess=Preprocess(resize=72, crop=64),
        card="# twelve letters\n",
        facts={"accuracy": {"top1": 0.5}},
    )
    return folder
