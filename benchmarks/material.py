"""What several benchmarks work on: models of random weights, archives of any size and format, and an S3 server."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.learning.drawing import IMAGES_PER_FOLDER, draw_archive, draw_image


def model_string(name: str, folder: Path) -> str:
    """Return a model string; for ``random:ARCHITECTURE`` that of weights written into ``folder``."""
    if not name.startswith("random:"):
        return name
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    architecture = name.partition(":")[2]
    torch.manual_seed(0)
    model = get_model(architecture, num_classes=1000).train()
    with torch.no_grad():
        # Passes in training give the norms something to measure, so that what flows through the layers has a size.
        for _ in range(4):
            model(torch.randn(16, 3, 96, 96))
    state = model.state_dict()
    path = folder / f"{architecture}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return f"file:{path}+{architecture}"


def archive_of(folder: Path, num_images: int, size: str, kind: str = "jpeg", num_drawn: int | None = None) -> Path:
    """Draw an archive, unless it is there, and return its manifest.

    Args:
        folder: Where.
        num_images: Rows of the manifest.
        size: ``500x375``.
        kind: ``jpeg`` or ``png``.
        num_drawn: Different images, which the rows name in turn; as many as rows when None.
    """
    manifest = folder / "manifest.parquet"
    if manifest.exists():
        return manifest
    width, height = map(int, size.split("x"))
    num_drawn = min(num_images, num_drawn or num_images)
    if kind == "jpeg" and num_drawn == num_images:
        return draw_archive(folder, num_images=num_images, size=(width, height))
    uris = [_draw(folder, index, (width, height), kind) for index in range(num_drawn)]
    pq.write_table(pa.table({"uri": [uris[row % num_drawn] for row in range(num_images)]}), manifest)
    return manifest


@contextmanager
def serving(folder: Path, port: int, *options: str) -> Iterator[str]:
    """Serve a folder of buckets; the endpoint's URL."""
    command = [sys.executable, "-m", "tests.s3_server", "--port", str(port), "--folder", str(folder), *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def _draw(folder: Path, index: int, size: tuple[int, int], kind: str) -> str:
    from PIL import Image

    _, content = draw_image(index, seed=0, size=size)
    uri = f"images/{index // IMAGES_PER_FOLDER:06d}/{index:09d}.{kind}"
    (folder / uri).parent.mkdir(parents=True, exist_ok=True)
    if kind == "png":
        encoded = io.BytesIO()
        Image.open(io.BytesIO(content)).save(encoded, "PNG")
        content = encoded.getvalue()
    (folder / uri).write_bytes(content)
    return uri
