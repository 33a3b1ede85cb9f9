"""How good a model is: accuracy with its interval, recall by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from batchrec.models.backends import open_backend
from batchrec.models.bundle import ModelSpec
from batchrec.models.preprocessing import Preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a model got right.

    Attributes:
        num_right: Images whose best label is the true one.
        num_images: All of them.
        recalls: Right and all by true label.
    """

    num_right: int
    num_images: int
    recalls: dict[str, tuple[int, int]]

    @property
    def share(self) -> float:
        """Right of all."""
        return self.num_right / self.num_images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of :attr:`share`."""
        return wilson_interval(self.num_right, self.num_images)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``bundle.json``."""
        low, high = self.interval
        return {
            "top1": round(self.share, 4),
            "interval_95": [round(low, 4), round(high, 4)],
            "num_images": self.num_images,
            "recall": {label: round(right / total, 4) for label, (right, total) in self.recalls.items()},
        }


def wilson_interval(num_right: int, num_images: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927); ``z`` is the normal quantile."""
    share, spread = num_right / num_images, z * z / num_images
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / num_images + spread / (4 * num_images))
    return middle - half, middle + half


def count_right(predicted: Sequence[int], true: Sequence[int], labels: tuple[str, ...]) -> Accuracy:
    """Compare predicted with true label indices."""
    hits = np.asarray(predicted) == np.asarray(true)
    recalls = {
        label: (int(hits[np.asarray(true) == index].sum()), int((np.asarray(true) == index).sum()))
        for index, label in enumerate(labels)
    }
    return Accuracy(int(hits.sum()), len(hits), {label: counts for label, counts in recalls.items() if counts[1]})


def recognise(model: ModelSpec, images: Sequence[Image], *, num_threads: int = 1) -> list[int]:
    """Return the best label index of each image, in fp32 and with the model's own preprocessing."""
    backend, _ = open_backend(
        model, precision="fp32", device="cpu", backend="auto", batch_size=32, num_threads=num_threads, top_k=1
    )
    side, best = model.preprocess.crop, list[int]()
    for first in range(0, len(images), backend.batch_size):
        chunk = [prepared(image, model.preprocess) for image in images[first : first + backend.batch_size]]
        batch = np.zeros((backend.batch_size, side, side, 3), dtype=np.uint8)
        batch[: len(chunk)] = chunk
        best += backend.predict(batch).top_labels[: len(chunk), 0].tolist()
    return best


def prepared(image: Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize the short side and cut the centre square, as torchvision's classification preset does it.

    Returns:
        uint8 ``(crop, crop, 3)``.
    """
    from PIL.Image import Resampling

    width, height = image.size
    short = min(width, height)
    size = int(preprocess.resize * width / short), int(preprocess.resize * height / short)
    kind = Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Resampling.BICUBIC
    left, top = (round((side - preprocess.crop) / 2) for side in size)
    resized = image.convert("RGB").resize(size, kind)
    return np.asarray(resized.crop((left, top, left + preprocess.crop, top + preprocess.crop)))
