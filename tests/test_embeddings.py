"""Jobs with ``--embeddings``: the right numbers on the right rows, for every reader, and another job than without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.errors import ErrorCode, ModelError, OutputError
from batchrec.manifest.planning import Plan
from batchrec.models import ModelSpec, resolve_model
from batchrec.models.backends import Scores
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.rows import failed_rows, prediction_rows
from batchrec.output.schema import FIELDS
from batchrec.output.verifying import verify
from batchrec.pipeline.collecting import Collector
from batchrec.pipeline.decoding import Decoder
from batchrec.records import Attempt, EmbeddingSpec
from batchrec.spec import ImageLimits, StoreOptions
from batchrec.storage import Store, open_store
from tests.output.making import LABELS, LAYOUT, PLAN, begin, fails, manifest_rows, predictions

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent
JOB_FILE = ROOT / "jobs" / "embeddings.yaml"

#: Rows of one shard; the second of three holds failures only.
SHARD_ROWS = 8
MISSING = {2, 5, *range(SHARD_ROWS, 2 * SHARD_ROWS), 17}


@pytest.fixture(scope="session")
def random_resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A resnet18 of random weights, as a model string."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(11)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(resnet18(num_classes=6).state_dict(), path)
    return f"file:{path}+resnet18"


@pytest.fixture(scope="module")
def holed(archive: Path) -> Path:
    """A manifest of three shards: images, with missing ones between, and one shard of missing ones only."""
    drawn = pq.read_table(archive / "manifest.parquet")
    good = drawn.filter(pc.is_null(drawn.column("broken"))).column("uri").to_pylist()
    uris = [f"absent-{row}.jpg" if row in MISSING else good[row] for row in range(3 * SHARD_ROWS)]
    pq.write_table(pa.table({"uri": uris}), archive / "holed.parquet")
    return archive / "holed.parquet"


def submitted(manifest: Path, out: Path, **settings: Any) -> pa.Table:
    """Run a job, verify its output, and return its rows."""
    fixed: dict[str, Any] = {"output": str(out), "pool": "inline", "max_failure_rate": 1.0, "rows_per_shard": 8}
    batchrec.submit(manifest, **{**fixed, "backend": "torch-eager", **settings})
    assert faults(out) == ()
    return batchrec.open(str(out)).predictions().to_table().sort_by("row")


def faults(out: Path) -> tuple[str, ...]:
    opened = batchrec.open(str(out))
    return verify(
        opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key)))
    ).faults


def features(model: ModelSpec, images: list[Path]) -> np.ndarray:
    """What a hook before the last layer of torchvision's own network sees."""
    import torch
    from safetensors.torch import load_file
    from torchvision.models import get_model

    network, seen = get_model(model.architecture, num_classes=model.num_outputs).eval(), []
    network.load_state_dict({name: each.float() for name, each in load_file(model.weights_path).items()}, strict=False)
    network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoder = Decoder(model.preprocess, ImageLimits())
    pixels = np.stack([decoder.decode(image.read_bytes())[0] for image in images])
    mean, std = (torch.tensor(each).reshape(1, 3, 1, 1) for each in (model.preprocess.mean, model.preprocess.std))
    with torch.inference_mode():
        network((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    return seen[0].numpy()


@pytest.mark.parametrize("backend", ["openvino", "torch-eager"])
@pytest.mark.parametrize("name", ["apparel", "random resnet"])
def test_each_row_has_its_own_image_embedded(
    request: pytest.FixtureRequest, holed: Path, tmp_path: Path, name: str, backend: str
) -> None:
    model = name if name == "apparel" else request.getfixturevalue("random_resnet")
    settings = {"model": model, "precision": "fp32", "embeddings": "float32", "backend": backend, "batch_size": 5}
    rows = submitted(holed, tmp_path / "out", **settings)
    ok = [row for row in range(rows.num_rows) if row not in MISSING]
    assert [row for row, found in enumerate(rows.column("embedding").to_pylist()) if found is not None] == ok
    images = [holed.parent / rows.column("uri")[row].as_py() for row in ok]
    expected = features(resolve_model(model), images)
    found = rows.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(ok), -1)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(found[0] - found[1]).max() > 0.01 * np.abs(expected).max()


def test_every_part_has_the_same_schema_also_where_all_rows_failed(holed: Path, tmp_path: Path) -> None:
    submitted(holed, tmp_path / "out", embeddings="float16")
    schemas = [pq.read_schema(path) for path in sorted(tmp_path.rglob("part-*.parquet"))]
    assert len(schemas) == 3
    assert {str(schema.field("embedding").type) for schema in schemas} == {"fixed_size_list<element: halffloat>[1024]"}
    assert all(schema.equals(schemas[0], check_metadata=False) for schema in schemas)
    assert schemas[0].names == [*(field.name for field in FIELDS), "embedding"]


def test_a_shard_given_up_has_the_schema_of_the_others() -> None:
    shard, kept = PLAN[1], EmbeddingSpec("float16", 3)
    given_up = failed_rows(manifest_rows(shard), Attempt(shard, 0, ""), ErrorCode.SHARD_FAILED, "lost", kept)
    assert given_up.schema == embedded_rows(1, "float16").schema
    assert given_up.column("embedding").null_count == shard.num_rows


def embedded_rows(shard: int, dtype: str) -> pa.Table:
    """Rows of a shard made by hand, each embedded as three numbers of its position."""
    first, count = PLAN[shard].first_position, PLAN[shard].num_rows
    vectors = np.arange(first, first + count, dtype=dtype)[:, None] * np.array([1, -0.5, 0.25], dtype)
    found = replace(predictions(PLAN[shard]), embeddings=vectors)
    return prediction_rows(manifest_rows(PLAN[shard]), found, Attempt(PLAN[shard], 1, ""), LABELS)


def with_pyarrow(path: Path) -> list[Any]:
    return list(pq.read_table(path).column("embedding").to_pylist())


def with_duckdb(path: Path) -> list[Any]:
    return [row[0] for row in duckdb.sql(f"SELECT embedding FROM '{path}' ORDER BY row").fetchall()]


def with_polars(path: Path) -> list[Any]:
    return list(pl.read_parquet(path).get_column("embedding").to_list())


def with_pandas(path: Path) -> list[Any]:
    return [None if vector is None else vector.tolist() for vector in pd.read_parquet(path)["embedding"]]


@pytest.mark.parametrize("read", [with_pyarrow, with_duckdb, with_polars, with_pandas])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("all_failed", [False, True], ids=["some failed", "all failed"])
def test_every_reader_reads_the_embeddings_and_the_nulls(
    tmp_path: Path, read: Callable[[Path], list[Any]], dtype: str, all_failed: bool
) -> None:
    rows = embedded_rows(0, dtype)
    if all_failed:
        failed = Attempt(PLAN[0], 0, "")
        kept = EmbeddingSpec(dtype, 3)
        rows = failed_rows(manifest_rows(PLAN[0]), failed, ErrorCode.SHARD_FAILED, "lost", kept)
    path = tmp_path / "part.parquet"
    path.write_bytes(encode_part(rows, job_id=LAYOUT.job_id, shard=0, attempt_id="a", facts={}))
    vectors = [None if all_failed or fails(p) else [p, -p / 2, p / 4] for p in range(PLAN[0].num_rows)]
    assert read(path) == vectors
    assert None in vectors


def test_without_embeddings_nothing_is_different(holed: Path, tmp_path: Path) -> None:
    rows = submitted(holed, tmp_path / "out", embeddings="off")
    assert rows.schema.remove_metadata() == pa.schema(FIELDS)
    identity = batchrec.open(str(tmp_path / "out")).identity
    # Nothing may be added here: outputs of earlier versions have to be known again.
    names = {"manifest", "columns", "limit", "input_roots", "allow_buckets", "image_limits", "model", "top_k"}
    assert set(identity) == names | {"precision", "schema_version"}


@pytest.mark.parametrize(("before", "after"), [("off", "float16"), ("float16", "float32"), ("float32", "off")])
def test_another_setting_is_another_job_and_named(holed: Path, tmp_path: Path, before: str, after: str) -> None:
    said = {"off": "null", "float16": '"float16"', "float32": '"float32"'}
    submitted(holed, tmp_path / "out", embeddings=before)
    with pytest.raises(OutputError, match=f"embeddings was {said[before]}, is now {said[after]}") as refused:
        submitted(holed, tmp_path / "out", embeddings=after)
    assert refused.value.exit_code == 3


def test_a_model_without_embeddings_is_refused_before_any_work(holed: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models import squeezenet1_1

    save_file(squeezenet1_1(num_classes=3).state_dict(), tmp_path / "squeeze.safetensors")
    model = f"file:{tmp_path}/squeeze.safetensors+squeezenet1_1"
    with pytest.raises(ModelError, match="no linear layer in squeezenet1_1"):
        submitted(holed, tmp_path / "out", model=model, embeddings="float32")
    assert not (tmp_path / "out").exists()


def test_the_plan_says_what_is_kept(run_cli: Cli, holed: Path, tmp_path: Path) -> None:
    command = ["plan", holed, "-o", tmp_path / "out", "--embeddings", "float16"]
    assert "embeddings 1,024 numbers of each image, float16\n" in run_cli(*command)[1]
    assert json.loads(run_cli(*command, "--json")[1])["embeddings"] == {"dtype": "float16", "dimension": 1024}
    assert "embeddings" not in run_cli(*command[:-2])[1]
    code, _, said = run_cli(*command[:-1], "float64")
    assert (code, "'float64' is not one of off, float16, float32" in said) == (2, True)


def test_numbers_beyond_float16_stay_finite() -> None:
    collector = Collector(["a", "b"], 1, EmbeddingSpec("float16", 2))
    one = np.ones((2, 1), np.float32)
    vectors = np.array([[1e9, 1], [-1e9, 70_000]], np.float32)
    collector.predicted([1, 0], Scores(one, one.astype(np.int32), one[:, 0], vectors), 0, 0.1)
    assert collector.future.result(0).embeddings.tolist() == [[-65504, 65504], [65504, 1]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An output under way whose parts hold embeddings."""
    store = open_store(str(tmp_path / "tampered"), StoreOptions())
    begin(store)
    for shard in (0, 1):
        put(store, shard, embedded_rows(shard, "float32"))
    yield store


def put(store: Store, shard: int, rows: pa.Table) -> None:
    data = encode_part(rows, job_id=LAYOUT.job_id, shard=shard, attempt_id="a", facts={})
    publish_part(store, LAYOUT.part_key(shard), data, pause=lambda _: None)


def test_an_embedding_that_is_there_or_not_where_it_should_is_found(store: Store) -> None:
    assert verify(store, LAYOUT, PLAN).faults == ()
    rows = embedded_rows(2, "float32")
    index = rows.schema.get_field_index("embedding")
    put(store, 2, rows.set_column(index, "embedding", pa.nulls(rows.num_rows, rows.schema.field(index).type)))
    found = verify(store, LAYOUT, PLAN).faults
    assert found == (f"{LAYOUT.part_key(2)} has rows that are ok without an embedding, or failed with one",)


def test_parts_with_embeddings_of_two_types_are_found(store: Store) -> None:
    put(store, 2, embedded_rows(2, "float16"))
    assert [fault for fault in verify(store, LAYOUT, PLAN).faults if "several types" in fault]


def test_another_embedding_is_another_digest() -> None:
    found = replace(predictions(PLAN[0]), embeddings=np.ones((10, 3), np.float32), errors={})
    digests = []
    for value in (1, 1, np.nextafter(np.float32(1), np.float32(2))):
        found.embeddings[7, 2] = value
        rows = prediction_rows(manifest_rows(PLAN[0]), found, Attempt(PLAN[0], 1, ""), LABELS)
        part = encode_part(rows, job_id=LAYOUT.job_id, shard=0, attempt_id="a", facts={})
        metadata = pq.read_metadata(pa.BufferReader(part)).metadata
        digests.append(json.loads(metadata[b"batchrec"])["rows_sha256"])
    assert digests[0] == digests[1] != digests[2]


def test_the_documented_line_makes_a_matrix(holed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = submitted(holed, tmp_path / "OUT", embeddings="float16")
    text = (ROOT / "docs" / "formats.md").read_text()
    python, query = re.findall(r"```(?:python|sql)\n(.*?)```", text.partition("### Embeddings")[2], re.DOTALL)[:2]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(python, names)
    assert (names["vectors"].shape, names["vectors"].dtype) == ((24 - len(MISSING), 1024), np.float16)
    assert names["rows"]["row"].to_pylist() == [row for row in range(24) if row not in MISSING]
    np.testing.assert_array_equal(names["vectors"][0], rows.column("embedding")[0].as_py())
    nearest = duckdb.sql(query).fetchall()
    assert (len(nearest), nearest[0][0]) == (5, rows.column("uri")[0].as_py())


def test_the_job_file_runs(run_cli: Cli, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = pq.read_table(archive / "manifest.parquet").slice(0, 40)
    pq.write_table(drawn, archive / "photos.parquet")
    monkeypatch.chdir(tmp_path)
    command = ["submit", archive / "photos.parquet", "-j", JOB_FILE, "-o", "out", "--pool", "inline"]
    code, _, said = run_cli(*command, "--backend", "torch-eager")
    assert code in (0, 4), said
    rows = batchrec.open("out").predictions().to_table()
    failed = pc.equal(rows.column("status"), "error").to_pylist()
    assert [vector is None for vector in rows.column("embedding").to_pylist()] == failed
    assert str(rows.schema.field("embedding").type) == "fixed_size_list<element: halffloat>[1024]"
    assert run_cli("verify", "out")[0] == 0
    config = json.loads(run_cli("submit", "-j", JOB_FILE, "--print-config", "--json")[1])
    assert config["embeddings"] == {"value": "float16", "origin": f"job file {JOB_FILE}"}
    assert config["source"]["origin"] == f"job file {JOB_FILE}"
