"""Verbs that look at an output folder, during a run or years later."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from batchrec.cli.clusters import Asking, status_of
from batchrec.engine.telling import WRITE_EVERY_S
from batchrec.errors import OutputError, Stopped
from batchrec.output.layout import Layout
from batchrec.output.opening import OpenedOutput, open_output
from batchrec.redacting import shown
from batchrec.settings import at_home
from batchrec.spec import StoreOptions
from batchrec.storage import KeyMissing

_F = TypeVar("_F", bound=Callable[..., Any])

EXIT_FAULTS = 3


def store_flags(function: _F) -> _F:
    """Add what every verb on a store takes, and ``--json``."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON"),
        click.option("--s3-region", metavar="TEXT", envvar="BATCHREC_S3_REGION", help="Region of the bucket"),
        click.option("--s3-endpoint", metavar="URL", envvar="BATCHREC_S3_ENDPOINT", help="URL of the S3 endpoint"),
    ):
        function = option(function)
    return function


def home_path(_: click.Context, __: click.Parameter, path: str | None) -> str | None:
    """Put a path from the command line right, where one is given."""
    return at_home(path) if path is not None else None


def output_verb(function: _F) -> _F:
    """Add what every verb on an output folder takes."""
    return click.argument("output", callback=home_path)(store_flags(function))


def open_named(output: str, s3_endpoint: str | None, s3_region: str | None) -> OpenedOutput:
    """Open the output folder that a command line names."""
    return open_output(output, StoreOptions(endpoint=s3_endpoint, region=s3_region))


def _plan_of(opened: OpenedOutput) -> Any:
    from batchrec.manifest.planning import Plan

    key = Layout(opened.job_id).plan_key
    try:
        return Plan.from_parquet(opened.store.read(key))
    except KeyMissing as error:
        if opened.seal is not None:
            raise OutputError(
                f"{opened.store.url} is complete, and its plan is gone",
                found=f"no {key}",
                advice=f"`batchrec repair {shlex.quote(opened.store.url)}`, then its own command again",
            ) from error
        raise OutputError(
            f"the job of {opened.store.url} ended before it had a plan",
            found=f"no {key}",
            advice="run its command again to begin it",
        ) from error


@click.command()
@click.option("--no-auth", is_flag=True, help="The cluster has no token authentication: send none")
@click.option("--address", metavar="URL", help="Ray cluster of a submission")
@output_verb
def status(
    output: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool, address: str | None, no_auth: bool
) -> int:
    """Say how far the job of an output folder is, or what a cluster says of a submission."""
    from batchrec.cluster.submission import is_submission_id

    if is_submission_id(output):
        return status_of(
            output, Asking(address, no_auth, StoreOptions(endpoint=s3_endpoint, region=s3_region), as_json)
        )
    opened = open_named(output, s3_endpoint, s3_region)
    num_shards = len(_plan_of(opened))
    age_s = None if opened.seal else opened.progress_age_s()
    facts = {
        "job_id": opened.job_id,
        "complete": opened.seal is not None,
        "shards": num_shards,
        "shards_done": len(opened.parts),
        "rows": opened.seal.num_rows if opened.seal else None,
        "rows_ok": opened.seal.num_ok if opened.seal else None,
        "progress": None if opened.seal else opened.progress(),
        "progress_age_s": age_s,
        **_retries(opened),
    }
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    elif opened.seal is not None:
        click.echo(f"complete: {opened.seal.num_rows:,} rows, {opened.seal.num_ok:,} ok, {_count(num_shards, 'part')}")
        _print_retries(opened)
    else:
        done = f"not complete: {len(opened.parts):,} of {_count(num_shards, 'part')}"
        click.echo(f"{done}; {_last_sign(age_s)}")
    return 0


def _retries(opened: OpenedOutput) -> dict[str, Any]:
    """Return what is known of a job's retries, as facts; nothing where there are none."""
    from batchrec.output.children import children_of

    if opened.seal is None or not (children := children_of(opened)):
        return {}
    try:
        rows_ok, fault = opened.seal.num_rows - opened.errors().num_rows, {}
    except OutputError as error:
        rows_ok, fault = None, {"retries_fault": shown(str(error))}
    return {
        "retries": [
            {
                "output": child.url,
                "codes": list(child.record.codes),
                "complete": child.sealed,
                "rows": child.origin and child.origin.num_rows,
            }
            for child in children
        ],
        "rows_ok_merged": rows_ok,
        "rows": opened.seal.num_rows,
        **fault,
    }


