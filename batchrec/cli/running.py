"""Running a job in this process: behind `submit` on this machine, and the verb `run` of a cluster's entrypoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from batchrec.cli.options import settings_from
from batchrec.cli.telling import TerminalObserver, silence
from batchrec.spec import JobSpec, StoreOptions

if TYPE_CHECKING:
    from batchrec.engine.sites import Site
    from batchrec.models.bundle import ModelSpec
    from batchrec.planning import Job
    from batchrec.report.summary import RunSummary


@click.command()
@click.argument("job")
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Any setting of a job file")
@click.option("--s3-endpoint", metavar="URL", envvar="BATCHREC_S3_ENDPOINT", help="URL of the S3 endpoint")
@click.option("--s3-region", metavar="TEXT", envvar="BATCHREC_S3_REGION", help="Region of the bucket")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def run(job: str, sets: tuple[str, ...], s3_endpoint: str | None, s3_region: str | None, as_json: bool) -> int:
    """Coordinate JOB in this process, on the Ray cluster this machine is part of.

    JOB is a job file, or the record of a submission in an output folder. It is what a cluster's entrypoint calls.
    """
    from batchrec.engine.sites import RayCluster

    if job.endswith((".yaml", ".yml")):
        store_flags = {"s3_endpoint": s3_endpoint, "s3_region": s3_region}
        spec, model = settings_from((), job, sets, store_flags).to_spec(), None
    else:
        from batchrec.cluster.submission import read_submission

        submission = read_submission(job, StoreOptions(endpoint=s3_endpoint, region=s3_region))
        spec, model = submission.spec, submission.model
        if (here := version("batchrec")) != submission.version:
            click.echo(f"submitted with batchrec {submission.version}, coordinated by batchrec {here}", err=True)
    return run_and_report(spec, as_json, site=RayCluster(), model=model)


def run_and_report(spec: JobSpec, as_json: bool, *, site: Site | None = None, model: ModelSpec | None = None) -> int:
    """Run a job here, showing how it goes and how it went; return its exit code."""
    summary = run_shown(spec, site=site, model=model)
    print_summary(summary, as_json)
    return summary.exit_code


def run_shown(spec: JobSpec, *, site: Site | None = None, model: ModelSpec | None = None) -> RunSummary:
    """Run a job here, showing how it goes, and return its report."""
    from batchrec.job import run_job
    from batchrec.report.planned import plan_lines

    observer = TerminalObserver(sys.stderr)

    def begin(job: Job) -> None:
        observer.begin(plan_lines(job.facts()), job.plan.num_rows, job.num_rows_done)

    summary = None
    try:
        summary = run_job(spec, observer, site=site, model=model, on_plan=begin)
    finally:
        observer.close(ended_early=summary is None)
    return summary


def print_summary(summary: RunSummary, as_json: bool, more: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Print a report.

    Args:
        summary: The report.
        as_json: As JSON.
        more: What the JSON says beside, or otherwise.
    """
    from batchrec.report.terminal import print_report

    try:
        if as_json:
            click.echo(json.dumps({**summary.to_json(), **more}, indent=1))
        else:
            print_report(summary, sys.stdout)
    except BrokenPipeError:
        # The job is complete whoever reads of it: its verdict stands.
        silence(sys.stdout)
