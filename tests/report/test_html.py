"""The report as one page."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable
from html import unescape

import pytest

from batchrec.cli.main import cli
from batchrec.cli.options import settings_from
from batchrec.errors import CODES, ErrorCode
from batchrec.records import Agreement, LabelCount
from batchrec.report.expectation import Expectation
from batchrec.report.html import render_page
from batchrec.report.repeating import Making, submit_command
from batchrec.report.summary import ErrorExample
from batchrec.spec import ImageLimits, JobSpec, StoreOptions
from batchrec.stats import ShardStats

LABELS = [LabelCount("T-Shirt", 2_640, 0.75), LabelCount("Hat", 1_000, 0.5)]
IDENTITY = {
    "manifest": [["m.parquet", 12_345, "ab" * 32]],
    "model": {
        "architecture": "resnet50",
        "weights_sha256": "cd" * 32,
        "labels_sha256": "ef" * 32,
        "preprocess": {"resize": 256, "crop": 224, "interpolation": "bilinear"},
    },
    "precision": "bf16",
}
SPEC = JobSpec(source=("/a/m.parquet",), output="/o")
NOTHING = Making("", ())


@pytest.fixture
def page(make_summary) -> Callable[..., str]:
    """The text of the page of a run, with some fields of its summary changed."""

    def text(labels=LABELS, making=NOTHING, notes=(), **changes) -> str:
        return text_of(render_page(make_summary(**changes), labels, making, notes=notes))

    return text


def text_of(page: str) -> str:
    body = page.partition("<body>")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_page_says_how_it_ended_how_fast_and_what_held_it_back(page):
    text = page(workers_lost=1, attempts_failed=2, shards_done_before=4, agreement=Agreement(100, 99))
    assert "Complete: 3,640 of 3,649 images recognised, 9 failed (0.25 %; limit 5 %)" in text
    assert "images 3,649 15 shards, 4 of them from earlier runs" in text
    assert "recognised 3,640 99.8 %" in text
    assert "failed 9 0.25 %, limit 5 %" in text
    assert "images/s 182.0 260.0 from first to last row" in text
    assert "CPU-bound: predict 88 %, decode 11 %, write 1 % What would help: a GPU, or more cores" in text
    assert "start 4.0 s rows 14.0 s end 2.0 s" in text
    assert "fetch 3.0 thread-s, 5.4 % busy" in text
    assert "latest run, which did 11 of 15 shards" in text
    assert "openvino bf16 on cpu, batch 32" in text
    assert "99 of 100 sampled images" in text
    assert "2 attempts failed, 1 worker lost" in text


def test_a_limit_that_was_measured_is_held_against_the_run(page):
    expectation = Expectation(
        limit_images_per_s=300.0, binds="cpu", images_per_s=270.0, outside_s=5.0, measured_at="2026-11-23 10:00"
    )
    text = page(expectation=expectation)
    assert "reached 0.87 of the 300.0 images/s this machine allows" in text
    assert "predicted / measured" in text


def test_errors_come_by_frequency_with_advice_and_an_example(page):
    text = page()
    assert text.index("7 not_found") < text.index("2 truncated")
    assert CODES[ErrorCode.NOT_FOUND].advice in text
    assert "e.g. s3://photos/gone.jpg" in text
    assert "e.g. a ( at 5 )" in text
    assert "(no URI)" in page(errors={"from_the_future": ErrorExample(1, "", "")})
    assert "Failed images None." in page(errors={})


def test_a_long_text_loses_its_middle(page):
    text = page(errors={"not_found": ErrorExample(7, "s3://photos/" + "x" * 5_000, "y" * 500)})
    assert "[...]" in text
    assert len(text) < 5_000


def test_labels_come_with_counts_shares_and_mean_scores(page):
    text = page()
    assert "2 labels given" in text
    assert "T-Shirt 2,640 72.5 % 0.750 Hat 1,000 27.5 % 0.500" in text


def test_of_many_labels_the_rare_ones_wait_folded_or_are_left_out(make_summary):
    many = [LabelCount(f"class_{number}", 2_000 - number, 0.5) for number in range(1_500)]
    found = render_page(make_summary(), many, NOTHING)
    before, _, folded = found.partition("<details>")
    assert ("class_19<" in before, "class_20<" in before, "class_20<" in folded) == (True, False, True)
    assert "980 more; 500 rarer ones are left out" in text_of(found)
    assert "class_999<" in found
    assert "class_1000<" not in found
    assert len(found) < 500_000


def test_a_sealed_job_asked_again_claims_no_speed(page):
    text = page(stats=ShardStats(), wall_s=1.0, steady_s=0.0, shards_done_before=15)
    assert "images/s" not in text
    assert "held it back" not in text
    assert "found the job complete and read no image" in text


def test_a_job_without_a_prediction_has_a_page(page):
    errors = {"not_found": ErrorExample(3_649, "a", "")}
    text = page(labels=[], num_ok=0, errors=errors, stats=ShardStats(num_errors=Counter(not_found=3_649)))
    assert "0 labels given" in text
    assert "None." in text


def test_retries_are_said_beside_the_counts(page):
    assert "with its retries: 3,645 of 3,649 rows ok" in page(notes=["with its retries: 3,645 of 3,649 rows ok"])


@pytest.mark.parametrize(("exit_code", "tone"), [(0, "good"), (4, "over"), (5, "bad")])
def test_the_colour_is_that_of_the_verdict(make_summary, exit_code, tone):
    assert f'<header class="{tone}">' in render_page(make_summary(exit_code=exit_code), LABELS, NOTHING)


def test_the_page_says_how_the_job_was_made(page):
    text = page(making=Making.of(SPEC, IDENTITY, {"batchrec": "0.1.0", "python": "3.12.4"}))
    for said in (
        "batchrec submit /a/m.parquet -o NEW",
        f"its plan should say job {'5e' * 6}.",
        "m.parquet, 12,345 bytes, sha256 of its footer abab",
        "architecture resnet50",
        f"weights sha256 {'cd' * 32}",
        "short side 256, centre 224x224, bilinear",
        "precision bf16",
        "batchrec 0.1.0, Python 3.12.4",
        f"job {'5e' * 32}",
        "batchrec verify out",
    ):
        assert said in text


@pytest.mark.parametrize("identity", [{}, {"manifest": 7, "model": []}, {"manifest": [[], [1, "x", None], "file"]}])
def test_what_an_output_does_not_say_is_left_out(page, identity):
    text = page(making=Making.of(None, identity, {}))
    assert "submit" not in text
    assert "sha256 of its footer" not in text


def test_a_manifest_no_command_can_name_gives_no_command():
    assert Making.of(SPEC.replace(manifest_root="/elsewhere"), IDENTITY, {}).command == ""


def test_many_files_of_a_manifest_are_counted():
    files = [[f"{number}.parquet", 1, "ab"] for number in range(12)]
    assert ("manifest", "and 2 files more") in Making.of(None, {"manifest": files}, {}).facts


def test_the_command_defines_the_same_job():
    spec = JobSpec(
        source=("/a b/m.parquet", "s3://b/it's.parquet"),
        output="NEW",
        model="file:/w.safetensors+resnet18",
        labels="/l.txt",
        uri_column="bucket,key",
        id_column="sku",
        passthrough=("--x", "$y"),
        allow_buckets=("one", "two"),
        allow_http=("host:80",),
        input_roots=("/r",),
        top_k=3,
        embeddings="float16",
        precision="fp32",
        decoding="scaled",
        limit=7,
        image_limits=ImageLimits(5, 6),
        store=StoreOptions(requester_pays=True),
    )
    for wanted in (spec, JobSpec(source=("/m.parquet",), output="NEW")):
        words = shlex.split(submit_command(wanted))
        assert words[:2] == ["batchrec", "submit"]
        flags = cli.commands["submit"].make_context("submit", words[2:]).params
        given = {name: flags.pop(name) for name in ("source", "job_file", "sets")}
        assert settings_from(given["source"], None, (), flags).to_spec() == wanted
