"""From the string a user types to a model.

apparel                                   ships with batchrec
FOLDER                                    a bundle
torchvision:NAME[@WEIGHTS]                WEIGHTS: IMAGENET1K_V2, DEFAULT, ... or a local file
file:PATH+NAME                            a local file and a torchvision architecture
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from batchrec.errors import ModelError
from batchrec.models.bundle import BUNDLE_FILE, ModelSpec, load_bundle, read_facts
from batchrec.models.catalogue import PublishedWeights, architectures, downloads_folder, nearest, published_weights
from batchrec.models.downloading import download
from batchrec.models.labels import numbered_labels, read_labels, require_count
from batchrec.models.preprocessing import Preprocess
from batchrec.models.remembering import remember
from batchrec.models.weights import SUFFIXES, require_weights_file, sha256_of

BUNDLES: Final = Path(str(files("batchrec.models"))) / "bundles"
FORMS: Final = ("apparel", "FOLDER", "torchvision:NAME[@WEIGHTS]", "file:PATH+NAME")


def resolve_model(name: str, *, labels: str | None = None) -> ModelSpec:
    """Turn a model string into everything a worker needs.

    Weights are read once to see that they fit; what was seen is remembered by their hash, so
    that later calls import no torch.

    Args:
        name: One of :data:`FORMS`.
        labels: File with one label a line, replacing the names the model carries.

    Raises:
        ModelError: If the model, its weights or its labels cannot be used.
    """
    spec = _resolver(name)(name)
    if labels is not None:
        spec = dataclasses.replace(spec, labels=read_labels(labels))
    require_count(spec.labels, spec.num_outputs, source=labels or f"the metadata of {name}")
    return spec


def list_models() -> list[dict[str, Any]]:
    """Describe models at hand first: bundled, then downloaded; then the others torchvision can fetch.

    Returns:
        One dict a model: ``name`` to type, ``kind``, ``ready`` (usable without a network),
        ``architecture``, ``num_outputs``, ``input`` in pixels, ``accuracy`` where measured.
    """
    bundled = [_describe_bundle(folder) for folder in sorted(BUNDLES.iterdir()) if (folder / BUNDLE_FILE).is_file()]
    published = [
        _describe_published(architecture, weights)
        for architecture in architectures()
        for weights in published_weights(architecture).values()
    ]
    return bundled + sorted(published, key=lambda model: (not model["ready"], model["name"]))


def _resolver(name: str) -> Callable[[str], ModelSpec]:
    scheme, colon, _ = name.partition(":")
    if colon and scheme in ("torchvision", "file"):
        return {"torchvision": _torchvision, "file": _file}[scheme]
    if re.fullmatch(r"[\w-]+", name) and (BUNDLES / name / BUNDLE_FILE).is_file():
        return _bundled
    if name and Path(name).expanduser().is_dir():
        return _bundle
    raise _unknown(name)


def _bundled(name: str) -> ModelSpec:
    return dataclasses.replace(load_bundle(BUNDLES / name), name=name)


def _bundle(name: str) -> ModelSpec:
    spec = dataclasses.replace(load_bundle(name), name=name)
    published_weights(spec.architecture)
    found = _checked_outputs(spec.architecture, Path(spec.weights_path), spec.weights_sha256, spec.preprocess.crop)
    require_count(spec.labels, found, source=name)
    return spec


def _torchvision(name: str) -> ModelSpec:
    architecture, _, wanted = name.partition(":")[2].partition("@")
    published = published_weights(architecture)
    default = next(iter(published.values()), None)
    weights = published.get(wanted, default)
    if "/" in wanted or wanted.endswith(SUFFIXES):
        path = require_weights_file(wanted)
    elif weights is None or wanted not in ("", "DEFAULT", *published):
        raise ModelError(
            f"torchvision publishes no such weights for {architecture}",
            found=wanted,
            advice=f"it has {', '.join(published) or 'none'}; a local file is named {architecture}@./FILE.safetensors",
        )
    else:
        path = download(architecture, weights)
    preprocess, labels = (weights.preprocess, weights.labels) if weights else (Preprocess(), None)
    return _assemble(name, architecture, path, preprocess, labels)


def _file(name: str) -> ModelSpec:
    path, plus, architecture = name.partition(":")[2].rpartition("+")
    if not plus:
        raise ModelError(
            "a weights file does not say its architecture", found=name, advice="write file:PATH+NAME, e.g. +resnet18"
        )
    published = published_weights(architecture)
    preprocess = next(iter(published.values())).preprocess if published else Preprocess()
    return _assemble(name, architecture, require_weights_file(path), preprocess, None)


def _assemble(
    name: str, architecture: str, path: Path, preprocess: Preprocess, labels: tuple[str, ...] | None
) -> ModelSpec:
    sha256 = sha256_of(path)
    num_outputs = _checked_outputs(architecture, path, sha256, preprocess.crop)
    return ModelSpec(
        name=name,
        architecture=architecture,
        weights_path=str(path),
        weights_sha256=sha256,
        num_outputs=num_outputs,
        labels=numbered_labels(num_outputs) if labels is None else labels,
        preprocess=preprocess,
    )


def _checked_outputs(architecture: str, path: Path, sha256: str, crop: int) -> int:
    """Return how many classes the weights answer, having loaded them once into the architecture."""

    def load() -> dict[str, Any]:
        from batchrec.models.building import count_outputs, load_model
        from batchrec.models.weights import read_state_dict

        load_model(architecture, path, crop)
        return {"num_outputs": count_outputs(architecture, read_state_dict(path), crop)}

    key = {"architecture": architecture, "weights": sha256, "crop": crop, "torchvision": version("torchvision")}
    return int(remember("checked", key, load)["num_outputs"])


def _unknown(name: str) -> ModelError:
    scheme, colon, rest = name.partition(":")
    if colon and "/" not in scheme:
        return ModelError("there is no such kind of model", found=f"{scheme}:", advice=f"write {' or '.join(FORMS)}")
    bundled = tuple(folder.name for folder in BUNDLES.iterdir())
    near = nearest(name, bundled) + [f"torchvision:{each}" for each in nearest(rest or name, architectures())]
    hint = f"nearest: {', '.join(near[:5])}" if near else f"write {' or '.join(FORMS)}"
    return ModelError("there is no such model, and no folder of that name", found=name, advice=hint)


def _describe_bundle(folder: Path) -> dict[str, Any]:
    spec = load_bundle(folder)
    return {
        "name": folder.name,
        "kind": "bundled",
        "ready": True,
        "architecture": spec.architecture,
        "num_outputs": spec.num_outputs,
        "input": spec.preprocess.crop,
        "accuracy": read_facts(folder).get("accuracy"),
    }


def _describe_published(architecture: str, weights: PublishedWeights) -> dict[str, Any]:
    return {
        "name": f"torchvision:{architecture}@{weights.name}",
        "kind": "torchvision",
        "ready": (downloads_folder() / weights.file_name).is_file(),
        "architecture": architecture,
        "num_outputs": len(weights.labels),
        "input": weights.preprocess.crop,
        "accuracy": None,
    }
