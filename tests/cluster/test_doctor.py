"""What `doctor` says of a machine, and that it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec.cluster import doctor
from batchrec.cluster.doctor import Finding, examine
from batchrec.spec import StoreOptions
from batchrec.storage import open_store


def finding_of(output: Path) -> Finding:
    return next(finding for finding in examine(str(output)) if finding.name == f"output {output}")


def test_a_look_at_a_folder_that_is_not_there_leaves_none(tmp_path: Path) -> None:
    assert finding_of(tmp_path / "some" / "out").good
    assert list(tmp_path.iterdir()) == []


def test_a_look_at_a_folder_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert finding_of(tmp_path / "out").good
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_look_at_a_job_leaves_its_folders(tmp_path: Path) -> None:
    (tmp_path / "_batchrec" / "probe").mkdir(parents=True)
    open_store(str(tmp_path), StoreOptions()).create("_batchrec/OUTPUT.json", b"{}")
    before = sorted(tmp_path.rglob("*"))
    assert finding_of(tmp_path).good
    assert sorted(tmp_path.rglob("*")) == before
    assert tmp_path / "_batchrec" / "tmp" in before


def test_a_look_that_fails_leaves_nothing_either(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert not finding_of(tmp_path / "file" / "out").good
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_cuda_device_that_is_left_alone_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "num_cuda_devices", lambda: 2)
    monkeypatch.setattr(doctor, "cuda_trouble", lambda: "too old")
    assert Finding("cuda", True, "2 devices visible, left alone: too old") in list(examine())
