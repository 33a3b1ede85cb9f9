"""What is rendered is taken by Kubernetes, by KubeRay and by Kueue, and gives no pod more than it needs."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchrec.cluster.kuberay import PROFILES, RAY_VERSION, KubeJob, render
from batchrec.cluster.networking import METADATA_ADDRESSES
from batchrec.cluster.pods import JOB_LABEL
from batchrec.errors import UsageError
from tests.cluster import kuberay_rules
from tests.cluster.crds import crd, misfits
from tests.cluster.kuberay_rules import faults_of

Plain = dict[str, Any]
QUEUES = (None, "team-queue")


def asked(profile: str = "cpu", queue: str | None = None, **changes: Any) -> KubeJob:
    plain: Plain = {
        "name": "tags",
        "job_file": "source: s3://shop/m.parquet\noutput: s3://shop/out\n",
        "sources": ("s3://shop/m.parquet",),
        "output": "s3://shop/out",
        "image": "batchrec:0.1.0",
        "profile": profile,
        "gpus": int(profile == "gpu"),
        "queue": queue,
    }
    return KubeJob(**{**plain, **changes})


def ray_job_of(objects: list[Plain]) -> Plain:
    (found,) = [each for each in objects if each["kind"] == "RayJob"]
    return found


def groups_of(rayjob: Plain) -> dict[str, Plain]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]} | {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def templates_of(rayjob: Plain) -> Iterator[Plain]:
    yield rayjob["spec"]["submitterPodTemplate"]
    yield from (group["template"] for group in groups_of(rayjob).values())


@pytest.fixture(params=itertools.product(PROFILES, QUEUES), ids=lambda pair: "-".join(map(str, pair)))
def objects(request: pytest.FixtureRequest) -> list[Plain]:
    """The objects of one profile, with a queue or without."""
    return render(asked(*request.param))


@pytest.fixture
def rayjob(objects: list[Plain]) -> Plain:
    return ray_job_of(objects)


def test_a_rayjob_fits_its_definition_without_an_unknown_field(rayjob: Plain, test_data: Path) -> None:
    assert misfits(crd(test_data, "rayjobs"), rayjob) == []


def test_its_cluster_fits_the_definition_of_clusters(rayjob: Plain, test_data: Path) -> None:
    cluster = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "spec": rayjob["spec"]["rayClusterSpec"]}
    assert misfits(crd(test_data, "rayclusters"), cluster) == []


@pytest.mark.parametrize(
    "path, value",
    [
        (("spec", "shutdownAfterJobFinish"), True),
        (("spec", "backoffLimit"), "2"),
        (("spec", "ttlSecondsAfterFinished"), 2**31),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "securityContexts"), {}),
    ],
)
def test_the_schema_refuses_what_the_api_server_would_drop(test_data: Path, path: tuple[str, ...], value: Any) -> None:
    broken = ray_job_of(render(asked()))
    into = broken
    for name in path[:-1]:
        into = into[name]
    into[path[-1]] = value
    (misfit,) = misfits(crd(test_data, "rayjobs"), broken)
    assert path[-1] in misfit


def test_the_operator_and_the_queue_refuse_nothing(rayjob: Plain) -> None:
    assert faults_of(rayjob) == []


Change = Callable[[Plain], object]
RULES: dict[str, Change] = {
    "name longer than 47": lambda job: job["metadata"].update(name="a" * 48),
    "name is no DNS-1035 label": lambda job: job["metadata"].update(name="9tags"),
    "neither rayClusterSpec nor clusterSelector": lambda job: job["spec"].pop("rayClusterSpec"),
    "both rayClusterSpec and clusterSelector": lambda job: job["spec"].update(clusterSelector={"ray.io/cluster": "a"}),
    "clusterSelector names no cluster": lambda job: job["spec"].update(clusterSelector={}),
    "unknown submissionMode": lambda job: job["spec"].update(submissionMode="Other"),
    "a submitter of a mode that has none": lambda job: job["spec"].update(submissionMode="HTTPMode"),
    "no entrypoint": lambda job: job["spec"].update(entrypoint=" "),
    "backoffLimit in InteractiveMode": lambda job: job["spec"].update(submissionMode="InteractiveMode"),
    "clusterSelector with SidecarMode or backoffLimit": lambda job: job["spec"].update(
        clusterSelector={"ray.io/cluster": "a"}
    ),
    "runtimeEnvYAML is no mapping": lambda job: job["spec"].update(runtimeEnvYAML="- pip"),
    "entrypointResources is no mapping": lambda job: job["spec"].update(entrypointResources="coordinator"),
    "suspend without shutdownAfterJobFinishes": lambda job: job["spec"].update(
        suspend=True, shutdownAfterJobFinishes=False
    ),
    "suspend with clusterSelector": lambda job: job["spec"].update(
        suspend=True, clusterSelector={"ray.io/cluster": "a"}
    ),
    "negative ttlSecondsAfterFinished": lambda job: job["spec"].update(ttlSecondsAfterFinished=-1),
    "ttlSecondsAfterFinished without shutdownAfterJobFinishes": lambda job: job["spec"].update(
        shutdownAfterJobFinishes=False
    ),
    "activeDeadlineSeconds not positive": lambda job: job["spec"].update(activeDeadlineSeconds=0),
    "preRunningDeadlineSeconds not positive": lambda job: job["spec"].update(preRunningDeadlineSeconds=0),
    "negative backoffLimit": lambda job: job["spec"].update(backoffLimit=-1),
    "deletionRules with shutdownAfterJobFinishes": lambda job: job["spec"].update(
        deletionStrategy={"deletionRules": [{}]}
    ),
    "deletionRules with onSuccess or onFailure": lambda job: job["spec"].update(
        deletionStrategy={"deletionRules": [{}], "onSuccess": {}}
    ),
    "a group without a container": lambda job: groups_of(job)["head"]["template"]["spec"].update(containers=[]),
    "resources named twice": lambda job: groups_of(job)["coordinator"]["rayStartParams"].update({"num-cpus": "1"}),
    "labels in rayStartParams": lambda job: groups_of(job)["head"]["rayStartParams"].update(labels="a=b"),
    "minReplicas above maxReplicas": lambda job: groups_of(job)["spot"].update(minReplicas=99),
    "groupName is no DNS label": lambda job: groups_of(job)["spot"].update(groupName="Spot"),
    "two groups of one name": lambda job: groups_of(job)["spot"].update(groupName="steady"),
    "a field behind a feature gate": lambda job: job["spec"]["rayClusterSpec"].update(
        networkPolicy={"mode": "DenyAll"}
    ),
    "upgradeStrategy in a RayJob": lambda job: job["spec"]["rayClusterSpec"].update(upgradeStrategy={"type": "None"}),
    "token authentication before Ray 2.52": lambda job: job["spec"]["rayClusterSpec"].update(rayVersion="2.51.1"),
    "enableK8sTokenAuth in a RayJob": lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(
        enableK8sTokenAuth=True
    ),
    "negative idleTimeoutSeconds": lambda job: job["spec"]["rayClusterSpec"]["autoscalerOptions"].update(
        idleTimeoutSeconds=-1
    ),
    "priority without autoscaler v2 of Ray 2.56": lambda job: job["spec"]["rayClusterSpec"]["autoscalerOptions"].update(
        version="v1"
    ),
    "idleTimeoutSeconds of a group without autoscaler v2": lambda job: (
        job["spec"]["rayClusterSpec"].update(enableInTreeAutoscaling=False),
        groups_of(job)["spot"].update(idleTimeoutSeconds=9),
    ),
    "a suspended group": lambda job: groups_of(job)["spot"].update(suspend=True),
    "restartPolicy with autoscaler v2": lambda job: groups_of(job)["spot"]["template"]["spec"].update(
        restartPolicy="Always"
    ),
    "autoscaler v2 by variable": lambda job: groups_of(job)["head"]["template"]["spec"]["containers"][0].update(
        env=[{"name": "RAY_enable_autoscaler_v2", "value": "1"}]
    ),
    "a queue for a cluster that stands": lambda job: (
        queued(job),
        job["spec"].update(clusterSelector={"ray.io/cluster": "a"}),
    ),
    "a queue without shutdownAfterJobFinishes": lambda job: (
        queued(job),
        job["spec"].update(shutdownAfterJobFinishes=False),
    ),
    "a queue with autoscaling that is not elastic": lambda job: queued(job),
    "a queue with more than 7 worker groups": lambda job: (
        queued(job),
        job["spec"]["rayClusterSpec"]["workerGroupSpecs"].extend(
            {**groups_of(job)["spot"], "groupName": f"spot-{number}"} for number in range(5)
        ),
    ),
    "a queue with a worker group named head": lambda job: (
        queued(job),
        job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(groupName="head"),
    ),
}


def queued(rayjob: Plain) -> None:
    rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-queue"


@pytest.mark.parametrize("fault", RULES)
def test_each_rule_fires(fault: str) -> None:
    rayjob = copy.deepcopy(ray_job_of(render(asked("spot"))))
    RULES[fault](rayjob)
    assert fault in faults_of(rayjob)


def test_no_rule_is_without_a_case() -> None:
    assert set(re.findall(r'yield "([^"]+)"', inspect.getsource(kuberay_rules))) <= RULES.keys()


def test_the_coordinator_runs_off_the_head_and_off_spot_nodes(rayjob: Plain) -> None:
    spec, groups = rayjob["spec"], groups_of(rayjob)
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    assert (spec["entrypointNumCpus"], json.loads(spec["entrypointResources"])) == (1, {"coordinator": 1})
    offering = [name for name, group in groups.items() if "coordinator" in group.get("resources", {})]
    assert offering == ["coordinator"]
    coordinator = groups["coordinator"]
    assert coordinator["minReplicas"] == coordinator["maxReplicas"] == 1
    if "spot" in groups:
        (term,) = terms_of(coordinator)
        assert {each["operator"] for each in term["matchExpressions"]} == {"NotIn"}
        assert "tolerations" not in coordinator["template"]["spec"]


def terms_of(group: Plain) -> list[Plain]:
    affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
    return affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]


def test_rays_own_autoscaler_reads_the_groups_as_they_are_meant() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

    rayjob = ray_job_of(render(asked("spot", gpus=2, cpus=8, workers=5)))
    found = _generate_available_node_types_from_ray_cr_spec(rayjob["spec"]["rayClusterSpec"])
    assert found["headgroup"]["resources"]["CPU"] == 0
    coordinator = found["coordinator"]
    assert (coordinator["resources"]["CPU"], coordinator["resources"]["coordinator"]) == (1, 1)
    assert (coordinator["min_workers"], coordinator["max_workers"]) == (1, 1)
    for name, priority in (("spot", 10), ("steady", 0)):
        assert (found[name]["resources"]["CPU"], found[name]["resources"]["GPU"]) == (8, 2)
        assert (found[name]["min_workers"], found[name]["max_workers"]) == (0, 5)
        assert found[name].get("priority", 0) == priority


def test_spot_workers_go_to_any_providers_spot_nodes_and_end_within_their_notice() -> None:
    spot = groups_of(ray_job_of(render(asked("spot"))))["spot"]
    marks = {(each["matchExpressions"][0]["key"], *each["matchExpressions"][0]["values"]) for each in terms_of(spot)}
    assert ("eks.amazonaws.com/capacityType", "SPOT") in marks
    assert marks == {(each["key"], each["value"]) for each in spot["template"]["spec"]["tolerations"]}
    assert spot["template"]["spec"]["terminationGracePeriodSeconds"] <= 30


def test_a_gpu_pod_is_limited_to_its_gpus_and_let_onto_gpu_nodes() -> None:
    rayjob = ray_job_of(render(asked("gpu", gpus=4, cpus=16, workers=2)))
    groups = groups_of(rayjob)
    pod = groups["workers"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    others = [groups[name]["template"]["spec"]["containers"][0]["resources"] for name in ("head", "coordinator")]
    assert all("nvidia.com/gpu" not in each["limits"] for each in others)
    assert rayjob["spec"]["entrypoint"].endswith("--set device=cuda --set workers=8 --set cores_per_worker=4")


def test_what_the_job_file_decides_is_left_to_it() -> None:
    entrypoint = ray_job_of(render(asked(given=frozenset({"workers", "device"}))))["spec"]["entrypoint"]
    assert entrypoint == "batchrec run /etc/batchrec/job.yaml --set cores_per_worker=8"


def test_the_job_file_is_mounted_where_the_coordinator_looks(objects: list[Plain]) -> None:
    (config_map,) = [each for each in objects if each["kind"] == "ConfigMap"]
    rayjob = ray_job_of(objects)
    pod = groups_of(rayjob)["coordinator"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if "configMap" in each]
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == volume["name"]]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    (name,) = config_map["data"]
    assert config_map["data"][name] == asked().job_file
    assert f"{mount['mountPath']}/{name}" in rayjob["spec"]["entrypoint"].split()


def test_no_pod_may_more_than_the_restricted_level(rayjob: Plain) -> None:
    contexts = [rayjob["spec"]["rayClusterSpec"].get("autoscalerOptions", {}).get("securityContext")]
    for template in templates_of(rayjob):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert all({"emptyDir", "configMap"} & volume.keys() for volume in pod["volumes"])
        contexts += [each["securityContext"] for each in pod["containers"]]
    for context in filter(None, contexts):
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_volumes_and_their_mounts_agree(rayjob: Plain) -> None:
    for template in templates_of(rayjob):
        mounts = [each["name"] for each in template["spec"]["containers"][0]["volumeMounts"]]
        assert sorted(mounts) == sorted(each["name"] for each in template["spec"]["volumes"])


def test_credentials_come_from_a_service_account_and_never_from_the_environment(objects: list[Plain]) -> None:
    rayjob = ray_job_of(objects)
    accounts = {name: group["template"]["spec"].get("serviceAccountName") for name, group in groups_of(rayjob).items()}
    assert accounts.pop("head") is None
    assert set(accounts.values()) == {"tags"}
    assert [each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"] == ["tags"]
    containers = [each for template in templates_of(rayjob) for each in template["spec"]["containers"]]
    assert not any(each.keys() & {"env", "envFrom"} for each in containers)


def test_a_named_service_account_is_used_and_not_made() -> None:
    rendered = render(asked(service_account="archive-reader"))
    assert "ServiceAccount" not in {each["kind"] for each in rendered}
    worker = groups_of(ray_job_of(rendered))["workers"]["template"]["spec"]
    assert worker["serviceAccountName"] == "archive-reader"


def test_only_a_head_that_scales_its_cluster_gets_a_token_of_kubernetes(rayjob: Plain) -> None:
    scales = rayjob["spec"]["rayClusterSpec"].get("enableInTreeAutoscaling", False)
    *others, head = [
        template["spec"].get("automountServiceAccountToken", True)
        for template in sorted(
            templates_of(rayjob), key=lambda each: each["spec"]["containers"][0]["name"] == "ray-head"
        )
    ]
    assert (set(others), head) == ({False}, scales)


def test_a_queue_starts_the_job_suspended_and_only_without_one_spot_scales() -> None:
    alone, queued_job = (ray_job_of(render(asked("spot", queue))) for queue in QUEUES)
    assert "suspend" not in alone["spec"]
    assert alone["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert queued_job["spec"]["suspend"] is True
    assert "enableInTreeAutoscaling" not in queued_job["spec"]["rayClusterSpec"]
    assert groups_of(queued_job)["spot"]["replicas"] == asked().workers
    elastic = ray_job_of(render(asked("autoscale", "team-queue")))
    assert elastic["metadata"]["annotations"] == {"kueue.x-k8s.io/elastic-job": "true"}


@pytest.fixture
def policy(objects: list[Plain]) -> Plain:
    (found,) = [each for each in objects if each["kind"] == "NetworkPolicy"]
    return found


def test_the_rules_of_the_policy_fit_their_schema(policy: Plain, test_data: Path) -> None:
    spec = crd(test_data, "rayclusters")["properties"]["spec"]
    schema = spec["properties"]["networkPolicy"]["properties"]["head"]["properties"]
    assert misfits(schema["ingressRules"], policy["spec"]["ingress"]) == []
    assert misfits(schema["egressRules"], policy["spec"]["egress"]) == []
    assert policy["apiVersion"] == "networking.k8s.io/v1"
    assert policy["spec"].keys() == {"podSelector", "policyTypes", "ingress", "egress"}


def test_the_policy_holds_every_pod_of_the_job(policy: Plain, rayjob: Plain) -> None:
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted == {JOB_LABEL: "tags"}
    assert all(wanted.items() <= template["metadata"]["labels"].items() for template in templates_of(rayjob))
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_no_way_leads_to_the_metadata_address(policy: Plain) -> None:
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert {exception for block in blocks for exception in block["except"]} == set(METADATA_ADDRESSES)
    assert all(block["except"] for block in blocks)
    assert all(rule["to"] for rule in policy["spec"]["egress"])


def test_strangers_reach_one_port_each(policy: Plain) -> None:
    own, *others = policy["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": {JOB_LABEL: "tags"}}}]}
    assert [[port["port"] for port in rule["ports"]] for rule in others] == [[8265], [8080]]


@pytest.mark.parametrize(
    "endpoint, ports", [(None, [443]), ("http://minio.shop:9000", [443, 9000]), ("http://store", [443, 80])]
)
def test_the_store_is_reached_on_its_own_port(endpoint: str | None, ports: list[int]) -> None:
    (policy,) = [each for each in render(asked(s3_endpoint=endpoint)) if each["kind"] == "NetworkPolicy"]
    assert [port["port"] for port in policy["spec"]["egress"][-1]["ports"]] == ports


def test_every_object_names_its_kind_and_the_job(objects: list[Plain]) -> None:
    assert [each["kind"] for each in objects] == ["ServiceAccount", "ConfigMap", "NetworkPolicy", "RayJob"]
    assert {each["metadata"]["name"] for each in objects} == {"tags"}
    assert all(each["apiVersion"] and each["metadata"]["labels"][JOB_LABEL] == "tags" for each in objects)
    assert all("namespace" not in each["metadata"] for each in objects)
    placed = render(dataclasses.replace(asked(), namespace="vision"))
    assert {each["metadata"]["namespace"] for each in placed} == {"vision"}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"name": "a" * 48}, "47 characters at most"),
        ({"name": "Tags"}, "the name 'Tags'"),
        ({"name": ""}, "the name ''"),
        ({"namespace": "a b"}, "the namespace"),
        ({"service_account": "_"}, "the service account"),
        ({"queue": "a b"}, "the queue"),
        ({"image": "batchrec"}, "has no version"),
        ({"image": "registry:5000/batchrec:latest"}, "has no version"),
        ({"profile": "tpu"}, "the profile 'tpu'"),
        ({"profile": "gpu", "gpus": 0}, "at least one GPU"),
        ({"gpus": 1}, "the profile cpu has no GPUs"),
        ({"device": "cuda"}, "asks for cuda"),
        ({"workers": 0}, "workers is 0"),
        ({"profile": "gpu", "gpus": 8, "cpus": 4}, "4 cores for 8 GPUs"),
        ({"memory": "16"}, "memory is '16'"),
        ({"deadline_s": 0}, "deadline_s must be positive"),
        ({"start_within_s": 0}, "start_within_s must be positive"),
        ({"ttl_s": -1}, "ttl_s must not be negative"),
        ({"retries": -1}, "retries must not be negative"),
        ({"sources": ("catalogue/m.parquet",)}, "which no pod sees"),
        ({"output": "file:///out"}, "which no pod sees"),
        ({"job_file": "#" * 2**20}, "larger than 900 KiB"),
        ({"s3_endpoint": "http://store:port"}, "is no URL"),
    ],
)
def test_what_cannot_run_is_refused_by_name(changes: Plain, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked(**changes)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UsageError) as refusal:
        asked(name="Tags", workers=0, output="out")
    assert all(said in str(refusal.value) for said in ("'Tags'", "workers is 0", "'out'"))


def test_the_ray_in_the_image_is_the_ray_the_operator_is_told_of() -> None:
    pinned = (Path(__file__).parents[2] / "deploy/constraints.txt").read_text().splitlines()
    assert f"ray=={RAY_VERSION}" in pinned
