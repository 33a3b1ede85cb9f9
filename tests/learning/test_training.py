from __future__ import annotations

import pytest
import torch

from batchrec.learning.augmenting import cut_and_paste, random_views
from batchrec.learning.training import Examples, Recipe, train


@pytest.fixture
def two_colours():
    """Red and blue squares, the easiest thing to learn."""
    labels = torch.arange(64) % 2
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    images[labels == 0, 0] = 220
    images[labels == 1, 2] = 220
    return Examples(images, torch.full((64, 2), 32.0), labels, 2)


def small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 2),
    )  # fmt: skip


def trained(examples, checkpoint, epochs, seen=None, **recipe):
    return train(
        small_network(),
        examples,
        Recipe(epochs=epochs, batch_size=16, learning_rate=0.02, first_side=16, last_side=16, **recipe),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        checkpoint=checkpoint,
        report=lambda epoch, model: (seen if seen is not None else []).append(epoch),
    )


def test_two_colours_are_learnt(two_colours, tmp_path):
    model = trained(two_colours, tmp_path / "c.pt", 8)
    with torch.inference_mode():
        best = model((two_colours.images.float() / 255 - 0.5) / 0.25).argmax(dim=1)
    assert (best == two_colours.labels).float().mean() > 0.95


def test_training_goes_on_from_its_checkpoint(two_colours, tmp_path):
    seen = []
    whole = trained(two_colours, tmp_path / "whole.pt", 3)

    class Interrupted(Exception):
        pass

    def stop(epoch, model):
        if epoch.number == 2:
            raise Interrupted

    recipe = Recipe(epochs=3, batch_size=16, learning_rate=0.02, first_side=16, last_side=16)
    constants = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "checkpoint": tmp_path / "parts.pt"}
    with pytest.raises(Interrupted):
        train(small_network(), two_colours, recipe, report=stop, **constants)
    resumed = trained(two_colours, tmp_path / "parts.pt", 3, seen)
    assert [epoch.number for epoch in seen] == [3]
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor)


def test_views_stay_in_range_and_differ(two_colours):
    rng = torch.Generator().manual_seed(0)
    first, second = (random_views(two_colours.images, two_colours.extents, 24, rng) for _ in range(2))
    assert first.shape == (64, 3, 24, 24)
    assert first.min() >= 0 and first.max() <= 255
    assert not torch.equal(first, second)


def test_pasting_keeps_the_targets_whole():
    rng = torch.Generator().manual_seed(0)
    views, targets = cut_and_paste(torch.rand(8, 3, 16, 16), torch.eye(8), 1.0, rng)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
    assert views.shape == (8, 3, 16, 16)
