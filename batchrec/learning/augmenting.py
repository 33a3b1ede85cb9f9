"""Random views of images, made for a whole batch at once on tensors."""

from __future__ import annotations

import math
from typing import Final

import torch

_GREY: Final = (0.299, 0.587, 0.114)


def random_views(images: torch.Tensor, extents: torch.Tensor, side: int, rng: torch.Generator) -> torch.Tensor:
    """Cut a turned, scaled, mirrored and recoloured square out of each image.

    Args:
        images: uint8 ``(n, 3, canvas, canvas)``, each centred on its canvas.
        extents: float32 ``(n, 2)``, width and height in pixels the image fills of its canvas.
        side: Pixels of the square returned.
        rng: Decides everything.

    Returns:
        float32 ``(n, 3, side, side)`` from 0 to 255.
    """
    canvas = images.shape[-1]
    matrices = _random_placements(extents, canvas, rng)
    grid = torch.nn.functional.affine_grid(matrices, [len(images), 3, side, side], align_corners=False)
    views = torch.nn.functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return _recoloured(views, rng)


def cut_and_paste(
    views: torch.Tensor, targets: torch.Tensor, probability: float, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste a rectangle of another image of the batch into each, and mix the targets by area (CutMix).

    Args:
        views: float32 ``(n, 3, side, side)``; changed in place.
        targets: float32 ``(n, num_outputs)``.
        probability: How often a batch is treated at all.
        rng: Decides everything.
    """
    if torch.rand((), generator=rng) > probability:
        return views, targets
    side = views.shape[-1]
    share = math.sqrt(float(torch.rand((), generator=rng)) * 0.5)
    size = round(side * share)
    top, left = (int(torch.randint(0, side - size + 1, (), generator=rng)) for _ in range(2))
    other = torch.randperm(len(views), generator=rng)
    views[:, :, top : top + size, left : left + size] = views[other, :, top : top + size, left : left + size]
    pasted = size * size / (side * side)
    return views, (1 - pasted) * targets + pasted * targets[other]


def _random_placements(extents: torch.Tensor, canvas: int, rng: torch.Generator) -> torch.Tensor:
    count = len(extents)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    short = extents.min(dim=1).values
    size = short * uniform(0.45, 1.25).sqrt() / canvas
    stretch = uniform(-0.22, 0.22).exp()
    width, height = size * stretch, size / stretch
    angle = torch.randn(count, generator=rng) * 0.17
    mirror = 1 - 2 * torch.randint(0, 2, (count,), generator=rng)
    # What is left of the image beside the square is how far the square may wander.
    room_x = (extents[:, 0] / canvas - width).clamp(min=0.06)
    room_y = (extents[:, 1] / canvas - height).clamp(min=0.06)
    rows = [
        torch.stack([mirror * width * angle.cos(), -height * angle.sin(), room_x * uniform(-1, 1)], dim=1),
        torch.stack([mirror * width * angle.sin(), height * angle.cos(), room_y * uniform(-1, 1)], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _recoloured(views: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    count = len(views)

    def factor(spread: float) -> torch.Tensor:
        return (1 + spread * (2 * torch.rand(count, 1, 1, 1, generator=rng) - 1)).to(views)

    grey = (views * torch.tensor(_GREY).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    saturation = factor(0.5) * (torch.rand(count, 1, 1, 1, generator=rng) > 0.08)
    views = grey + (views - grey) * saturation
    middle = views.mean(dim=(1, 2, 3), keepdim=True)
    tint = 1 + 0.08 * torch.randn(count, 3, 1, 1, generator=rng)
    views = ((views - middle) * factor(0.35) + middle) * factor(0.35) * tint
    return views.clamp_(0, 255)
