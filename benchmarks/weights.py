"""Random weights whose answers differ from image to image, so that agreement between programs means something.

The body is as torchvision initialises it, its batch norms settled on drawn images. The head is fitted by ridge
regression to the labels of the drawn garments; outputs beyond those are never the best.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image
from torchvision.transforms._presets import ImageClassification

NUM_OUTPUTS = 1000
_NUM_SETTLING, _NUM_FITTED, _RIDGE, _NEVER = 64, 512, 10.0, -1e3


def make_weights(architecture: str, archive: Path, path: Path) -> None:
    """Write a state dict for a torchvision classifier, made from a seed and a drawn archive."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(architecture, weights=None, num_classes=NUM_OUTPUTS)
    images, labels = _examples(archive)
    _settle(model, images[:_NUM_SETTLING])
    _fit_head(model.eval(), images, labels)
    torch.save(model.state_dict(), path)


def _examples(archive: Path) -> tuple[torch.Tensor, torch.Tensor]:
    table = pq.read_table(archive / "manifest.parquet", columns=["uri", "label"]).slice(0, _NUM_FITTED).to_pydict()
    preset = ImageClassification(crop_size=224, resize_size=256)
    images = torch.stack([preset(Image.open(archive / uri).convert("RGB")) for uri in table["uri"]])
    names = sorted(set(table["label"]))
    return images, torch.tensor([names.index(label) for label in table["label"]])


def _settle(model: torch.nn.Module, images: torch.Tensor) -> None:
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
            layer.reset_running_stats()
    with torch.no_grad():
        model.train()(images)


def _fit_head(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    head = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][-1]
    features: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        for first in range(0, len(images), 32):
            model(images[first : first + 32])
        hook.remove()
        found = torch.cat(features)
        middle, spread = found.mean(0), found.std(0) + 1e-3
        scaled = (found - middle) / spread
        wanted = torch.nn.functional.one_hot(labels).float()
        fitted = torch.linalg.solve(scaled.T @ scaled + _RIDGE * torch.eye(scaled.shape[1]), scaled.T @ wanted)
        num_labels = wanted.shape[1]
        head.weight[:num_labels] = 10 * (fitted.T / spread)
        head.bias[:num_labels] = -(head.weight[:num_labels] @ middle)
        head.bias[num_labels:] = _NEVER
