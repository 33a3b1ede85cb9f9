"""Verbs that look at what runs on a cluster; each still answers when the cluster is gone."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from batchrec.errors import BatchrecError, ClusterLost, Resumable, UsageError
from batchrec.redacting import shown
from batchrec.spec import StoreOptions

if TYPE_CHECKING:
    from batchrec.cluster.dashboard import RemoteJob
    from batchrec.cluster.targets import Target

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Asking:
    """How a verb on a submission reaches what it is about, and how it answers.

    Attributes:
        address: ``--address``.
        no_auth: Whether no token is sent.
        store: How to reach the output folder.
        as_json: Whether the result is printed as JSON.
    """

    address: str | None
    no_auth: bool
    store: StoreOptions
    as_json: bool

    @property
    def setting(self) -> tuple[str | None, str]:
        """The address that was set, and where."""
        return (self.address, "--address") if self.address else (os.environ.get("BATCHREC_ADDRESS"), "environment")

    def find(self, target: str) -> Target:
        """Return the submission that a command line names."""
        from batchrec.cluster.targets import find_target

        return find_target(target, *self.setting, self.store, no_auth=self.no_auth, say=say)


def cluster_verb(function: _F) -> _F:
    """Add what every verb on a submission takes; the verb gets it as one ``asking``."""

    @functools.wraps(function)
    def verb(
        *args: Any,
        address: str | None,
        no_auth: bool,
        s3_endpoint: str | None,
        s3_region: str | None,
        as_json: bool,
        **flags: Any,
    ) -> Any:
        store = StoreOptions(endpoint=s3_endpoint, region=s3_region)
        return function(*args, asking=Asking(address, no_auth, store, as_json), **flags)

    wrapped: Any = verb
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON"),
        click.option("--no-auth", is_flag=True, help="The cluster has no token authentication: send none"),
        click.option("--address", metavar="URL", help="Ray cluster: http://HEAD:8265"),
        click.option("--s3-region", metavar="TEXT", envvar="BATCHREC_S3_REGION", help="Region of the bucket"),
        click.option("--s3-endpoint", metavar="URL", envvar="BATCHREC_S3_ENDPOINT", help="URL of the S3 endpoint"),
    ):
        wrapped = option(wrapped)
    return cast("_F", wrapped)


def say(line: str) -> None:
    """Print a line for people."""
    click.echo(line, err=True)


@click.command()
@click.argument("target")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends")
@cluster_verb
def logs(target: str, follow: bool, asking: Asking) -> int:
    """Print the log of TARGET, a submission or an output folder whose submission runs or was the last."""
    from batchrec.cluster.following import follow as follow_log
    from batchrec.cluster.following import unknown_submission
    from batchrec.cluster.targets import ClusterUnnamed, NothingSubmitted

    try:
        found = asking.find(target)
    except NothingSubmitted as error:
        return _print_kept(target, "", error, asking)
    try:
        dashboard = found.connect(no_auth=asking.no_auth)
        name = found.chosen(dashboard)
        if follow and not asking.as_json:
            follow_log(dashboard, name, click.echo, whole=True)
            return 0
        text = dashboard.logs(name)
    except (ClusterLost, ClusterUnnamed) as error:
        return _print_kept(found.output, found.submission_id, error, asking)
    if text is None:
        return _print_kept(found.output, name, unknown_submission(dashboard, name), asking)
    _print_log(name, text, "cluster", asking.as_json)
    return 0


def _print_log(submission_id: str, text: str, source: str, as_json: bool) -> None:
    text = "\n".join(shown(line.replace("\t", " ")) for line in text.split("\n"))
    if as_json:
        click.echo(json.dumps({"submission_id": submission_id or None, "from": source, "log": text}, indent=1))
    else:
        click.echo(text, nl=not text.endswith("\n"))


def _print_kept(folder: str | None, submission_id: str, error: BatchrecError, asking: Asking) -> int:
    """Print what the coordinator left of its log in the output, or raise what kept us from the whole."""
    from batchrec.cluster.targets import kept_log, output_of

    output = output_of(folder, asking.store) if folder else None
    text = kept_log(output) if output else None
    if text is None:
        raise error
    why = f"{error.cause}: its logs went with it" if isinstance(error, ClusterLost) else str(error)
    say(f"batchrec: {why}; these are the coordinator's own lines, kept in the output")
    _print_log(submission_id, text, "output", asking.as_json)
    return 0


@click.command()
@click.argument("target")
@cluster_verb
def stop(target: str, asking: Asking) -> int:
    """End TARGET, a submission or the one of an output folder that runs; the same `submit` resumes it."""
    from batchrec.cluster.following import stop as stop_submission

    found = asking.find(target)
    dashboard = found.connect(no_auth=asking.no_auth)
    job, by_us = stop_submission(dashboard, found.chosen(dashboard))
    if not job.has_ended:
        raise Resumable(
            f"{job.submission_id} was asked to stop and has not stopped yet",
            found=f"{job.status}: {job.message}",
            advice="a pending job ends when it gets its turn, or at the cluster's own limit; ask again",
        )
    if asking.as_json:
        click.echo(json.dumps({**asdict(job), "stopped": by_us}, indent=1))
    elif by_us and job.status == "STOPPED":
        click.echo(f"{job.submission_id} is stopped; the same `submit` resumes it")
    else:
        click.echo(f"{job.submission_id} had ended before: {_in_words(job)}")
    return 0


@click.command(name="list")
@click.argument("output", required=False)
@cluster_verb
def list_submissions(output: str | None, asking: Asking) -> int:
    """List what was submitted from the folder OUTPUT, or all that a cluster knows."""
    rows = _recorded(output, asking.store) if output is not None else _known(asking)
    if asking.as_json:
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
        for each in submissions_of(open_store(output, options), say)
    ]


def _known(asking: Asking) -> list[dict[str, Any]]:
    from batchrec.cluster.addresses import resolve_address
    from batchrec.cluster.targets import connect

    cluster = resolve_address(*asking.setting)
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
        for job in connect(cluster, no_auth=asking.no_auth).jobs()
    ]


def status_of(submission_id: str, asking: Asking) -> int:
    """Print what a cluster says of one submission."""
    from batchrec.cluster.following import unknown_submission

    dashboard = asking.find(submission_id).connect(no_auth=asking.no_auth)
    job = dashboard.job(submission_id)
    if job is None:
        raise unknown_submission(dashboard, submission_id)
    if asking.as_json:
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
