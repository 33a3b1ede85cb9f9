"""Handing a job to a cluster and waiting for it: the branch of `submit` that has an address, and `wait`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchrec.cli.clusters import cluster_verb, find, say
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
    dashboard = connect(address, no_auth=flags["no_auth"])
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
    return _wait(dashboard, submission.submission_id, submission.spec.output, spec.store, as_json)


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
def wait(
    target: str, address: str | None, no_auth: bool, s3_endpoint: str | None, s3_region: str | None, as_json: bool
) -> int:
    """Wait for TARGET, a submission or the last one of an output folder; exit with its code."""
    from batchrec.cluster.submission import is_submission_id

    options = StoreOptions(endpoint=s3_endpoint, region=s3_region)
    if not is_submission_id(target) and (summary := _sealed(target, options)) is not None:
        return _report(summary, summary.exit_code, as_json)
    found = find(target, address, s3_endpoint, s3_region, no_auth=no_auth)
    output = found.submission.spec.output if found.submission else None
    try:
        dashboard = found.connect(no_auth=no_auth)
        return _wait(dashboard, found.submission_id, output, options, as_json)
    except ClusterLost as error:
        if output is None:
            raise
        summary = _sealed(output, options)
        if summary is None:
            raise _unfinished(output, error) from error
        return _report(summary, summary.exit_code, as_json)


def _unfinished(output: str, error: ClusterLost) -> Resumable:
    return Resumable(
        f"the job of {output} is not complete",
        found=error.cause,
        advice="the same `submit` resumes it; `batchrec status` says how far it is",
    )


def _sealed(output: str, options: StoreOptions) -> RunSummary | None:
    """Return the verdict of a sealed folder, for the limit its last submission asked for."""
    from batchrec.cluster.submission import submissions_of
    from batchrec.cluster.targets import output_of
    from batchrec.cluster.verdict import sealed_verdict

    opened = output_of(output, options)
    if opened is None or opened.seal is None:
        return None
    records = submissions_of(opened.store)
    spec = records[-1].spec if records else JobSpec(source=("-",), output=output)
    return sealed_verdict(opened, model=spec.model, max_failure_rate=spec.max_failure_rate)


def _wait(dashboard: Dashboard, submission_id: str, output: str | None, options: StoreOptions, as_json: bool) -> int:
    from batchrec.cluster.following import follow

    try:
        ending = follow(dashboard, submission_id, say)
    except KeyboardInterrupt:
        url = dashboard.address.url
        say(f"detached; {submission_id} goes on. To end it: batchrec stop {submission_id} --address {url}")
        return EXIT_INTERRUPTED
    if not ending.is_verdict:
        raise ending.error()
    return _report(_last_report(output or ending.job.metadata.get("output"), options), ending.exit_code, as_json)


def _last_report(output: str | None, options: StoreOptions) -> RunSummary | None:
    """Return the report the coordinator left; None where it cannot be read from here."""
    from batchrec.output.reading import open_output
    from batchrec.report.summary import RunSummary

    try:
        return RunSummary.from_json(open_output(output, options).report()) if output else None
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
