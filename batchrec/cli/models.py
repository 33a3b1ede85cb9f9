"""Verbs about models."""

from __future__ import annotations

import json

import click


@click.group()
def models() -> None:
    """Look at the models a job can use."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def list_(as_json: bool) -> int:
    """List the models at hand, and how to name others."""
    from batchrec.models.zoo import list_models

    found = list_models()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return 0
    for model in found:
        click.echo("  ".join(str(value) for value in model.values() if value not in (None, "")))
    return 0
