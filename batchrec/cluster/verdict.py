"""The verdict of a job whose output is sealed: from the output alone, whatever became of its cluster."""

from __future__ import annotations

import time

from batchrec.cluster.staging import is_local_model
from batchrec.engine.coordinator import RunCounts
from batchrec.engine.identity import bound_identity, identify, refuse_other_job
from batchrec.engine.summing import summarise
from batchrec.manifest.reading import open_manifest
from batchrec.models.zoo import resolve_model
from batchrec.output.layout import Layout
from batchrec.output.reading import Output
from batchrec.output.seal import read_seal, standing_parts
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


def sealed_verdict(output: Output, *, model: str, max_failure_rate: float) -> RunSummary | None:
    """Return what the seal says; None for an output that has none."""
    if output.seal is None:
        return None
    return summarise(
        output.seal,
        RunCounts(),
        output.errors(merged=False),
        output=output.store.url,
        model=model,
        max_failure_rate=max_failure_rate,
        began_at=time.time(),
        wall_s=0.0,
    )
