"""Verbs that look at what runs on a cluster; each still answers when the cluster is gone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchrec.errors import BatchrecError, ClusterLost, Resumable, UsageError
from batchrec.redacting import printable
from batchrec.spec import StoreOptions

if TYPE_CHECKING:
    from batchrec.cluster.dashboard import RemoteJob
    from batchrec.cluster.targets import Target

_F = TypeVar("_F", bound=Callable[..., Any])


def cluster_verb(function: _F) -> _F:
    """Add what every verb on a submission takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON"),
        click.option("--no-auth", is_flag=True, help="The cluster has no token authentication: send none"),
        click.option("--address", metavar="URL", help="Ray cluster: http://HEAD:8265"),
        click.option("--s3-region", metavar="TEXT", envvar="BATCHREC_S3_REGION", help="Region of the bucket"),
        click.option("--s3-endpoint", metavar="URL", envvar="BATCHREC_S3_ENDPOINT", help="URL of the S3 endpoint"),
    ):
        function = option(function)
    return function


def _setting(address: str | None) -> tuple[str | None, str]:
    return (address, "--address") if address else (os.environ.get("BATCHREC_ADDRESS"), "environment")


def find(target: str, address: str | None, s3_endpoint: str | None, s3_region: str | None, *, no_auth: bool) -> Target:
    """Return the submission that a command line names."""
    from batchrec.cluster.targets import find_target

    options = StoreOptions(endpoint=s3_endpoint, region=s3_region)
    return find_target(target, *_setting(address), options, no_auth=no_auth)


def say(line: str) -> None:
    """Print a line for people."""
    click.echo(line, err=True)


@click.command()
@click.argument("target")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends")
@cluster_verb
def logs(
    target: str,
    follow: bool,
    address: str | None,
    no_auth: bool,
    s3_endpoint: str | None,
    s3_region: str | None,
    as_json: bool,
) -> int:
    """Print the log of TARGET, a submission or the last one of an output folder."""
    from batchrec.cluster.following import follow as follow_log
    from batchrec.cluster.following import unknown_submission

    found = find(target, address, s3_endpoint, s3_region, no_auth=no_auth)
    try:
        dashboard = found.connect(no_auth=no_auth)
        if follow and not as_json:
            follow_log(dashboard, found.submission_id, click.echo, whole=True)
            return 0
        text = dashboard.logs(found.submission_id)
    except (ClusterLost, UsageError) as error:
        return _print_kept(found, error, as_json)
    if text is None:
        return _print_kept(found, unknown_submission(dashboard, found.submission_id), as_json)
    _print_log(found.submission_id, text, "cluster", as_json)
    return 0


def _print_log(submission_id: str, text: str, source: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"submission_id": submission_id, "from": source, "log": text}, indent=1))
    else:
        click.echo(printable(text, keep="\n\t"), nl=not text.endswith("\n"))


def _print_kept(target: Target, error: BatchrecError, as_json: bool) -> int:
    """Print what the coordinator left of its log in the output, or raise what kept us from the whole."""
    from batchrec.cluster.targets import kept_log, output_of

    record = target.submission
    output = output_of(record.spec.output, record.spec.store) if record else None
    text = kept_log(output) if output else None
    if text is None:
        raise error
    say(f"batchrec: {error.cause}: its logs went with it; these are the coordinator's own lines, kept in the output")
    _print_log(target.submission_id, text, "output", as_json)
    return 0


@click.command()
@click.argument("target")
@cluster_verb
def stop(
    target: str, address: str | None, no_auth: bool, s3_endpoint: str | None, s3_region: str | None, as_json: bool
) -> int:
    """End TARGET, a submission or the last one of an output folder; the same `submit` resumes it."""
    from batchrec.cluster.following import stop as stop_submission

    found = find(target, address, s3_endpoint, s3_region, no_auth=no_auth)
    job, by_us = stop_submission(found.connect(no_auth=no_auth), found.submission_id)
    if not job.has_ended:
        raise Resumable(
            f"{job.submission_id} was asked to stop and has not stopped yet",
            found=f"{job.status}: {job.message}",
            advice="a pending job ends when it gets its turn, or at the cluster's own limit; ask again",
        )
    if as_json:
        click.echo(json.dumps({**asdict(job), "stopped": by_us}, indent=1))
    elif by_us and job.status == "STOPPED":
        click.echo(f"{job.submission_id} is stopped; the same `submit` resumes it")
    else:
        click.echo(f"{job.submission_id} had ended before: {_in_words(job)}")
    return 0


@click.command(name="list")
@click.argument("output", required=False)
@cluster_verb
def list_submissions(
    output: str | None,
    address: str | None,
    no_auth: bool,
    s3_endpoint: str | None,
    s3_region: str | None,
    as_json: bool,
) -> int:
    """List what was submitted from the folder OUTPUT, or all that a cluster knows."""
    if output is not None:
        rows = _recorded(output, StoreOptions(endpoint=s3_endpoint, region=s3_region))
    else:
        rows = _known(address, no_auth)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            click.echo("  ".join(str(row[name]) for name in row if row[name] is not None))
        if not rows:
            say("no submission")
    return 0


def _recorded(output: str, options: StoreOptions) -> list[dict[str, Any]]:
    from batchrec.cluster.submission import submissions_of
    from batchrec.storage import open_store

    return [
        {"submission_id": each.submission_id, "submitted_at": _moment(each.submitted_at), "address": each.address}
        for each in submissions_of(open_store(output, options))
    ]


def _known(address: str | None, no_auth: bool) -> list[dict[str, Any]]:
    from batchrec.cluster.addresses import resolve_address
    from batchrec.cluster.targets import connect

    cluster = resolve_address(*_setting(address))
    if cluster is None:
        raise UsageError("no cluster to list", advice="say --address http://HEAD:8265, or name an output folder")
    say(f"cluster {cluster}")
    return [
        {
            "submission_id": job.submission_id,
            "submitted_at": _moment(job.started_at),
            "status": job.status,
            "exit_code": job.exit_code,
            "output": job.metadata.get("output"),
        }
        for job in connect(cluster, no_auth=no_auth).jobs()
    ]


def status_of(submission_id: str, address: str | None, *, no_auth: bool, as_json: bool) -> int:
    """Print what a cluster says of one submission."""
    from batchrec.cluster.following import unknown_submission

    dashboard = find(submission_id, address, None, None, no_auth=no_auth).connect(no_auth=no_auth)
    job = dashboard.job(submission_id)
    if job is None:
        raise unknown_submission(dashboard, submission_id)
    if as_json:
        click.echo(json.dumps(asdict(job), indent=1))
    else:
        click.echo(f"{job.submission_id}: {_in_words(job)}")
        if output := job.metadata.get("output"):
            click.echo(f"its rows: batchrec status {output}")
    return 0


def _in_words(job: RemoteJob) -> str:
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    return f"{job.status}{code}; {job.message}"


def _moment(at: float | None) -> str | None:
    from datetime import UTC, datetime

    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
