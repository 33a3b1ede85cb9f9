"""Things many tests need."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from batchrec.learning.drawing import draw_archive

# How long an example takes says more of the machine than of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Ray lets its workers go last. Where tests in two processes keep both cores busy they would hardly go at all.
os.environ.update(RAY_worker_niceness="0")
pytest_plugins = ["tests.s3_fixture"]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real photographs, where there is one."""
    folder = os.environ.get("BATCHREC_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no real photographs here: set BATCHREC_TEST_DATA")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Converted models of this session, away from the user's."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all its processes: to convert a model takes one of them twenty seconds
    folder = folder / "cache"
    folder.mkdir(exist_ok=True)
    before = os.environ.get("BATCHREC_CACHE")
    os.environ["BATCHREC_CACHE"] = str(folder)
    yield folder
    os.environ.pop("BATCHREC_CACHE") if before is None else os.environ.update(BATCHREC_CACHE=before)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn archive of 160 images, a twentieth of them broken, with its manifest."""
    folder = tmp_path_factory.mktemp("archive") / "images"
    draw_archive(folder, num_images=160, broken=0.05, seed=7)
    return folder


@pytest.fixture(scope="session")
def long_manifest(archive: Path) -> Path:
    """A manifest that names every image of the archive 25 times: a run long enough to be disturbed."""
    table = pq.read_table(archive / "manifest.parquet")
    path = archive / "long.parquet"
    pq.write_table(pa.concat_tables([table] * 25), path)
    return path


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of this session's own, started once."""
    from batchrec.engine.ray_local import LocalRay

    with closing(LocalRay(2)) as local:
        local.wait()
        yield


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns its exit code, stdout and stderr."""
    from batchrec.cli.main import run

    def command(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
