"""What torchvision knows of its classifiers, kept as plain values so that a start need not import it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec.errors import ModelError
from batchrec.models.preprocessing import Preprocess
from batchrec.models.remembering import remember

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """One set of weights torchvision publishes.

    Attributes:
        name: Name in torchvision's enumeration, e.g. ``IMAGENET1K_V2``.
        file_name: What it is called in the download folder.
        preprocess: How its images were prepared.
        labels: Its categories.
    """

    name: str
    file_name: str
    preprocess: Preprocess
    labels: tuple[str, ...]


def architectures() -> tuple[str, ...]:
    """Return the names of all classifiers."""
    return tuple(_facts()["architectures"])


def published_weights(architecture: str) -> dict[str, PublishedWeights]:
    """Return the weights published for an architecture by name; the first is the default.

    Raises:
        ModelError: If there is no such architecture, naming the nearest.
    """
    known = _facts()["architectures"]
    if architecture not in known:
        raise ModelError(
            "there is no such architecture in torchvision",
            found=architecture,
            advice=f"nearest: {', '.join(nearest(architecture, known)) or 'none; see `batchrec models list`'}",
        )
    return {each["name"]: _published(each, _facts()["label_sets"]) for each in known[architecture]}


def nearest(name: str, known: Mapping[str, object] | tuple[str, ...]) -> list[str]:
    """Return up to five known names that look like ``name``."""
    return difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)


def downloads_folder() -> Path:
    """Return where torch.hub keeps downloaded weights, by its own rules but without importing it."""
    cache_home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    torch_home = os.environ.get("TORCH_HOME", f"{cache_home}/torch")
    return Path(torch_home).expanduser() / "hub" / "checkpoints"


def _published(plain: Mapping[str, Any], label_sets: list[list[str]]) -> PublishedWeights:
    return PublishedWeights(
        name=plain["name"],
        file_name=plain["file_name"],
        preprocess=Preprocess.from_json(plain["preprocess"]),
        labels=tuple(label_sets[plain["label_set"]]),
    )


@cache
def _facts() -> dict[str, Any]:
    return remember("catalogue", {"torchvision": version("torchvision"), "format": 1}, _read_torchvision)


def _read_torchvision() -> dict[str, Any]:
    import torchvision
    from torchvision.models import get_model_weights, list_models

    label_sets: list[list[str]] = []
    known = {
        name: [_plain(weights, label_sets) for weights in _default_first(get_model_weights(name))]
        for name in list_models(module=torchvision.models)
    }
    return {"architectures": known, "label_sets": label_sets}


def _default_first(enumeration: type[WeightsEnum]) -> list[WeightsEnum]:
    # Some are pretraining only and name no categories.
    classifying = [weights for weights in enumeration.__members__.values() if weights.meta["categories"]]
    default = getattr(enumeration, "DEFAULT", None)
    return sorted(classifying, key=lambda weights: weights is not default)


def _plain(weights: WeightsEnum, label_sets: list[list[str]]) -> dict[str, Any]:
    transforms = weights.transforms()
    categories = list(weights.meta["categories"])
    if categories not in label_sets:
        label_sets.append(categories)
    preprocess = Preprocess(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    return {
        "name": weights.name,
        "file_name": weights.url.rsplit("/", 1)[-1],
        "preprocess": preprocess.to_json(),
        "label_set": label_sets.index(categories),
    }
