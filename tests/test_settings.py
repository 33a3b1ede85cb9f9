"""Settings from five places, each with its origin, and every fault named at once."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchrec
from batchrec.errors import UsageError
from batchrec.jobfile import MAX_JOB_FILE_BYTES
from batchrec.settable import SETTINGS
from batchrec.settings import Settings, checked, default_output, resolve_settings, unknown_variables
from batchrec.spec import ImageLimits, JobSpec, StoreOptions

LAYERS = ("job file", "environment", "--set", "flag")


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    return tmp_path / "job.yaml"


def resolve(job_file: Path | None = None, text: str | bytes | None = None, **layers: Any) -> Settings:
    if job_file is not None and text is not None:
        job_file.write_bytes(text if isinstance(text, bytes) else text.encode())
    source, flags = layers.pop("source", ("m.parquet",)), layers.pop("flags", {})
    return resolve_settings(source, flags, job_file=str(job_file) if job_file else None, **layers)


def refusal(job_file: Path, text: str | bytes) -> str:
    with pytest.raises(UsageError) as refused:
        resolve(job_file, text)
    assert refused.value.exit_code == 2
    return str(refused.value)


@pytest.mark.parametrize("highest", range(5))
def test_the_highest_layer_wins_and_is_named(job_file: Path, highest: int) -> None:
    job_file.write_text("top_k: 11" if highest >= 1 else "{}")
    found = resolve(
        job_file,
        environ={"BATCHREC_TOP_K": "12"} if highest >= 2 else {},
        sets=["top_k=13"] if highest >= 3 else [],
        flags={"top_k": 14} if highest >= 4 else {},
    )
    assert found.values["top_k"] == (5, 11, 12, 13, 14)[highest]
    origin = ("default", f"job file {job_file}", "environment", "--set", "flag")[highest]
    assert found.origins["top_k"] == origin
    assert found.origins["model"] == "default"
    assert found.origins["source"] == "flag"


def test_defaults_are_those_of_the_job_itself() -> None:
    bare = JobSpec(source=("m.parquet",), output="m.parquet.batchrec")
    assert resolve().to_spec() == bare
    assert {setting.name for setting in SETTINGS} == resolve().values.keys() - {"source"}


def test_every_setting_has_a_flag_a_line_of_help_and_a_default_its_parser_takes() -> None:
    assert len({setting.flag for setting in SETTINGS}) == len(SETTINGS) == len({setting.name for setting in SETTINGS})
    for setting in SETTINGS:
        assert setting.help
        if setting.default not in (None, ()):
            assert setting.parse(str(setting.default)) == setting.default


def test_every_setting_reaches_the_job(job_file: Path) -> None:
    text = """
    source: [a.parquet, b.parquet]
    output: out
    model: file:w+resnet18
    labels: labels.txt
    uri_column: u
    id_column: i
    passthrough: [sku, price]
    input_roots: /archive
    allow_buckets: a,b
    top_k: 3
    precision: fp32
    limit: 10
    max_pixels: 100
    max_bytes: 200
    pool: inline
    device: cpu
    backend: openvino
    workers: 2
    batch_size: 16
    rows_per_shard: 64
    max_requests: 100
    max_failure_rate: 0.5
    deadline_s: 2h
    takeover: yes
    s3_endpoint: http://127.0.0.1:9000
    s3_region: eu-west-1
    s3_requester_pays: true
    """
    assert resolve(job_file, text, source=()).to_spec() == JobSpec(
        source=("a.parquet", "b.parquet"),
        output="out",
        model="file:w+resnet18",
        labels="labels.txt",
        uri_column="u",
        id_column="i",
        passthrough=("sku", "price"),
        input_roots=("/archive",),
        allow_buckets=("a", "b"),
        top_k=3,
        precision="fp32",
        limit=10,
        image_limits=ImageLimits(100, 200),
        pool="inline",
        device="cpu",
        backend="openvino",
        workers=2,
        batch_size=16,
        rows_per_shard=64,
        max_requests=100,
        max_failure_rate=0.5,
        deadline_s=7200.0,
        takeover=True,
        store=StoreOptions("http://127.0.0.1:9000", "eu-west-1", True),
    )


def test_the_command_lines_manifests_replace_the_job_files(job_file: Path) -> None:
    assert resolve(job_file, "source: a.parquet").values["source"] == ("m.parquet",)
    assert resolve(job_file, "source: a.parquet", source=()).values["source"] == ("a.parquet",)


def test_all_faults_of_a_job_file_are_listed_with_the_nearest_name(job_file: Path) -> None:
    text = refusal(job_file, "topk: 3\nlimit: many\nmax_failure_rate: [1]\nsourse: x\nzzzzz: 1\nworkers: 2")
    assert "topk: unknown setting, perhaps top_k" in text
    assert "sourse: unknown setting, perhaps source" in text
    assert "zzzzz: unknown setting" in text
    assert "limit: " in text
    assert "max_failure_rate: a number is wanted, found a list" in text
    assert "workers" not in text
    assert str(job_file) in text


def test_all_faults_of_the_job_itself_are_listed() -> None:
    flags = {"top_k": 0, "limit": -1, "precision": "int3", "max_failure_rate": float("nan"), "max_pixels": 0}
    with pytest.raises(UsageError) as refused:
        resolve(flags=flags).to_spec()
    for name in ("top_k is 0", "limit is -1", "precision is 'int3'", "max_failure_rate is nan", "max_pixels"):
        assert name in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", "three"),
        ("top_k", 5.5),
        ("top_k", True),
        ("limit", "1e3"),
        ("max_failure_rate", "half"),
        ("takeover", "maybe"),
        ("batch_size", "big"),
        ("model", ["a"]),
        ("model", ("a",)),
        ("model", {"a": 1}),
        ("passthrough", [["a"]]),
        ("passthrough", [{"a": 1}]),
        ("nonsense", 1),
    ],
)
def test_a_wrong_type_is_named_wherever_it_comes_from(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"{name}: "):
        checked({name: value})


@pytest.mark.parametrize("many", [["sku", "price"], ("sku", "price"), "sku,price", "sku,,price,"])
def test_several_values_may_be_a_list_a_tuple_or_joined_by_commas(many: object) -> None:
    assert checked({"passthrough": many}) == {"passthrough": ("sku", "price")}


def test_nothing_given_is_the_default(job_file: Path) -> None:
    found = resolve(job_file, "passthrough:\ntop_k:\nlimit: null\nbatch_size: auto\ninput_roots: []\n")
    names = ("passthrough", "top_k", "limit", "batch_size", "input_roots")
    assert [found.values[name] for name in names] == [(), 5, None, None, ()]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5 m", 90), ("30m", 1800), ("12h", 43200), ("2d", 172800), (" 5 ", 5), (90, 90)],
)
def test_a_deadline_has_a_unit_or_is_in_seconds(text: object, seconds: float) -> None:
    assert checked({"deadline_s": text}) == {"deadline_s": seconds}


@pytest.mark.parametrize("text", ["", "m", "-5", "5 weeks", "1h30m", "12H", "inf", "1e3", "5,5"])
def test_a_deadline_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time like 90, 30m or 12h"):
        checked({"deadline_s": text})


def test_set_takes_values_with_equal_signs_and_needs_one(job_file: Path) -> None:
    assert resolve(sets=["model=file:a=b", "top_k=1", "top_k=2"]).values["model"] == "file:a=b"
    with pytest.raises(UsageError, match="--set top_k has no value"):
        resolve(sets=["top_k"])
    with pytest.raises(UsageError, match="topk: unknown setting, perhaps top_k"):
        resolve(sets=["topk=1"])


def test_only_names_of_settings_are_read_from_the_environment() -> None:
    found = resolve(
        environ={"BATCHREC_CACHE": "x", "BATCHREC_WORKERS": "3", "WORKERS": "9", "BATCHREC_PASSTHROUGH": ""}
    )
    assert (found.values["workers"], found.values["passthrough"]) == (3, ())
    with pytest.raises(UsageError, match="the environment is not valid: workers: "):
        resolve(environ={"BATCHREC_WORKERS": "few"})


def test_variables_that_nothing_reads_are_named_with_the_nearest_that_is_read() -> None:
    environ = {
        "BATCHREC_TOPK": "3",
        "BATCHREC_CASHE": "x",
        "BATCHREC_top_k": "3",
        "BATCHREC_QQQQ": "",
        "BATCHREC_TOP_K": "3",
        "BATCHREC_CACHE": "x",
        "BATCHREC_TEST_DATA": "x",
        "BATCHREC_HEAD_SERVICE_HOST": "10.0.0.1",
        "BATCHREC_HEAD_SERVICE_PORT_DASHBOARD": "8265",
        "BATCHREC_HEAD_PORT": "tcp://10.0.0.1:8265",
        "BATCHREC_HEAD_PORT_8265_TCP_ADDR": "10.0.0.1",
        "TOPK": "3",
    }
    assert unknown_variables(environ) == [
        "BATCHREC_CASHE, perhaps BATCHREC_CACHE",
        "BATCHREC_QQQQ",
        "BATCHREC_TOPK, perhaps BATCHREC_TOP_K",
        "BATCHREC_top_k, perhaps BATCHREC_TOP_K",
    ]
    assert resolve(environ=environ).values["top_k"] == 3


def test_every_variable_the_code_reads_is_known() -> None:
    named = re.compile(r"BATCHREC_[A-Z0-9_]*[A-Z0-9]")
    package = Path(batchrec.__file__).parent
    read = {name for path in package.rglob("*.py") for name in named.findall(path.read_text())}
    assert {"BATCHREC_CACHE", "BATCHREC_S3_ENDPOINT"} <= read
    assert unknown_variables(dict.fromkeys(read, "")) == []


def test_the_command_warns_of_variables_that_nothing_reads_in_one_line(
    run_cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHREC_TOPK", "3")
    monkeypatch.setenv("BATCHREC_QQQQ", "3")
    code, out, err = run_cli("submit", "m.parquet", "--print-config", "--json")
    assert (code, json.loads(out)["top_k"]["origin"]) == (0, "default")
    assert err == (
        "batchrec: ignored, as no setting has that name: BATCHREC_QQQQ; BATCHREC_TOPK, perhaps BATCHREC_TOP_K\n"
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGE_BOMB = "a: &a {k: v}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(['*' + old] * 9)}]}}\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize("bomb", [BOMB + "passthrough: *j", MERGE_BOMB, "top_k: &k 5\nlimit: *k"])
def test_aliases_are_refused_before_they_grow(job_file: Path, bomb: str) -> None:
    began = time.monotonic()
    assert "aliases are not taken" in refusal(job_file, bomb)
    assert time.monotonic() - began < 2


def test_a_job_file_past_its_size_is_not_read(job_file: Path) -> None:
    assert "too large" in refusal(job_file, b"#" * (MAX_JOB_FILE_BYTES + 1))
    with pytest.raises(UsageError, match="too large"):
        resolve(Path("/dev/zero"))
    assert resolve(job_file, b"#" * MAX_JOB_FILE_BYTES).values["top_k"] == 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: [", "is not YAML"),
        ("top_k: 3\ntop_k: 4", "top_k: there twice"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
        ("top_k: !!python/name:os.system", "is not YAML"),
        ("[" * 5000, "nested too deep"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("? [a]\n: 1", "is not YAML"),
        ("!!map x", "is not YAML"),
        ("- a\n- b", "holds no settings"),
        ("just text", "holds no settings"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"a: \x00", "is not YAML"),
        ("a: 1\n---\nb: 2", "is not YAML"),
    ],
    ids=range(13),
)
def test_a_job_file_that_holds_no_settings_is_refused(job_file: Path, text: str | bytes, found: str) -> None:
    assert found in refusal(job_file, text)


@pytest.mark.parametrize("text", ["", "# nothing", "{}", "---"])
def test_an_empty_job_file_sets_nothing(job_file: Path, text: str) -> None:
    assert set(resolve(job_file, text).origins.values()) == {"default", "flag"}


def test_a_job_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            resolve(path)


@given(st.dictionaries(st.sampled_from([setting.name for setting in SETTINGS] + ["source", "x"]), st.text(max_size=6)))
def test_any_text_is_parsed_or_refused(plain: dict[str, str]) -> None:
    try:
        found = checked(plain)
    except UsageError as error:
        assert "is not valid" in str(error)
    else:
        assert found.keys() == plain.keys()


def test_the_output_lies_beside_a_local_manifest_and_is_asked_for_otherwise() -> None:
    assert default_output(("a/m.parquet",)) == "a/m.parquet.batchrec"
    assert default_output(("a/folder/",)) == "a/folder.batchrec"
    for source in (("a", "b"), ("s3://b/m",), ("a/*.parquet",)):
        with pytest.raises(UsageError, match="no output folder is named"):
            default_output(source)
