"""Where a job runs, who said so, and what is no address."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from batchrec.cluster.addresses import Address, is_this_machine, resolve_address, without_ray_variables
from batchrec.errors import UsageError
from tests.cluster.head import RayHead, free_port

URL = "http://head:8265"


def test_the_setting_comes_first_then_rays_variables_in_their_order() -> None:
    variables = {"RAY_API_SERVER_ADDRESS": "http://api:8265", "RAY_ADDRESS": "http://ray:8265"}
    assert resolve_address(URL, "flag", variables) == Address(URL, "--address")
    assert resolve_address(URL, "job file a.yaml", variables) == Address(URL, "job file a.yaml")
    assert resolve_address(None, "default", variables) == Address("http://api:8265", "RAY_API_SERVER_ADDRESS")
    del variables["RAY_API_SERVER_ADDRESS"]
    assert resolve_address(None, "default", variables) == Address("http://ray:8265", "RAY_ADDRESS")
    assert resolve_address("", "default", {}, look_here=False) is None


def test_local_means_a_ray_of_the_runs_own_whatever_the_variables_say() -> None:
    assert resolve_address("local", "flag", {"RAY_ADDRESS": URL}) is None
    assert resolve_address(None, "default", {"RAY_ADDRESS": "local"}) is None


def test_an_address_is_printed_with_its_origin() -> None:
    assert str(resolve_address("HTTP://head:8265/", "environment", {})) == "http://head:8265 (from BATCHREC_ADDRESS)"


@pytest.mark.parametrize("url", ["https://ray.example.com", "http://10.0.0.1:8265/prefix", "http://[::1]:8265"])
def test_other_urls_of_dashboards_are_taken(url: str) -> None:
    assert resolve_address(url, "flag", {}) == Address(url, "--address")


@pytest.mark.parametrize("url", ["http://user:canary@head:8265", "https://canary@head", "user:canary@head:8265"])
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        resolve_address(url, "flag", {})
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("ray://head:10001", "http://head:8265"),
        ("ray://[fd00::1]:10001", "http://[fd00::1]:8265"),
        ("ftp://head", "http://head:8265"),
        ("head", "http://HEAD:8265"),
        ("http://", "http://HEAD:8265"),
        ("http://head:99999", "http://HEAD:8265"),
        ("http://head:8265?token=1", "http://HEAD:8265"),
        ("auto", "http://HEAD:8265"),
    ],
)
def test_what_is_no_address_of_a_dashboard_is_refused_with_what_to_give(text: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        resolve_address(text, "flag", {"RAY_TMPDIR": str(tmp_path)})
    assert advice in refused.value.advice


def test_a_port_nobody_listens_on_is_refused_in_seconds() -> None:
    with pytest.raises(UsageError, match="could not be found"):
        resolve_address(f"127.0.0.1:{free_port()}", "flag", {})


def test_loopback_is_told_from_elsewhere() -> None:
    assert Address("http://127.0.0.1:8265", "").is_loopback
    assert Address("http://localhost:8265", "").is_loopback
    assert Address("http://[::1]:8265", "").is_loopback
    assert not Address("http://10.0.0.1:8265", "").is_loopback
    assert not Address("http://localhost.example.com:8265", "").is_loopback


def test_addresses_of_this_machine_are_told_from_others() -> None:
    assert is_this_machine("127.0.0.1")
    assert not is_this_machine("203.0.113.7")
    assert not is_this_machine("head")


def test_rays_variables_are_away_for_its_client_and_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", URL)
    with without_ray_variables():
        assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_ADDRESS"] == URL


def note(folder: Path, text: str) -> dict[str, str]:
    (folder / "ray").mkdir(parents=True)
    (folder / "ray" / "ray_current_cluster").write_text(text)
    return {"RAY_TMPDIR": str(folder)}


def test_a_cluster_noted_on_this_machine_that_is_gone_does_not_count(tmp_path: Path) -> None:
    assert resolve_address(None, "default", note(tmp_path, f"127.0.0.1:{free_port()}")) is None


@pytest.mark.ray
@pytest.mark.usefixtures("token_at_hand")
def test_a_ray_running_on_this_machine_is_found_by_its_note(
    head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    variables = note(tmp_path, f"127.0.0.1:{head.gcs_port}")
    found = resolve_address(None, "default", variables)
    assert found is not None
    assert (found.url.rpartition(":")[2], found.origin) == (str(head.port), "the Ray running on this machine")
    assert resolve_address("auto", "flag", variables) == Address(found.url, "--address")
    assert resolve_address(None, "default", variables, look_here=False) is None
    if os.geteuid() == 0:
        os.chown(tmp_path / "ray" / "ray_current_cluster", 12345, 12345)
        assert resolve_address(None, "default", variables) is None


@pytest.mark.ray
def test_a_host_and_port_may_be_those_of_the_dashboard_itself(head: RayHead) -> None:
    assert resolve_address(f"127.0.0.1:{head.port}", "flag", {}) == Address(head.url, "--address")
