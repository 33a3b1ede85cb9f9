"""What may travel with a submission, and how its command is written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from batchrec.cluster.shipping import checked_variables, command_line, runtime_env
from batchrec.cluster.submission import Submission
from batchrec.errors import UsageError
from batchrec.spec import JobSpec, StoreOptions


@pytest.mark.parametrize(
    "pair",
    [
        "AWS_SECRET_ACCESS_KEY=canary",
        "AWS_ACCESS_KEY_ID=canary",
        "AWS_SESSION_TOKEN=canary",
        "HF_TOKEN=canary",
        "DB_PASSWORD=canary",
        "apikey=canary",
        "MY_CREDENTIALS=canary",
        "RAY_AUTH_TOKEN=canary",
        "PLAIN=AKIACANARYCANARY1234",
        "PLAIN=" + "c4nary/+" * 5,
        "PLAIN=https://user:canary@host/",
        "PLAIN=-----BEGIN PRIVATE canary",
        "PLAIN=Authorization: Bearer canary",
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(pair: str) -> None:
    with pytest.raises(UsageError, match="looks like a secret") as refused:
        checked_variables([pair])
    assert "service account" in refused.value.advice
    assert pair.partition("=")[2] not in str(refused.value)


def test_harmless_variables_are_taken() -> None:
    pairs = ["TOKENIZERS_PARALLELISM=false", "OMP_NUM_THREADS=2", "EMPTY=", "A=b=c", "MONKEY=1", "PATH=/opt/bin:/bin"]
    found = checked_variables(pairs)
    assert found["A"] == "b=c"
    assert found["EMPTY"] == ""
    assert len(found) == len(pairs)


@pytest.mark.parametrize("pair", ["NAME", "=value", "1A=x", "A B=x"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        checked_variables([pair])


def test_nothing_travels_unless_asked_for() -> None:
    assert runtime_env({}, ship_code=False) == {}
    assert runtime_env({"A": "b"}, ship_code=False) == {"env_vars": {"A": "b"}}


def test_shipped_code_is_the_package_and_what_says_its_version() -> None:
    package, facts = map(Path, runtime_env({}, ship_code=True)["py_modules"])
    assert (package / "cli" / "main.py").is_file()
    assert (facts / "METADATA").is_file()


def test_odd_names_stay_one_word_of_the_command() -> None:
    spec = JobSpec(source=("m.parquet",), output="/data/my out; rm -rf '$HOME'")
    submission = Submission(
        spec=spec,
        model=None,
        address="http://h",
        submission_id="batchrec-0123456789ab-1",
        attempt=1,
        version="0",
        submitted_at=0.0,
    )
    line = command_line(submission, StoreOptions(endpoint="http://s3:9000", region="eu"))
    record = f"{spec.output}/_batchrec/submissions/batchrec-0123456789ab-1.json"
    expected = ["python", "-m", "batchrec", "run", record, "--s3-endpoint", "http://s3:9000", "--s3-region", "eu"]
    assert shlex.split(line) == expected
