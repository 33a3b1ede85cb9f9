"""The same work as a tuned DataLoader does it: worker processes, pinned memory, a compiled model in half precision.

    python benchmarks/cuda_dataloader.py MANIFEST OUT.parquet --weights W.safetensors --architecture resnet50

Prints one line of JSON: images a second from the first to the last batch. Compiling comes before and is not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.models import get_model
from torchvision.transforms import v2

SIDE, RESIZE = 224, 256


class Images(torch.utils.data.Dataset[torch.Tensor]):
    """Decoded, resized and cropped images; normalised on the device, which is the faster way."""

    def __init__(self, paths: list[str], decoder: str) -> None:
        self.paths, self.decoder = paths, decoder
        self.fit = v2.Compose([v2.Resize(RESIZE, antialias=True), v2.CenterCrop(SIDE)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.decoder == "torchvision":
            data = torch.frombuffer(bytearray(Path(self.paths[index]).read_bytes()), dtype=torch.uint8)
            return self.fit(decode_jpeg(data, mode=ImageReadMode.RGB))
        return v2.functional.pil_to_tensor(self.fit(Image.open(self.paths[index]).convert("RGB")))


def model_on(arguments: argparse.Namespace, dtype: torch.dtype) -> Any:
    state = load_file(arguments.weights)
    model = get_model(arguments.architecture, num_classes=arguments.outputs).eval()
    model.load_state_dict(state)
    model = model.to(arguments.device, dtype).to(memory_format=torch.channels_last)
    mean = torch.tensor([0.485, 0.456, 0.406], device=arguments.device).reshape(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225], device=arguments.device).reshape(1, 3, 1, 1) * 255

    def recognise(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = ((images.float() - mean) / std).to(dtype).to(memory_format=torch.channels_last)
        return model(pixels).float().softmax(1).max(1)

    return torch.compile(recognise, mode="reduce-overhead", dynamic=False) if arguments.compile else recognise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--outputs", type=int, default=1000)
    parser.add_argument("--decoder", choices=("torchvision", "pillow"), default="torchvision")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    uris = pq.read_table(arguments.manifest, columns=["uri"]).column("uri").to_pylist()
    images = Images([str(arguments.manifest.parent / uri) for uri in uris], arguments.decoder)
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=arguments.batch,
        num_workers=arguments.workers,
        pin_memory=arguments.device != "cpu",
        prefetch_factor=4,
    )
    recognise = model_on(arguments, torch.bfloat16)
    labels: list[int] = []
    scores: list[float] = []
    with torch.inference_mode():
        for _ in range(3):
            recognise(torch.zeros((arguments.batch, 3, SIDE, SIDE), dtype=torch.uint8, device=arguments.device))
        began = 0.0
        for batch in loader:
            began = began or time.perf_counter()
            missing = arguments.batch - len(batch)
            padded = torch.cat([batch, batch.new_zeros((missing, *batch.shape[1:]))]) if missing else batch
            best = recognise(padded.to(arguments.device, non_blocking=True))
            scores += best[0][: len(batch)].tolist()
            labels += best[1][: len(batch)].tolist()
        seconds = time.perf_counter() - began
    pq.write_table(pa.table({"uri": uris, "label": labels, "score": scores}), arguments.out)
    print(json.dumps({"images_per_s": max(0, len(labels) - arguments.batch) / seconds, "rows": len(labels)}))


if __name__ == "__main__":
    main()
