"""Verbs that write down a job, and what watches it, as Kubernetes objects; nothing is sent anywhere."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from batchrec.cluster import kuberay, monitoring
from batchrec.cluster.kuberay import KubeJob
from batchrec.cluster.yaml_text import to_yaml
from batchrec.errors import UsageError
from batchrec.settings import Settings, resolve_settings

_HEADING = (
    "Rendered by `batchrec k8s render`; change the job file or the flags and render again.\nkubectl apply -f THIS"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")


@click.group()
def k8s() -> None:
    """Write a job down as Kubernetes objects."""


@k8s.command()
@click.option("-j", "--job", "job_file", required=True, metavar="JOB.yaml", help="Job file; it goes along as it is")
@click.option(
    "--profile", type=click.Choice(kuberay.PROFILES), default="cpu", show_default=True, help="Kind of workers"
)
@click.option("--workers", type=int, default=4, show_default=True, help="Worker pods; at most, where they come and go")
@click.option("--cpus", type=int, default=8, show_default=True, help="Cores of a worker pod")
@click.option("--memory", default="16Gi", show_default=True, help="Memory of a worker pod")
@click.option("--gpus", type=int, help="GPUs of a worker pod [default: 1 with the profile gpu, else none]")
@click.option("--queue", metavar="KUEUE_QUEUE", help="Local queue of Kueue that admits the job")
@click.option("--image", help="Container image, with its version [default: batchrec:VERSION, or VERSION-cuda]")
@click.option("--name", help="Name of the RayJob [default: that of the job file]")
@click.option("--namespace", help="Written into every object [default: kubectl's own]")
@click.option("--service-account", help="Whose cloud credentials are used [default: one rendered with the job]")
@click.option("--deadline", "deadline_s", type=int, default=86_400, show_default=True, help="Seconds the job may take")
@click.option(
    "--start-within", "start_within_s", type=int, default=1800, show_default=True, help="... its cluster to start"
)
@click.option("--ttl", "ttl_s", type=int, default=600, show_default=True, help="... its cluster stands afterwards")
@click.option("--retries", type=int, default=2, show_default=True, help="New clusters after a failed one")
@json_option
def render(job_file: str, as_json: bool, **flags: Any) -> None:
    """Print the Kubernetes objects that run a job file through KubeRay."""
    objects = kuberay.render(_asked(job_file, resolve_settings((), {}, job_file=job_file), flags))
    click.echo(json.dumps(objects, indent=1) if as_json else to_yaml(objects, heading=_HEADING), nl=as_json)


@k8s.command("monitoring")
@click.option("--board", is_flag=True, help="Print the Grafana board instead, as JSON")
@json_option
def watching(board: bool, as_json: bool) -> None:
    """Print what Prometheus needs to watch the jobs of a namespace."""
    objects = [monitoring.pod_monitor(), monitoring.alert_rules()]
    if board:
        click.echo(json.dumps(monitoring.board(), indent=1))
    else:
        click.echo(json.dumps(objects, indent=1) if as_json else to_yaml(objects), nl=as_json)


def _asked(job_file: str, settings: Settings, flags: dict[str, Any]) -> KubeJob:
    spec = settings.to_spec()
    if spec.pool != "ray":
        raise UsageError(
            f"the job file asks for the pool {spec.pool}", advice="leave `pool` out: a cluster runs on Ray"
        )
    gpus = flags.pop("gpus")
    gpus = int(flags["profile"] == "gpu") if gpus is None else gpus
    return KubeJob(
        **{
            **flags,
            "name": flags["name"] or _name_from(job_file),
            "image": flags["image"] or f"batchrec:{version('batchrec')}{'-cuda' if gpus else ''}",
            "gpus": gpus,
        },
        job_file=Path(job_file).read_text(encoding="utf-8"),
        sources=spec.source,
        output=spec.output,
        given=frozenset(name for name, origin in settings.origins.items() if origin != "default"),
        device=spec.device,
        s3_endpoint=spec.store.endpoint,
    )


def _name_from(job_file: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", Path(job_file).stem.lower()).strip("-")[: kuberay.MAX_NAME_LENGTH].strip("-")
