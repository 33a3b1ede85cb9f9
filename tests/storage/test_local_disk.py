"""What only a disk can do: fill up, be read-only, be raced by processes."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrec.errors import AccessError, OutputError, StorageLost
from batchrec.spec import StoreOptions
from batchrec.storage import KeyExists, Uncertain, local_store, open_store, probe

RIVAL = """
import sys, time
from pathlib import Path
from batchrec.spec import StoreOptions
from batchrec.storage import KeyExists, open_store
store, me = open_store(sys.argv[1], StoreOptions()), sys.argv[2]
Path(sys.argv[1] + f".ready{me}").touch()
while not Path(sys.argv[1] + ".go").exists():
    time.sleep(0.001)
for number in range(200):
    try:
        store.create(f"race/{number}", me.encode() * 5000)
    except KeyExists:
        continue
    print(number)
"""

TOO_LARGE = """
import resource, sys
from batchrec.errors import StorageLost
from batchrec.spec import StoreOptions
from batchrec.storage import open_store
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    open_store(sys.argv[1], StoreOptions()).create("part", bytes(200_000))
except StorageLost as error:
    print(error)
"""


def left_behind(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def test_of_four_processes_exactly_one_creates_each_key(tmp_path: Path):
    root = tmp_path / "out"
    rivals = [
        subprocess.Popen([sys.executable, "-c", RIVAL, str(root), str(me)], stdout=subprocess.PIPE, text=True)
        for me in range(4)
    ]
    while len(list(tmp_path.glob("out.ready*"))) < 4:
        assert all(rival.poll() is None for rival in rivals)
    Path(f"{root}.go").touch()
    won = [[int(number) for number in rival.communicate(timeout=60)[0].split()] for rival in rivals]
    assert sorted(itertools.chain(*won)) == list(range(200))
    for me, numbers in enumerate(won):
        assert all((root / f"race/{number}").read_bytes() == b"%d" % me * 5000 for number in numbers)
    assert len(left_behind(root)) == 200


def test_staging_files_never_appear_in_a_listing(tmp_path: Path):
    store = open_store(str(tmp_path), StoreOptions())
    store.create("a", b"1")
    (tmp_path / "_batchrec/tmp/left-by-a-crash").write_bytes(b"half")
    assert [info.key for info in store.list("")] == ["a"]
    assert list(store.list("_batchrec/tmp/")) == []
    assert list(store.list("_batchrec/")) == []


def test_a_full_disk_is_storage_lost_and_nothing_is_left(mount_disk: Callable[[str], Path]):
    disk = mount_disk("size=256k")
    store = open_store(str(disk / "out"), StoreOptions())
    store.create("small", b"1")
    with pytest.raises(StorageLost, match=r"bytes free") as lost:
        store.create("part", bytes(2**20))
    assert str(disk) in str(lost.value)
    assert left_behind(disk / "out") == ["small"]
    with pytest.raises(StorageLost):
        store.overwrite("beat", bytes(2**20))
    store.create("part", bytes(1000))


def test_a_file_size_limit_is_storage_lost_and_nothing_is_left(tmp_path: Path):
    result = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert "no space left" in result.stdout
    assert left_behind(tmp_path / "out") == []


def test_a_read_only_disk_is_an_access_error(mount_disk: Callable[[str], Path]):
    disk = mount_disk("size=256k,ro")
    with pytest.raises(AccessError, match=r"cannot be used.*Read-only"):
        probe(open_store(str(disk / "out"), StoreOptions()))


def test_a_folder_without_permission_is_an_access_error(tmp_path: Path, as_nobody):
    tmp_path.chmod(0o555)
    with as_nobody(), pytest.raises(AccessError, match=r"cannot be used.*Permission denied"):
        probe(open_store(str(tmp_path / "out"), StoreOptions()))
    tmp_path.chmod(0o755)


def test_a_file_where_the_folder_should_be_is_an_output_error(tmp_path: Path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="cannot hold a job"):
        probe(open_store(str(tmp_path / "out"), StoreOptions()))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_filesystem_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def link(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OutputError, match="without hard links"):
        probe(open_store(str(tmp_path), StoreOptions()))
    assert left_behind(tmp_path) == []


def test_a_create_whose_folder_cannot_be_synced_is_uncertain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_store(str(tmp_path), StoreOptions())
    store.create("a/1", b"1")

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(local_store, "_sync_folder", fail)
    with pytest.raises(Uncertain):
        store.create("a/2", b"2")


def test_every_create_is_synced_before_and_after_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = open_store(str(tmp_path), StoreOptions())
    store.create("a/1", b"1")
    calls = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(Path(f"/proc/self/fd/{fd}").readlink().name), fsync(fd)))
    monkeypatch.setattr(os, "link", lambda *args: (calls.append("link"), link(*args)))
    store.create("a/2", b"2")
    assert len(calls[0]) == 32
    assert calls[1:] == ["link", "a"]
    with pytest.raises(KeyExists):
        store.create("a/2", b"3")
    assert calls[4:] == ["link", "a"]


def test_a_file_url_is_decoded_and_a_path_is_not(tmp_path: Path):
    folder = tmp_path / "a b%20c"
    assert open_store(folder.as_uri(), StoreOptions()).url == str(folder)
    assert open_store(str(folder), StoreOptions()).url == str(folder)


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert open_store("out/", StoreOptions()).url == str(tmp_path / "out")


def test_links_that_go_round_do_not_trap_a_listing(tmp_path: Path):
    store = open_store(str(tmp_path), StoreOptions())
    store.create("a/b", b"1")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    assert [info.key for info in store.list("a")] == ["a/b"]


OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe, socket or device": os.mkfifo,
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("found", OBSTACLES)
def test_what_is_no_file_where_one_belongs_is_said_at_once_and_left_alone(tmp_path: Path, found: str):
    store = open_store(str(tmp_path), StoreOptions())
    OBSTACLES[found](tmp_path / "SEAL.json")
    acts: list[Callable[[], object]] = [lambda: store.create("SEAL.json", b"1")]
    if "link" not in found:
        acts += [lambda: store.read("SEAL.json"), lambda: store.info("SEAL.json"), lambda: store.open("SEAL.json")]
    for act in acts:
        with pytest.raises(OutputError, match=f"found: {found}.*move it away"):
            act()
    assert list(store.list("")) == []
    assert os.path.lexists(tmp_path / "SEAL.json")
