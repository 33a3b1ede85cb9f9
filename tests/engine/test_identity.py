"""A job's identity: what decides the rows, and nothing that does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.engine.identity import Identity, bind, bound_identity, identify, refuse_foreign_content
from batchrec.errors import OutputError
from batchrec.manifest.reading import open_manifest
from batchrec.models.bundle import ModelSpec
from batchrec.models.preprocessing import Preprocess
from batchrec.output.layout import OUTPUT_KEY
from batchrec.spec import ImageLimits, JobSpec, StoreOptions
from batchrec.storage import Store, open_store

MODEL = ModelSpec("a name", "resnet18", "/weights", "ab" * 32, 2, ("shirt", "hat"), Preprocess())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "archive" / "images.parquet"
    path.parent.mkdir()
    table = pa.table({"uri": ["a.jpg", "b.jpg"], "url": ["c.jpg", "d.jpg"], "sku": ["1", "2"], "price": [1.5, 2.5]})
    pq.write_table(table, path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"), StoreOptions())


def identity(source: Path, *, model: ModelSpec = MODEL, precision: str = "fp32", **settings: Any) -> Identity:
    spec = JobSpec(source=(str(source),), output="out", **settings)
    return identify(spec, open_manifest(spec), model, precision)


@pytest.mark.parametrize(
    "changes",
    [
        {"uri_column": "url"},
        {"id_column": "sku"},
        {"passthrough": ("price",)},
        {"passthrough": ("price", "sku")},
        {"limit": 1},
        {"input_roots": ("/archive",)},
        {"allow_buckets": ("photos",)},
        {"image_limits": ImageLimits(max_pixels=5)},
        {"image_limits": ImageLimits(max_bytes=5)},
        {"top_k": 1},
        {"precision": "bf16"},
        {"decoding": "scaled"},
        {"model": dataclasses.replace(MODEL, architecture="resnet34")},
        {"model": dataclasses.replace(MODEL, weights_sha256="cd" * 32)},
        {"model": dataclasses.replace(MODEL, labels=("hat", "shirt"))},
        {"model": dataclasses.replace(MODEL, preprocess=Preprocess(resize=300))},
        {"model": dataclasses.replace(MODEL, preprocess=Preprocess(std=(0.1, 0.1, 0.1)))},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_decides_the_rows_makes_another_job(manifest: Path, changes: dict[str, Any]) -> None:
    assert identity(manifest, **changes).job_id != identity(manifest).job_id


def test_the_order_of_carried_columns_decides_the_rows(manifest: Path) -> None:
    one, other = (identity(manifest, passthrough=names).job_id for names in (("sku", "price"), ("price", "sku")))
    assert one != other


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "inline"},
        {"device": "cuda"},
        {"backend": "torch-eager"},
        {"workers": 3},
        {"batch_size": 7},
        {"rows_per_shard": 5},
        {"max_failure_rate": 1.0},
        {"fail_fast": True},
        {"deadline_s": 5.0},
        {"takeover": True},
        {"store": StoreOptions(endpoint="http://127.0.0.1:9", requester_pays=True)},
        {"model": dataclasses.replace(MODEL, name="bundle/again", weights_path="/elsewhere")},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_how_a_job_is_run_does_not_make_another(manifest: Path, changes: dict[str, Any]) -> None:
    assert identity(manifest, **changes).job_id == identity(manifest).job_id


def test_the_order_of_roots_and_buckets_does_not_count(manifest: Path) -> None:
    for name in ("input_roots", "allow_buckets"):
        one, other = (identity(manifest, **{name: value}).job_id for value in (("a", "b"), ("b", "a")))
        assert one == other


def test_the_same_content_elsewhere_is_the_same_job(manifest: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / "deeper" / manifest.name
    moved.parent.mkdir(parents=True)
    shutil.copy(manifest, moved)
    moved.touch()
    assert identity(moved).job_id == identity(manifest).job_id


def test_other_content_is_another_job(manifest: Path) -> None:
    before = identity(manifest).job_id
    table = pq.read_table(manifest)
    pq.write_table(table.slice(0, 1), manifest)
    assert identity(manifest).job_id != before


def test_the_job_id_is_the_hash_of_canonical_json() -> None:
    one, other = (
        Identity({"b": 1, "a": {"d": [1.5, None], "c": "é"}}),
        Identity({"a": {"c": "é", "d": [1.5, None]}, "b": 1}),
    )
    assert one.job_id == other.job_id
    assert len(one.job_id) == 64
    assert Identity(json.loads(json.dumps(one.fields))).job_id == one.job_id


def test_a_folder_is_bound_once_and_again_by_the_same_job(store: Store, manifest: Path) -> None:
    assert bound_identity(store) is None
    bind(store, identity(manifest))
    before = store.read(OUTPUT_KEY)
    bind(store, identity(manifest, workers=5))
    assert store.read(OUTPUT_KEY) == before
    assert bound_identity(store) == identity(manifest)


def test_an_empty_folder_and_one_that_is_not_there_hold_nothing_foreign(store: Store, tmp_path: Path) -> None:
    refuse_foreign_content(store)
    (tmp_path / "out").mkdir()
    refuse_foreign_content(store)


def test_what_a_run_left_and_hidden_files_are_not_foreign(store: Store, tmp_path: Path) -> None:
    for key in (
        "_batchrec/probe/x",
        "predictions/job=0/part-00000000.parquet",
        "errors/job=0/e.parquet",
        "report.json",
    ):
        store.create(key, b"{}")
    (tmp_path / "out" / ".DS_Store").write_text("")
    (tmp_path / "out" / "lost+found").mkdir()
    refuse_foreign_content(store)


def test_parts_of_another_job_are_foreign_where_readers_would_take_them_for_this_ones(store: Store) -> None:
    store.create("predictions/job=0/part-00000000.parquet", b"")
    refuse_foreign_content(store, "predictions/job=0/")
    with pytest.raises(OutputError, match=r"found: predictions/job=0/part-00000000\.parquet"):
        refuse_foreign_content(store, "predictions/job=1/")


def test_a_link_that_goes_round_is_foreign_like_any_other_file(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "round").symlink_to("round")
    with pytest.raises(OutputError, match="found: round"):
        refuse_foreign_content(store)


@pytest.mark.parametrize("name", ["a.jpg", "_SUCCESS", "_batchrec", "deep/er/a.jpg"])
def test_a_folder_with_other_things_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(OutputError, match=f"found: {name.partition('/')[0]}"):
        refuse_foreign_content(store)


def test_a_refusal_lists_every_difference_field_by_field(store: Store, manifest: Path) -> None:
    bind(store, identity(manifest))
    other = dataclasses.replace(MODEL, weights_sha256="cd" * 32)
    with pytest.raises(OutputError) as refused:
        bind(store, identity(manifest, top_k=3, limit=7, passthrough=("sku",), model=other))
    text = str(refused.value)
    for line in (
        "top_k was 5, is now 3",
        "limit was null, is now 7",
        'columns.passthrough was [], is now ["sku"]',
        f'model.weights_sha256 was "{"ab" * 32}", is now "{"cd" * 32}"',
    ):
        assert line in text
    assert "precision" not in text
    assert "columns.uri" not in text
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ([["a", 2, "x"], ["b", 2, "y"]], "manifest: a was 1 bytes, is now 2)"),
        ([["a", 1, "z"], ["b", 2, "y"]], "manifest: a has other content of 1 bytes)"),
        ([["a", 1, "x"]], "manifest: b is gone)"),
        ([["a", 1, "x"], ["b", 2, "y"], ["c\n", 1, "x"]], "manifest: c\ufffd is new)"),
        ([["b", 2, "y"], ["a", 1, "x"]], "manifest: the same files in another order, or one of them twice)"),
        ([["a", 1, "x"], ["a", 1, "x"], ["b", 2, "y"]], "manifest: the same files in another order, or one of"),
        ([["c", 1, "x"]], "manifest: a is gone, b is gone, c is new)"),
    ],
    ids=["size", "content", "gone", "new", "order", "twice", "renamed"],
)
def test_a_changed_manifest_is_told_file_by_file(store: Store, now: list[list[object]], told: str) -> None:
    bind(store, Identity({"manifest": [["a", 1, "x"], ["b", 2, "y"]]}))
    with pytest.raises(OutputError) as refused:
        bind(store, Identity({"manifest": now}))
    assert told in str(refused.value)


def test_a_refusal_of_a_long_manifest_stays_short(store: Store) -> None:
    bind(store, Identity({"manifest": [[f"{i}.parquet", i, "ab" * 32] for i in range(5000)]}))
    with pytest.raises(OutputError) as refused:
        bind(store, Identity({"manifest": []}))
    assert "4.parquet is gone and 4995 more files differ" in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_record_of_another_shape_is_told_as_it_is(store: Store) -> None:
    bind(store, Identity({"manifest": {"rows": 7}}))
    with pytest.raises(OutputError, match="manifest was"):
        bind(store, Identity({"manifest": [["a", 1, "x"]]}))


def test_a_job_of_another_version_is_refused_with_what_differs(store: Store, manifest: Path) -> None:
    later = {**identity(manifest).fields, "embeddings": True}
    bind(store, Identity(later))
    with pytest.raises(OutputError, match="embeddings was true, is now null"):
        bind(store, identity(manifest))


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"7", b"{}", b"\xff\xfe", b'{"job_id": "x", "identity": "y"}', b"[" * 100_000, b"9" * 5000]
)
def test_a_damaged_binding_is_refused_and_no_crash(store: Store, record: bytes) -> None:
    store.create(OUTPUT_KEY, record)
    with pytest.raises(OutputError, match=r"OUTPUT\.json cannot be read"):
        bound_identity(store)
    with pytest.raises(OutputError, match=r"OUTPUT\.json cannot be read"):
        bind(store, Identity({"top_k": 5}))
    assert store.read(OUTPUT_KEY) == record


def test_a_manifest_file_whose_name_is_no_text_binds_a_folder(store: Store) -> None:
    odd = Identity({"manifest": [["\udcff.parquet", 1, "ab"]]})
    bind(store, odd)
    assert bound_identity(store) == odd
    bind(store, odd)
