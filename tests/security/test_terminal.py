"""What comes from outside moves no cursor, changes no title and hides no line on a terminal."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.s3_server import S3Server

Cli = Callable[..., tuple[int, str, str]]

RED, TITLE, UP, LINK = "\x1b[31m", "\x1b]0;pwned\x07", "\x1b[1A\x1b[2K", "\x1b]8;;http://evil.example\x07"
EVIL = f"{RED}{TITLE}{UP}{LINK}\r\x08\x9b2J\u202egpj\u2066\u200b\N{LINE SEPARATOR}"


def moves(text: str) -> list[str]:
    """Characters that a terminal obeys or hides, new lines apart."""
    return [each for each in text if each != "\n" and unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_the_search_finds_what_it_looks_for() -> None:
    assert len(moves(EVIL)) > 10
    assert moves("größe 😀\n") == []


@pytest.fixture
def folder(tmp_path: Path, archive: Path) -> Path:
    """A folder, manifest, columns, labels and images whose names all mean ill."""
    folder = tmp_path / f"in{EVIL.replace('/', '')}"
    folder.mkdir()
    rows = pq.read_table(archive / "manifest.parquet").to_pylist()
    good = (archive / next(row["uri"] for row in rows if row["broken"] is None)).read_bytes()
    (folder / "a.jpg").write_bytes(good)
    (folder / "text\u202egpj.jpg").write_bytes(f"<html>{EVIL}".encode())
    uris = [
        "a.jpg",
        "text\u202egpj.jpg",
        f"{EVIL}.jpg",
        f"/absent/{RED}/a.jpg",
        f"s3://{RED}/a",
        f"https://{UP}/a",
        EVIL,
    ]
    uris += [f"{'x' * 20}\u202e/gone{number}.jpg" for number in range(5)]
    table = pa.table({"uri": uris, f"sku{EVIL}": uris, f"{EVIL}": uris})
    pq.write_table(table, folder / f"m{RED}.parquet")
    (folder / "labels.txt").write_text("\n".join(f"label {number}{RED}{TITLE}\u202e" for number in range(10)))
    return folder


def test_nothing_a_job_says_moves_the_cursor(folder: Path, tmp_path: Path, run_cli: Cli) -> None:
    out = tmp_path / f"out{RED}"
    manifest = folder / f"m{RED}.parquet"
    common = [manifest, "-o", out, "--pool", "inline", "--backend", "openvino", "--passthrough", f"sku{EVIL}"]
    said = [run_cli(verb, *common, *flags) for verb in ("plan", "submit") for flags in ((), ("--json",))]
    said += [run_cli("submit", *common, "--labels", folder / "labels.txt", "-o", tmp_path / f"labelled{RED}")]
    for flags in ((), ("--json",)):
        said += [run_cli(verb, out, *flags) for verb in ("status", "report", "errors", "verify")]
    said += [run_cli("errors", out, "--by", "prefix"), run_cli("report", tmp_path / f"labelled{RED}")]
    said += [run_cli("submit", *common, "--print-config")]
    assert [code for code, *_ in said] == [0, 0, 4, 4, 4, *[0] * 11], said
    assert [(out, err) for _, out, err in said if moves(out + err)] == []
    assert any("label 0" in out + err for _, out, err in said)


@pytest.mark.parametrize(
    "arguments",
    [
        [EVIL, "-o", "out"],
        ["m.parquet", "-o", EVIL],
        ["m.parquet", "-o", "out", "--model", EVIL],
        ["m.parquet", "-o", "out", "--uri-col", EVIL],
        ["m.parquet", "-o", "out", "--labels", EVIL],
        ["m.parquet", "-o", "out", "--set", EVIL],
        ["m.parquet", "-o", "out", "--allow-http", EVIL],
        ["m.parquet", "-o", "out", "--precision", EVIL],
        ["m.parquet", "-o", "out", "-j", EVIL],
        ["m.parquet", "-o", "out", f"--{EVIL}"],
        ["m.parquet", "-o", "out", "--address", f"http://{EVIL}"],
    ],
    ids=lambda arguments: next(each for each in reversed(arguments[1:]) if each.startswith("-"))[:12].strip(EVIL),
)
def test_no_refusal_moves_the_cursor(
    arguments: list[str], run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({EVIL: [EVIL], "uri": [EVIL]}), "m.parquet")
    for flags in ([], ["--json"]):
        code, out, err = run_cli("submit", *arguments, "--pool", "inline", *flags)
        assert code in (0, 2, 3, 4, 5)
        assert (moves(out), moves(err)) == ([], [])
        if flags and out:
            json.loads(out)


def test_names_in_a_bucket_move_no_cursor(s3_server: S3Server, run_cli: Cli) -> None:
    s3_server.put("photos", f"in/{RED}{UP}.parquet", b"no Parquet")
    s3_server.put("photos", "out/x\u202egpj", b"foreign")
    for arguments in (["s3://photos/in/", "-o", "s3://photos/new"], [__file__, "-o", "s3://photos/out"]):
        code, out, err = run_cli("submit", *arguments, "--pool", "inline")
        assert code in (3, 5)
        assert moves(out + err) == []
