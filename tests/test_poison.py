"""One image among 10,000 that ends whoever decodes it: its row says so, all others are ok."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import batchrec
from batchrec.models import Preprocess, save_bundle
from tests import poison


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    said: str


Prepare = Callable[..., list[str]]
Run = Callable[..., Ended]

ROWS_PER_SHARD = 1000
#: What becomes of an image, by what it does to a decoder.
CODES = {"abort": "decoder_crash", "segfault": "decoder_crash", "hang": "decode_timeout", "eat": "out_of_memory"}


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
def prepare(images: Path, model: Path, tmp_path: Path) -> Prepare:
    """The words of the command, over as many images with what some rows' images do to a decoder."""

    def words(num_rows: int, deeds: dict[int, str], *flags: str) -> list[str]:
        uris = [f"{row}.jpg" for row in range(num_rows)]
        for row, deed in deeds.items():
            uris[row] = f"{deed}-{row}.jpg"
            (images / uris[row]).write_bytes(poison.poisoned((images / "0.jpg").read_bytes(), deed))
        manifest = images / f"{tmp_path.name}.parquet"
        if not manifest.exists():  # the same command again has the same manifest
            pq.write_table(pa.table({"uri": uris}), manifest)
        settings = ["--set", f"rows_per_shard={min(ROWS_PER_SHARD, num_rows // 4)}", "--backend", "openvino", *flags]
        return [*map(str, ["submit", manifest, "-o", tmp_path / "out", "--model", model]), *settings]

    return words


@pytest.fixture
def run(prepare: Prepare, tmp_path: Path) -> Run:
    """Type the command."""

    def submit(num_rows: int, deeds: dict[int, str], *flags: str) -> Ended:
        # Ray's sockets need a short name for the folder of temporary files; without Ray it is the test's own.
        environment = {"TMPDIR": str(tmp_path / "temporary")} if "inline" in flags else {}
        (tmp_path / "temporary").mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "batchrec", *prepare(num_rows, deeds, *flags)],
            capture_output=True,
            text=True,
            timeout=180,
            env={**poisonous(), **environment},
        )
        return Ended(done.returncode, done.stderr)

    return submit


@pytest.fixture(scope="module")
def one_ray() -> Iterator[subprocess.Popen[str]]:
    """Types commands on one Ray whose workers have the poison."""
    command = [sys.executable, "-m", "tests.on_one_ray"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=poisonous())
    yield process
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()


@pytest.fixture
def run_on_one_ray(prepare: Prepare, one_ray: subprocess.Popen[str], tmp_path: Path) -> Run:
    """Type the command on a Ray that is there already."""

    def submit(num_rows: int, deeds: dict[int, str], *flags: str) -> Ended:
        words = [*prepare(num_rows, deeds, *flags), "--address", "local"]
        assert one_ray.stdin and one_ray.stdout
        print(json.dumps([words, str(tmp_path / "said")]), file=one_ray.stdin, flush=True)
        assert select.select([one_ray.stdout], [], [], 180)[0], (tmp_path / "said").read_text()
        return Ended(int(one_ray.stdout.readline()), (tmp_path / "said").read_text())

    return submit


def poisonous() -> dict[str, str]:
    """The environment of a process that has the poison."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([poison.FOLDER, str(Path.cwd())])}


def rows_not_ok(out: Path, num_rows: int) -> dict[int, str]:
    table = batchrec.open(str(out)).predictions().to_table(columns=["row", "status", "error_code"])
    assert sorted(table["row"].to_pylist()) == list(range(num_rows))
    return {row["row"]: row["error_code"] for row in table.to_pylist() if row["status"] != "ok"}


def notes(folder: Path) -> list[Path]:
    return list(folder.glob("temporary/batchrec-*/*"))


def restarts(done: Ended) -> int:
    return done.said.count("was lost and is replaced")


@pytest.mark.ray
@pytest.mark.parametrize("num_rows", [2_000, pytest.param(10_000, marks=pytest.mark.cluster)])
@pytest.mark.parametrize(("deed", "error_code"), CODES.items(), ids=CODES.keys())
def test_an_image_that_harms_its_decoder_is_one_row_and_costs_one_worker(
    run_on_one_ray: Run, tmp_path: Path, num_rows: int, deed: str, error_code: str
) -> None:
    done = run_on_one_ray(num_rows, {1321: deed}, "--decode-within", "3s")
    assert done.code == 0, done.said
    assert rows_not_ok(tmp_path / "out", num_rows) == {1321: error_code}
    assert restarts(done) == 1, done.said


@pytest.mark.ray
@pytest.mark.cluster
def test_images_that_hang_eat_memory_or_crash_are_a_row_each(run: Run, tmp_path: Path) -> None:
    deeds = {321: "hang", 1021: "eat", 1821: "segfault"}
    done = run(10_000, deeds, "--decode-within", "3s")
    assert done.code == 0, done.said
    assert rows_not_ok(tmp_path / "out", 10_000) == {row: CODES[deed] for row, deed in deeds.items()}
    # One thread may come to the next of them while another still hangs.
    assert 1 <= restarts(done) <= 3, done.said


@pytest.mark.ray
def test_an_image_whose_note_is_lost_with_its_pod_is_found_after_two_workers(run: Run, tmp_path: Path) -> None:
    done = run(400, {321: "abort_with_the_pod"})
    assert done.code == 0, done.said
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decoder_crash"}
    assert restarts(done) == 2, done.said


@pytest.mark.ray
@pytest.mark.cluster
def test_a_decoder_that_hangs_with_the_interpreters_lock_is_found_by_the_stall(run: Run, tmp_path: Path) -> None:
    done = run(400, {321: "hang_with_the_lock"}, "--decode-within", "3s", "--stall", "15s")
    assert done.code == 0, done.said
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decode_timeout"}
    assert restarts(done) == 1, done.said
    assert re.search(r"no row of shard [\d, ]*3[\d, ]* finished for \d+ s; in hand: ", done.said), done.said


def test_without_a_pool_of_processes_the_same_command_gets_through(run: Run, tmp_path: Path) -> None:
    crashed = run(400, {321: "abort"}, "--pool", "inline")
    assert crashed.code == -signal.SIGABRT
    assert notes(tmp_path)
    again = run(400, {321: "abort"}, "--pool", "inline")
    assert again.code == 0, again.said
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decoder_crash"}
    assert notes(tmp_path) == []


def test_without_a_pool_of_processes_a_hang_ends_the_run_by_name_and_the_same_command_gets_through(
    run: Run, tmp_path: Path
) -> None:
    hung = run(400, {321: "hang"}, "--pool", "inline", "--decode-within", "2s")
    assert hung.code == 5, hung.said
    assert "it hangs in decode of shard 3, row 321 of the manifest, for " in hung.said
    assert "the same command resumes" in hung.said
    again = run(400, {321: "hang"}, "--pool", "inline", "--decode-within", "2s")
    assert again.code == 0, again.said
    assert rows_not_ok(tmp_path / "out", 400) == {321: "decode_timeout"}
