"""A labelled archive of drawn garments of any size: demo, load generator, test fixture."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from batchrec.errors import AccessError, UsageError
from batchrec.learning.breaking import BROKEN_KINDS, break_image
from batchrec.learning.garments import LABELS
from batchrec.learning.painting import paint_garment

IMAGES_PER_FOLDER: Final = 1000
ROWS_PER_GROUP: Final = 8192
_PROGRESS_EVERY: Final = 50
_SIZES: Final = ((400, 533), (533, 400), (400, 400), (400, 600), (480, 360))
# At this grain and quality an image of 500x375 pixels has about 110 KB, as photographs of that size do.
_SIZED_GRAIN: Final = 14.0
_SIZED_QUALITY: Final = 93


def draw_archive(
    folder: Path,
    *,
    num_images: int,
    broken: float = 0.0,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Draw JPEG images of ten garments and a manifest naming them.

    The manifest has the columns ``image_id``, ``uri`` (relative to the manifest), ``label`` and
    ``broken`` (None, or one of :data:`batchrec.learning.breaking.BROKEN_KINDS`). The same arguments
    give the same bytes.

    Args:
        folder: Where; made if absent. ``manifest.parquet`` is written last.
        num_images: Rows of the manifest.
        broken: Share of images that cannot be read, from 0 to 1.
        size: Width and height in pixels, with the noise of a photograph; varied when None.
        seed: Decides everything.
        progress: Called now and then, and at the end, with the number of images drawn so far.

    Returns:
        The manifest's path.

    Raises:
        UsageError: If the numbers make no sense.
        AccessError: If the folder cannot be written.
    """
    _require_sense(num_images, broken, size)
    try:
        return _write_archive(Path(folder), num_images, _broken_kinds(num_images, broken, seed), size, seed, progress)
    except OSError as error:
        raise AccessError("the archive cannot be written", found=str(error), advice="name another folder") from error


def draw_image(index: int, *, seed: int, size: tuple[int, int] | None = None) -> tuple[str, bytes]:
    """Draw the image of one index: its label and its JPEG bytes."""
    rng = np.random.default_rng([seed, index])
    label = LABELS[rng.integers(len(LABELS))]
    if size is None:
        width, height = _SIZES[rng.integers(len(_SIZES))]
        chosen = (width + int(rng.integers(-20, 21)), height + int(rng.integers(-20, 21)))
        grain, quality = float(rng.uniform(1, 6)), int(rng.integers(78, 93))
    else:
        chosen, grain, quality = size, _SIZED_GRAIN, _SIZED_QUALITY
    encoded = io.BytesIO()
    paint_garment(label, chosen, rng, grain=grain).save(encoded, "JPEG", quality=quality)
    return label, encoded.getvalue()


def _require_sense(num_images: int, broken: float, size: tuple[int, int] | None) -> None:
    if num_images < 1:
        raise UsageError("an archive needs at least one image", found=str(num_images))
    if not 0 <= broken <= 1:
        raise UsageError("the broken share must be from 0 to 1", found=str(broken))
    if size is not None and not all(32 <= side <= 8192 for side in size):
        raise UsageError("width and height must be from 32 to 8192 pixels", found=f"{size[0]}x{size[1]}")


def _broken_kinds(num_images: int, share: float, seed: int) -> dict[int, str]:
    rng = np.random.default_rng([seed, num_images, 1])
    chosen = rng.choice(num_images, size=round(num_images * share), replace=False)
    return {int(index): BROKEN_KINDS[place % len(BROKEN_KINDS)] for place, index in enumerate(np.sort(chosen))}


def _write_archive(
    folder: Path,
    num_images: int,
    kinds: dict[int, str],
    size: tuple[int, int] | None,
    seed: int,
    progress: Callable[[int], None] | None,
) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    manifest, staged = folder / "manifest.parquet", folder / ".manifest.parquet.new"
    schema = pa.schema([(name, pa.string()) for name in ("image_id", "uri", "label", "broken")])
    rows = _draw_rows(folder, num_images, kinds, size, seed, progress)
    with pq.ParquetWriter(staged, schema, compression="zstd") as writer:
        for first in range(0, num_images, ROWS_PER_GROUP):
            group = [next(rows) for _ in range(min(ROWS_PER_GROUP, num_images - first))]
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    staged.replace(manifest)
    if progress:
        progress(num_images)
    return manifest


def _draw_rows(
    folder: Path,
    num_images: int,
    kinds: dict[int, str],
    size: tuple[int, int] | None,
    seed: int,
    progress: Callable[[int], None] | None,
) -> Iterator[dict[str, Any]]:
    for index in range(num_images):
        label, content = draw_image(index, seed=seed, size=size)
        uri = f"images/{index // IMAGES_PER_FOLDER:06d}/{index:09d}.jpg"
        if index % IMAGES_PER_FOLDER == 0:
            (folder / uri).parent.mkdir(parents=True, exist_ok=True)
        kind = kinds.get(index)
        written = break_image(content, kind) if kind else content
        if written is None:
            (folder / uri).unlink(missing_ok=True)
        else:
            (folder / uri).write_bytes(written)
        yield {"image_id": f"garment-{index:09d}", "uri": uri, "label": label, "broken": kind}
        if progress and (index + 1) % _PROGRESS_EVERY == 0:
            progress(index + 1)
