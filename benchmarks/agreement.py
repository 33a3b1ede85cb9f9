"""Top-1 agreement of whole jobs with the reference pipeline, image by image.

    python benchmarks/agreement.py --photographs DIR [--model apparel]

Reference: Pillow, upright by EXIF, ``convert("RGB")``, torchvision's ImageClassification preset with the
model's own sizes, torch eager fp32 on the same weights. Ours: whole jobs in fp32, in the default precision, and in fp32
with JPEGs shrunk while they are decoded.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

import batchrec
from batchrec.models.building import build_model
from batchrec.models.zoo import resolve_model


def reference(model_name: str, paths: list[Path]) -> list[str]:
    """Labels the reference pipeline gives."""
    spec = resolve_model(model_name)
    wanted = spec.preprocess
    preset = ImageClassification(
        crop_size=wanted.crop,
        resize_size=wanted.resize,
        mean=wanted.mean,
        std=wanted.std,
        interpolation=InterpolationMode(wanted.interpolation),
    )
    model, labels = build_model(spec).eval(), []
    with torch.inference_mode():
        for first in range(0, len(paths), 32):
            images = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths[first : first + 32]]
            best = model(torch.stack([preset(image) for image in images])).argmax(1)
            labels += [spec.labels[index] for index in best.tolist()]
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", required=True)
    parser.add_argument("--model", default="apparel")
    arguments = parser.parse_args()
    paths = sorted(path for path in Path(arguments.photographs).rglob("*") if path.is_file())
    wanted = reference(arguments.model, paths)
    with tempfile.TemporaryDirectory() as scratch:
        pq.write_table(pa.table({"uri": [str(path.resolve()) for path in paths]}), f"{scratch}/m.parquet")
        for precision, decoding in (("fp32", "exact"), ("auto", "exact"), ("fp32", "scaled")):
            out = f"{scratch}/{precision}-{decoding}"
            summary = batchrec.submit(
                f"{scratch}/m.parquet",
                output=out,
                model=arguments.model,
                precision=precision,
                decoding=decoding,
                pool="inline",
                input_roots=str(Path(arguments.photographs).resolve()),
            )
            table = batchrec.open(out).predictions().to_table(columns=["label", "width", "height"])
            same = sum(a == b for a, b in zip(table["label"].to_pylist(), wanted, strict=True))
            used, twice = summary.workers[0], 2 * resolve_model(arguments.model).preprocess.resize
            sides = zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)
            num_large = sum(min(both) >= 2 * twice for both in sides)
            print(
                f"{used.backend} {used.precision} {decoding}: {same} of {len(paths)} equal, {same / len(paths):.4%}"
                f" ({num_large} large enough to be shrunk)",
                flush=True,
            )


if __name__ == "__main__":
    main()
