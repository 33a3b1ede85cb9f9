"""What benchmarks publish: the table, the picture, and losses against earlier runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.history import Figure, losses, read, record
from benchmarks.publishing import BEGIN, DOCUMENT, END, ROOT, block, joined, picture, ratios_of, read_results, table

RESULTS = {
    "model": "resnet18",
    "images": 8000,
    "machine": "a machine",
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc",
    "versions": {"ray": "2.60.0"},
    "runs": [
        {"program": "batchrec", "track": "documented", "seconds": [50.0, 40.0, 42.0], "agreement": 0.995},
        {"program": "raydata", "track": "documented", "seconds": [100.0, 84.0, 80.0], "agreement": 1.0},
        {"program": "batchrec", "track": "tuned", "seconds": [41.0], "agreement": 0.995},
        {"program": "raydata", "track": "tuned", "seconds": [None], "agreement": 0.0},
    ],
}
FIGURE = Figure("whole job, s", 10.0, "lower", "a machine", "2026-01-02T03:04:05+00:00", "abc")


def test_the_table_has_medians_ratios_and_agreement() -> None:
    lines = table(RESULTS).splitlines()
    assert lines[-2] == "| batchrec | 42.0 s |  | 99.50 % | 41.0 s |  | 99.50 % |"
    assert lines[-1] == "| Ray Data | 84.0 s | 0.50 | 100.00 % | failed |  |  |"


def test_a_ratio_is_the_median_of_those_within_one_round() -> None:
    slow_round = [{"program": "batchrec", "track": "tuned", "seconds": [10.0, 30.0, 12.0, None], "agreement": 1.0}]
    slow_round += [{"program": "daft", "track": "tuned", "seconds": [20.0, 60.0, 21.0, 1.0], "agreement": 1.0}]
    assert ratios_of(RESULTS | {"runs": slow_round}, "tuned") == {"daft": 0.5}
    assert ratios_of(RESULTS | {"runs": slow_round[1:]}, "tuned") == {}


def test_rounds_of_another_day_join_those_that_are_kept() -> None:
    runs = [run | {"agreement": 0.5} for run in RESULTS["runs"]]
    runs[1] |= {"seconds": [None] * 3, "agreement": 0.0}
    later = RESULTS | {"date": "2026-01-03T03:04:05+00:00", "commit": "def", "runs": runs}
    both = joined(RESULTS, later)
    assert [len(run["seconds"]) for run in both["runs"]] == [6, 6, 2, 2]
    assert [run["agreement"] for run in both["runs"]] == [0.5, 1.0, 0.5, 0.0]  # of the last that did its work
    assert both["commit"] == "abc, def"
    assert "2026-01-02 and 2026-01-03, a machine; median of 6 rounds" in table(both)
    assert joined(both, later)["date"].count("2026-01-03") == 1


@pytest.mark.parametrize(
    "other",
    [
        {"model": "resnet50"},
        {"machine": "another"},
        {"versions": {"ray": "3"}},
        {"images": 9},
        {"runs": [*reversed(RESULTS["runs"])]},
        {"runs": RESULTS["runs"][:2]},
    ],
)
def test_rounds_of_other_machines_versions_work_or_programs_do_not(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="rounds are of"):
        joined(RESULTS, RESULTS | other)


def test_the_picture_is_an_svg_with_a_bar_for_each_run_that_ended() -> None:
    root = ElementTree.fromstring(picture(RESULTS))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert [(bar.get("class"), float(bar.get("width"))) for bar in bars] == [
        ("ours", pytest.approx(240, abs=0.1)),
        ("peer", pytest.approx(480, abs=0.1)),
        ("ours", pytest.approx(234.3, abs=0.1)),
    ]
    assert "prefers-color-scheme: dark" in picture(RESULTS)


def test_the_document_shows_the_results_that_are_kept() -> None:
    text = DOCUMENT.read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    if found := read_results():
        assert block(found) in text


def test_a_figure_that_got_worse_on_the_same_machine_is_named() -> None:
    slower = dataclasses.replace(FIGURE, value=10.6, commit="def")
    elsewhere = dataclasses.replace(slower, machine="another one", value=99.0)
    assert list(losses([FIGURE, elsewhere, slower], 0.05)) == [
        "whole job, s: 10 (abc) -> 10.6 (def), 6% worse on a machine"
    ]
    fewer = dataclasses.replace(FIGURE, figure="images/s", better="higher", value=9.0)
    assert len(list(losses([dataclasses.replace(fewer, value=10.0), fewer], 0.05))) == 1


def test_what_is_a_little_worse_or_better_than_the_last_run_is_not_named() -> None:
    history = [dataclasses.replace(FIGURE, value=value) for value in (8.0, 10.0, 10.4)]
    assert list(losses(history, 0.05)) == []


def test_figures_are_recorded_with_machine_date_and_commit(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    record([("whole job, s", 1.5, "lower")], path)
    record([("whole job, s", 1.4, "lower")], path)
    found = read(path)
    assert [each.value for each in found] == [1.5, 1.4]
    assert all(each.machine and each.commit and each.date.startswith("20") for each in found)


def test_every_seam_that_an_ablation_cuts_is_there() -> None:
    take_out_all = "from benchmarks.ablations import ABLATIONS\nfor take_out, _ in ABLATIONS.values(): take_out()"
    subprocess.run([sys.executable, "-c", take_out_all], cwd=ROOT, check=True)
