"""The verb that makes a manifest of what lies in tar archives."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict

import click

from batchrec.cli.outputs import store_flags
from batchrec.redacting import shown
from batchrec.spec import StoreOptions


@click.command()
@click.argument("archives", nargs=-1, required=True)
@click.option("-o", "--output", "target", required=True, metavar="MANIFEST", help="The manifest, a new .parquet file")
@store_flags
def index(archives: tuple[str, ...], target: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool) -> int:
    """List the images inside tar ARCHIVES (files, folders, globs; local or s3://) in a manifest for `submit`."""
    from batchrec.manifest.indexing import index_archives

    with ExitStack() as shown_meanwhile:
        bar = click.progressbar(length=1, label="reading archives", file=sys.stderr)

        def progress(done: int, total: int) -> None:
            if not bar.pos:
                bar.length = total
                shown_meanwhile.enter_context(bar)
            bar.update(done - bar.pos)

        found = index_archives(archives, target, StoreOptions(s3_endpoint, s3_region), progress)
    if as_json:
        click.echo(json.dumps(asdict(found)))
        return 0
    left_out = f"; {found.num_left_out:,} other files left out" if found.num_left_out else ""
    click.echo(
        shown(f"{found.num_images:,} images in {found.num_archives:,} archives{left_out}, manifest {found.manifest}")
    )
    return 0
