"""Verbs that define and run a job."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from batchrec.cli.options import job_options, settings_from
from batchrec.settings import Settings
from batchrec.spec import JobSpec

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")


@click.command()
@job_options
@click.option("--dry-run", is_flag=True, help="Print the plan, write nothing")
@click.option("--print-config", is_flag=True, help="Print every setting and where it comes from")
@json_option
def submit(
    source: tuple[str, ...],
    job_file: str | None,
    sets: tuple[str, ...],
    dry_run: bool,
    print_config: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Recognise every image of the manifests SOURCE; the same command again resumes."""
    settings = settings_from(source, job_file, sets, flags)
    if print_config:
        _print_config(settings, as_json)
        return 0
    spec = settings.to_spec()
    if dry_run:
        _print_plan(spec, as_json)
        return 0
    return _run(spec, as_json)


@click.command()
@job_options
@json_option
def plan(source: tuple[str, ...], job_file: str | None, sets: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Show what `submit` would do with the manifests SOURCE; write nothing."""
    _print_plan(settings_from(source, job_file, sets, flags).to_spec(), as_json)
    return 0


def _run(spec: JobSpec, as_json: bool) -> int:
    from batchrec.cli.telling import TerminalObserver, silence
    from batchrec.job import run_job
    from batchrec.report.planned import plan_lines
    from batchrec.report.terminal import print_report

    observer = TerminalObserver(sys.stderr)

    def begin(job: Any) -> None:
        observer.begin(plan_lines(job.facts()), job.plan.num_rows, job.num_rows_done)

    try:
        summary = run_job(spec, observer, on_plan=begin)
    finally:
        observer.close()
    try:
        if as_json:
            click.echo(json.dumps(summary.to_json(), indent=1))
        else:
            print_report(summary, sys.stdout)
    except BrokenPipeError:
        # The job is complete whoever reads of it: its verdict stands.
        silence(sys.stdout)
    return summary.exit_code


def _print_plan(spec: JobSpec, as_json: bool) -> None:
    from batchrec.job import plan_job
    from batchrec.report.planned import plan_lines

    facts = plan_job(spec).facts()
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(plan_lines(facts)))


def _print_config(settings: Settings, as_json: bool) -> None:
    rows = {name: {"value": value, "origin": settings.origins[name]} for name, value in settings.values.items()}
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for name, row in rows.items():
        click.echo(f"{name:18} {json.dumps(row['value']):32} {row['origin']}")
