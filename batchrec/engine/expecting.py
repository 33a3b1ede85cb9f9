"""What this machine remembers of jobs: how fast they should be here, and what runs took beside their images."""

from __future__ import annotations

from typing import Any

from batchrec.engine.devices import Placement
from batchrec.engine.identity import Identity
from batchrec.models.backends.hardware import cpu_model
from batchrec.models.bundle import ModelSpec
from batchrec.models.remembering import keep, recall
from batchrec.report.expectation import Expectation
from batchrec.report.summary import RunSummary
from batchrec.spec import JobSpec

_STARTS_KEPT = 3


def keep_expectation(spec: JobSpec, identity: Identity, placement: Placement, expectation: Expectation) -> None:
    """Remember what was measured for a job on this machine."""
    keep("expectations", _key_of_job(spec, identity, placement), expectation.to_json())


def recall_expectation(spec: JobSpec, identity: Identity, placement: Placement) -> Expectation | None:
    """Return what was last measured for the same rows, model and placement on this machine, if anything was."""
    known = recall("expectations", _key_of_job(spec, identity, placement))
    try:
        return Expectation(**known) if known else None
    except TypeError:
        return None  # kept by another version


def keep_outside(spec: JobSpec, model: ModelSpec, placement: Placement, summary: RunSummary) -> None:
    """Remember how long an undisturbed run took before its first row and after its last."""
    disturbed = summary.workers_lost or summary.attempts_failed or summary.shards_done_before
    if summary.stats.num_rows and not disturbed:
        key = _key_of_start(spec, model, placement)
        before = (recall("outside", key) or {"seconds": []})["seconds"]
        keep("outside", key, {"seconds": [summary.wall_s - summary.steady_s, *before][:_STARTS_KEPT]})


def recall_outside(spec: JobSpec, model: ModelSpec, placement: Placement) -> float | None:
    """Return the least of those seconds over the last runs of a model on this machine; None before there was one.

    The least, because whatever disturbs a start makes it longer: the first one converts the model, too.
    """
    known = recall("outside", _key_of_start(spec, model, placement))
    return min(known["seconds"]) if known else None


def _key_of_job(spec: JobSpec, identity: Identity, placement: Placement) -> dict[str, Any]:
    return {
        "job_id": identity.job_id,
        "pool": spec.pool,
        "max_requests": spec.max_requests,
        **_place(spec, placement),
    }


def _key_of_start(spec: JobSpec, model: ModelSpec, placement: Placement) -> dict[str, Any]:
    return {
        "pool": spec.pool,
        "weights": model.weights_sha256,
        "architecture": model.architecture,
        **_place(spec, placement),
    }


def _place(spec: JobSpec, placement: Placement) -> dict[str, Any]:
    return {
        "cpu": cpu_model(),
        "backend": spec.backend,
        "batch_size": spec.batch_size,
        "device": placement.device,
        "workers": placement.num_workers,
        "threads": placement.num_threads,
    }
