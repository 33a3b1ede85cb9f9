"""Make the bundled model ``apparel``: ten garments, from photographs and drawings.

    python -m batchrec.learning.apparel --photographs DIR --out BUNDLE_FOLDER [--epochs N]

``DIR`` is the public clothing-dataset of A. Grigorev (CC0) or a part of it: ``images/`` and
``images.csv`` with the columns image, sender_id, label.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps

from batchrec.learning.cards import apparel_card
from batchrec.learning.drawing import draw_image
from batchrec.learning.evaluating import Accuracy, count_right, prepared, recognise
from batchrec.learning.garments import LABELS
from batchrec.learning.training import Epoch, Examples, Recipe, train
from batchrec.models.bundle import ModelSpec, save_bundle
from batchrec.models.preprocessing import Preprocess

ARCHITECTURE: Final = "shufflenet_v2_x1_5"
SHARES: Final = {"test": 0.2, "validation": 0.1}
LARGE_SENDER: Final = 100
SHORT_SIDE: Final = 192
CANVAS: Final = 256
NUM_DRAWN: Final = {"train": 500, "test": 1000}
# Far from the seeds people type, so that no archive drawn with `sample` was trained on.
DRAWN_SEEDS: Final = {"train": 20_260_001, "test": 20_260_003}
SIDES: Final = (160, 176, 192)


@dataclass(frozen=True, slots=True)
class Photograph:
    """One row of ``images.csv`` that has a garment of ours and a file."""

    path: Path
    sender: str
    label: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, train, choose, test once, write the bundle."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    splits = split_by_sender(read_photographs(options.photographs))
    _say(", ".join(f"{name} {len(rows)}" for name, rows in splits.items()))
    recipe = Recipe(epochs=options.epochs)
    validation = _labelled_images(splits["validation"], "validation")
    model = _train(splits["train"], validation, recipe, options.checkpoint)
    side = max(SIDES, key=lambda each: _share_right(model, validation, Preprocess(resize=each, crop=each)))
    preprocess = Preprocess(resize=side, crop=side)
    _say(f"chosen by validation: {side} pixels")
    bundle = _export(options.out, model, preprocess, "# being tested\n", {})
    facts = _tested(bundle, splits, recipe)
    _export(options.out, model, preprocess, apparel_card(facts), facts)
    _say(str(facts["accuracy"]))


def read_photographs(folder: Path) -> list[Photograph]:
    """Read the photographs of our ten garments, in the order of the table."""
    with (folder / "images.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in LABELS]
    every = [Photograph(_file(folder, row), row["sender_id"], LABELS.index(row["label"])) for row in rows]
    return [photograph for photograph in every if photograph.path.is_file()]


def split_by_sender(photographs: list[Photograph], seed: int = 0) -> dict[str, list[Photograph]]:
    """Divide into train, validation and test so that no sender is in two.

    Senders of more than :data:`LARGE_SENDER` photographs go to train: their photographs are
    alike, and one of them would decide the test alone.
    """
    counts = Counter(photograph.sender for photograph in photographs)
    small = sorted(sender for sender, count in counts.items() if count <= LARGE_SENDER)
    random.Random(seed).shuffle(small)
    part_of: dict[str, str] = {}
    for name, share in SHARES.items():
        wanted = share * len(photographs)
        while wanted > 0 and small:
            sender = small.pop()
            part_of[sender] = name
            wanted -= counts[sender]
    splits: dict[str, list[Photograph]] = {"train": [], "validation": [], "test": []}
    for photograph in photographs:
        splits[part_of.get(photograph.sender, "train")].append(photograph)
    return splits


def _file(folder: Path, row: dict[str, str]) -> Path:
    return folder / "images" / f"{row['image']}.jpg"


def _train(
    photographs: list[Photograph], validation: tuple[list[Image.Image], list[int]], recipe: Recipe, checkpoint: Path
) -> torch.nn.Module:
    from torchvision.models import get_model

    examples = _examples(*_labelled_images(photographs, "train"))
    torch.manual_seed(recipe.seed)
    model = get_model(ARCHITECTURE, num_classes=len(LABELS))
    preprocess = Preprocess(resize=176, crop=176)

    def report(epoch: Epoch, averaged: torch.nn.Module) -> None:
        line = f"epoch {epoch.number} at {epoch.side}: loss {epoch.loss:.3f}, {epoch.seconds:.0f} s"
        if epoch.number % 5 == 0 or epoch.number == recipe.epochs:
            line += f", validation {_share_right(averaged, validation, preprocess):.3f}"
        _say(line)

    return train(
        model, examples, recipe, mean=preprocess.mean, std=preprocess.std, checkpoint=checkpoint, report=report
    )


def _labelled_images(photographs: list[Photograph], part: str) -> tuple[list[Image.Image], list[int]]:
    """Read photographs and add drawings to train on; other parts hold photographs alone."""
    images = [_opened(photograph.path) for photograph in photographs]
    labels = [photograph.label for photograph in photographs]
    if part == "train":
        drawn, drawn_labels = _drawn(part)
        return images + drawn, labels + drawn_labels
    return images, labels


def _drawn(part: str) -> tuple[list[Image.Image], list[int]]:
    images, labels = [], []
    for index in range(NUM_DRAWN[part]):
        label, content = draw_image(index, seed=DRAWN_SEEDS[part], size=(500, 375) if index % 3 == 0 else None)
        images.append(Image.open(io.BytesIO(content)).convert("RGB"))
        labels.append(LABELS.index(label))
    return images, labels


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def _examples(images: list[Image.Image], labels: list[int]) -> Examples:
    canvases = np.zeros((len(images), CANVAS, CANVAS, 3), dtype=np.uint8)
    extents = np.zeros((len(images), 2), dtype=np.float32)
    for index, image in enumerate(images):
        extents[index] = _place(canvases[index], image)
    pixels = torch.from_numpy(canvases).permute(0, 3, 1, 2)
    return Examples(pixels, torch.from_numpy(extents), torch.tensor(labels), len(LABELS))


def _place(canvas: np.ndarray[Any, np.dtype[np.uint8]], image: Image.Image) -> tuple[int, int]:
    scale = SHORT_SIDE / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    width, height = (min(side, CANVAS) for side in resized.size)
    left, top = (resized.width - width) // 2, (resized.height - height) // 2
    pixels = np.asarray(resized.crop((left, top, left + width, top + height)))
    before = (CANVAS - height) // 2, (CANVAS - width) // 2
    margins = [(first, CANVAS - first - side) for first, side in zip(before, (height, width), strict=True)]
    canvas[:] = np.pad(pixels, [*margins, (0, 0)], mode="edge")
    return width, height


@torch.inference_mode()
def _share_right(
    model: torch.nn.Module, validation: tuple[list[Image.Image], list[int]], preprocess: Preprocess
) -> float:
    pixels = np.stack([prepared(image, preprocess) for image in validation[0]])
    mean, std = (255 * torch.tensor(each).reshape(1, 3, 1, 1) for each in (preprocess.mean, preprocess.std))
    best = [
        model((chunk.permute(0, 3, 1, 2).float() - mean) / std).argmax(dim=1)
        for chunk in torch.split(torch.from_numpy(pixels), 64)
    ]
    return float((torch.cat(best) == torch.tensor(validation[1])).float().mean())


def _export(
    folder: Path, model: torch.nn.Module, preprocess: Preprocess, card: str, facts: dict[str, Any]
) -> ModelSpec:
    # Half of the bytes where it costs nothing that can be measured; scales and running sums stay whole.
    weights = {
        name: (tensor.half() if tensor.ndim > 1 else tensor).contiguous().numpy()
        for name, tensor in model.state_dict().items()
    }
    return save_bundle(
        folder,
        architecture=ARCHITECTURE,
        weights=weights,
        labels=LABELS,
        preprocess=preprocess,
        card=card,
        facts=facts,
    )


def _tested(bundle: ModelSpec, splits: dict[str, list[Photograph]], recipe: Recipe) -> dict[str, Any]:
    photographs = _accuracy(bundle, *_labelled_images(splits["test"], "test"))
    drawn = _accuracy(bundle, *_drawn("test"))
    return {
        "accuracy": photographs.to_json(),
        "accuracy_drawn": drawn.to_json(),
        "split": {
            name: {"photographs": len(rows), "senders": len({row.sender for row in rows})}
            for name, rows in splits.items()
        },
        "num_drawn_train": NUM_DRAWN["train"],
        "epochs": recipe.epochs,
        "architecture": bundle.architecture,
        "side": bundle.preprocess.crop,
        "weights_bytes": Path(bundle.weights_path).stat().st_size,
        "data": "a part of the public clothing-dataset of A. Grigorev (CC0), and drawings by batchrec",
    }


def _accuracy(bundle: ModelSpec, images: list[Image.Image], labels: list[int]) -> Accuracy:
    return count_right(recognise(bundle, images), labels, LABELS)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the bundled model from photographs and drawings.")
    parser.add_argument("--photographs", type=Path, required=True, help="folder with images/ and images.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle to write")
    parser.add_argument("--epochs", type=int, default=Recipe().epochs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=Path("apparel.checkpoint.pt"), help="goes on from it")
    return parser.parse_args(arguments)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
