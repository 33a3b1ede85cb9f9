"""Failed rows done again: child jobs, the merged view, and what other readers get of it."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.engine.retrying import prepare_retry
from batchrec.errors import OutputError
from batchrec.manifest.planning import Plan
from batchrec.output.children import children_of
from batchrec.output.layout import ORIGIN_KEY
from batchrec.output.merging import MergedPredictions
from batchrec.output.verifying import verify
from batchrec.storage import s3_client
from tests.s3_server import Fault, Request, S3Server
from tests.shop import SETTINGS, Shop

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shop(archive: Path, tmp_path: Path) -> Shop:
    return Shop(archive, tmp_path)


def failed(out: object) -> list[int]:
    return batchrec.open(str(out)).errors().column("row").to_pylist()


def sound(out: object) -> None:
    opened = batchrec.open(str(out))
    found = verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))
    assert (found.faults, found.complete) == ((), True)


def test_rows_with_credentials_in_their_uris_are_not_copied_unasked(shop: Shop, run_cli: Cli) -> None:
    signed = "absent.jpg?X-Amz-Signature=s3cret"
    pq.write_table(pa.table({"uri": [signed, *shop.uris[1:15]], "sku": ["S"] * 15}), shop.root / "m" / "0.parquet")
    shop.hide(20)
    shop.submit()
    code, out, err = run_cli("retry", shop.out, "--code", "not_found")
    assert (code, "s3cret" in out + err) == (3, False)
    assert "1 of 2 failed rows" in err
    assert "absent.jpg?X-Amz-Signature=***" in err
    assert list(shop.out.rglob("children/*")) == list(shop.root.glob("out.*")) == []
    assert run_cli("retry", shop.out, "--code", "not_found", "--keep-credentials")[0] == 0
    sound(f"{shop.out}.retry-0001")


def test_a_retry_does_only_the_failed_rows_and_the_merged_view_has_them(shop: Shop, run_cli: Cli) -> None:
    shop.hide(2, 14, 15, 30)
    shop.submit()
    before = {path: path.read_bytes() for path in shop.out.rglob("*") if path.is_file()}
    shop.show(2, 15, 30)
    code, out, err = run_cli("retry", shop.out, "--code", "not_found", "--json")
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["num_rows"], summary["num_ok"]) == (4, 3)
    child = Path(f"{shop.out}.retry-0001")
    assert summary["output"] == str(child)
    assert "39 of 40 rows ok" in err
    sound(child)
    sound(shop.out)
    assert all(path.read_bytes() == data for path, data in before.items())

    merged = batchrec.open(str(shop.out)).predictions()
    assert isinstance(merged, MergedPredictions)
    own = batchrec.open(str(shop.out)).predictions(merged=False)
    table = merged.to_table()
    assert table.schema.equals(own.schema.remove_metadata())
    assert table.column("row").to_pylist() == list(range(40))
    assert table.column("sku").to_pylist() == [f"S{row}" for row in range(40)]
    assert table.column("image_id").to_pylist() == [str(row) for row in range(40)]
    assert table.column("uri").to_pylist() == shop.uris
    assert failed(shop.out) == [14]
    assert merged.count_rows(pc.field("status") == "ok") == 39
    again = batchrec.open(str(child)).predictions().to_table().to_pylist()
    assert [(row["parent_row"], row["image_id"], row["sku"]) for row in again] == [
        (row, str(row), f"S{row}") for row in (2, 14, 15, 30)
    ]


def test_the_merged_view_equals_a_job_that_never_failed(shop: Shop, run_cli: Cli, tmp_path: Path) -> None:
    shop.submit()
    undisturbed = batchrec.open(str(shop.out)).predictions().to_table()
    shutil.rmtree(shop.out)
    shop.hide(0, 16, 39)
    shop.submit(embeddings="float16")
    shop.show(0, 16, 39)
    assert run_cli("retry", shop.out, "--code", "not_found")[0] == 0
    merged = batchrec.open(str(shop.out)).predictions().to_table()
    columns = [
        "image_id",
        "uri",
        "row",
        "status",
        "error_code",
        "error_detail",
        "label",
        "width",
        "height",
        "bytes",
        "sku",
    ]
    assert merged.select(columns).equals(undisturbed.select(columns))
    assert merged.column("score").to_pylist() == pytest.approx(undisturbed.column("score").to_pylist(), abs=1e-5)
    assert merged.column("embedding").null_count == 0


def test_nothing_to_retry_says_so(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3)
    shop.submit()
    code, out, err = run_cli("retry", shop.out)
    assert (code, err) == (0, "")
    assert out == "nothing to retry: 1 rows without a prediction, none with such a code\n"
    assert json.loads(run_cli("retry", shop.out, "--json")[1])["num_rows"] == 0
    assert children_of(batchrec.open(str(shop.out))) == []


def test_a_job_that_is_not_complete_is_not_retried(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3)
    shop.submit()
    (shop.out / "_SUCCESS").unlink()
    code, out, err = run_cli("retry", shop.out, "--code", "not_found")
    assert (code, out) == (3, "")
    assert "is not complete" in err
    assert "run its own command to the end, then retry" in err


def test_the_same_command_resumes_a_retry_that_was_stopped(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3, 20)
    shop.submit()
    shop.show(3, 20)
    code, _, err = run_cli("retry", shop.out, "--code", "not_found", "--set", "deadline_s=0.001")
    assert (code, "the deadline" in err) == (6, True)
    assert failed(shop.out) == [3, 20]
    assert "retry" in run_cli("status", shop.out)[1]
    code, _, err = run_cli("retry", shop.out, "--code", "not_found")
    assert code == 0, err
    assert "goes on: 2 rows" in err
    assert [child.record.number for child in children_of(batchrec.open(str(shop.out)))] == [1]
    assert failed(shop.out) == []


def test_a_retry_that_died_between_its_record_and_its_rows_is_taken_up(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3)
    shop.submit()
    run_cli("retry", shop.out, "--code", "not_found", "--set", "deadline_s=0.001")
    shutil.rmtree(f"{shop.out}.retry-0001")
    shop.show(3)
    assert run_cli("retry", shop.out, "--code", "not_found")[0] == 0
    assert failed(shop.out) == []
    assert not Path(f"{shop.out}.retry-0002").exists()


def test_rows_that_fail_again_have_their_newest_error_and_a_prediction_stays(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3, 20)
    shop.submit()
    (shop.root / "m" / shop.uris[3]).write_bytes(b"<html>")
    run_cli("retry", shop.out, "--code", "not_found")
    errors = batchrec.open(str(shop.out)).errors().to_pylist()
    assert [(row["row"], row["error_code"]) for row in errors] == [(3, "not_an_image"), (20, "not_found")]
    assert [(row["manifest_file"], row["file_row"]) for row in errors] == [("0.parquet", 3), ("1.parquet", 5)]
    own = batchrec.open(str(shop.out)).errors(merged=False).column("error_code").to_pylist()
    assert own == ["not_found", "not_found"]
    shop.show(20)
    assert run_cli("retry", shop.out, "--code", "not_found")[0] == 0
    assert failed(shop.out) == [3]
    numbers = [child.origin.num_rows for child in children_of(batchrec.open(str(shop.out))) if child.origin]
    assert numbers == [2, 1]


def test_a_retry_of_a_retry_is_seen_from_the_first_job(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3, 20, 33)
    shop.submit()
    shop.show(3)
    run_cli("retry", shop.out, "--code", "not_found")
    child = f"{shop.out}.retry-0001"
    shop.show(33)
    assert run_cli("retry", child, "--code", "not_found")[0] == 0
    assert failed(child) == [1]
    assert failed(shop.out) == [20]
    merged = batchrec.open(child).predictions().to_table()
    assert merged.column("parent_row").to_pylist() == [3, 20, 33]
    assert merged.column("image_id").to_pylist() == ["3", "20", "33"]
    assert batchrec.open(str(shop.out)).predictions().to_table().column("sku").to_pylist()[33] == "S33"


def test_settings_that_decide_rows_may_differ_and_those_that_decide_columns_may_not(shop: Shop, run_cli: Cli) -> None:
    shop.submit(max_pixels=10)
    assert len(failed(shop.out)) == 40
    code, _, err = run_cli("retry", shop.out, "--code", "too_many_pixels", "--set", "max_pixels=100000000")
    assert code == 0, err
    assert failed(shop.out) == []
    code, _, said = run_cli("retry", shop.out, "--set", "embeddings=float16", "--set", "limit=3")
    assert code == 2
    assert "embeddings: a retry has the columns of its parent" in said
    assert "limit: a retry has the rows of its parent" in said


def test_another_manifest_is_refused_and_a_moved_one_can_be_named(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3)
    shop.submit()
    shop.show(3)
    (shop.root / "m").rename(shop.root / "moved")
    code, _, err = run_cli("retry", shop.out, "--code", "not_found")
    assert (code, "no manifest at" in err) == (3, True)
    pq.write_table(pa.table({"uri": shop.uris, "sku": shop.uris}), shop.root / "other.parquet")
    code, _, err = run_cli("retry", shop.out, "--code", "not_found", "--set", f"source={shop.root}/other.parquet")
    assert (code, "not the one this job was made with" in err) == (3, True)
    assert run_cli("retry", shop.out, "--code", "not_found", "--set", f"source={shop.root}/moved")[0] == 0
    assert failed(shop.out) == []


def test_another_model_is_refused(shop: Shop, run_cli: Cli, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model

    torch.manual_seed(3)
    weights = get_model("shufflenet_v2_x0_5", num_classes=10).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "w.safetensors")
    shop.hide(3)
    shop.submit()
    model = f"model=file:{tmp_path}/w.safetensors+shufflenet_v2_x0_5"
    code, _, err = run_cli("retry", shop.out, "--code", "not_found", "--set", model)
    assert (code, "is not the model this job was made with" in err) == (3, True)
    assert not Path(f"{shop.out}.retry-0001").exists()


def test_an_output_made_before_folders_said_how_asks_for_manifest_and_model(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3)
    shop.submit()
    shop.show(3)
    record = next(shop.out.rglob("spec.json"))
    record.write_text(json.dumps(json.loads(record.read_text())["identity"]))
    code, _, err = run_cli("retry", shop.out, "--code", "not_found")
    assert (code, "--set source=MANIFEST --set model=MODEL" in err) == (3, True)
    where = ("--set", f"source={shop.root}/m", "--set", "model=apparel", "--set", "pool=inline")
    where += ("--set", "backend=torch-eager")
    assert run_cli("retry", shop.out, "--code", "not_found", *where)[0] == 0
    assert failed(shop.out) == []


def test_the_folder_of_a_retry_can_be_named_and_moved_with_its_parent(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3)
    shop.submit()
    shop.show(3)
    (shop.root / "taken").mkdir()
    (shop.root / "taken" / "mine.txt").write_text("mine")
    assert run_cli("retry", shop.out, "--code", "not_found", "-o", shop.root / "taken")[0] == 3
    assert children_of(batchrec.open(str(shop.out))) == []
    assert run_cli("retry", shop.out, "--code", "not_found", "-o", shop.root / "again")[0] == 0
    (shop.root / "elsewhere").mkdir()
    for name in ("out", "again"):
        shutil.move(shop.root / name, shop.root / "elsewhere" / name)
    assert failed(shop.root / "elsewhere" / "out") == []
    shutil.rmtree(shop.root / "elsewhere" / "again")
    assert failed(shop.root / "elsewhere" / "out") == [3]


def test_status_report_and_errors_say_that_there_are_retries(shop: Shop, run_cli: Cli) -> None:
    shop.hide(3, 4)
    shop.submit()
    shop.show(3)
    run_cli("retry", shop.out, "--code", "not_found")
    for verb in ("status", "report"):
        out = run_cli(verb, shop.out)[1]
        assert f"retry {shop.out}.retry-0001: 2 rows, complete\n" in out
        assert "with its retries: 39 of 40 rows ok\n" in out
        facts = json.loads(run_cli(verb, shop.out, "--json")[1])
        assert (facts["rows_ok_merged"], facts["retries"][0]["complete"]) == (39, True)
    code, out, err = run_cli("errors", shop.out)
    assert (code, len(out.splitlines()), "39 of 40" in err) == (0, 1, True)
    assert len(run_cli("errors", shop.out, "--own")[1].splitlines()) == 2


@pytest.fixture
def retried(shop: Shop, run_cli: Cli) -> Shop:
    shop.hide(2, 15, 30)
    shop.submit()
    shop.show(2, 15)
    run_cli("retry", shop.out, "--code", "not_found")
    return shop


def test_other_readers_read_the_merged_view_as_it_is(retried: Shop) -> None:
    rows = batchrec.open(str(retried.out)).predictions()
    assert duckdb.sql("SELECT count(*), count(label), max(row) FROM rows").fetchall() == [(40, 39, 39)]
    assert polars.DataFrame(rows).filter(polars.col("status") == "ok").height == 39
    assert rows.head(3, ["row", "status"]).to_pylist()[2] == {"row": 2, "status": "ok"}
    kept = rows.to_table(columns=["row"], filter=pc.field("status") == "error")
    assert kept.to_pylist() == [{"row": 30}]
    with pytest.raises(KeyError):
        rows.reader(["nothing"])


def test_export_writes_the_merged_rows_for_other_readers(retried: Shop, run_cli: Cli) -> None:
    target = retried.root / "exported"
    code, out, err = run_cli("export", retried.out, "--merged", "-o", target)
    assert (code, err) == (0, "")
    assert out.startswith(f"{target}: 40 rows, with its retries, 39 ok, 1 file, ")
    query = f"SELECT count(*), count(label), count(DISTINCT sku) FROM '{target}/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(40, 39, 40)]
    frame = polars.read_parquet(f"{target}/*.parquet")
    assert frame["row"].to_list() == list(range(40))
    assert pq.read_table(target, use_threads=False).equals(batchrec.open(str(retried.out)).predictions().to_table())
    assert json.loads((target / "_SUCCESS").read_text())["num_ok"] == 39
    footer = json.loads(pq.read_metadata(next(target.glob("*.parquet"))).metadata[b"batchrec"])
    assert (footer["job_id"], footer["merged"]) == (batchrec.open(str(retried.out)).job_id, True)


def test_export_of_a_jobs_own_rows_and_into_one_file(retried: Shop, run_cli: Cli) -> None:
    target = retried.root / "one.parquet"
    facts = json.loads(run_cli("export", retried.out, "-o", target, "--json")[1])
    assert (facts["num_ok"], facts["merged"], facts["output"]) == (37, False, str(target))
    assert pq.read_table(target, use_threads=False).column("row").to_pylist() == list(range(40))
    assert {path.name for path in retried.root.iterdir()} == {"m", "out", "out.retry-0001", "one.parquet"}
    code, _, err = run_cli("export", retried.out, "-o", target)
    assert (code, "is there already" in err) == (3, True)


def test_export_and_compact_take_empty_folders_and_complete_jobs_only(retried: Shop, run_cli: Cli) -> None:
    for verb in ("export", "compact"):
        code, _, err = run_cli(verb, retried.out, "-o", retried.root / "m")
        assert (code, "holds other things already" in err) == (3, True)
    (retried.out / "_SUCCESS").unlink()
    assert run_cli("export", retried.out, "-o", retried.root / "new")[0] == 3
    assert not (retried.root / "new").exists()


@pytest.mark.parametrize("merged", [(), ("--merged",)], ids=["own", "merged"])
def test_compact_keeps_rows_and_order_and_the_digest_of_the_job(
    retried: Shop, run_cli: Cli, merged: tuple[str, ...]
) -> None:
    target = retried.root / "compacted"
    facts = json.loads(run_cli("compact", retried.out, *merged, "-o", target, "--json")[1])
    assert (facts["num_rows"], facts["merged"]) == (40, bool(merged))
    of_the_job = json.loads(run_cli("verify", retried.out, "--json")[1])["rows_sha256"]
    assert (facts["rows_sha256"] == of_the_job) == (not merged)
    rows = batchrec.open(str(retried.out)).predictions(merged=bool(merged)).to_table().replace_schema_metadata(None)
    assert pq.read_table(target, use_threads=False).equals(rows)


def test_a_part_that_is_not_as_sealed_is_never_exported(retried: Shop, run_cli: Cli) -> None:
    part = next(retried.out.rglob("part-00000001.parquet"))
    rows = pq.read_table(part, partitioning=None, use_threads=False)
    swapped = rows.set_column(rows.schema.get_field_index("sku"), "sku", rows["sku"].take(list(range(len(rows)))[::-1]))
    pq.write_table(swapped.replace_schema_metadata(rows.schema.metadata), part)
    code, _, err = run_cli("compact", retried.out, "-o", retried.root / "new")
    assert (code, "part-00000001.parquet has other rows than were sealed" in err) == (3, True)
    assert not (retried.root / "new" / "_SUCCESS").exists()


def test_a_retry_that_is_not_the_one_prepared_does_not_count(retried: Shop) -> None:
    origin = Path(f"{retried.out}.retry-0001", ORIGIN_KEY)
    plain = json.loads(origin.read_text())
    origin.write_text(json.dumps({**plain, "parent_job_id": "0" * 64}))
    assert failed(retried.out) == [2, 15, 30]
    origin.write_text(json.dumps({**plain, "files": []}))
    with pytest.raises(OutputError, match="its job has another manifest"):
        batchrec.open(str(retried.out)).predictions()


def test_a_retry_and_an_export_in_buckets(s3_server: S3Server, archive: Path, run_cli: Cli) -> None:
    s3_client._client.cache_clear()
    drawn = pq.read_table(archive / "manifest.parquet")
    uris = drawn.filter(pc.field("broken").is_null()).column("uri").to_pylist()[:20]
    sink = io.BytesIO()
    # As an S3 Inventory names its images: no relative URI, no id.
    pq.write_table(pa.table({"bucket": ["photos"] * 20, "key": [f"archive/{uri}" for uri in uris]}), sink)
    s3_server.put("photos", "inventory/m.parquet", sink.getvalue())
    for uri in uris[1:]:
        s3_server.put("photos", f"archive/{uri}", (archive / uri).read_bytes())
    out = "s3://photos/out"
    batchrec.submit("s3://photos/inventory/m.parquet", output=out, **{**SETTINGS, "passthrough": "key"})
    assert failed(out) == [0]
    s3_server.put("photos", f"archive/{uris[0]}", (archive / uris[0]).read_bytes())
    code, _, err = run_cli("retry", out, "--code", "not_found")
    assert code == 0, err
    assert failed(out) == []
    sound(f"{out}.retry-0001")
    assert run_cli("compact", out, "--merged", "-o", "s3://photos/compacted")[0] == 0
    rows = pq.read_table(pa.BufferReader(s3_server.get("photos", "compacted/rows-00000.parquet")), use_threads=False)
    assert rows.column("status").to_pylist() == ["ok"] * 20
    assert rows.equals(batchrec.open(out).predictions().to_table())
    assert run_cli("export", out, "-o", "s3://photos/compacted")[0] == 3


def test_a_bucket_that_lies_about_every_put_ends_with_one_retry(
    s3_server: S3Server, archive: Path, run_cli: Cli
) -> None:
    s3_client._client.cache_clear()
    for path in archive.rglob("*"):
        if path.is_file():
            s3_server.put("photos", f"archive/{path.relative_to(archive)}", path.read_bytes())
    out = "s3://photos/out"
    batchrec.submit("s3://photos/archive/manifest.parquet", output=out, **{**SETTINGS, "passthrough": "broken"})
    gone = failed(out)
    met: set[str] = set()

    def first_put(request: Request) -> Fault | None:
        if request.method != "PUT" or request.key in met or "/probe/" in request.key:
            return None
        met.add(request.key)
        return Fault(status=500, applied=True)

    s3_server.fault = first_put
    code, _, err = run_cli("retry", out, *(word for row in ("not_found", "truncated") for word in ("--code", row)))
    assert code == 0, err
    assert any("/children/0001.json" in key for key in met)
    assert any(key.endswith("/RETRY.json") for key in met)
    assert [child.sealed for child in children_of(batchrec.open(out))] == [True]
    assert failed(out) == gone


def test_the_same_command_twice_at_once_makes_one_retry(shop: Shop) -> None:
    shop.hide(3, 20)
    shop.submit()
    together = threading.Barrier(3)

    def prepare(_: int) -> object:
        together.wait()
        return prepare_retry(batchrec.open(str(shop.out)), codes=["not_found"])

    with ThreadPoolExecutor(3) as threads:
        prepared = list(threads.map(prepare, range(3)))
    assert len({retry.spec for retry in prepared}) == 1
    assert [retry.resumed for retry in prepared].count(False) == 1
    assert [child.record.number for child in children_of(batchrec.open(str(shop.out)))] == [1]


@pytest.mark.parametrize("manner", ["decode_helpers=0", "stall_s=20m", "workers=1"])
def test_what_says_only_how_a_retry_runs_does_not_begin_another(shop: Shop, manner: str) -> None:
    shop.hide(3, 20)
    shop.submit()
    parent = batchrec.open(str(shop.out))
    first, again = (prepare_retry(parent, codes=["not_found"], sets=sets) for sets in ([], [manner]))
    assert first is not None
    assert again is not None
    assert (first.record, first.resumed, again.resumed) == (again.record, False, True)
