"""A manifest in a bucket."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import ManifestError
from batchrec.manifest.planning import plan_shards
from batchrec.manifest.reading import RowReader
from batchrec.spec import StoreOptions
from tests.s3_fixture import s3_server
from tests.s3_server import S3Server

__all__ = ["s3_server"]


@pytest.fixture
def options(s3_server: S3Server) -> StoreOptions:
    """How to reach the server."""
    return StoreOptions(endpoint=s3_server.url)


def parquet(uris, **options) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table({"uri": pa.array(uris, pa.string())}), target, **options)
    return target.getvalue()


def test_a_folder_in_a_bucket_is_planned_from_footers_and_read_by_shards(s3_server, options, opened):
    uris = [f"shelf/{i:060d}.jpg" for i in range(20_000)]
    s3_server.put("photos", "lists/ü 1.parquet", parquet(uris[:15_000], row_group_size=4_000, compression="none"))
    s3_server.put("photos", "lists/ü 2.parquet", parquet(uris[15_000:]))
    manifest = opened("s3://photos/lists", store=options)
    assert [file.name for file in manifest.files] == ["ü 1.parquet", "ü 2.parquet"]
    assert manifest.root == "s3://photos/lists"
    assert sum(access.num_bytes for access in s3_server.requests("GET")) < 400_000
    plan = plan_shards([file.num_rows for file in manifest.files], 1_024, None)
    with RowReader(manifest, options) as reader:
        assert [uri for shard in plan for uri in reader.read(shard).uris] == uris


def test_an_object_replaced_since_planning_is_refused(s3_server, options, opened):
    s3_server.put("photos", "m.parquet", parquet(["a"]))
    manifest = opened("s3://photos/m.parquet", store=options)
    assert manifest.root == "s3://photos"
    s3_server.put("photos", "m.parquet", parquet(["b"]))
    with (
        pytest.raises(ManifestError, match="changed since the job was planned"),
        RowReader(manifest, options) as reader,
    ):
        reader.read(plan_shards([1], 1, None)[0])


def test_a_bucket_without_a_manifest_is_refused(s3_server, options, opened):
    for source in ("s3://photos/m.parquet", "s3://photos/lists/*.parquet", "s3://photos"):
        with pytest.raises(ManifestError, match="no manifest at"):
            opened(source, store=options)
