from __future__ import annotations

import fcntl
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchrec.models import remembering
from batchrec.models.remembering import cache_folder, one_at_a_time, own_folder, remember


def counting():
    calls = []
    return calls, lambda: calls.append(1) or {"value": len(calls)}


def test_a_value_is_worked_out_once(tmp_path):
    calls, compute = counting()
    assert [remember("kind", {"a": 1}, compute, folder=tmp_path) for _ in range(3)] == [{"value": 1}] * 3
    assert len(calls) == 1


def test_of_several_that_ask_at_once_one_works_it_out(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        time.sleep(0.05)
        return {"value": len(calls)}

    with ThreadPoolExecutor(4) as askers:
        found = [askers.submit(remember, "kind", {"a": 1}, compute, folder=tmp_path) for _ in range(4)]
    assert [each.result() for each in found] == [{"value": 1}] * 4


def test_who_waits_too_long_works_it_out_himself(tmp_path, monkeypatch):
    monkeypatch.setattr(remembering, "_LOCKED_WITHIN_S", 0.1)
    _, compute = counting()
    with one_at_a_time("kind", {"a": 1}, folder=tmp_path):
        assert remember("kind", {"a": 1}, compute, folder=tmp_path) == {"value": 1}


def test_a_process_forked_meanwhile_holds_nobody_off(tmp_path, monkeypatch):
    kept = []
    lock = remembering._lock
    monkeypatch.setattr(remembering, "_lock", lambda file: (lock(file), kept.append(os.dup(file))))
    with one_at_a_time("kind", {}, folder=tmp_path):
        pass
    (path,) = (tmp_path / "locks").iterdir()
    with path.open() as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(kept[0])


def test_another_key_is_another_value(tmp_path):
    _, compute = counting()
    assert remember("kind", {"a": 1}, compute, folder=tmp_path) != remember("kind", {"a": 2}, compute, folder=tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"key": {"a": 2}, "value": {}}', b'{"key": {"a": 1}, "value": 3}']
)
def test_a_damaged_record_is_worked_out_again(tmp_path, content):
    calls, compute = counting()
    remember("kind", {"a": 1}, compute, folder=tmp_path)
    (record,) = (tmp_path / "kind").iterdir()
    record.write_bytes(content)
    remember("kind", {"a": 1}, compute, folder=tmp_path)
    assert len(calls) == 2


def test_what_fails_is_not_remembered(tmp_path):
    with pytest.raises(ZeroDivisionError):
        remember("kind", {}, lambda: {"value": 1 // 0}, folder=tmp_path)
    assert remember("kind", {}, lambda: {"value": 2}, folder=tmp_path) == {"value": 2}


def test_a_folder_that_cannot_be_made_means_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BATCHREC_CACHE", str(tmp_path / "file" / "cache"))
    assert cache_folder() is None
    calls, compute = counting()
    remember("kind", {}, compute)
    remember("kind", {}, compute)
    assert len(calls) == 2


def test_the_cache_follows_the_usual_variables(tmp_path, monkeypatch):
    monkeypatch.delenv("BATCHREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "batchrec"


def test_a_folder_that_another_user_could_have_put_there_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    mine = tmp_path / f"batchrec-{os.getuid()}"
    mine.symlink_to(tmp_path)
    assert own_folder() is None
    mine.unlink()
    mine.mkdir()
    mine.chmod(0o777)
    assert own_folder() is None
    mine.rmdir()
    assert own_folder() == mine
    assert mine.stat().st_mode & 0o777 == 0o700
