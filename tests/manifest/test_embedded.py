"""Images inside the manifest: each comes once and whole, in bounded memory, and a row without one says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec.errors import ErrorCode, ImageError, ManifestError, StorageLost
from batchrec.manifest import embedded
from batchrec.manifest.definition import Manifest
from batchrec.manifest.embedded import BATCH_BYTES
from batchrec.manifest.planning import plan_shards
from batchrec.manifest.rows import RowReader, Rows
from batchrec.manifest.sampling import sampled_uris
from batchrec.records import Shard
from batchrec.spec import StoreOptions

Write, Opened = Callable[..., Path], Callable[..., Manifest]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image_of(row: int, num_bytes: int = 40) -> bytes:
    return row.to_bytes(4, "big") * (num_bytes // 4)


def structs(num_rows: int) -> pa.Array:
    return pa.array([{"bytes": image_of(row), "path": f"{row}.jpg"} for row in range(num_rows)], STRUCT)


def rows_of(manifest: Manifest, first_row: int, num_rows: int, **limits: int) -> Rows:
    return RowReader(manifest, StoreOptions(), **limits).read(Shard(0, 0, first_row, num_rows, first_row))


def granted(num_bytes: int, patience_s: float | None) -> bool:
    return True


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), per_group=st.integers(1, 50), dictionaries=st.booleans(), in_struct=st.booleans())
def test_every_shard_has_its_own_images(
    write: Write, opened: Opened, data: st.DataObject, per_group: int, dictionaries: bool, in_struct: bool
) -> None:
    images = structs(100) if in_struct else pa.array(image_of(row) for row in range(100))
    path = write({"image": images}, row_group_size=per_group, use_dictionary=dictionaries, data_page_size=64)
    first = data.draw(st.integers(0, 99))
    found = rows_of(opened(path), first, data.draw(st.integers(1, 100 - first)))
    assert found.images is not None
    for row in range(len(found.uris)):
        assert found.images.read(row, granted) == image_of(first + row)
        assert found.uris[row] == (f"{first + row}.jpg" if in_struct else f"m.parquet#{first + row}")


def test_many_threads_take_each_image_once(write: Write, opened: Opened) -> None:
    found = rows_of(opened(write({"image": structs(2000)}, row_group_size=70)), 300, 1500)
    assert found.images is not None
    with ThreadPoolExecutor(16) as threads:
        read = list(threads.map(lambda row: found.images.read(row, granted), range(1500)))
    assert read == [image_of(300 + row) for row in range(1500)]


def test_a_row_without_bytes_is_read_by_its_path_and_one_without_both_is_missing(write: Write, opened: Opened) -> None:
    images = [{"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None, {"bytes": b"", "path": "b.jpg"}]
    found = rows_of(opened(write({"image": pa.array(images, STRUCT)})), 0, 4)
    assert found.images is not None
    assert found.uris == ["a.jpg", "m.parquet#1", "m.parquet#2", "b.jpg"]
    assert found.images.read(0, granted) is None
    for row, code in ((1, ErrorCode.URI_MISSING), (2, ErrorCode.URI_MISSING), (3, ErrorCode.EMPTY)):
        with pytest.raises(ImageError) as error:
            found.images.read(row, granted)
        assert error.value.code is code


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.large_string()], ids=str)
def test_a_path_may_be_any_kind_of_text(write: Write, opened: Opened, kind: pa.DataType) -> None:
    texts = pa.array([b"a\xff.jpg", None, b"", b"a\xff.jpg"], pa.binary()).view(pa.string())
    paths = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    images = pa.StructArray.from_arrays([pa.array([None, None, None, image_of(3)]), paths], ["bytes", "path"])
    found = rows_of(opened(write({"image": images})), 0, 4)
    assert found.images is not None
    assert found.uris == ["a\ufffd.jpg", "m.parquet#1", "m.parquet#2", "a\ufffd.jpg"]
    assert found.images.read(0, granted) is None
    assert found.images.read(3, granted) == image_of(3)
    for row in (1, 2):
        with pytest.raises(ImageError, match="neither an image nor its path"):
            found.images.read(row, granted)


def test_every_thread_hears_of_the_fault_that_ended_the_reading(
    write: Write, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(uri: str, options: StoreOptions) -> NoReturn:
        raise StorageLost("the store does not answer")

    found = rows_of(opened(write({"image": structs(10)})), 0, 10)
    assert found.images is not None
    monkeypatch.setattr(embedded, "open_input", lose)
    for row in range(3):
        with pytest.raises(StorageLost, match="does not answer"):
            found.images.read(row, granted)


def test_room_is_asked_for_and_a_large_image_is_refused(write: Write, opened: Opened) -> None:
    path = write({"image": pa.array([image_of(1, 40), image_of(2, 400)])})
    found = rows_of(opened(path), 0, 2, max_image_bytes=100)
    asked: list[int] = []
    assert found.images is not None
    found.images.read(0, lambda num_bytes, patience_s: asked.append(num_bytes) or True)
    assert asked == [40]
    with pytest.raises(ImageError) as error:
        found.images.read(1, granted)
    assert error.value.code is ErrorCode.TOO_MANY_BYTES


def test_the_other_columns_are_read_without_the_images(write: Write, opened: Opened) -> None:
    columns = {"image": structs(10), "id": [f"i{row}" for row in range(10)], "sku": list(range(10))}
    found = rows_of(opened(write(columns), passthrough=("sku",)), 3, 4)
    assert found.ids.to_pylist() == ["i3", "i4", "i5", "i6"]
    assert found.passthrough.to_pydict() == {"sku": [3, 4, 5, 6]}


def test_memory_stays_bounded_whatever_the_shard_holds(write: Write, opened: Opened) -> None:
    images = pa.array([image_of(row, 2**16) for row in range(800)])  # 50 MiB
    manifest = opened(write({"image": images}, row_group_size=80))
    del images
    before, most = pa.total_allocated_bytes(), 0
    found = rows_of(manifest, 0, 800)
    assert found.images is not None
    for row in range(800):
        found.images.read(row, granted)
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 4 * BATCH_BYTES  # a row group unpacked, and a batch or two
    assert pa.total_allocated_bytes() - before < BATCH_BYTES


def test_a_manifest_that_changed_is_refused_when_its_images_are_read(write: Write, opened: Opened) -> None:
    found = rows_of(opened(write({"image": structs(10)})), 0, 10)
    write({"image": structs(11)})
    assert found.images is not None
    with pytest.raises(ManifestError, match="changed since the job was planned"):
        found.images.read(0, granted)


def test_files_must_agree_on_where_the_images_are(write: Write, opened: Opened) -> None:
    write({"image": structs(3)}, "many/a.parquet")
    write({"image": pa.array([b"x"])}, "many/b.parquet")
    with pytest.raises(ManifestError, match="different columns"):
        opened(write({"image": structs(3)}, "many/c.parquet").parent)


def test_no_sample_is_taken_of_images_inside_the_manifest(write: Write, opened: Opened) -> None:
    manifest = opened(write({"image": structs(10)}))
    with pytest.raises(ManifestError, match="no sample can be taken") as refused:
        sampled_uris(manifest, plan_shards([10], 4, None), StoreOptions(), 5)
    assert refused.value.found == "images in column 'image'"