def _print_retries(opened: OpenedOutput, *, err: bool = False) -> None:
    for line in _retry_lines(_retries(opened)):
        click.echo(line, err=err)


def _retry_lines(facts: dict[str, Any]) -> Iterator[str]:
    for child in facts.get("retries", ()):
        state = "complete" if child["complete"] else "not complete: the same `batchrec retry` resumes it"
        rows = "no row yet" if child["rows"] is None else _count(child["rows"], "row")
        yield f"retry {child['output']}: {rows}, {state}"
    if "retries_fault" in facts:
        yield facts["retries_fault"]
    elif facts:
        yield f"with its retries: {facts['rows_ok_merged']:,} of {facts['rows']:,} rows ok"


def _last_sign(age_s: float | None) -> str:
    if age_s is not None and age_s < 3 * WRITE_EVERY_S:
        return f"a coordinator said so {age_s:.0f} s ago"
    return "no coordinator seems to run: the same command resumes"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


@click.command()
@output_verb
@click.option("--html", "page", metavar="FILE", help="Write it as one page, with the labels counted: a new file.html")
def report(output: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool, page: str | None) -> int:
    """Print the report of the latest run, or write it as a page."""
    from batchrec.report.summary import RunSummary
    from batchrec.report.terminal import print_report

    opened = open_named(output, s3_endpoint, s3_region)
    plain = opened.report()
    if opened.seal is None:
        click.echo("the output is not complete now, whatever its last report says: see `batchrec status`", err=True)
    written = None
    if page is not None:
        from batchrec.cli.pages import write_page

        written = write_page(opened, RunSummary.from_json(plain), page, notes=list(_retry_lines(_retries(opened))))
    if as_json:
        click.echo(json.dumps({**plain, **_retries(opened), **({"html": written} if written else {})}, indent=1))
    elif written:
        click.echo(f"{written}: the report as a page; open it in a browser")
    else:
        print_report(RunSummary.from_json(plain), sys.stdout)
        _print_retries(opened)
    return 0


@click.command()
@output_verb
@click.option("--own", is_flag=True, help="Of the job itself, as if it had no retries")
@click.option("--by", type=click.Choice(["code", "prefix"]), help="Count instead of listing")
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Rows or groups to print; 0 for all"
)
def errors(
    output: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool, own: bool, by: str | None, limit: int
) -> int:
    """List the rows without a prediction, or count them; those that a retry recognised are left out."""
    from batchrec.report.failures import count_by, error_lines

    opened = open_named(output, s3_endpoint, s3_region)
    rows = opened.errors(merged=not own).to_pylist()
    counted = count_by(rows, by) if by else None
    if as_json:
        click.echo(json.dumps(counted if counted is not None else rows[: limit or None], indent=1))
    else:
        if not rows:
            click.echo("no row without a prediction")
        for line in error_lines(rows, counted, limit or None):
            click.echo(line)
        _print_retries(opened, err=True)
    return 0


@click.command()
@output_verb
def verify(output: str, s3_endpoint: str | None, s3_region: str | None, as_json: bool) -> int:
    """Check every invariant of an output, reading every row."""
    from batchrec.output.verifying import verify as check

    opened = open_named(output, s3_endpoint, s3_region)
    found = check(opened.store, opened.layout, list(_plan_of(opened)))
    if as_json:
        facts = {"faults": found.faults, "notes": found.notes, "complete": found.complete}
        click.echo(json.dumps({**facts, "rows": found.num_rows, "rows_sha256": found.rows_sha256}, indent=1))
    else:
        for line in (*found.faults, *found.notes):
            click.echo(shown(line))
        verdict = "broken" if found.faults else "sound and complete" if found.complete else "sound, not complete"
        click.echo(f"{verdict}: {found.num_rows:,} rows, sha256 {found.rows_sha256[:16]}")
        if found.faults:
            click.echo(f"to mend it: batchrec repair {shlex.quote(output)}, then its own command again")
    if found.faults:
        return EXIT_FAULTS
    return 0 if found.complete else Stopped.exit_code
