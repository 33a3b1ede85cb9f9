"""Large photographs, decoded whole and shrunk while decoding: images a second of one core, and the same labels.

    python benchmarks/shrinking.py --photographs DIR [--images 400] [--size 4000x3000]

The photographs are enlarged to the size asked for, so they lack the finest detail of a camera's own; both ways read the
same files. Rates are of the Decoder alone, in turn, for the model's own input size and for 224 pixels.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageOps

import batchrec
from batchrec.models.preprocessing import Preprocess
from batchrec.models.zoo import resolve_model
from batchrec.pipeline.decoding import Decoder, PictureReader
from batchrec.spec import ImageLimits


def enlarge(source: Path, size: tuple[int, int]) -> bytes:
    """Return a photograph at another size, as a camera would hold it."""
    image = ImageOps.exif_transpose(Image.open(source)).convert("RGB")
    file = io.BytesIO()
    ImageOps.fit(image, size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def rates(images: list[bytes], preprocess: Preprocess, rounds: int = 3) -> tuple[float, float]:
    """Images a second of one core: whole, and shrunk."""
    found: tuple[list[float], list[float]] = ([], [])
    limits = ImageLimits()
    ways = [
        Decoder(preprocess, limits, PictureReader(limits, shrink_to).read)
        for shrink_to in (None, 2 * preprocess.resize)
    ]
    for _ in range(rounds):
        for way, seen in zip(ways, found, strict=True):
            began = time.perf_counter()
            for data in images:
                way.decode(data)
            seen.append(len(images) / (time.perf_counter() - began))
    return statistics.median(found[0]), statistics.median(found[1])


def labels(manifest: str, out: str, decoding: str, model: str) -> list[str]:
    batchrec.submit(manifest, output=out, model=model, decoding=decoding, pool="inline", precision="fp32")
    return batchrec.open(out).predictions().to_table(columns=["label"]).column("label").to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", required=True)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--size", default="4000x3000")
    parser.add_argument("--model", default="apparel")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    width, height = map(int, asked.size.split("x"))
    paths = sorted(path for path in Path(asked.photographs).rglob("*.jpg"))[: asked.images]
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(f"{scratch}/{number}.jpg") for number in range(len(paths))]
        for path, file in zip(paths, files, strict=True):
            file.write_bytes(enlarge(path, (width, height)))
        some = [file.read_bytes() for file in files[:24]]
        mean_kb = sum(map(len, some)) / len(some) / 1000
        print(f"{len(files)} photographs of {asked.size}, {mean_kb:.0f} KB on average")
        for preprocess in (resolve_model(asked.model).preprocess, Preprocess()):
            whole, shrunk = rates(some, preprocess)
            rate = f"whole {whole:.1f}, shrunk {shrunk:.1f} images/s of a core, {shrunk / whole:.2f}x"
            print(f"to {preprocess.resize}, crop {preprocess.crop}: {rate}", flush=True)
        manifest = f"{scratch}/manifest.parquet"
        pq.write_table(pa.table({"uri": [file.name for file in files]}), manifest)
        found = [labels(manifest, f"{scratch}/{way}", way, asked.model) for way in ("exact", "scaled")]
        same = sum(a == b for a, b in zip(*found, strict=True))
        print(f"{asked.model}, fp32: {same} of {len(files)} labels equal, {same / len(files):.2%}")


if __name__ == "__main__":
    main()
