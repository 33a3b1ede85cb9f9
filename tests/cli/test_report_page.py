"""`report --html`: where the page goes, and what it counts."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pyarrow.compute as pc
import pytest

import batchrec
from batchrec.output.labels import count_labels
from batchrec.output.opening import open_output
from tests.cli.conftest import names_below
from tests.s3_server import S3Server

Cli = Callable[..., tuple[int, str, str]]
Complaint = Callable[..., str]


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_the_page_is_one_new_file(run_cli: Cli, finished: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli("report", finished, "--html", "new/report.html")
    assert (code, err) == (0, "")
    assert out == f"{tmp_path}/new/report.html: the report as a page; open it in a browser\n"
    assert names_below(tmp_path) == {"new", "new/report.html"}
    assert run_cli("report", finished, "--html", "b.html", "--json")[0] == 0
    text = (tmp_path / "new" / "report.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert json.loads((finished / "report.json").read_text())["verdict"][1:] in text


def test_json_names_the_page(run_cli: Cli, finished: Path, tmp_path: Path) -> None:
    said = json.loads(run_cli("report", finished, "--html", tmp_path / "r.html", "--json")[1])
    assert said.pop("html") == str(tmp_path / "r.html")
    assert said == json.loads(run_cli("report", finished, "--json")[1])


def test_a_page_in_the_output_disturbs_nothing(run_cli: Cli, copied: Path) -> None:
    assert run_cli("report", copied, "--html", copied / "report.html")[0] == 0
    assert run_cli("verify", copied)[1].startswith("sound and complete")


def test_what_stands_is_never_written_over(complaint: Complaint, finished: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.html"
    there.write_text("mine")
    assert "is there already; name a new file" in complaint(3, "report", finished, "--html", there)
    assert there.read_text() == "mine"


@pytest.mark.parametrize("name", ["page", "folder/", "s3://bucket", "-", ""])
def test_a_name_of_no_page_is_refused(complaint: Complaint, finished: Path, name: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "name a file that ends in .html" in complaint(2, "report", finished, "--html", name)
    assert names_below(tmp_path) == set()


@pytest.mark.parametrize("spec", ["[]", '"x"', '{"source": 5}', "null"])
def test_a_damaged_definition_costs_the_page_its_command(run_cli: Cli, copied: Path, tmp_path: Path, spec: str) -> None:
    path = next(copied.rglob("spec.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "spec": json.loads(spec)}))
    assert run_cli("report", copied, "--html", tmp_path / "r.html")[0] == 0
    assert "batchrec submit" not in (tmp_path / "r.html").read_text()


def test_a_definition_of_wrong_kinds_costs_the_page_its_command(run_cli: Cli, copied: Path, tmp_path: Path) -> None:
    path = next(copied.rglob("spec.json"))
    record = json.loads(path.read_text())
    for number, wrong in enumerate(({"source": 5}, {"input_roots": 5}, {"top_k": "x"}, {"model": []}, {"store": []})):
        path.write_text(json.dumps({**record, "spec": {**record["spec"], **wrong}}))
        assert run_cli("report", copied, "--html", tmp_path / f"{number}.html")[0] == 0, wrong


def test_where_the_report_is_refused_the_page_is_too(complaint: Complaint, copied: Path, tmp_path: Path) -> None:
    (copied / "report.json").unlink()
    said = complaint(3, "report", copied)
    assert complaint(3, "report", copied, "--html", tmp_path / "r.html") == said
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("damage", "said"), [("empty", "damaged"), ("gone", "no predictions yet")])
def test_parts_that_cannot_be_counted_are_said(
    complaint: Complaint, copied: Path, tmp_path: Path, damage: str, said: str
) -> None:
    part = next(copied.rglob("part-*.parquet"))
    part.write_bytes(b"") if damage == "empty" else part.unlink()
    assert said in complaint(3, "report", copied, "--html", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_other_rows_than_were_sealed_are_not_counted_as_if(complaint: Complaint, copied: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    part = next(copied.rglob("part-*.parquet"))
    pq.write_table(pq.read_table(part).slice(0, 30), part)
    said = complaint(3, "report", copied, "--html", tmp_path / "r.html")
    assert "other rows than were sealed" in said


def test_labels_are_counted_over_every_recognised_row(finished: Path) -> None:
    found = count_labels(open_output(str(finished)))
    rows = batchrec.open(str(finished)).predictions().to_table(filter=pc.field("status") == "ok")
    assert sum(each.num_images for each in found) == rows.num_rows
    assert [each.num_images for each in found] == sorted((each.num_images for each in found), reverse=True)
    for each in found:
        scores = rows.filter(pc.equal(rows["label"], each.label))["score"].to_numpy()
        assert each.num_images == len(scores)
        assert each.mean_score == pytest.approx(scores.astype(float).mean())


def test_its_command_is_the_same_job(run_cli: Cli, finished: Path, tmp_path: Path) -> None:
    run_cli("report", finished, "--html", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    command = shlex.split(unescape(text.partition("<pre>")[2].partition("</pre>")[0]))
    assert command[:2] == ["batchrec", "submit"]
    code, out, err = run_cli("plan", *command[2:], "--pool", "inline", "--json")
    assert code == 0, err
    assert json.loads(out)["job_id"] == json.loads((finished / "report.json").read_text())["job_id"]


def test_an_output_in_a_bucket_gives_a_page_in_a_bucket(finished: Path, run_cli: Cli, s3_server: S3Server) -> None:
    for path in finished.rglob("*"):
        if path.is_file():
            s3_server.put("shop", f"out/{path.relative_to(finished)}", path.read_bytes())
    assert run_cli("report", "s3://shop/out", "--html", "s3://shop/pages/r.html")[0] == 0
    assert run_cli("report", "s3://shop/out", "--html", "s3://shop/pages/r.html")[0] == 3
    assert s3_server.get("shop", "pages/r.html").startswith(b"<!DOCTYPE html>")
