"""One image among 10,000 that ends whoever decodes it: its row says so, all others are ok."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import batchrec
from batchrec.models import Preprocess, save_bundle
from tests import poison

Run = Callable[..., subprocess.CompletedProcess[str]]

ROWS_PER_SHARD = 1000


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 small JPEGs."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(5)
    for number in range(10_000):
        if number < 50:
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file, "JPEG")
            (folder / f"{number}.jpg").write_bytes(file.getvalue())
        else:
            os.link(folder / f"{number % 50}.jpg", folder / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a small network of random weights."""
    import torch
    from torchvision.models import get_model

    torch.manual_seed(1)
    weights = {
        name: tensor.numpy() for name, tensor in get_model("shufflenet_v2_x0_5", num_classes=3).state_dict().items()
    }
    folder = tmp_path_factory.mktemp("model") / "bundle"
    save_bundle(
        folder,
        architecture="shufflenet_v2_x0_5",
        weights=weights,
        labels=("a", "b", "c"),
        preprocess=Preprocess(resize=32, crop=32),
        card="# random\n",
    )
    return folder


@pytest.fixture
def run(images: Path, model: Path, tmp_path: Path) -> Run:
    """Type the command, over as many images with what some rows' images do to a decoder."""

    def submit(num_rows: int, deeds: dict[int, str], *flags: str) -> subprocess.CompletedProcess[str]:
        uris = [f"{row}.jpg" for row in range(num_rows)]
        for row, deed in deeds.items():
            uris[row] = f"{deed}-{row}.jpg"
            (images / uris[row]).write_bytes(poison.poisoned((images / "0.jpg").read_bytes(), deed))
        manifest = images / f"{tmp_path.name}.parquet"
        if not manifest.exists():  # the same command again has the same manifest
            pq.write_table(pa.table({"uri": uris}), manifest)
        command = [sys.executable, "-m", "batchrec", "submit", manifest, "-o", tmp_path / "out", "--model", model]
        settings = ["--set", f"rows_per_shard={min(ROWS_PER_SHARD, num_rows // 4)}", "--backend", "openvino", *flags]
        # Ray's sockets need a short name for the folder of temporary files; without Ray it is the test's own.
        environment = {"TMPDIR": str(tmp_path / "temporary")} if "inline" in flags else {}
        (tmp_path / "temporary").mkdir(exist_ok=True)
        path = os.pathsep.join([poison.FOLDER, str(Path.cwd())])
        return subprocess.run(
            [*map(str, command), *settings],
            capture_output=True,
            text=True,
            timeout=180,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )

    return submit


def rows_not_ok(out: Path, num_rows: int) -> dict[int, str]:
    table = batchrec.open(str(out)).predictions().to_table(columns=["row", "status", "error_code"])
    assert sorted(table["row"].to_pylist()) == list(range(num_rows))
    return {row["row"]: row["error_code"] for row in table.to_pylist() if row["status"] != "ok"}


def notes(folder: Path) -> list[Path]:
    return list(folder.glob("temporary/batchrec-*/*"))


def restarts(done: subprocess.CompletedProcess[str]) -> int:
    return done.stderr.count("was lost and is replaced")


@pytest.mark.ray
@pytest.mark.parametrize("num_rows", [2_000, pytest.param(10_000, marks=pytest.mark.cluster)])
def test_an_image_that_crashes_its_decoder_is_one_row(run: Run, tmp_path: Path, num_rows: int) -> None:
    done = run(num_rows, {1321: "abort"})
    assert done.returncode == 0, done.stderr
    assert rows_not_ok(tmp_path / "out", num_rows) == {1321: "decoder_crash"}
    assert restarts(done) == 1, done.stderr


@pytest.mark.ray
@pytest.mark.parametrize("num_rows", [2_000, pytest.param(10_000, marks=pytest.mark.cluster)])
def test_images_that_hang_eat_memory_or_crash_are_a_row_each(run: Run, tmp_path: Path, num_rows: int) -> None:
    done = run(num_rows, {321: "hang", 1021: "eat", 1821: "segfault"}, "--decode-within", "3s")
    assert done.returncode == 0, done.stderr
    assert rows_not_ok(tmp_path / "out", num_rows) == {
        321: "decode_timeout",
        1021: "out_of_memory",
        1821: "decoder_crash",
    }
    # One thread may come to the next of them while another still hangs.
    assert 1 <= restarts(done) <= 3, done.stderr


@pytest.mark.ray
def test_an_image_whose_note_is_lost_with_its_pod_is_found_after_two_workers(run: Run, tmp_path: Path) -> None:
    done = run(400, {321: "abort_with_the_pod"})
    assert done.returncode == 0, done.stderr
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decoder_crash"}
    assert restarts(done) == 2, done.stderr


@pytest.mark.ray
@pytest.mark.cluster
def test_a_decoder_that_hangs_with_the_interpreters_lock_is_found_by_the_stall(run: Run, tmp_path: Path) -> None:
    done = run(400, {321: "hang_with_the_lock"}, "--decode-within", "3s", "--stall", "15s")
    assert done.returncode == 0, done.stderr
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decode_timeout"}
    assert restarts(done) == 1, done.stderr
    assert re.search(r"no row of shard [\d, ]*3[\d, ]* finished for \d+ s; in hand: ", done.stderr), done.stderr


def test_without_a_pool_of_processes_the_same_command_gets_through(run: Run, tmp_path: Path) -> None:
    crashed = run(400, {321: "abort"}, "--pool", "inline")
    assert crashed.returncode == -signal.SIGABRT
    assert notes(tmp_path)
    again = run(400, {321: "abort"}, "--pool", "inline")
    assert again.returncode == 0, again.stderr
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decoder_crash"}
    assert notes(tmp_path) == []


def test_without_a_pool_of_processes_a_hang_ends_the_run_by_name_and_the_same_command_gets_through(
    run: Run, tmp_path: Path
) -> None:
    hung = run(400, {321: "hang"}, "--pool", "inline", "--decode-within", "2s")
    assert hung.returncode == 5, hung.stderr
    assert "it hangs in decode of shard 3, row 321 of the manifest, for " in hung.stderr
    assert "the same command resumes" in hung.stderr
    again = run(400, {321: "hang"}, "--pool", "inline", "--decode-within", "2s")
    assert again.returncode == 0, again.stderr
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decode_timeout"}
