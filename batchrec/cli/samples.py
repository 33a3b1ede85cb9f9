"""The verb that draws an archive."""

from __future__ import annotations

import json
import re
import sys

import click

from batchrec.errors import UsageError


def _size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", value)
    if not match:
        raise click.BadParameter(f"{value!r} is not WIDTHxHEIGHT, for example 500x375")
    return int(match[1]), int(match[2])


@click.command()
@click.argument("folder")
@click.option("--images", "num_images", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N")
@click.option("--broken", type=click.FloatRange(0, 1), default=0.0, metavar="SHARE", help="Share of unusable files")
@click.option("--size", callback=_size, metavar="WxH", help="All of one size; varied otherwise")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def sample(folder: str, num_images: int, broken: float, size: tuple[int, int] | None, seed: int, as_json: bool) -> int:
    """Draw a labelled archive of garments in FOLDER, with a manifest.parquet."""
    from pathlib import Path

    from batchrec.learning.drawing import draw_archive

    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{folder} is not a folder", advice="name a new one")
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(f"{folder} is not empty", advice="name a new folder, or remove this one first")
    with click.progressbar(length=num_images, label="drawing", file=sys.stderr) as bar:
        shown = 0

        def progress(num_drawn: int) -> None:
            nonlocal shown
            bar.update(num_drawn - shown)
            shown = num_drawn

        manifest = draw_archive(path, num_images=num_images, broken=broken, size=size, seed=seed, progress=progress)
    result = {"manifest": str(manifest), "images": num_images}
    click.echo(json.dumps(result) if as_json else f"{num_images} images, manifest {manifest}")
    return 0
