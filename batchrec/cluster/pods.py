"""Pods of a job on Kubernetes: what each may do, where it is placed, what it may write to."""

from __future__ import annotations

from typing import Any

#: Every pod of a job carries it, with the job's name: Ray clusters are renamed on each attempt, this label stays.
JOB_LABEL = "batchrec/job"
JOB_FOLDER = "/etc/batchrec"
USER_ID = 1000
#: The pod with the coordinator offers this to Ray, no other pod does.
COORDINATOR = "coordinator"

# Shards and counters are all that crosses Ray's object store.
_OBJECT_STORE_BYTES = 200 * 2**20
_HOME = "/home/batchrec"
_WRITABLE = {"tmp": "/tmp", "home": _HOME}  # noqa: S108  mount points in the pod, not files of ours
# Notices of preemption leave 30 s on Azure and Google Cloud.
_SPOT_GRACE_S = 25
#: How each provider marks its spot nodes: label and value.
_SPOT_MARKS = {
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}


def container(name: str, image: str, *, cpu: str, memory: str, num_gpus: int = 0) -> dict[str, Any]:
    """Return a container that gets what it asks for, and may write to its temporary folder and its home only.

    Args:
        name: Of the container.
        image: It runs.
        cpu: Cores, as Kubernetes writes them.
        memory: As Kubernetes writes it.
        num_gpus: GPUs of NVIDIA.
    """
    amounts = {"cpu": cpu, "memory": memory} | ({"nvidia.com/gpu": str(num_gpus)} if num_gpus else {})
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "securityContext": restricted(),
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in _WRITABLE.items()],
    }


def restricted() -> dict[str, Any]:
    """Return what the "restricted" level of Kubernetes asks of a container, with a root that cannot be written."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod(job: str, inside: dict[str, Any], *, service_account: str | None = None) -> dict[str, Any]:
    """Return the template of a pod.

    Args:
        job: Name of the job.
        inside: Its container.
        service_account: Whose credentials it uses; None for a pod that needs none.
    """
    # Cloud credentials come as a volume of their own; the token of the Kubernetes API is for nobody here.
    account = {"serviceAccountName": service_account} if service_account else {}
    return {
        "metadata": {"labels": {JOB_LABEL: job}},
        "spec": {
            **account,
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": {
                "fsGroup": USER_ID,
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [inside],
            "volumes": [{"name": volume, "emptyDir": {}} for volume in _WRITABLE],
        },
    }


def with_job_file(template: dict[str, Any], config_map: str) -> dict[str, Any]:
    """Return the template with the job file mounted."""
    (inside,) = template["spec"]["containers"]
    mount = {"name": "job", "mountPath": JOB_FOLDER, "readOnly": True}
    inside = {**inside, "volumeMounts": [*inside["volumeMounts"], mount]}
    volumes = [*template["spec"]["volumes"], {"name": "job", "configMap": {"name": config_map}}]
    return {**template, "spec": {**template["spec"], "containers": [inside], "volumes": volumes}}


def with_gpu_nodes(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template let onto nodes that are kept for GPU work."""
    return _tolerating(template, [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}])


def on_spot_nodes(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template placed on spot nodes, however the provider marks them."""
    # Terms are alternatives: a node with any of the marks will do.
    terms = [_term([(label, "In", value)]) for label, value in _SPOT_MARKS.items()]
    taints = [
        {"key": label, "operator": "Equal", "value": value, "effect": "NoSchedule"}
        for label, value in _SPOT_MARKS.items()
    ]
    placed = _tolerating(_bound_to(template, terms), taints)
    return {**placed, "spec": {**placed["spec"], "terminationGracePeriodSeconds": _SPOT_GRACE_S}}


def on_steady_nodes(template: dict[str, Any]) -> dict[str, Any]:
    """Return the template kept off spot nodes."""
    return _bound_to(template, [_term([(label, "NotIn", value) for label, value in _SPOT_MARKS.items()])])


def _term(conditions: list[tuple[str, str, str]]) -> dict[str, Any]:
    return {
        "matchExpressions": [
            {"key": label, "operator": operator, "values": [value]} for label, operator, value in conditions
        ]
    }


def _bound_to(template: dict[str, Any], terms: list[dict[str, Any]]) -> dict[str, Any]:
    rule = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {**template, "spec": {**template["spec"], "affinity": {"nodeAffinity": rule}}}


def _tolerating(template: dict[str, Any], tolerations: list[dict[str, str]]) -> dict[str, Any]:
    spec = template["spec"]
    return {**template, "spec": {**spec, "tolerations": [*spec.get("tolerations", []), *tolerations]}}


def start_parameters(**more: str) -> dict[str, str]:
    """Return what `ray start` is told on every pod."""
    return {"object-store-memory": str(_OBJECT_STORE_BYTES), **more}
