"""Verbs about models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
    rows = [("NAME", "ARCHITECTURE", "OUTPUTS", "PIXELS", "ACCURACY", "READY"), *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = "-" if model["accuracy"] is None else str(model["accuracy"])
    size = str(model["num_outputs"]), str(model["input"])
    return model["name"], model["architecture"], *size, accuracy, "yes" if model["ready"] else "to download"
