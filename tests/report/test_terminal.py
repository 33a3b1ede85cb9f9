"""The report a run ends with."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace

import pytest

from batchrec.errors import CODES, ErrorCode
from batchrec.report.summary import ErrorExample, state_verdict
from batchrec.report.terminal import print_report, render
from batchrec.stats import ShardStats


def flat(text: str) -> str:
    return " ".join(text.split())


def test_the_report_says_how_it_ended_how_fast_and_what_held_it_back(make_summary):
    text = flat(render(make_summary(workers_lost=1, attempts_failed=2, shards_done_before=4)))
    assert text.startswith("Complete: 3,640 of 3,649 images recognised, 9 failed (0.25 %; limit 5 %)")
    assert "15 shards, 4 of them from earlier runs" in text
    assert "182.0 images/s over 20.0 s; 260.0 from first to last row (14.0 s), which came after 4.0 s" in text
    assert "CPU-bound: predict 88 %, decode 11 %, write 1 %; what would help: a GPU, or more cores" in text
    assert "fetch 3.0 thread-s, 5 % busy" in text
    assert "openvino bf16 on cpu, batch 32" in text
    assert "2 attempts failed, 1 worker lost" in text


def test_where_the_device_decodes_too_its_share_is_told(make_summary):
    plain = make_summary()
    asked = tuple(replace(worker, device="cuda:0", device_decodes=True) for worker in plain.workers)
    on_device = make_summary(workers=asked, stats=replace(plain.stats, num_on_device=2_048))
    assert "decoded 2,048 of 3,649 images of this run" in render(on_device)
    assert "nvjpeg" not in render(plain)


def test_errors_come_by_frequency_with_advice_and_an_example(make_summary):
    text = flat(render(make_summary()))
    assert text.index("7 not_found") < text.index("2 truncated")
    assert CODES[ErrorCode.NOT_FOUND].advice in text
    assert "e.g. s3://photos/gone.jpg" in text
    assert "e.g. a (at 5)" in text


def test_every_error_code_has_its_advice_and_an_unknown_one_does_no_harm(make_summary):
    errors = {str(code): ErrorExample(1, "", "") for code in ErrorCode} | {"from_the_future": ErrorExample(1, "", "")}
    text = flat(render(make_summary(errors=errors), width=200))
    assert all(f"{code}: {facts.advice}" in text for code, facts in CODES.items())
    assert "from_the_future: a code this version does not know" in text
    assert "(no URI)" in text


def test_a_sealed_job_asked_again_claims_no_speed(make_summary):
    text = render(make_summary(stats=ShardStats(), wall_s=1.0, steady_s=0.0, shards_done_before=15))
    assert "images/s" not in text
    assert "busy" not in text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_text_keeps_to_the_width_and_commands_stay_whole(make_summary, width):
    errors = {"not_found": ErrorExample(7, "s3://photos/" + "x" * 5_000, "y" * 500)}
    body, _, commands = render(make_summary(errors=errors), width).partition("\nNext\n")
    assert all(len(line) <= width for line in body.splitlines())
    assert len(body) < 3_000
    assert len(commands.splitlines()) == 3


@pytest.mark.parametrize("output", ["out", "my out", "it's", 'a"b', "$HOME`id`", "s3://bucket/a b/"])
def test_next_commands_can_be_pasted(make_summary, output):
    commands = [line.strip() for line in render(make_summary(output=output)).partition("\nNext\n")[2].splitlines()]
    errors, verify, duckdb = (shlex.split(command) for command in commands)
    assert errors == ["batchrec", "errors", output]
    assert verify == ["batchrec", "verify", output]
    pattern = f"{output.rstrip('/')}/predictions/*/*.parquet".replace("'", "''")
    assert f"FROM '{pattern}' WHERE" in duckdb[2]


def test_the_query_printed_runs(make_summary, tmp_path):
    duckdb = pytest.importorskip("duckdb")
    import pyarrow as pa
    import pyarrow.parquet as pq

    part = tmp_path / "it's" / "predictions" / "job=5e" / "part-00000000.parquet"
    part.parent.mkdir(parents=True)
    pq.write_table(pa.table({"label": ["Hat", "Hat", None], "status": ["ok", "ok", "error"]}), part)
    last = render(make_summary(output=str(tmp_path / "it's"))).splitlines()[-1]
    assert duckdb.sql(shlex.split(last)[2]).fetchall() == [("Hat", 2)]


def test_an_interrupted_run_points_to_its_status(make_summary):
    verdict = state_verdict(5, num_rows=10, num_ok=4, num_failed=0, limit=0.05, reason="the store is full")
    text = render(make_summary(exit_code=5, verdict=verdict))
    assert "Interrupted: the store is full" in text
    assert "batchrec status out" in text
    assert "duckdb" not in text


def test_uris_are_neither_markup_nor_escapes_nor_secrets(make_summary):
    errors = {"not_found": ErrorExample(1, "https://u:canary@h/[bold]:smile:\x1b[2J\n", "[/red] \udcff")}
    text = render(make_summary(errors=errors))
    assert "https://***@h/[bold]:smile:\ufffd[2J\ufffd ([/red] \ufffd)" in flat(text)
    assert "\x1b" not in text


def test_colour_is_for_terminals_only(make_summary):
    assert "\x1b[1;32m" in render(make_summary(), color=True)
    assert "\x1b[1;33m" in render(make_summary(exit_code=4), color=True)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, plain = Terminal(), io.StringIO()
    print_report(make_summary(), terminal)
    print_report(make_summary(), plain)
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b[" not in plain.getvalue()


def test_a_stream_that_knows_few_letters_still_gets_the_report(make_summary):
    raw = io.BytesIO()
    narrow = io.TextIOWrapper(raw, encoding="ascii")
    print_report(make_summary(output="größe"), narrow)
    assert b"gr??e" in raw.getvalue()
