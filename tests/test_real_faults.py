"""Real processes on real disks, meeting what machines do to them: the same command ends with the same rows."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.errors import OutputError
from batchrec.manifest.planning import Plan
from batchrec.output.verifying import Verification, verify
from tests.driven import Command, Seams
from tests.storage.conftest import mount_disk

__all__ = ["mount_disk"]

# The backend is named: each start's own trial may choose another, whose scores differ in the last digits.
SETTINGS = {"rows_per_shard": 16, "max_failure_rate": 1, "backend": "openvino", "pool": "inline"}
FLAGS = [f"--set={name}={value}" for name, value in SETTINGS.items()]
NUM_ROWS, NUM_SHARDS = 480, 30
Typed = Callable[..., Command]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def manifest(archive: Path) -> Path:
    """A manifest that names every image of the archive three times."""
    path = archive / "three.parquet"
    rows = pa.concat_tables([pq.read_table(archive / "manifest.parquet")] * 3)
    pq.write_table(rows, path, row_group_size=32)  # a group once read is kept, whatever becomes of the file
    return path


@pytest.fixture(scope="module")
def complete(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run to which nothing happened."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    batchrec.submit(str(manifest), output=str(out), **SETTINGS)
    return out


@pytest.fixture(scope="module")
def undisturbed(complete: Path) -> Verification:
    """What the checker says of it."""
    return verified(complete)


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Typed]:
    """Type a command; it runs in a process of its own."""
    commands: list[Command] = []

    def start(*words: object, **seams: object) -> Command:
        commands.append(Command(tmp_path / f"command{len(commands)}", words, Seams(**seams)))
        return commands[-1]

    yield start
    for command in commands:
        command.close()


def verified(out: Path) -> Verification:
    opened = batchrec.open(str(out))
    return verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))


def assert_exact(out: Path, undisturbed: Verification) -> None:
    """Every row once, the same as undisturbed, and ``_SUCCESS`` not before the last part."""
    assert verified(out) == undisturbed
    written = [path.stat().st_mtime_ns for path in out.glob("predictions/*/*.parquet")]
    assert len(written) == NUM_SHARDS
    assert (out / "_SUCCESS").stat().st_mtime_ns >= max(written)


def assert_unfinished(out: Path) -> None:
    """Sound as far as it is, and never called complete."""
    found = verified(out)
    assert (found.faults, found.complete, (out / "_SUCCESS").exists()) == ((), False, False)


def wait_for_parts(out: Path, count: int, command: Command, within_s: float = 180) -> None:
    give_up_at = time.monotonic() + within_s
    while len(list(out.glob("predictions/*/part-*.parquet"))) < count:
        assert command.running, command.err
        assert time.monotonic() < give_up_at, f"no parts appear: {command.err}"
        time.sleep(0.005)


def submit(manifest: Path, out: Path, *more: object) -> list[object]:
    return ["submit", manifest, "-o", out, *FLAGS, *more]


@pytest.mark.parametrize("returns", ["in mid-run", "after the seal"])
@pytest.mark.parametrize("how", ["it is silent for longer than others wait", "--takeover"])
def test_a_coordinator_that_was_stopped_finds_its_job_taken_over_and_leaves_it(
    typed: Typed, manifest: Path, undisturbed: Verification, tmp_path: Path, how: str, returns: str
) -> None:
    out = tmp_path / "out"
    first = typed(*submit(manifest, out), beat_s=0.2)
    wait_for_parts(out, 3, first)
    first.send(signal.SIGSTOP)
    if how == "--takeover":
        second = typed(*submit(manifest, out, "--takeover"))
    else:
        second = typed(*submit(manifest, out), elsewhere=True, patience_s=1.0)
    if returns == "in mid-run":
        while not list(out.glob("_batchrec/*/drivers/00000002.json")):
            assert second.running, second.err
            time.sleep(0.005)
        first.send(signal.SIGCONT)
    assert second.ended().code == 0
    assert ("waiting 1 s for a sign of life" in second.err) == (how != "--takeover")
    stood = {path: path.read_bytes() for path in out.rglob("*.parquet")}
    if returns == "after the seal":
        first.send(signal.SIGCONT)
    ended = first.ended()
    assert (ended.code, ended.verdict) == (6, "batchrec: coordinator 2 took this job over; leave it to that one")
    assert {path: path.read_bytes() for path in out.rglob("*.parquet")} == stood
    assert_exact(out, undisturbed)


def test_a_coordinator_that_only_stands_still_is_not_passed_by_another_on_its_machine(
    typed: Typed, manifest: Path, undisturbed: Verification, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = typed(*submit(manifest, out))
    wait_for_parts(out, 3, first)
    first.send(signal.SIGSTOP)
    second = typed(*submit(manifest, out)).ended()
    assert second.code == 3
    assert second.verdict.startswith("batchrec: this job is being run already (found: process ")
    assert second.verdict.endswith("wait for it, stop it, or take over with --takeover")
    first.send(signal.SIGCONT)
    assert first.ended().code == 0
    assert_exact(out, undisturbed)


@pytest.mark.parametrize("clock", ["ahead", "behind"])
def test_a_living_coordinator_is_not_passed_by_one_whose_clock_is_a_year_off(
    typed: Typed, manifest: Path, undisturbed: Verification, tmp_path: Path, clock: str
) -> None:
    out = tmp_path / "out"
    first = typed(*submit(manifest, out), beat_s=0.2)
    wait_for_parts(out, 1, first)
    second = typed(*submit(manifest, out), elsewhere=True, patience_s=1.0, clock=clock).ended()
    assert (second.code, "gave a sign of life within 1 s" in second.verdict) == (3, True)
    assert first.ended().code == 0
    assert_exact(out, undisturbed)


@pytest.mark.parametrize("clock", ["leaping", "falling"])
def test_a_clock_that_jumps_with_every_look_changes_no_row_and_meets_no_deadline(
    typed: Typed, manifest: Path, undisturbed: Verification, tmp_path: Path, clock: str
) -> None:
    out = tmp_path / "out"
    ended = typed(*submit(manifest, out, "--deadline", "10m"), clock=clock).ended()
    assert ended.code == 0, ended.err
    assert_exact(out, undisturbed)
    report = batchrec.open(str(out)).report()
    assert 0 <= report["start_s"] <= report["wall_s"] < 120
    assert 0 <= report["steady_s"] <= report["wall_s"]


def test_a_disk_that_fills_up_in_mid_run_ends_resumable_and_room_lets_it_finish(
    typed: Typed, manifest: Path, undisturbed: Verification, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("size=4m")
    out = disk / "out"
    command = typed(*submit(manifest, out))
    wait_for_parts(out, 3, command)
    with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    ended = command.ended()
    assert ended.code == 5
    assert ended.verdict.startswith(f"batchrec: no space left for {out} (found: No space left on device; ")
    assert ended.verdict.endswith("make room or raise the quota, then run the same command again")
    assert_unfinished(out)
    (disk / "filler").unlink()
    assert typed(*submit(manifest, out)).ended().code == 0
    assert_exact(out, undisturbed)


def test_a_disk_that_becomes_read_only_in_mid_run_ends_resumable(
    typed: Typed, manifest: Path, undisturbed: Verification, mount_disk: Callable[[str], Path]
) -> None:
    disk = mount_disk("size=4m")
    out = disk / "out"
    command = typed(*submit(manifest, out))
    wait_for_parts(out, 3, command)
    remount(disk, "ro")
    ended = command.ended()
    assert ended.code == 5
    assert ended.verdict.startswith(f"batchrec: {out} cannot be used (found: Read-only file system at ")
    assert "grant this user read and write there" in ended.verdict
    assert_unfinished(out)
    remount(disk, "rw")
    assert typed(*submit(manifest, out)).ended().code == 0
    assert_exact(out, undisturbed)


def remount(disk: Path, mode: str) -> None:
    # A file that is open for writing at this moment makes the disk busy.
    for _ in range(200):
        if not subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=False, capture_output=True).returncode:
            return
        time.sleep(0.01)
    pytest.fail("the disk stays busy")


@pytest.mark.parametrize("beat_s", [0.2, 10.0], ids=["a beat later", "before the next beat"])
def test_an_output_folder_removed_in_mid_run_is_not_called_complete_and_the_same_command_does_it_all(
    typed: Typed, manifest: Path, undisturbed: Verification, tmp_path: Path, beat_s: float
) -> None:
    out = tmp_path / "out"
    command = typed(*submit(manifest, out), beat_s=beat_s)
    wait_for_parts(out, 3, command)
    command.send(signal.SIGSTOP)
    shutil.rmtree(out)
    command.send(signal.SIGCONT)
    ended = command.ended()
    assert ended.code == 5, ended.err
    removed, missing = f"{out} was removed, or emptied, in mid-run", f" of {NUM_SHARDS} parts are missing"
    assert (removed in ended.verdict) or (missing in ended.verdict and beat_s > 1)
    assert "the same command" in ended.verdict
    assert not (out / "_SUCCESS").exists()
    assert typed(*submit(manifest, out)).ended().code == 0
    assert_exact(out, undisturbed)


@pytest.mark.parametrize("beat_s", [0.2, 10.0], ids=["a beat later", "before the next beat"])
def test_a_zombie_whose_folder_another_job_took_leaves_and_harms_no_row_of_that_one(
    typed: Typed, manifest: Path, tmp_path: Path, run_cli: Cli, beat_s: float
) -> None:
    out = tmp_path / "out"
    zombie = typed(*submit(manifest, out), beat_s=beat_s)
    wait_for_parts(out, 3, zombie)
    zombie.send(signal.SIGSTOP)
    shutil.rmtree(out)
    other = submit(manifest, out, "--top-k", "3")
    assert typed(*other).ended().code == 0
    alone = verified(out)
    assert (alone.faults, alone.complete, alone.num_rows) == ((), True, NUM_ROWS)
    stood = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    zombie.send(signal.SIGCONT)
    ended = zombie.ended()
    assert (ended.code, "Complete" in ended.out) in [(5, False), (3, False)]
    assert "was removed" in ended.verdict or "belongs to another job" in ended.verdict
    assert {path: path.read_bytes() for path in stood} == stood
    found = verified(out)
    # What it published late lies under its own job's name, and is named.
    assert all("is no part of this job" in fault for fault in found.faults)
    assert (found.complete, found.rows_sha256) == (True, alone.rows_sha256)
    assert batchrec.open(str(out)).predictions().count_rows() == NUM_ROWS
    assert run_cli("repair", out, "--yes")[0] == 0
    assert verified(out) == alone


@pytest.fixture
def moved(archive: Path, tmp_path: Path) -> Path:
    """A manifest of the archive's own copy, to be changed."""
    shutil.copytree(archive, tmp_path / "images")
    return tmp_path / "images" / "three.parquet"


