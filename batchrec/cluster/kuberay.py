"""A job as Kubernetes objects: the job file, its RayJob, who may talk to its pods. Plain values; nothing is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from batchrec.cluster import pods
from batchrec.cluster.networking import network_policy
from batchrec.errors import UsageError

PROFILES = ("cpu", "gpu", "spot", "autoscale")
#: The Ray in the image; the operator must know it to turn token authentication on.
RAY_VERSION = "2.60.0"
#: KubeRay adds six characters to name a cluster, and Kubernetes ten more to name its services.
MAX_NAME_LENGTH = 47
MAX_WORKER_PODS = 1000

_MAX_JOB_FILE_BYTES = 900 * 2**10  # a ConfigMap holds 1 MiB
_CORES_PER_CPU_WORKER = 8
_SPOT_PRIORITY = 10
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[1-9]\d*(Mi|Gi|Ti|M|G|T)")
_PINNED = re.compile(r"[^\s@]+?(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class KubeJob:
    """A job to be run on Kubernetes, checked at once with every fault listed.

    Attributes:
        name: Of the RayJob and of what belongs to it.
        job_file: Text of the job file.
        sources: The manifests it names.
        output: The folder it names.
        image: Container image, with a version or a digest.
        given: Names of settings the job file decides itself, which are left alone here.
        device: What it asks for: ``auto``, ``cpu`` or ``cuda``.
        profile: One of :data:`PROFILES`.
        workers: Worker pods; with an autoscaler, at most.
        cpus: Cores of a worker pod.
        memory: Of a worker pod, as Kubernetes writes it.
        gpus: GPUs of a worker pod.
        queue: Kueue's local queue; None to start at once.
        service_account: Whose cloud credentials are used; None renders an account of the job's own.
        namespace: To be written into every object; None leaves it to kubectl.
        s3_endpoint: URL of the object store, where it is not the cloud's own.
        deadline_s: Seconds after which Kubernetes ends the job, resumable by a new one.
        start_within_s: Seconds its cluster may take to come up.
        ttl_s: Seconds the cluster stands after the job, for its logs.
        retries: New clusters after a non-zero exit.
    """

    name: str
    job_file: str
    sources: tuple[str, ...]
    output: str
    image: str
    given: frozenset[str] = frozenset()
    device: str = "auto"
    profile: str = "cpu"
    workers: int = 4
    cpus: int = 8
    memory: str = "16Gi"
    gpus: int = 0
    queue: str | None = None
    service_account: str | None = None
    namespace: str | None = None
    s3_endpoint: str | None = None
    deadline_s: int = 86_400
    start_within_s: int = 1800
    ttl_s: int = 600
    retries: int = 2

    def __post_init__(self) -> None:
        if faults := [*_name_faults(self), *_amount_faults(self), *_reach_faults(self)]:
            raise UsageError("this job cannot run on Kubernetes: " + "; ".join(faults), advice="correct all of them")

    @property
    def account(self) -> str:
        """Service account of the pods that read and write."""
        return self.service_account or self.name

    @property
    def autoscaled(self) -> bool:
        """Whether Ray's autoscaler brings the workers; behind a queue, which admits whole clusters, spot is fixed."""
        return self.profile == "autoscale" or (self.profile == "spot" and self.queue is None)

    @property
    def workers_per_pod(self) -> int:
        """Workers that share a pod: one for each GPU, or one for about eight cores."""
        return self.gpus or max(1, self.cpus // _CORES_PER_CPU_WORKER)


def _name_faults(asked: KubeJob) -> Iterator[str]:
    if len(asked.name) > MAX_NAME_LENGTH or not _NAME.fullmatch(asked.name):
        yield (
            f"the name {asked.name!r} is not of a to z, 0 to 9 and '-', from a letter on, "
            f"{MAX_NAME_LENGTH} characters at most"
        )
    for what, value in (("namespace", asked.namespace), ("service account", asked.service_account)):
        if value is not None and (len(value) > 63 or not _NAME.fullmatch(value)):
            yield f"the {what} {value!r} is not of a to z, 0 to 9 and '-'"
    if asked.queue is not None and not _LABEL.fullmatch(asked.queue):
        yield f"the queue {asked.queue!r} is no label value"
    if not _PINNED.fullmatch(asked.image):
        yield f"the image {asked.image!r} has no version: write NAME:VERSION or NAME@sha256:DIGEST"


def _amount_faults(asked: KubeJob) -> Iterator[str]:
    if asked.profile not in PROFILES:
        yield f"the profile {asked.profile!r} is not one of {', '.join(PROFILES)}"
    if asked.profile == "gpu" and asked.gpus < 1:
        yield "the profile gpu needs at least one GPU a worker pod"
    if asked.profile == "cpu" and asked.gpus:
        yield "the profile cpu has no GPUs: use gpu, spot or autoscale"
    if asked.device == "cuda" and not asked.gpus:
        yield "the job file asks for cuda and no worker pod has a GPU: use the profile gpu, or --gpus"
    if not 1 <= asked.workers <= MAX_WORKER_PODS:
        yield f"workers is {asked.workers}, must be from 1 to {MAX_WORKER_PODS}"
    if asked.gpus < 0 or asked.cpus < max(1, asked.gpus):
        yield f"{asked.cpus} cores for {asked.gpus} GPUs: at least one core each is needed"
    if not _QUANTITY.fullmatch(asked.memory):
        yield f"memory is {asked.memory!r}, not an amount like 16Gi"
    for name in ("deadline_s", "start_within_s"):
        if getattr(asked, name) < 1:
            yield f"{name} must be positive"
    for name in ("ttl_s", "retries"):
        if getattr(asked, name) < 0:
            yield f"{name} must not be negative"


def _reach_faults(asked: KubeJob) -> Iterator[str]:
    for what, places in (("manifest", asked.sources), ("output", (asked.output,))):
        yield from (
            f"the {what} {place!r} is on this machine's disk, which no pod sees: name it as s3://..."
            for place in places
            if "://" not in place or place.startswith("file:")
        )
    if len(asked.job_file.encode()) > _MAX_JOB_FILE_BYTES:
        yield f"the job file is larger than {_MAX_JOB_FILE_BYTES // 1024} KiB"
    try:
        _store_port(asked)
    except ValueError:
        yield f"the S3 endpoint {asked.s3_endpoint!r} is no URL"


def _store_port(asked: KubeJob) -> int | None:
    url = urlsplit(asked.s3_endpoint or "")
    return url.port or (80 if url.scheme == "http" else None)


def render(asked: KubeJob) -> list[dict[str, Any]]:
    """Return the objects of a job in the order they are to be created."""
    objects = [
        *([] if asked.service_account else [_service_account(asked)]),
        {**_object("v1", "ConfigMap", asked), "data": {"job.yaml": asked.job_file}},
        network_policy(asked.name, store_port=_store_port(asked), calls_kubernetes=asked.autoscaled),
        {**_ray_job_head(asked), "spec": _ray_job(asked)},
    ]
    if asked.namespace:
        for each in objects:
            each["metadata"]["namespace"] = asked.namespace
    return objects


def _object(api_version: str, kind: str, asked: KubeJob) -> dict[str, Any]:
    metadata = {"name": asked.name, "labels": {pods.JOB_LABEL: asked.name}}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _service_account(asked: KubeJob) -> dict[str, Any]:
    return {**_object("v1", "ServiceAccount", asked), "automountServiceAccountToken": False}


def _ray_job_head(asked: KubeJob) -> dict[str, Any]:
    head = _object("ray.io/v1", "RayJob", asked)
    if asked.queue:
        head["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = asked.queue
        if asked.autoscaled:
            # Without it Kueue refuses clusters that change their size.
            head["metadata"]["annotations"] = {"kueue.x-k8s.io/elastic-job": "true"}
    return head


def _ray_job(asked: KubeJob) -> dict[str, Any]:
    submitter = pods.container("ray-job-submitter", asked.image, cpu="500m", memory="1Gi")
    return {
        **({"suspend": True} if asked.queue else {}),
        # A pod that submits can be read with `kubectl logs`; the operator's own HTTP request cannot.
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": pods.pod(asked.name, submitter),
        "entrypoint": _entrypoint(asked),
        # Resources named here take the coordinator off the head, onto the one pod that has them.
        "entrypointNumCpus": 1,
        "entrypointResources": f'{{"{pods.COORDINATOR}": 1}}',
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": asked.ttl_s,
        "activeDeadlineSeconds": asked.deadline_s,
        "preRunningDeadlineSeconds": asked.start_within_s,
        "backoffLimit": asked.retries,
        "rayClusterSpec": _ray_cluster(asked),
    }


def _entrypoint(asked: KubeJob) -> str:
    # The coordinator may start before any worker pod is there to be measured.
    wanted = {
        "device": "cuda" if asked.gpus else "cpu",
        "workers": asked.workers * asked.workers_per_pod,
        "cores_per_worker": asked.cpus // asked.workers_per_pod,
    }
    sets = [f"--set {name}={value}" for name, value in wanted.items() if name not in asked.given]
    return " ".join(["batchrec run", f"{pods.JOB_FOLDER}/job.yaml", *sets])


def _ray_cluster(asked: KubeJob) -> dict[str, Any]:
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},
        **(_autoscaler() if asked.autoscaled else {}),
        "headGroupSpec": _head(asked),
        "workerGroupSpecs": [_coordinator_group(asked), *_worker_groups(asked)],
    }


