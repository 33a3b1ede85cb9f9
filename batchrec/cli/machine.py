"""Verbs about this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from batchrec.cli.options import job_options, settings_from

EXIT_NOT_FIT = 3


@click.command()
@click.argument("output", required=False)
@click.option("--s3-endpoint", metavar="URL", help="URL of the S3 endpoint")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def doctor(output: str | None, s3_endpoint: str | None, as_json: bool) -> int:
    """Say what is right and wrong on this machine, and with the folder OUTPUT if it is named."""
    from batchrec.cluster.doctor import examine
    from batchrec.spec import StoreOptions

    findings = list(examine(output, StoreOptions(endpoint=s3_endpoint)))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{'ok ' if finding.good else 'BAD'} {finding.name:16} {finding.found}")
    return 0 if all(finding.good for finding in findings) else EXIT_NOT_FIT


@click.command()
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def bench(source: tuple[str, ...], job_file: str | None, sets: tuple[str, ...], as_json: bool, **flags: Any) -> int:
    """Measure what this machine allows, in under a minute: reading, decoding, the model, writing, and what binds.

    Images are a sample of the manifests SOURCE; without any they are drawn. With -o parts are tried where that output
    would lie, and removed again; else on the local disk.
    """
    from batchrec.benching import bench as measure
    from batchrec.report.measurement import measurement_lines

    found = measure(settings_from(source, job_file, sets, flags))
    click.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(measurement_lines(found)))
    return 0
