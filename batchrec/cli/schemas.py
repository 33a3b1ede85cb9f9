"""The verb that prints the schemas of what people write."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("of", type=click.Choice(["job"]))
@click.option("--json", "as_json", is_flag=True, help="No difference: a schema is JSON")
def schema(of: str, as_json: bool) -> int:
    """Print the JSON Schema of job files, for editors and for programs that write them."""
    from batchrec.jobfile import job_schema

    click.echo(json.dumps({"job": job_schema}[of](), indent=2))
    return 0