def _autoscaler() -> dict[str, Any]:
    writable = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108  the head's own mount
    options = {
        "version": "v2",  # the first that knows priorities
        "idleTimeoutSeconds": 120,
        "securityContext": pods.restricted(),
        "volumeMounts": [writable],
    }
    return {"enableInTreeAutoscaling": True, "autoscalerOptions": options}


def _head(asked: KubeJob) -> dict[str, Any]:
    template = pods.pod(asked.name, pods.container("ray-head", asked.image, cpu="2", memory="6Gi"))
    if asked.autoscaled:
        # The operator gives this pod an account that may change the cluster's size, and nothing else.
        del template["spec"]["automountServiceAccountToken"]
    if asked.profile == "spot":
        template = pods.on_steady_nodes(template)
    # No CPUs for Ray: neither workers nor the coordinator may crowd the head out.
    return {"rayStartParams": pods.start_parameters(**{"num-cpus": "0"}), "template": template}


def _coordinator_group(asked: KubeJob) -> dict[str, Any]:
    inside = pods.container("ray-worker", asked.image, cpu="2", memory="4Gi")
    template = pods.with_job_file(pods.pod(asked.name, inside, service_account=asked.account), asked.name)
    if asked.profile == "spot":
        template = pods.on_steady_nodes(template)
    # One CPU, which the coordinator holds, so that no worker is put beside it.
    return _group(pods.COORDINATOR, template, 1, 1) | {"resources": {"CPU": "1", pods.COORDINATOR: "1"}}


def _worker_groups(asked: KubeJob) -> list[dict[str, Any]]:
    inside = pods.container("ray-worker", asked.image, cpu=str(asked.cpus), memory=asked.memory, num_gpus=asked.gpus)
    template = pods.pod(asked.name, inside, service_account=asked.account)
    if asked.gpus:
        template = pods.with_gpu_nodes(template)
    least = 0 if asked.autoscaled else asked.workers
    if asked.profile != "spot":
        return [_group("workers", template, least, asked.workers)]
    spot = _group("spot", pods.on_spot_nodes(template), least, asked.workers)
    if not asked.autoscaled:
        return [spot]
    # The autoscaler turns to the lower priority while spot nodes cannot be had.
    steady = _group("steady", pods.on_steady_nodes(template), least, asked.workers)
    return [spot | {"priority": _SPOT_PRIORITY}, steady]


def _group(name: str, template: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": pods.start_parameters(),
        "template": template,
    }
