"""A plan as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec.records import Agreement
from batchrec.redacting import shown


def plan_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return the lines of a plan, from the plain values of :meth:`batchrec.job.Job.facts`."""
    columns, shards = facts["columns"], facts["shards"]
    carried = f", carried through: {', '.join(columns['passthrough'])}" if columns["passthrough"] else ""
    kept = facts["embeddings"]
    embeddings = [("embeddings", f"{kept['dimension']:,} numbers of each image, {kept['dtype']}")] if kept else []
    int8 = [("int8", _agreement(facts))] if facts["precision"] == "int8" else []
    lines = [
        ("job", facts["job_id"][:12]),
        ("manifest", f"{facts['rows']:,} rows in {facts['files']} file{'s' * (facts['files'] != 1)}"),
        (
            "columns",
            f"images from {' and '.join(columns['uri'])}, ids from {_ids(columns)}{carried}",
        ),
        (
            "model",
            f"{facts['model']} ({facts['architecture']}), {facts['labels']} labels: {_few(facts['label_examples'])}",
        ),
        ("images", f"short side {facts['resize']}, centre {facts['crop']}x{facts['crop']}"),
        *embeddings,
        ("workers", _workers(facts)),
        *int8,
        ("shards", f"{shards['count']:,} of up to {shards['rows']:,} rows" + _done(shards)),
        ("output", facts["output"]),
    ]
    return [f"{name:10} {shown(text)}" for name, text in lines]


def _ids(columns: Mapping[str, Any]) -> str:
    if columns["id"]:
        return str(columns["id"])
    if not columns["unfit_id"]:
        return "the row number"
    name, kind = columns["unfit_id"]
    return f"the row number ({name!r} is {kind}: cast it to integers or strings to have it as the id)"


def _workers(facts: Mapping[str, Any]) -> str:
    note = f" ({facts['device_note']})" if facts["device_note"] else ""
    return f"{facts['workers']} on {facts['device']}, {facts['threads']} cores each, {facts['precision']}{note}"


def _agreement(facts: Mapping[str, Any]) -> str:
    known = facts["agreement"]
    return f"gives {Agreement(**known)}" if known else "is compared with fp32 on a sample before the work begins"


def _few(labels: list[str]) -> str:
    return ", ".join(labels) + ", ..."


def _done(shards: Mapping[str, Any]) -> str:
    if shards["complete"]:
        return ", all done and sealed"
    return f", {shards['done']:,} done already" if shards["done"] else ""