def changed(manifest: Path) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(manifest).slice(16), buffer, row_group_size=32)
    return buffer.getvalue()


def test_a_manifest_rewritten_in_mid_run_is_refused_by_name_and_the_old_one_resumes(
    typed: Typed, moved: Path, undisturbed: Verification, tmp_path: Path
) -> None:
    out, kept, new = tmp_path / "out", moved.read_bytes(), changed(moved)
    command = typed(*submit(moved, out))
    wait_for_parts(out, 3, command)
    moved.write_bytes(new)
    ended = command.ended()
    assert ended.code == 3
    assert "three.parquet changed" in ended.verdict
    assert_unfinished(out)
    again = typed(*submit(moved, out)).ended()
    assert (again.code, "manifest: three.parquet was" in again.verdict) == (3, True)
    moved.write_bytes(kept)
    assert typed(*submit(moved, out)).ended().code == 0
    assert_exact(out, undisturbed)


def test_a_manifest_put_in_the_place_of_one_that_is_read_gives_no_row_of_its_own(
    typed: Typed, moved: Path, undisturbed: Verification, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "new").write_bytes(changed(moved))
    command = typed(*submit(moved, out))
    wait_for_parts(out, 3, command)
    (tmp_path / "new").replace(moved)
    # The file that was opened lives on until the worker lets go of it: it may be read to its end.
    ended = command.ended()
    assert ended.code == 0
    assert_exact(out, undisturbed)
    again = typed(*submit(moved, out)).ended()
    assert (again.code, "manifest: three.parquet was" in again.verdict) == (3, True)
    assert_exact(out, undisturbed)


