"""Verbs that define and run a job."""

from __future__ import annotations

import json
from typing import Any

import click

from batchrec.cli.handing import CLUSTER_FLAGS, cluster_flags, cluster_of, submit_to
from batchrec.cli.options import job_options, settings_from
from batchrec.cli.running import run_and_report
from batchrec.redacting import redact
from batchrec.settings import Settings
from batchrec.spec import JobSpec

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")


@click.command()
@job_options
@click.option("--dry-run", is_flag=True, help="Print the plan, write nothing")
@click.option("--print-config", is_flag=True, help="Print every setting and where it comes from")
@cluster_flags
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
    manner = {name: flags.pop(name) for name in CLUSTER_FLAGS}
    settings = settings_from(source, job_file, sets, flags)
    if print_config:
        _print_config(settings, as_json)
        return 0
    spec = settings.to_spec()
    if dry_run:
        _print_plan(spec, as_json)
        return 0
    if (address := cluster_of(settings, manner)) is not None:
        return submit_to(address, spec, manner, job_file, as_json)
    return run_and_report(spec, as_json)


@click.command()
@job_options
@click.option("--measure", is_flag=True, help="Measure this machine on a sample of the images: 15 to 20 s")
@click.option(
    "--price-per-hour",
    type=click.FloatRange(min=0),
    metavar="X",
    help="What one worker costs an hour, for the cost of the job; implies --measure",
)
@json_option
def plan(
    source: tuple[str, ...],
    job_file: str | None,
    sets: tuple[str, ...],
    measure: bool,
    price_per_hour: float | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Show what `submit` would do with the manifests SOURCE; write nothing.

    With --measure a sample tells how long it should take here, and its report then says how near it came.
    """
    spec = settings_from(source, job_file, sets, flags).to_spec()
    if measure or price_per_hour is not None:
        _print_measured_plan(spec, price_per_hour, as_json)
    else:
        _print_plan(spec, as_json)
    return 0


def _print_plan(spec: JobSpec, as_json: bool) -> None:
    from batchrec.planning import plan_job
    from batchrec.report.planned import plan_lines

    facts = plan_job(spec).facts()
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(plan_lines(facts)))


def _print_measured_plan(spec: JobSpec, price_per_hour: float | None, as_json: bool) -> None:
    from batchrec.benching import measure_plan
    from batchrec.planning import plan_job
    from batchrec.report.measurement import expected_facts, expected_lines
    from batchrec.report.planned import plan_lines

    job = plan_job(spec)
    if not as_json:
        click.echo("\n".join(plan_lines(job.facts())))
    found, num_left = measure_plan(job), job.plan.num_rows - job.num_rows_done
    if as_json:
        facts = {
            **job.facts(),
            "measured": found.to_json(),
            "expected": expected_facts(found, num_left, price_per_hour),
        }
        click.echo(json.dumps(facts, indent=1))
    else:
        click.echo("\n".join(expected_lines(found, num_left, price_per_hour)))


def _print_config(settings: Settings, as_json: bool) -> None:
    rows = {name: {"value": value, "origin": settings.origins[name]} for name, value in settings.values.items()}
    if as_json:
        click.echo(redact(json.dumps(rows, indent=1)))
        return
    for name, row in rows.items():
        click.echo(redact(f"{name:18} {json.dumps(row['value']):32} {row['origin']}"))
