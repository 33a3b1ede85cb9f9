"""Handing a job to a cluster and waiting for it: the branch of `submit` that has an address, and `wait`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchrec.cli.clusters import Asking, cluster_verb, say
from batchrec.cli.telling import silence
from batchrec.errors import BatchrecError, ClusterLost, Resumable, UsageError
from batchrec.settings import Settings
from batchrec.spec import JobSpec, StoreOptions

if TYPE_CHECKING:
    from batchrec.cluster.addresses import Address
    from batchrec.cluster.dashboard import Dashboard
    from batchrec.cluster.submission import Submission
    from batchrec.report.summary import RunSummary

_F = TypeVar("_F", bound=Callable[..., Any])
EXIT_INTERRUPTED = 130
#: Flags of `submit` that mean something on a cluster only.
CLUSTER_FLAGS = ("no_wait", "ship_code", "variables", "no_auth", "shared_filesystem")


def cluster_flags(function: _F) -> _F:
    """Add the flags that say how a job is handed to a cluster."""
    for option in (
        click.option("--shared-filesystem", is_flag=True, help="Every node sees this machine's paths"),
        click.option("--no-auth", is_flag=True, help="The cluster has no token authentication: send none"),
        click.option("--env", "variables", multiple=True, metavar="NAME=VALUE", help="Variable of the cluster's job"),
        click.option("--ship-code", is_flag=True, help="Upload this batchrec; its dependencies come from the image"),
        click.option("--no-wait", is_flag=True, help="Return once the cluster has the job"),
    ):
        function = option(function)
    return function


def cluster_of(settings: Settings, flags: Mapping[str, Any]) -> Address | None:
    """Return the cluster a job goes to; None for a Ray of the run's own.

    Raises:
        UsageError: The address is none, or flags say something else than it does.
    """
    from batchrec.cluster.addresses import resolve_address

    named, inline = settings.values["address"], settings.values["pool"] == "inline"
    if inline and named and named != "local":
        raise UsageError("--pool inline runs in this process, --address on a cluster", advice="drop one of them")
    address = None if inline else resolve_address(named, settings.origins["address"])
    if address is None and (given := [name for name in CLUSTER_FLAGS if flags[name]]):
        flag = "--" + given[0].replace("variables", "env").replace("_", "-")
        raise UsageError(f"{flag} is for a cluster, and there is none", advice="say --address http://HEAD:8265")
    return address


def submit_to(address: Address, spec: JobSpec, flags: Mapping[str, Any], job_file: str | None, as_json: bool) -> int:
    """Run a job on a cluster; return the exit code of its coordinator."""
    from batchrec.cluster.shipping import checked_variables
    from batchrec.cluster.targets import connect
    from batchrec.cluster.verdict import standing_verdict

    variables = checked_variables(flags["variables"])
    say(f"cluster {address}")
    if (summary := standing_verdict(spec)) is not None:
        return _report(summary, summary.exit_code, as_json)
    asking = Asking(address.url, flags["no_auth"], spec.store, as_json)
    # Complete before we came, its seal does not say that this job is what it says.
    was_sealed = _verdict(spec.output, spec.store) is not None
    dashboard = connect(address, no_auth=asking.no_auth)
    from batchrec.cluster.submitting import Manner, hand_over

    manner = Manner(
        shared_filesystem=flags["shared_filesystem"],
        ship_code=flags["ship_code"],
        variables=variables,
        job_file=job_file,
    )
    handed = hand_over(spec, dashboard, manner, say)
    submission = handed.submission
    say(f"{'attached to' if handed.attached else 'submitted'} {submission.submission_id}")
    if flags["no_wait"]:
        _print_handed(submission, handed.attached, as_json)
        return 0
    try:
        return _wait(dashboard, submission.submission_id, submission, asking)
    except ClusterLost:
        summary = None if was_sealed else _verdict(submission.spec.output, spec.store, spec.max_failure_rate)
        if summary is None:
            raise
        return _report(summary, summary.exit_code, as_json)


def _print_handed(submission: Submission, attached: bool, as_json: bool) -> None:
    facts = {
        "submission_id": submission.submission_id,
        "attached": attached,
        "address": submission.address,
        "output": submission.spec.output,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(submission.submission_id)
    say(f"wait for it with `batchrec wait {submission.submission_id} --address {submission.address}`")


@click.command()
@click.argument("target")
@cluster_verb
def wait(target: str, asking: Asking) -> int:
    """Wait for TARGET, a submission or an output folder whose submission runs or was the last; exit with its code."""
    from batchrec.cluster.submission import is_submission_id
    from batchrec.cluster.targets import ClusterUnnamed, NothingSubmitted, output_of

    output = None if is_submission_id(target) else target
    if output and (summary := _verdict(output, asking.store)) is not None:
        return _report(summary, summary.exit_code, asking.as_json)
    try:
        found = asking.find(target)
        dashboard = found.connect(no_auth=asking.no_auth)
        name = found.chosen(dashboard)
        record = next((each for each in found.submissions if each.submission_id == name), None)
        return _wait(dashboard, name, record, asking)
    except NothingSubmitted as error:
        if output_of(target, asking.store) is None:
            raise
        raise _unfinished(target, error) from error
    except (ClusterLost, ClusterUnnamed) as error:
        if output is None:
            raise
        if (summary := _verdict(output, asking.store)) is None:
            raise _unfinished(output, error) from error
        return _report(summary, summary.exit_code, asking.as_json)


def _unfinished(output: str, error: BatchrecError) -> Resumable:
    lost = "the same `submit` resumes it; `batchrec status` says how far it is"
    advice = lost if isinstance(error, ClusterLost) else error.advice
    return Resumable(f"the job of {output} is not complete", found=error.cause, advice=advice)


def _verdict(output: str, options: StoreOptions, max_failure_rate: float | None = None) -> RunSummary | None:
    """Return the verdict of a sealed folder, for a limit or the one it was sealed with; None while it is not sealed."""
    from batchrec.cluster.targets import output_of
    from batchrec.cluster.verdict import verdict_of

    opened = output_of(output, options)
    return verdict_of(opened, max_failure_rate) if opened else None


def _wait(dashboard: Dashboard, submission_id: str, record: Submission | None, asking: Asking) -> int:
    from batchrec.cluster.following import follow

    try:
        ending = follow(dashboard, submission_id, say)
    except KeyboardInterrupt:
        url = dashboard.address.url
        say(f"detached; {submission_id} goes on. To end it: batchrec stop {submission_id} --address {url}")
        return EXIT_INTERRUPTED
    if not ending.is_verdict:
        raise ending.error()
    output = record.spec.output if record else ending.job.metadata.get("output")
    return _report(_told(output, submission_id, record, asking), ending.exit_code, asking.as_json)


def _told(output: str | None, submission_id: str, record: Submission | None, asking: Asking) -> RunSummary | None:
    """Return the verdict for the limit that a submission asked for; None where the output cannot be read from here."""
    from batchrec.cluster.submission import read_submission, submission_key

    if output is None:
        return None
    try:
        record = record or read_submission(f"{output}/{submission_key(submission_id)}", asking.store)
        return _verdict(output, asking.store, record.spec.max_failure_rate)
    except BatchrecError:
        return None


def _report(summary: RunSummary | None, exit_code: int, as_json: bool) -> int:
    from batchrec.report.terminal import print_report

    try:
        if summary is None:
            plain = {"exit_code": exit_code}
            click.echo(json.dumps(plain) if as_json else f"complete, exit code {exit_code} on the cluster")
        elif as_json:
            click.echo(json.dumps(summary.to_json(), indent=1))
        else:
            print_report(summary, sys.stdout)
    except BrokenPipeError:
        silence(sys.stdout)
    return exit_code
