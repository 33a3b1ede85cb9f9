"""Page headers tell what decoding will cost, whoever wrote them."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.manifest import pages
from batchrec.manifest.pages import OversizedText, chunks_of, largest_value, rows_at_once
from batchrec.manifest.planning import plan_shards
from batchrec.manifest.reading import RowReader, open_manifest
from batchrec.spec import JobSpec, StoreOptions

URIS = [f"photos/{row % 700:06}/" + "x" * (row % 90) for row in range(5000)]
LONGEST = max(map(len, URIS))


def written(**options: object) -> io.BytesIO:
    table = pa.table({"id": pa.array(range(len(URIS)), pa.int64()), "uri": URIS, "a.b": [[uri] for uri in URIS]})
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"row_group_size": 2000, "data_page_size": 4096, **options})
    return sink


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "zstd", "lz4"])
@pytest.mark.parametrize("encoding", ["dictionary", "fallback", "PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_every_page_is_found_and_bounds_its_values(version: str, compression: str, encoding: str) -> None:
    options: dict[str, object] = {"use_dictionary": True}
    if encoding == "fallback":
        options["dictionary_pagesize_limit"] = 1000
    elif encoding != "dictionary":
        options = {"use_dictionary": False, "column_encoding": {"uri": encoding}}
    stream = written(compression=compression, data_page_version=version, **options)
    metadata = pq.read_metadata(stream)
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(1)
        found = list(pages._pages(stream, column))
        assert sum(page.num_values for page in found if page.kind != 2) == column.num_values
        bound = largest_value(stream, column)
        assert bound >= (LONGEST if encoding in ("dictionary", "DELTA_BYTE_ARRAY") else LONGEST / 3)
        if encoding in ("dictionary", "PLAIN"):
            assert bound <= LONGEST + 8


def test_chunks_larger_than_what_is_read_whole_are_walked_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written(use_dictionary=False, write_batch_size=100)
    column = pq.read_metadata(stream).row_group(0).column(1)
    whole = list(pages._pages(stream, column))
    monkeypatch.setattr(pages, "_WHOLE_BYTES", 0)
    assert list(pages._pages(stream, column)) == whole
    assert len(whole) > 2


def test_only_the_columns_that_are_read_are_looked_at() -> None:
    metadata = pq.read_metadata(written())
    assert chunks_of(metadata, ["uri"]) == (1,)
    assert chunks_of(metadata, ["id", "a.b"]) == (0, 2)
    assert chunks_of(metadata, ["a"]) == (2,) or metadata.schema.column(2).path == "a.b.list.element"


def test_long_values_are_decoded_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = written()
    group = pq.read_metadata(stream).row_group(0)
    assert rows_at_once(stream, group, (0, 1), 8192) == 8192
    monkeypatch.setattr(pages, "MAX_DECODED_BYTES", LONGEST * 50)
    assert 40 < rows_at_once(stream, group, (1,), 8192) <= 50
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 1000)
    with pytest.raises(OversizedText, match="a page of"):
        rows_at_once(stream, group, (1,), 8192)


@pytest.mark.parametrize("dictionary", [True, False])
def test_rows_are_the_same_however_few_are_decoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dictionary: bool
) -> None:
    kind = pa.dictionary(pa.int32(), pa.string()) if dictionary else pa.string()
    table = pa.table({"uri": pa.array(URIS, kind), "sku": pa.array(URIS, kind)})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=1500)
    monkeypatch.setattr(pages, "MAX_DECODED_BYTES", 1000)
    manifest = open_manifest(JobSpec(source=(str(tmp_path / "m.parquet"),), output="out", passthrough=("sku",)))
    with RowReader(manifest, StoreOptions()) as reader:
        read = [reader.read(shard) for shard in plan_shards([len(URIS)], 512, None)]
    assert [uri for rows in read for uri in rows.uris] == URIS
    assert [uri for rows in read for uri in rows.passthrough.column("sku").to_pylist()] == URIS


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 100, b"\x15" * 100, b"\x1c" * 100, bytes(range(256))])
def test_what_is_no_page_header_is_left_to_arrow(data: bytes) -> None:
    assert pages._page(data) is None