@pytest.fixture
def half(complete: Path, tmp_path: Path) -> Path:
    """An output that was not finished: every second part, and no seal."""
    out = tmp_path / "out"
    shutil.copytree(complete, out)
    for sealed in [out / "_SUCCESS", out / "report.json", *out.rglob("SEAL.json"), *out.rglob("errors.parquet")]:
        sealed.unlink()
    for part in sorted(out.rglob("part-*.parquet"))[::2]:
        part.unlink()
    assert_unfinished(out)
    return out


def by_another_version(part: Path) -> None:
    """Write a part again as another version would: other facts, fields nobody knows yet, other bytes."""
    with pq.ParquetFile(part) as file:
        rows, metadata = file.read(), dict(file.schema_arrow.metadata)
    footer = json.loads(metadata[b"batchrec"])
    footer["facts"] |= {"batchrec": "0.0.1", "python": "3.99.0"}
    metadata[b"batchrec"] = json.dumps({**footer, "unknown": {"to": "this version"}}).encode()
    pq.write_table(rows.replace_schema_metadata(metadata), part, compression="snappy", version="1.0")


def test_an_output_half_finished_by_another_version_is_finished_by_this_one(
    half: Path, manifest: Path, undisturbed: Verification
) -> None:
    parts = sorted(half.rglob("part-*.parquet"))
    for part in parts:
        by_another_version(part)
    for facts in [*half.rglob("OUTPUT.json"), *half.rglob("drivers/*.json"), *half.rglob("spec.json")]:
        plain = json.loads(facts.read_bytes())
        facts.write_text(json.dumps({**plain, "unknown": 1, "batchrec": "0.0.1"}, separators=(",", ":")))
    (plan,) = half.rglob("plan.parquet")
    pq.write_table(pq.read_table(plan), plan, compression="gzip")
    stood = {part: part.read_bytes() for part in parts}
    summary = batchrec.submit(str(manifest), output=str(half), **SETTINGS)
    assert (summary.exit_code, summary.shards_done_before) == (0, len(parts))
    assert {part: part.read_bytes() for part in parts} == stood
    assert_exact(half, undisturbed)


