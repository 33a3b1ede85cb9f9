"""Where workers fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.engine import devices
from batchrec.engine.devices import Node, Placement, place, place_here
from batchrec.errors import Refused

clusters = st.lists(st.builds(Node, st.integers(0, 64), st.integers(0, 8)), max_size=6)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([Node(2)], Placement("cpu", 1, 2)),
        ([Node(12)], Placement("cpu", 2, 6)),
        ([Node(0)], Placement("cpu", 1, 4)),
        ([Node(15)], Placement("cpu", 3, 5)),
        ([Node(16)], Placement("cpu", 2, 8)),
        ([Node(0), Node(4), Node(4), Node(4)], Placement("cpu", 3, 4)),
        ([Node(32), Node(16)], Placement("cpu", 6, 8)),
        ([Node(0), Node(16, 4), Node(16, 4)], Placement("cuda", 8, 4)),
        ([Node(8, 1), Node(32, 8), Node(64)], Placement("cuda", 9, 4)),
    ],
)
def test_workers_fill_the_nodes(nodes: list[Node], expected: Placement) -> None:
    assert place(nodes, "auto") == expected


def test_gpus_can_be_left_alone() -> None:
    assert place([Node(8, 2)], "cpu") == Placement("cpu", 1, 8)


def test_workers_asked_for_that_are_not_there_yet_wait_for_their_nodes() -> None:
    assert place([Node(0)], "cuda", workers=8, cores_per_worker=6) == Placement("cuda", 8, 6)
    assert Placement("cuda", 8, 6).room_on([Node(0)]) == 0
    assert Placement("cuda", 8, 6).room_on([Node(0), Node(13, 8)]) == 2


def test_a_number_of_workers_shares_the_nodes_cores() -> None:
    assert place([Node(8), Node(8)], "auto", workers=4) == Placement("cpu", 4, 4)
    assert place([Node(8), Node(8)], "auto", workers=99).num_threads == 1


@given(
    clusters, st.sampled_from(["auto", "cpu", "cuda"]), st.none() | st.integers(1, 50), st.none() | st.integers(1, 9)
)
def test_a_placement_asks_for_something_and_never_more_than_there_is_unless_told(
    nodes: list[Node], device: str, workers: int | None, cores: int | None
) -> None:
    found = place(nodes, device, workers=workers, cores_per_worker=cores)
    assert found.num_workers >= 1
    assert found.num_threads >= 1
    if workers is not None:
        assert found.num_workers == workers
    elif found.num_workers > 1:
        assert found.num_workers == found.room_on(nodes)


def test_one_worker_takes_all_cores_of_this_machine_while_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrec.engine.devices.available_cores", lambda: 12)
    assert place_here("cpu") == Placement("cpu", 1, 12)


def test_more_workers_than_cores_share_this_machine() -> None:
    assert place_here("cpu", workers=100) == Placement("cpu", 100, 1)


def test_cuda_without_a_device_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(Refused, match="no CUDA device"):
        place_here("cuda")


BUILT = """from typing import Optional

__version__ = '2.15.0+cu132'
debug = False
cuda: Optional[str] = '13.2'
hip: Optional[str] = None
"""


@pytest.mark.parametrize(
    ("built", "driver", "trouble"),
    [
        (BUILT, (13, 0), ""),
        (BUILT, (14, 1), ""),
        ("", (12, 4), ""),
        (BUILT, (12, 8), "the driver is for CUDA 12.8, torch 2.15.0+cu132 for 13.2"),
        (BUILT, None, "no driver (libcuda.so.1) is installed here"),
        (BUILT.replace("'13.2'", "None").replace("cu132", "cpu"), (13, 0), "torch 2.15.0+cpu is built without it"),
        ("__version__ = '2.10.0'\ncuda = None\n", None, "torch 2.10.0 is built without it"),
    ],
)
def test_what_keeps_torch_from_cuda_is_seen_without_importing_it(
    built: str, driver: tuple[int, int] | None, trouble: str
) -> None:
    assert devices._trouble(built, driver) == trouble


def test_this_torch_is_understood() -> None:
    import torch

    built = Path(torch.__file__).with_name("version.py").read_text()
    assert bool(devices._trouble(built, (99, 0))) is (torch.version.cuda is None)


@pytest.fixture
def useless_device(monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine with a CUDA device which its driver is too old for."""
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 1)
    monkeypatch.setattr(devices, "_trouble", lambda built, driver: "too old")
    return "too old"


def test_auto_leaves_a_device_torch_cannot_use_alone_and_says_so(useless_device: str) -> None:
    found = place_here("auto")
    assert (found.device, found.note) == ("cpu", f"no CUDA: {useless_device}")
    assert place_here("auto", workers=2).note == found.note
    assert place_here("cpu").note == ""


def test_cuda_asked_for_on_a_device_torch_cannot_use_is_refused_with_the_reason(useless_device: str) -> None:
    with pytest.raises(Refused, match=f"torch cannot use the CUDA devices here .found: {useless_device}.*--device cpu"):
        place_here("cuda")
