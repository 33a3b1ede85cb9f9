"""The report of an output as a page: gathered, rendered, put where nothing stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchrec.errors import BatchrecError, OutputError, UsageError
from batchrec.output.opening import OpenedOutput
from batchrec.report.repeating import Making
from batchrec.report.summary import RunSummary
from batchrec.storage import KeyMissing, open_store, stands

_SUFFIXES = (".html", ".htm")


def write_page(opened: OpenedOutput, summary: RunSummary, target: str, *, notes: Sequence[str]) -> str:
    """Write the report of a run as a page; return where it is.

    Args:
        opened: The job's output.
        summary: What its latest run reported.
        target: A file that is not there yet, local or ``s3://``.
        notes: Lines to say beside the counts.

    Raises:
        UsageError: The target is not named like a page.
        OutputError: The target is there already, or a part is damaged.
        StorageLost: A store went away or is full.
    """
    from batchrec.output.labels import count_labels
    from batchrec.report.html import render_page
    from batchrec.storage.sweeping import leaving_no_folder
    from batchrec.storage.uploading import create_whole

    folder, _, name = target.rpartition("/")
    if not name.endswith(_SUFFIXES):
        raise UsageError("--html names no page", found=target, advice="name a file that ends in .html")
    store = open_store(folder or ("/" if target.startswith("/") else "."), opened.options)
    if stands(store, name):
        raise OutputError(f"{store.url}/{name} is there already", advice="name a new file, or remove that one first")
    page = render_page(summary, count_labels(opened), _making(opened), notes=notes)
    with leaving_no_folder(store):
        create_whole(store, name, page.encode(errors="replace"), opened.options)
    return f"{store.url}/{name}"


def _making(opened: OpenedOutput) -> Making:
    from batchrec.engine.definition import defined_again

    try:
        spec = defined_again(opened, {})
    except (BatchrecError, LookupError, TypeError, ValueError):
        spec = None  # made before folders said so, or damaged: the page does without
    return Making.of(spec, opened.identity, _facts_of_a_part(opened))


def _facts_of_a_part(opened: OpenedOutput) -> Mapping[str, Any]:
    from batchrec.output.parts import UnreadablePart, read_footer

    try:
        return read_footer(opened.store, opened.parts[0]).facts
    except (UnreadablePart, KeyMissing):
        return {}
