"""Whole jobs through a bucket on its bad days, and processes killed at the very request: the rows are exact."""

from __future__ import annotations

import io
import random
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import obstore
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import s3fs

import batchrec
from batchrec.errors import ManifestError, Resumable
from batchrec.manifest.planning import Plan
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.verifying import Verification, verify
from batchrec.storage import inputs, reading, s3_client, s3_store
from tests.driven import Command
from tests.s3_server import BAD_DAY, Fault, Request, S3Server, SeededFaults
from tests.s3fs_store import S3fsReader, S3fsStore

SOURCE, OUT = "s3://photos/archive/manifest.parquet", "s3://photos/out"
# The backend is named: each start's own trial may choose another, whose scores differ in the last digits.
SETTINGS = {"rows_per_shard": 16, "max_failure_rate": 1, "backend": "openvino", "pool": "inline"}
NUM_ROWS, NUM_SHARDS = 160, 10
#: What may be written over: it informs, and decides nothing.
ADVISORY = re.compile(r"out/(report\.json|_batchrec/\w+/(progress\.json|drivers/\d{8}\.(beat|log)))")


@pytest.fixture(scope="module")
def undisturbed(archive: Path) -> Iterator[Verification]:
    """What the job ends with on a good day."""
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        upload(archive, server)
        submit()
        yield verified(OUT)


def upload(archive: Path, server: S3Server) -> None:
    """Upload the drawn archive; its manifest gets row groups, and a column so large that it is not read at once."""
    s3_client._client.cache_clear()
    for path in archive.rglob("*.jpg"):
        server.put("photos", f"archive/{path.relative_to(archive)}", path.read_bytes())
    rows = pq.read_table(archive / "manifest.parquet")
    rng = random.Random(7)
    noise = pa.array([rng.randbytes(40_000) for _ in range(NUM_ROWS)])
    buffer = io.BytesIO()
    pq.write_table(rows.append_column("noise", noise), buffer, row_group_size=16)
    server.put("photos", "archive/manifest.parquet", buffer.getvalue())


@pytest.fixture
def bucket(s3_server: S3Server, archive: Path) -> S3Server:
    """The drawn archive, uploaded."""
    upload(archive, s3_server)
    return s3_server


@pytest.fixture
def as_users_do(bucket: S3Server) -> s3fs.S3FileSystem:
    """The bucket through s3fs, as somebody reads it who has no batchrec."""
    return s3fs.S3FileSystem(endpoint_url=bucket.url, skip_instance_cache=True)


def verified(out: str) -> Verification:
    opened = batchrec.open(out)
    return verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))


def submit() -> int:
    return batchrec.submit(SOURCE, output=OUT, **SETTINGS).exit_code


class Truth:
    """Passes requests on to a fault hook, and sees that ``_SUCCESS`` is never asked for before all it stands for.

    Attributes:
        lies: What was wrong each time it was.
    """

    def __init__(self, bucket: S3Server, fault: Callable[[Request], Fault | None]) -> None:
        self._bucket, self._fault, self.lies = bucket, fault, []

    def __call__(self, request: Request) -> Fault | None:
        if request.method == "PUT" and request.key == "out/_SUCCESS":
            keys = self._bucket.keys("photos")
            parts = sum("part-" in key for key in keys)
            needed = ("SEAL.json", "OUTPUT.json", "plan.parquet", "errors.parquet")
            if parts < NUM_SHARDS or not all(any(key.endswith(name) for key in keys) for name in needed):
                self.lies.append(keys)
        return self._fault(request)


