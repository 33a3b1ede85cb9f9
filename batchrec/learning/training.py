"""A small trainer: labelled pixels in, weights out, resumable."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from batchrec.learning.augmenting import cut_and_paste, random_views


@dataclass(frozen=True, slots=True)
class Examples:
    """Labelled images in memory.

    Attributes:
        images: uint8 ``(n, 3, canvas, canvas)``, each centred on its canvas.
        extents: float32 ``(n, 2)``, width and height the image fills of the canvas.
        labels: int64 ``(n,)``.
        num_labels: How many there are to choose from.
    """

    images: torch.Tensor
    extents: torch.Tensor
    labels: torch.Tensor
    num_labels: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: Passes over the examples.
        batch_size: Examples of one step.
        learning_rate: Its peak; warmed up for two epochs, then a cosine down to nothing.
        weight_decay: Of matrices and kernels, not of biases and scales.
        smoothing: Probability given to all labels alike.
        cut_and_paste: How often a batch is mixed, see :func:`cut_and_paste`.
        average: Decay of the running average of the weights, which is what is kept.
        first_side: Pixels of the square in the first epochs.
        last_side: And in the last; it grows in steps of 16.
        seed: Decides everything random.
    """

    epochs: int = 48
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    smoothing: float = 0.1
    cut_and_paste: float = 0.25
    average: float = 0.998
    first_side: int = 96
    last_side: int = 144
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass came to."""

    number: int
    side: int
    loss: float
    seconds: float


def train(
    model: torch.nn.Module,
    examples: Examples,
    recipe: Recipe,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    checkpoint: Path,
    report: Callable[[Epoch, torch.nn.Module], None],
) -> torch.nn.Module:
    """Train and return the averaged model in evaluation mode.

    Args:
        model: Answers as many outputs as there are labels.
        examples: What to learn from.
        recipe: How.
        mean: Of each channel on the scale 0..1, subtracted.
        std: Likewise, divided by.
        checkpoint: Written after every epoch; if it is there, training goes on from it.
        report: Called after every epoch with the averaged model.
    """
    run = _Run(model, recipe, len(examples), mean, std)
    run.restore(checkpoint)
    for number in range(run.epochs_done, recipe.epochs):
        start = time.perf_counter()
        side, loss = run.epoch(examples, number)
        run.save(checkpoint)
        report(Epoch(number + 1, side, loss, time.perf_counter() - start), run.averaged)
    return run.averaged


class _Run:
    def __init__(
        self, model: torch.nn.Module, recipe: Recipe, num_examples: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model).eval()
        self.epochs_done = 0
        self._recipe = recipe
        self._steps_per_epoch = num_examples // recipe.batch_size
        self._steps = 0
        self._mean = 255 * torch.tensor(mean).reshape(1, 3, 1, 1)
        self._std = 255 * torch.tensor(std).reshape(1, 3, 1, 1)
        self._optimizer = torch.optim.AdamW(_decayed(model, recipe.weight_decay), lr=recipe.learning_rate)

    def epoch(self, examples: Examples, number: int) -> tuple[int, float]:
        rng = torch.Generator().manual_seed(self._recipe.seed * 10_000 + number)
        side, total = self._side(number), 0.0
        order = torch.randperm(len(examples), generator=rng)
        self.model.train()
        for step in range(self._steps_per_epoch):
            chosen = order[step * self._recipe.batch_size : (step + 1) * self._recipe.batch_size]
            total += self._step(examples, chosen, side, rng)
        self.epochs_done = number + 1
        return side, total / self._steps_per_epoch

    def save(self, path: Path) -> None:
        staged = path.with_suffix(".new")
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "epochs_done": self.epochs_done,
        }
        torch.save(state, staged)
        staged.replace(path)

    def restore(self, path: Path) -> None:
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epochs_done = state["epochs_done"]
        self._steps = self.epochs_done * self._steps_per_epoch

    def _step(self, examples: Examples, chosen: torch.Tensor, side: int, rng: torch.Generator) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        views = random_views(examples.images[chosen], examples.extents[chosen], side, rng)
        targets = torch.nn.functional.one_hot(examples.labels[chosen], examples.num_labels).float()
        views, targets = cut_and_paste(views, targets, self._recipe.cut_and_paste, rng)
        inputs = ((views - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        loss = torch.nn.functional.cross_entropy(self.model(inputs), targets, label_smoothing=self._recipe.smoothing)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self._optimizer.step()
        self._steps += 1
        self._average()
        return loss.item()

    def _rate(self) -> float:
        warm, every = 2 * self._steps_per_epoch, self._recipe.epochs * self._steps_per_epoch
        if self._steps < warm:
            return self._recipe.learning_rate * (self._steps + 1) / warm
        return self._recipe.learning_rate * (1 + math.cos(math.pi * (self._steps - warm) / (every - warm))) / 2

    def _side(self, number: int) -> int:
        grown = (self._recipe.last_side - self._recipe.first_side) * min(1.0, number / (0.8 * self._recipe.epochs))
        return self._recipe.first_side + int(grown) // 16 * 16

    @torch.no_grad()
    def _average(self) -> None:
        # Early weights are far from good: the average forgets them faster at first.
        decay = min(self._recipe.average, (1 + self._steps) / (10 + self._steps))
        live = self.model.state_dict()
        for name, kept in self.averaged.state_dict().items():
            if kept.is_floating_point():
                kept.lerp_(live[name], 1 - decay)
            else:
                kept.copy_(live[name])


def _decayed(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    every = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in every if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in every if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
