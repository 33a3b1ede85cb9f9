"""Verbs for outputs that are there: do failed rows again, write the rows anew, mend what was damaged."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from batchrec.cli.outputs import home_path, open_named, output_verb
from batchrec.cli.running import print_summary, run_shown
from batchrec.errors import CODES, ErrorCode, Stopped, UsageError
from batchrec.redacting import shown
from batchrec.spec import StoreOptions

if TYPE_CHECKING:
    from batchrec.engine.repairing import Examined
    from batchrec.output.exporting import Exported
    from batchrec.output.opening import OpenedOutput

EXIT_OVER_FAILURE_RATE = 4
_RETRYABLE = ", ".join(code.value for code, facts in CODES.items() if facts.retryable)


@click.command()
@output_verb
@click.option(
    "--code",
    "codes",
    multiple=True,
    type=click.Choice([code.value for code in ErrorCode]),
    metavar="CODE",
    help=f"Rows with this error; may be repeated [default: {_RETRYABLE}]",
)
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Setting that is to differ from the job's own")
@click.option(
    "-o",
    "--output",
    "target",
    callback=home_path,
    metavar="DIR",
    help="Folder of the retry [default: OUTPUT.retry-NNNN]",
)
@click.option("--takeover", is_flag=True, help="Take it over from another coordinator")
@click.option("--keep-credentials", is_flag=True, help="Keep URIs with credentials in that folder, to read them again")
def retry(
    output: str,
    s3_endpoint: str | None,
    s3_region: str | None,
    as_json: bool,
    codes: tuple[str, ...],
    sets: tuple[str, ...],
    target: str | None,
    takeover: bool,
    keep_credentials: bool,
) -> int:
    """Do failed rows of a complete job again, as a job of their own; the same command again resumes."""
    from batchrec.engine.retrying import prepare_retry

    parent = open_named(output, s3_endpoint, s3_region)
    sets = (*sets, "takeover=true") if takeover else sets
    prepared = prepare_retry(parent, codes=codes, sets=sets, target=target, keep_credentials=keep_credentials)
    if prepared is None:
        return _nothing_to_retry(parent, as_json)
    begun = "goes on" if prepared.resumed else "begins"
    click.echo(f"retry of {parent.store.url} {begun}: {prepared.num_rows:,} rows into {prepared.spec.output}", err=True)
    summary = run_shown(prepared.spec, model=prepared.model)
    assert parent.seal is not None
    num_rows, num_failed, limit = parent.seal.num_rows, parent.errors().num_rows, prepared.max_failure_rate
    over = num_failed / num_rows > limit
    code = EXIT_OVER_FAILURE_RATE if over else 0
    merged = {"exit_code": code, "rows_merged": num_rows, "rows_ok_merged": num_rows - num_failed}
    print_summary(summary, as_json, {**merged, "max_failure_rate": limit})
    held = f", {num_failed / num_rows:.1%} failed, over the limit of {limit:.3g} of them" if over else ""
    click.echo(
        f"{parent.store.url} with its retries: {num_rows - num_failed:,} of {num_rows:,} rows ok{held}; "
        "`batchrec export --merged` writes them for other readers",
        err=True,
    )
    return code


def _nothing_to_retry(parent: OpenedOutput, as_json: bool) -> int:
    num_failed = parent.errors().num_rows
    verdict = f"nothing to retry: {num_failed:,} rows without a prediction, none with such a code"
    if as_json:
        click.echo(json.dumps({"output": None, "num_rows": 0, "exit_code": 0, "verdict": verdict}, indent=1))
    else:
        click.echo(verdict)
    return 0


@click.command()
@output_verb
@click.option("--merged", is_flag=True, help="With the rows of its retries in their places")
@click.option(
    "-o",
    "--output",
    "target",
    callback=home_path,
    metavar="TARGET",
    required=True,
    help="New folder, or a file.parquet",
)
def export(
    output: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool, merged: bool, target: str
) -> int:
    """Write the rows of a complete job into Parquet files of about 256 MiB, for other readers."""
    from batchrec.output.exporting import export as write

    _print_exported(write(open_named(output, s3_endpoint, s3_region), target, merged=merged), as_json)
    return 0


@click.command()
@output_verb
@click.option("--merged", is_flag=True, help="With the rows of its retries in their places")
@click.option("-o", "--output", "target", callback=home_path, metavar="NEW", required=True, help="New folder")
def compact(
    output: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool, merged: bool, target: str
) -> int:
    """Write the many parts of a complete job as few large files elsewhere, read back and compared with the seal."""
    from batchrec.output.exporting import export as write

    _print_exported(write(open_named(output, s3_endpoint, s3_region), target, merged=merged, check=True), as_json)
    return 0


def _print_exported(exported: Exported, as_json: bool) -> None:
    facts = exported.to_json()
    if as_json:
        click.echo(json.dumps({"output": exported.output, **facts}, indent=1))
        return
    num_files, size = len(exported.files), sum(file.size for file in exported.files)
    files = f"{num_files:,} file{'s' * (num_files != 1)}, {size / 2**20:,.1f} MiB"
    whose = "with its retries, " if exported.merged else ""
    click.echo(f"{exported.output}: {facts['num_rows']:,} rows, {whose}{facts['num_ok']:,} ok, {files}")


@click.command()
@output_verb
@click.option("--yes", is_flag=True, help="Do not ask")
@click.option("--manifest", "source", multiple=True, metavar="SOURCE", help="Where the manifest lies now, if elsewhere")
def repair(
    output: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool, yes: bool, source: tuple[str, ...]
) -> int:
    """Move away what is damaged in an output, so that its own command can finish it again."""
    from batchrec.engine.repairing import examine
    from batchrec.engine.repairing import repair as mend

    examined = examine(output, StoreOptions(endpoint=s3_endpoint, region=s3_region))
    if not examined.diagnosis.damages and not examined.leftovers:
        _print_repaired(examined, None, as_json)
        return 0
    if not yes:
        for line in _would_do(examined):
            click.echo(line, err=True)
        if not sys.stdin.isatty():
            raise UsageError("nothing was changed, as nobody could be asked", advice="say --yes")
        if not click.confirm("Do so?", err=True):
            raise Stopped("nothing was changed")
    examined, moved_to = mend(examined, source=source, say=lambda line: click.echo(line, err=True))
    _print_repaired(examined, moved_to, as_json)
    return 0


def _would_do(examined: Examined) -> list[str]:
    diagnosis = examined.diagnosis
    lines = [f"move away {damage.key}: {damage.why}" for damage in diagnosis.damages]
    if examined.leftovers:
        lines.append(f"remove {len(examined.leftovers):,} files that killed processes left behind")
    if diagnosis.reopens:
        lines.append(f"the output is not complete then; shards to be done again: {diagnosis.num_redone:,}")
    return [shown(line) for line in (*lines, *diagnosis.left)]


def _print_repaired(examined: Examined, moved_to: str | None, as_json: bool) -> None:
    diagnosis = examined.diagnosis
    if as_json:
        facts = {
            "moved": [asdict(damage) for damage in diagnosis.damages],
            "moved_to": moved_to,
            "removed": examined.leftovers,
            "left": diagnosis.left,
            "shards_to_do": diagnosis.num_redone,
        }
        click.echo(json.dumps(facts, indent=1))
        return
    for line in diagnosis.left:
        click.echo(shown(line))
    if not diagnosis.damages and not examined.leftovers:
        click.echo("nothing to repair")
    if examined.leftovers:
        click.echo(f"removed {len(examined.leftovers):,} files that killed processes left behind")
    if moved_to:
        num_moved = len(diagnosis.damages)
        click.echo(f"moved {num_moved:,} object{'s' * (num_moved != 1)} to {examined.store.url}/{moved_to}")
        click.echo(
            f"shards to be done: {diagnosis.num_redone:,}; run the job's own command again, then `batchrec verify`"
        )
