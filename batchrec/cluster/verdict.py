"""The verdict of a job whose output is sealed: from the output alone, whatever became of its cluster."""

from __future__ import annotations

import time

from batchrec.engine.absolute import is_local_model
from batchrec.engine.counting import RunCounts
from batchrec.engine.definition import stored_spec
from batchrec.engine.identity import bound_identity, identify, refuse_other_job
from batchrec.engine.summing import summarise
from batchrec.errors import OutputError, UsageError
from batchrec.manifest.reading import open_manifest
from batchrec.models.zoo import resolve_model
from batchrec.output.layout import Layout
from batchrec.output.reading import Output
from batchrec.output.seal import Seal, read_seal, standing_parts
from batchrec.report.summary import RunSummary
from batchrec.spec import JobSpec
from batchrec.storage import open_store


def standing_verdict(spec: JobSpec) -> RunSummary | None:
    """Return the verdict of a job that is complete, for the failure limit asked for now; None to ask the cluster.

    A model that would have to be fetched is left to the cluster, and so is a damaged output.

    Raises:
        OutputError: The folder is another job's.
        ManifestError: The manifest cannot be used.
    """
    store = open_store(spec.output, spec.store)
    standing = bound_identity(store)
    if standing is None:
        return None
    layout = Layout(standing.job_id)
    sealed = read_seal(store, layout)
    if sealed is None or not (is_local_model(spec.model) or spec.model == "apparel"):
        return None
    precision = standing.fields["precision"] if spec.precision == "auto" else spec.precision
    model = resolve_model(spec.model, labels=spec.labels)
    refuse_other_job(store, standing, identify(spec, open_manifest(spec), model, precision))
    sizes = standing_parts(store, layout, len(sealed.parts))
    if any(sizes.get(part.shard) != part.size for part in sealed.parts):
        return None
    output = Output(store, standing.job_id, standing.fields, spec.store)
    return sealed_verdict(output, model=spec.model, max_failure_rate=spec.max_failure_rate)


def verdict_of(output: Output, max_failure_rate: float | None = None) -> RunSummary | None:
    """Return the verdict of an output; None for one that is not sealed.

    The report of the run that sealed it says how that run went, so it is given where it is for the same limit.

    Args:
        output: The job.
        max_failure_rate: The limit; that of the run that sealed when None, or else the job's own.
    """
    if output.seal is None:
        return None
    report = last_report(output)
    if report is not None and max_failure_rate in (None, report.max_failure_rate) and _is_of(report, output.seal):
        return report
    spec = _stored_spec(output)
    if max_failure_rate is None:
        max_failure_rate = spec.max_failure_rate
    model = report.model if report else spec.model
    return sealed_verdict(output, model=model, max_failure_rate=max_failure_rate)


def _is_of(report: RunSummary, sealed: Seal) -> bool:
    """Whether a report, which only informs, tells of what is sealed."""
    return (report.job_id, report.num_rows, report.num_ok) == (sealed.job_id, sealed.num_rows, sealed.num_ok)


def last_report(output: Output) -> RunSummary | None:
    """Return the report of the latest run; None where it cannot be read."""
    try:
        return RunSummary.from_json(output.report())
    except OutputError:
        return None


def _stored_spec(output: Output) -> JobSpec:
    """Return the job as its folder defines it; defaults where that was written by another version."""
    try:
        stored = stored_spec(output.store, output.layout, output.options)
    except UsageError:
        stored = None
    return stored or JobSpec(source=("-",), output=output.store.url)


def sealed_verdict(output: Output, *, model: str, max_failure_rate: float) -> RunSummary | None:
    """Return what the seal says; None for an output that has none."""
    if output.seal is None:
        return None
    return summarise(
        output.seal,
        RunCounts(),
        output.own_errors(),
        output=output.store.url,
        model=model,
        max_failure_rate=max_failure_rate,
        began_at=time.time(),
        wall_s=0.0,
    )
