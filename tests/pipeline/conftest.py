"""A model that costs next to nothing, for jobs that are about images."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of random weights for pictures of 32 x 32."""
    import torch
    from torchvision.models import get_model

    from batchrec.models import Preprocess, save_bundle

    torch.manual_seed(1)
    weights = get_model("shufflenet_v2_x0_5", num_classes=3).state_dict()
    folder = tmp_path_factory.mktemp("model") / "bundle"
    save_bundle(
        folder,
        architecture="shufflenet_v2_x0_5",
        weights={name: tensor.numpy() for name, tensor in weights.items()},
        labels=("a", "b", "c"),
        preprocess=Preprocess(resize=32, crop=32),
        card="# random\n",
    )
    return str(folder)
