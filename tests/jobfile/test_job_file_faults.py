"""Every fault of a job file at once, each with its line and the nearest name."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import UsageError
from batchrec.jobfile import check_job_file, read_job_file

Refusal = Callable[[str], list[str]]

EVERY_KIND_OF_FAULT = """\
topk: 3
s3:
  endpoint: http://minio
passthrough:
  - sku
  - 5
  - name: price
top_k: "3"
top_k: 0
precision: bf61
takeover: perhaps
deadline_s: 2 weeks
max_failure_rate: 5
id_column: true
workers: [1]
batch_size: atuo
limit: 1.5
model:
"""


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refusal:
    """Read a job file that must be refused; returns each fault."""
    monkeypatch.chdir(tmp_path)

    def faults(text: str) -> list[str]:
        Path("job.yaml").write_text(text)
        with pytest.raises(UsageError) as refused:
            check_job_file(read_job_file("job.yaml"))
        return refused.value.cause.removeprefix("the job file is not valid: ").split("; ")

    return faults


def taken(tmp_path: Path, text: str) -> dict[str, object]:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return check_job_file(read_job_file(str(path)))


def test_every_fault_is_named_with_its_line(refusal: Refusal) -> None:
    assert refusal(EVERY_KIND_OF_FAULT) == [
        "job.yaml:1: topk: unknown setting, perhaps top_k",
        "job.yaml:2: s3: unknown setting",
        "job.yaml:3: s3.endpoint: unknown setting, perhaps s3_endpoint",
        "job.yaml:6: passthrough[1]: text is wanted, found 5: put it in quotes",
        "job.yaml:7: passthrough[2]: text is wanted, found names with values",
        "job.yaml:7: passthrough[2].name: unknown setting",
        "job.yaml:8: top_k: must be at least 1, found 0",
        "job.yaml:9: top_k: there twice, first in line 8",
        "job.yaml:10: precision: 'bf61' is not one of auto, fp32, bf16, fp16, int8, perhaps bf16",
        "job.yaml:11: takeover: 'perhaps' is not true or false",
        "job.yaml:12: deadline_s: '2 weeks' is not a time like 90, 30m or 12h",
        "job.yaml:13: max_failure_rate: must be at most 1, found 5",
        "job.yaml:14: id_column: text is wanted, found true: put it in quotes",
        "job.yaml:15: workers: a whole number is wanted, found a list",
        "job.yaml:16: batch_size: 'atuo' is not a whole number or auto",
        "job.yaml:17: limit: a whole number is wanted, found 1.5",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("jobs:\n- top_k: 1\n- [{topk: 2}]", "job.yaml:3: jobs[1][0].topk: unknown setting, perhaps top_k"),
        ("{top_k: 1, top_k: 2}", "job.yaml:1: top_k: there twice, first in line 1"),
        ("s3:\n  a: 1\n  a: 2", "job.yaml:3: s3.a: there twice, first in line 2"),
        ('limit: "3"', "job.yaml:1: limit: '3' is not a whole number: write it without quotes"),
        ("limit: 1_000", "job.yaml:1: limit: '1_000' is not a whole number"),
        ("deadline_s: 0", "job.yaml:1: deadline_s: must be more than 0, found 0"),
        ("limit: 1e400", "job.yaml:1: limit: a whole number is wanted, found inf"),
        ("limit: 9007199254740992", "job.yaml:1: limit: must be at most 9007199254740991, found 9007199254740992"),
        ("limit: !!int 0x" + "f" * 5000, "job.yaml:1: limit: must be at most 9007199254740991, found a huge number"),
        ('model: ""', "job.yaml:1: model: nothing is not text"),
        ("passthrough: [~]", "job.yaml:1: passthrough[0]: text is wanted, found nothing"),
        ("labels: !!set {a}", "job.yaml:1: labels: text is wanted, found {'a'}: put it in quotes"),
        ("<<: {top_k: 1}", "job.yaml:1: <<: unknown setting"),
        ("x" * 100 + ": 1", "job.yaml:1: " + "x" * 60 + "...: unknown setting"),
    ],
)
def test_a_fault_is_found_wherever_it_stands(text: str, fault: str, refusal: Refusal) -> None:
    assert fault in refusal(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("top_k: 1\na: [", 2),
        ("top_k: 1\n\nlimit: &n 5\nworkers: *n", 4),
        ("top_k: 1\nmodel: !!python/name:os.system", 2),
        ("top_k: 1\nlimit: " + "9" * 5000, 2),
        ("top_k: 1\nlimit: !!int ''", 2),
        ("top_k: 1\ntakeover: !!bool maybe", 2),
        ("top_k: 1\nmodel: !!timestamp x", 2),
        ("top_k: 1\n? [a]\n: 1", 2),
        ("top_k: 1\nmodel: é\nlabels: \x07", 3),
        ("top_k: 1\n---\nlimit: 1", 2),
    ],
)
def test_what_is_no_yaml_is_named_with_its_line(text: str, line: int, refusal: Refusal) -> None:
    assert refusal(text)[0].startswith(f"the job file is not YAML: job.yaml:{line}: ")


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes("labels: ééé\ntop_k: 1\nmodel: \xff\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"job\.yaml:1: "):
        read_job_file(str(tmp_path / "job.yaml"))
    (tmp_path / "job.yaml").write_bytes("labels: ééé\ntop_k: 1\n".encode() + b"model: \xff\n")
    with pytest.raises(UsageError, match=r"job\.yaml:3: "):
        read_job_file(str(tmp_path / "job.yaml"))


def test_words_mean_what_editors_take_them_for(tmp_path: Path) -> None:
    text = "passthrough: [no, on, 2024-01-01, 1:30]\ntop_k: 010\nlimit: 1e3\ntakeover: yes\nlabels: ~\nmodel: off"
    assert taken(tmp_path, text) == {
        "passthrough": ("no", "on", "2024-01-01", "1:30"),
        "top_k": 10,
        "limit": 1000,
        "takeover": True,
        "labels": None,
        "model": "off",
    }


def test_a_file_of_wrong_names_alone_is_refused_at_once_and_in_few_words(refusal: Refusal) -> None:
    began = time.monotonic()
    faults = refusal("\n".join(f"setting_{number}: 1" for number in range(10_000)))
    assert len(faults) == 51
    assert faults[-1] == "and more"
    assert time.monotonic() - began < 20


@given(st.binary(max_size=60) | st.text("ab:-[]{}!&*?|>'\"\n #0123.~", max_size=60).map(str.encode))
def test_any_bytes_are_taken_or_refused_with_a_reason(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        check_job_file(read_job_file(str(path)))
    except UsageError as error:
        assert str(path) in str(error)
