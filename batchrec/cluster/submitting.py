"""Handing a job to a cluster: the same command again finds the submission it made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from batchrec.cluster.dashboard import Dashboard, DuplicateId, StillStarting
from batchrec.cluster.shipping import ENTRYPOINT, command_line, runtime_env
from batchrec.cluster.staging import Staging, prepare_staging, stage
from batchrec.cluster.submission import Submission, keep_submission, latest_attempt, name_of
from batchrec.spec import JobSpec
from batchrec.storage import Store, open_store

# A record this young without its job is one whose submitter, another one, is about to hand it over.
_HANDING_OVER_S = 60.0
_STARTING_S, _PAUSE_S = 60.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a job is handed over.

    Attributes:
        shared_filesystem: Every node sees this machine's paths.
        ship_code: This installation's package goes along.
        variables: Environment variables of the coordinator and its workers, checked.
        job_file: Name of the job file, for people.
        entrypoint: Command that takes the record.
    """

    shared_filesystem: bool = False
    ship_code: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    job_file: str | None = None
    entrypoint: tuple[str, ...] = ENTRYPOINT


@dataclass(frozen=True, slots=True)
class Handed:
    """A submission the cluster has.

    Attributes:
        submission: Its record.
        attached: Whether it was there before.
    """

    submission: Submission
    attached: bool


def hand_over(
    spec: JobSpec, dashboard: Dashboard, manner: Manner, say: Callable[[str], None] = lambda _: None
) -> Handed:
    """Submit a job, or find its submission that is pending or running.

    Raises:
        Refused: The cluster cannot run it, or what it needs cannot be staged.
        ClusterLost: The cluster does not answer.
        StorageLost: The store does not.
    """
    shared = manner.shared_filesystem or (dashboard.address.is_loopback and dashboard.is_here())
    staging = prepare_staging(spec, shared=shared)
    name = name_of(staging.spec, staging.model)
    store = open_store(staging.spec.output, spec.store)
    number, standing = _attempt(store, name, dashboard)
    if standing is not None:
        return Handed(standing, attached=True)
    stage(staging, store, say)
    submission = keep_submission(store, _submission(staging, dashboard, name, number))
    return Handed(submission, attached=not _submit(submission, dashboard, manner, spec))


def _attempt(store: Store, name: str, dashboard: Dashboard) -> tuple[int, Submission | None]:
    """Return the number of the attempt to make, or the submission that is under way."""
    last = latest_attempt(store, name)
    if last is None:
        return 1, None
    here = dashboard.address.is_same(last.address)
    job = dashboard.job(last.submission_id) if here else None
    if job is not None and not job.has_ended:
        return last.attempt, last
    if job is None and here and time.time() - last.submitted_at < _HANDING_OVER_S:
        return last.attempt, None
    return last.attempt + 1, None


def _submission(staging: Staging, dashboard: Dashboard, name: str, number: int) -> Submission:
    return Submission(
        spec=staging.spec,
        model=staging.model,
        address=dashboard.address.url,
        submission_id=f"{name}-{number}",
        attempt=number,
        version=version("batchrec"),
        submitted_at=time.time(),
    )


def _submit(submission: Submission, dashboard: Dashboard, manner: Manner, spec: JobSpec) -> bool:
    """Submit; False where another command was quicker."""
    metadata = {"output": submission.spec.output, "batchrec": submission.version}
    if manner.job_file:
        metadata["job_file"] = Path(manner.job_file).name
    command = command_line(submission, spec.store, manner.entrypoint)
    environment = runtime_env(manner.variables, ship_code=manner.ship_code)
    # The head's cores are not to be used where it offers none; any number asked for goes elsewhere.
    num_cpus = 1 if dashboard.keeps_head_free() else 0
    until = time.monotonic() + _STARTING_S
    while True:
        try:
            dashboard.submit(
                submission.submission_id, command, runtime_env=environment, metadata=metadata, num_cpus=num_cpus
            )
        except DuplicateId:
            return False
        except StillStarting:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE_S)
        else:
            return True