class BadDay(SeededFaults):
    """The faults of a seed, and each kind it has not brought by the seventh part at the first chance from then on."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, BAD_DAY)
        self._late = False

    def __call__(self, request: Request) -> Fault | None:
        fault = super().__call__(request)
        self._late |= request.method == "PUT" and "part-00000006" in request.key
        if fault or not self._late:
            return fault
        for number, (_, methods, due) in enumerate(BAD_DAY):
            if not self.made[number] and request.method in methods.split():
                self.made[number] += 1
                return due
        return None


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_job_through_a_bucket_on_a_bad_day_ends_with_the_rows_of_a_good_one(
    bucket: S3Server, as_users_do: s3fs.S3FileSystem, undisturbed: Verification, seed: int
) -> None:
    weather = BadDay(seed)
    bucket.fault = truth = Truth(bucket, weather)
    runs = 0
    while True:
        runs += 1
        try:
            assert submit() == 0
            break
        except Resumable as error:
            assert "run the same command again" in str(error) or "the same command resumes" in str(error)
            assert "out/_SUCCESS" not in bucket.keys("photos")
            assert runs < 4
    assert truth.lies == []
    assert all(weather.made[kind] for kind in range(len(BAD_DAY))), weather.made
    read = batchrec.open(OUT).predictions().to_table()  # through s3fs, on the same bad day
    assert read.num_rows == NUM_ROWS
    bucket.fault = None
    assert verified(OUT) == undisturbed
    once = [access for access in bucket.requests("PUT") if not ADVISORY.fullmatch(access.key)]
    assert [access.key for access in once if not access.conditional] == []
    assert_others_read(as_users_do, read)


@pytest.fixture
def through_s3fs(bucket: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output, manifest and images go through s3fs; whatever obstore is asked to do fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("through obstore")

    for name in ("put", "get", "head", "list", "delete"):
        monkeypatch.setattr(obstore, name, refuse)
    for module in (s3_store, inputs):
        monkeypatch.setattr(module, "S3Store", S3fsStore)
    monkeypatch.setattr(reading, "S3Reader", S3fsReader)


@pytest.mark.parametrize("seed", [None, 1])
def test_the_same_job_wholly_through_s3fs_ends_with_the_same_rows(
    bucket: S3Server, undisturbed: Verification, through_s3fs: None, seed: int | None
) -> None:
    """An older client of other habits: it repeats puts by itself, lists before it opens, and has its own errors."""
    bucket.fault = truth = Truth(bucket, BadDay(seed) if seed is not None else lambda _: None)
    for runs in range(4):
        try:
            assert submit() == 0
            break
        except Resumable:
            assert (seed is not None, runs < 3, "out/_SUCCESS" in bucket.keys("photos")) == (True, True, False)
    assert truth.lies == []
    bucket.fault = None
    assert verified(OUT) == undisturbed


def assert_others_read(filesystem: s3fs.S3FileSystem, rows: object) -> None:
    """s3fs with pyarrow, and DuckDB through s3fs, find the same rows."""
    columns = ["image_id", "uri", "row", "status", "error_code", "label", "score"]
    dataset = ds.dataset("photos/out/predictions", filesystem=filesystem, format="parquet", partitioning="hive")
    assert dataset.to_table(columns=columns).sort_by("row").equals(rows.select(columns))
    with duckdb.connect() as database:
        database.register_filesystem(filesystem)
        query = f"SELECT {', '.join(columns)} FROM 's3://photos/out/predictions/*/*.parquet' ORDER BY row"
        found = database.sql(query).fetchall()
    assert found == [tuple(row.values()) for row in rows.select(columns).to_pylist()]


@dataclass
class Death:
    """Kills a process at the n-th PUT of a kind, before it is applied, while it is under way, or after.

    Attributes:
        came: Whether that request came.
    """

    kind: str
    nth: int
    moment: str
    command: Command | None = None
    came: bool = False

    def __call__(self, request: Request) -> Fault | None:
        if self.came or request.method != "PUT" or self.kind not in request.key:
            return None
        self.nth -= 1
        if self.nth:
            return None
        self.came = True
        assert self.command is not None
        self.command.send(signal.SIGKILL)
        under_way = 0.3 if self.moment == "during" else 0.0
        return Fault(reset=True, applied=self.moment != "before", delay_s=under_way)


DEATHS = [
    ("OUTPUT.json", 1, "during"),
    ("drivers/0000", 1, "after"),
    ("part-", 2, "before"),
    ("part-", 2, "during"),
    ("part-", 2, "after"),
    ("SEAL.json", 1, "after"),
    ("errors.parquet", 1, "during"),
    ("_SUCCESS", 1, "before"),
    ("_SUCCESS", 1, "after"),
]


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """Commands that run, to be ended."""
    started: list[Command] = []
    yield started
    for command in started:
        command.close()


def test_a_process_killed_at_one_put_after_another_leaves_nothing_false_and_is_resumed(
    bucket: S3Server, undisturbed: Verification, commands: list[Command], tmp_path: Path
) -> None:
    flags = [f"--set={name}={value}" for name, value in SETTINGS.items()]

    def run() -> Command:
        commands.append(Command(tmp_path / str(len(commands)), ("submit", SOURCE, "-o", OUT, *flags)))
        return commands[-1]

    for kind, nth, moment in DEATHS:
        death = Death(kind, nth, moment)
        bucket.fault = truth = Truth(bucket, death)
        death.command = run()
        assert death.command.ended().code == -signal.SIGKILL, (kind, moment, death.command.err)
        assert truth.lies == []
        applied = (kind, moment) == ("_SUCCESS", "after")
        assert ("out/_SUCCESS" in bucket.keys("photos")) is applied
        if any("plan.parquet" in key for key in bucket.keys("photos")):
            assert (verified(OUT).faults, verified(OUT).complete) == ((), applied)
    bucket.fault = None
    last = run().ended()
    assert last.code == 0, last.err
    assert verified(OUT) == undisturbed


def test_a_zombie_that_publishes_after_the_seal_changes_nothing(bucket: S3Server, undisturbed: Verification) -> None:
    assert submit() == 0
    opened = batchrec.open(OUT)
    stood = {key: bucket.get("photos", key) for key in bucket.keys("photos")}
    for shard, key in enumerate(opened.parts):
        rows = pq.read_table(pa.BufferReader(opened.store.read(key))).slice(1)  # not even the same ones
        late = encode_part(rows, job_id=opened.layout.job_id, shard=shard, attempt_id="zombie", facts={})
        assert publish_part(opened.store, key, late).attempt_id != "zombie"
    assert {key: bucket.get("photos", key) for key in bucket.keys("photos")} == stood
    assert verified(OUT) == undisturbed


def test_a_manifest_replaced_in_mid_run_is_refused_and_the_old_one_resumes(
    bucket: S3Server, undisturbed: Verification
) -> None:
    key = "archive/manifest.parquet"
    kept = bucket.get("photos", key)
    assert kept is not None
    replaced = threading.Event()

    def replace(request: Request) -> None:
        if request.method == "PUT" and "part-" in request.key and not replaced.is_set():
            replaced.set()
            bucket.put("photos", key, kept + b"another")

    bucket.fault = replace
    with pytest.raises(ManifestError, match=r"manifest\.parquet changed"):
        submit()
    bucket.fault = None
    assert (verified(OUT).faults, verified(OUT).complete) == ((), False)
    with pytest.raises(ManifestError):
        submit()
    bucket.put("photos", key, kept)
    assert submit() == 0
    assert verified(OUT) == undisturbed


def test_an_output_emptied_before_its_first_part_is_not_called_complete_without_its_plan(
    bucket: S3Server, undisturbed: Verification
) -> None:
    emptied = threading.Event()

    def empty(request: Request) -> None:
        if request.key.endswith(".jpg") and not emptied.is_set():
            emptied.set()
            for key in bucket.keys("photos"):
                if key.startswith("out/"):
                    bucket.shelf.delete("photos", key)

    bucket.fault = truth = Truth(bucket, empty)
    assert submit() == 0
    assert emptied.is_set()
    assert truth.lies == []
    assert verified(OUT) == undisturbed