@pytest.fixture
def definition(moved: Path, tmp_path: Path) -> dict[str, object]:
    """The job's definition in files that can be changed: manifest, weights and labels."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    torch.manual_seed(0)
    weights = get_model("shufflenet_v2_x0_5", num_classes=3).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "weights.safetensors")
    (tmp_path / "labels.txt").write_text("shirt\nshoes\nhat\n")
    model = f"file:{tmp_path}/weights.safetensors+shufflenet_v2_x0_5"
    return {"source": str(moved), "model": model, "labels": str(tmp_path / "labels.txt")}


def change_manifest(folder: Path) -> None:
    path = folder / "images" / "three.parquet"
    path.write_bytes(changed(path))


def change_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "weights.safetensors")
    weights["fc.bias"][0] += 0.5
    save_file(weights, folder / "weights.safetensors")


def change_labels(folder: Path) -> None:
    (folder / "labels.txt").write_text("shirt\nhat\nshoes\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_manifest, "manifest: three.parquet was "),
        (change_weights, "model.weights_sha256 was "),
        (change_labels, "model.labels_sha256 was "),
    ],
)
def test_a_resume_with_another_definition_is_refused_by_name_and_writes_nothing(
    definition: dict[str, object], tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    out = tmp_path / "out"
    settings = {**SETTINGS, **definition, "output": str(out), "limit": 64}
    batchrec.submit(**settings)
    for gone in [out / "_SUCCESS", *out.rglob("SEAL.json"), *out.rglob("part-00000002.parquet")]:
        gone.unlink()
    stood = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    change(tmp_path)
    with pytest.raises(OutputError, match=named) as refused:
        batchrec.submit(**settings)
    assert "belongs to another job" in str(refused.value)
    assert refused.value.advice.startswith("use another output folder (-o), or the manifest and settings")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == stood
