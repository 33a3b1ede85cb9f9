"""The published schema of job files: kept in docs, and equal to what the reader takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrec.errors import UsageError
from batchrec.jobfile import job_schema, read_job_file
from batchrec.settable import BY_NAME, Setting
from batchrec.settings import resolve_settings

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
KEPT = ROOT / "docs" / "schemas" / "job.schema.json"
JOB_FILES = sorted((ROOT / "jobs").glob("*.yaml"))
MODELINE = "# yaml-language-server: $schema=../docs/schemas/job.schema.json\n"

VALIDATOR = jsonschema.Draft202012Validator(job_schema())

TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("é\n日"), max_size=5)
TIMES = st.from_regex(r"\A ?[0-9]{1,3}(\.[0-9]{1,2})? ?[smhdw]?\n?\Z")
CHOICES = st.sampled_from(sorted({choice for setting in BY_NAME.values() for choice in setting.choices}))
WORDS = st.sampled_from(["auto", "true", "yes", "no", "0", "5", "a,b", ","])
NUMBERS = st.integers(-3, 3) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.floats(0, 1)
ONES = st.none() | st.booleans() | NUMBERS | TEXTS | TIMES | CHOICES | WORDS
VALUES = ONES | st.lists(ONES | st.lists(TEXTS, max_size=1), max_size=3) | st.dictionaries(TEXTS, ONES, max_size=2)
NAMES = st.sampled_from(sorted(BY_NAME)) | st.sampled_from(sorted(BY_NAME)) | TEXTS
PLAIN = st.dictionaries(NAMES, VALUES, max_size=3) | st.none()


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], bool]:
    """Whether a job can be made of a job file that says this; JSON is YAML."""
    path = tmp_path_factory.mktemp("job") / "job.yaml"

    def taken(plain: Any) -> bool:
        path.write_text(json.dumps(plain, ensure_ascii=False))
        assert read_job_file(str(path)).values == (plain or {})
        try:
            resolve_settings(["m.parquet"], {"output": "out"}, job_file=str(path)).to_spec()
        except UsageError:
            return False
        return True

    return taken


def test_the_schema_is_one_and_says_so() -> None:
    jsonschema.Draft202012Validator.check_schema(job_schema())
    assert job_schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


def test_the_kept_schema_is_the_printed_one(run_cli: Cli) -> None:
    code, out, err = run_cli("schema", "job")
    assert (code, err) == (0, "")
    assert out == KEPT.read_text(), f"batchrec schema job > {KEPT.relative_to(ROOT)}"
    assert run_cli("schema", "job", "--json") == (0, out, "")


def test_an_unknown_schema_is_refused(run_cli: Cli) -> None:
    code, out, err = run_cli("schema", "jobs")
    assert (code, out) == (2, "")
    assert "'job'" in err


@pytest.mark.parametrize("setting", BY_NAME.values(), ids=list(BY_NAME))
def test_the_schema_tells_help_default_and_choices_of_every_setting(setting: Setting) -> None:
    told = job_schema()["properties"][setting.name]
    assert told["description"] == setting.help
    assert told.get("default") == (list(setting.default) if setting.many else setting.default)
    assert told.get("enum", [None])[:-1] == list(setting.choices)
    assert VALIDATOR.is_valid({setting.name: told.get("default")})


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.name)
def test_the_schema_takes_every_job_file_and_each_names_it(path: Path) -> None:
    text = path.read_text()
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text))) == []
    assert text.startswith(MODELINE)
    assert (path.parent / "../docs/schemas/job.schema.json").resolve() == KEPT
    assert read_job_file(str(path)).values.keys() <= BY_NAME.keys()


@settings(max_examples=300)
@given(PLAIN)
@example({"limit": 5.0})
@example({"limit": 2**53})
@example({"limit": 10**400})
@example({"deadline_s": 1e-7})
@example({"deadline_s": "0.0m"})
@example({"deadline_s": "5m\n"})
@example({"batch_size": "7"})
@example({"passthrough": ["a", ""]})
@example({"passthrough": ","})
@example({"takeover": 1})
def test_the_reader_takes_what_the_schema_takes_and_nothing_else(takes: Callable[[Any], bool], plain: Any) -> None:
    assert takes(plain) == VALIDATOR.is_valid(plain)


@pytest.mark.parametrize("setting", BY_NAME.values(), ids=list(BY_NAME))
@settings(max_examples=25)
@given(value=VALUES)
def test_the_reader_and_the_schema_agree_on_each_setting(
    setting: Setting, takes: Callable[[Any], bool], value: Any
) -> None:
    assert takes({setting.name: value}) == VALIDATOR.is_valid({setting.name: value})
