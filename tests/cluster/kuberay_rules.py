"""What the KubeRay operator and Kueue's webhook refuse, beyond the schema.

After ValidateRayJobMetadata, ValidateRayJobSpec and ValidateRayClusterSpec in KubeRay's
ray-operator/controllers/ray/utils/validation.go, the CEL rules of its CRD, and Kueue's rayjob_webhook.go. Fault
tolerance of the GCS, the history server and TLS are left out: nothing here uses them, and the schema test names every
field that is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

Plain = dict[str, Any]
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUEUE = "kueue.x-k8s.io/queue-name"


def faults_of(rayjob: Plain) -> list[str]:
    """Everything for which a RayJob would be refused."""
    spec, metadata = rayjob["spec"], rayjob["metadata"]
    faults = [*_metadata(metadata), *_job(spec), *_lifecycle(spec), *_kueue(metadata, spec)]
    cluster = spec.get("rayClusterSpec")
    return faults + ([*_cluster(cluster), *_auth(cluster), *_autoscaling(cluster)] if cluster else [])


def _metadata(metadata: Plain) -> Iterator[str]:
    if len(metadata["name"]) > 47:
        yield "name longer than 47"
    if not _DNS_1035.fullmatch(metadata["name"]):
        yield "name is no DNS-1035 label"


def _job(spec: Plain) -> Iterator[str]:
    mode, selector = spec.get("submissionMode", "K8sJobMode"), spec.get("clusterSelector")
    if not spec.get("rayClusterSpec") and not selector:
        yield "neither rayClusterSpec nor clusterSelector"
    if spec.get("rayClusterSpec") and selector:
        yield "both rayClusterSpec and clusterSelector"
    if selector is not None and not selector.get("ray.io/cluster"):
        yield "clusterSelector names no cluster"
    if mode not in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"):
        yield "unknown submissionMode"
    if mode != "K8sJobMode" and (spec.get("submitterPodTemplate") or spec.get("submitterConfig")):
        yield "a submitter of a mode that has none"
    if mode != "InteractiveMode" and not spec.get("entrypoint", "").strip():
        yield "no entrypoint"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit in InteractiveMode"
    if selector and (mode == "SidecarMode" or spec.get("backoffLimit", 0) > 0):
        yield "clusterSelector with SidecarMode or backoffLimit"
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML") or "{}"), dict):
        yield "runtimeEnvYAML is no mapping"
    if not isinstance(yaml.safe_load(spec.get("entrypointResources") or "{}"), dict):
        yield "entrypointResources is no mapping"


def _lifecycle(spec: Plain) -> Iterator[str]:
    shutdown = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("suspend") and not shutdown:
        yield "suspend without shutdownAfterJobFinishes"
    if spec.get("suspend") and spec.get("clusterSelector"):
        yield "suspend with clusterSelector"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "negative ttlSecondsAfterFinished"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(name, 1) <= 0:
            yield f"{name} not positive"
    if spec.get("backoffLimit", 0) < 0:
        yield "negative backoffLimit"
    strategy = spec.get("deletionStrategy", {})
    if shutdown and strategy.get("deletionRules"):
        yield "deletionRules with shutdownAfterJobFinishes"
    if strategy.get("deletionRules") and {"onSuccess", "onFailure"} & strategy.keys():
        yield "deletionRules with onSuccess or onFailure"


def _cluster(cluster: Plain) -> Iterator[str]:
    groups = cluster.get("workerGroupSpecs", [])
    for group in (cluster["headGroupSpec"], *groups):
        if not group["template"]["spec"]["containers"]:
            yield "a group without a container"
        parameters = group.get("rayStartParams", {})
        if group.get("resources") and parameters.keys() & {"num-cpus", "num-gpus", "memory", "resources"}:
            yield "resources named twice"
        if "labels" in parameters:
            yield "labels in rayStartParams"
    for group in groups:
        if not 0 <= group["minReplicas"] <= group["maxReplicas"]:
            yield "minReplicas above maxReplicas"
        if not _DNS_1123.fullmatch(group["groupName"]):
            yield "groupName is no DNS label"
    if len({group["groupName"] for group in groups}) < len(groups):
        yield "two groups of one name"
    if cluster.get("networkPolicy") or cluster.get("tlsOptions") or cluster.get("historyServerOptions"):
        yield "a field behind a feature gate"
    if cluster.get("upgradeStrategy"):
        yield "upgradeStrategy in a RayJob"


def _auth(cluster: Plain) -> Iterator[str]:
    options = cluster.get("authOptions", {})
    if options.get("mode") == "token" and _version(cluster) < (2, 52):
        yield "token authentication before Ray 2.52"
    if options.get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth in a RayJob"


def _autoscaling(cluster: Plain) -> Iterator[str]:
    options, groups = cluster.get("autoscalerOptions", {}), cluster.get("workerGroupSpecs", [])
    on = cluster.get("enableInTreeAutoscaling", False)
    second = on and options.get("version") == "v2"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "negative idleTimeoutSeconds"
    for group in groups:
        if group.get("priority") and (not second or _version(cluster) < (2, 56)):
            yield "priority without autoscaler v2 of Ray 2.56"
        if "idleTimeoutSeconds" in group and not second:
            yield "idleTimeoutSeconds of a group without autoscaler v2"
        if group.get("suspend"):
            yield "a suspended group"
    templates = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *groups)]
    if second and any(template.get("restartPolicy", "Never") != "Never" for template in templates):
        yield "restartPolicy with autoscaler v2"
    variables = [
        each["name"] for template in templates for inside in template["containers"] for each in inside.get("env", [])
    ]
    if "RAY_enable_autoscaler_v2" in variables and (not on or "version" in options):
        yield "autoscaler v2 by variable"


def _kueue(metadata: Plain, spec: Plain) -> Iterator[str]:
    if not metadata.get("labels", {}).get(_QUEUE):
        return
    cluster = spec.get("rayClusterSpec", {})
    if spec.get("clusterSelector"):
        yield "a queue for a cluster that stands"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "a queue without shutdownAfterJobFinishes"
    elastic = metadata.get("annotations", {}).get("kueue.x-k8s.io/elastic-job") == "true"
    if cluster.get("enableInTreeAutoscaling") and not elastic:
        yield "a queue with autoscaling that is not elastic"
    groups = cluster.get("workerGroupSpecs", [])
    if len(groups) > 7:
        yield "a queue with more than 7 worker groups"
    if any(group["groupName"] == "head" for group in groups):
        yield "a queue with a worker group named head"


def _version(cluster: Plain) -> tuple[int, ...]:
    return tuple(int(part) for part in cluster.get("rayVersion", "0").split(".")[:2])
