"""Which columns are used."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import ManifestError
from batchrec.manifest.columns import OUTPUT_NAMES, URI_NAMES, Columns, choose_columns

TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


def chosen(schema, uri_column=None, id_column=None, passthrough=()) -> Columns:
    return choose_columns(pa.schema(schema), uri_column=uri_column, id_column=id_column, passthrough=passthrough)


@given(st.lists(st.sampled_from(URI_NAMES), min_size=1, unique=True), st.sampled_from([str.upper, str.title, str]))
def test_the_uri_column_is_found_by_name_in_a_fixed_order_whatever_its_case(names, spelled):
    columns = chosen([(spelled(name), pa.string()) for name in names])
    assert columns.uri == (spelled(min(names, key=URI_NAMES.index)),)


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_uris_may_be_any_type_of_text(kind):
    assert chosen([("url", kind)]).uri == ("url",)


def test_the_exact_spelling_wins_over_another_case():
    assert chosen([("URI", pa.string()), ("uri", pa.string())]).uri == ("uri",)


def test_a_struct_of_images_is_passed_over_for_a_column_of_text():
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert chosen([("image", image), ("file_name", pa.string())]).uri == ("file_name",)
    assert chosen([("image", image)]).uri == ("image",)
    assert chosen([("image", image)]).images == ("image.bytes", "image.path")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_bytes_holds_images_where_it_is_named_so_or_asked_for(kind):
    assert chosen([("image", kind)]).images == ("image",)
    assert chosen([("content", kind)], "content").images == ("content",)
    assert chosen([("content", kind), ("url", pa.string())]).uri == ("url",)
    with pytest.raises(ManifestError, match="cannot hold image URIs"):
        chosen([("url", kind)], "url")


def test_a_struct_without_bytes_holds_no_images():
    with pytest.raises(ManifestError, match="cannot hold image URIs"):
        chosen([("image", pa.struct([("bytes", pa.string()), ("path", pa.string())]))])


@pytest.mark.parametrize("kind", [pa.int64(), pa.binary(), pa.list_(pa.string()), pa.dictionary(pa.int8(), pa.int64())])
def test_a_uri_column_of_another_type_is_refused(kind):
    for asked in (None, "uri"):
        with pytest.raises(ManifestError, match="cannot hold image URIs"):
            chosen([("uri", kind)], asked)


def test_no_uri_column_names_the_columns_found_and_the_flag():
    with pytest.raises(ManifestError) as refused:
        chosen([("photo", pa.string()), ("n", pa.int64())])
    assert "columns 'photo', 'n'" in refused.value.found
    assert "--uri-col (columns of strings: 'photo')" in refused.value.advice


def test_a_wide_manifest_is_not_listed_whole():
    with pytest.raises(ManifestError, match="and 170 more"):
        chosen([(f"c{i}", pa.int64()) for i in range(200)])


def test_bucket_and_key_together_are_an_s3_inventory():
    inventory = [("Bucket", pa.string()), ("Key", pa.string()), ("size", pa.int64())]
    assert chosen(inventory).uri == ("Bucket", "Key")
    assert chosen(inventory, "Bucket,Key").uri == ("Bucket", "Key")
    with pytest.raises(ManifestError, match="no column of image URIs"):
        chosen(inventory[1:])


def test_an_absent_column_is_answered_with_its_nearest_names():
    schema = [("uri", pa.string()), ("product_sku", pa.string()), ("Photo", pa.string())]
    with pytest.raises(ManifestError, match=r"'photo' \(--uri-col\).*Did you mean 'Photo'"):
        chosen(schema, "photo")
    with pytest.raises(ManifestError, match=r"--id-col.*'product_sku'"):
        chosen(schema, id_column="product_sk")
    with pytest.raises(ManifestError, match=r"--passthrough.*Name one of them"):
        chosen(schema, passthrough=("zzz",))


def test_an_id_column_is_taken_when_it_fits():
    uri = ("uri", pa.string())
    assert chosen([uri, ("id", pa.int64()), ("image_id", pa.string())]).id == "image_id"
    assert chosen([uri, ("id", pa.int64()), ("image_id", pa.float64())]).id == "id"
    assert chosen([uri, ("id", pa.float64())]).id is None
    assert chosen([uri, ("id", pa.int64()), ("sku", pa.string())], id_column="sku").id == "sku"
    with pytest.raises(ManifestError, match="cannot hold image ids"):
        chosen([uri, ("id", pa.float64())], id_column="id")


@pytest.mark.parametrize("name", sorted(OUTPUT_NAMES | {"Label"}))
def test_a_pass_through_column_may_not_be_named_like_an_output_column(name):
    with pytest.raises(ManifestError, match=f"{name!r} has the name of an output column"):
        chosen([("url", pa.string()), (name, pa.string())], "url", passthrough=(name,))


def test_columns_are_carried_decoded_in_the_order_asked_with_the_id_behind():
    nested = pa.list_(pa.struct([("x", pa.float32())]))
    schema = [("url", pa.string()), ("id", pa.int64()), ("a", TEXTS[3]), ("b", nested), ("c", pa.string_view())]
    columns = chosen(schema, passthrough=("b", "a", "c", "b"))
    assert columns.passthrough == ("b", "a", "c")
    assert columns.passthrough_schema == pa.schema([("b", nested), ("a", pa.string()), ("c", pa.string())])
    assert columns.schema == columns.passthrough_schema.append(pa.field("id", pa.string()))
    assert columns.read == ("url", "id", "b", "a", "c")


def test_the_uri_and_the_id_may_also_be_carried():
    columns = chosen([("url", pa.string()), ("sku", pa.int64())], id_column="sku", passthrough=("url", "sku"))
    assert columns.schema == pa.schema([("url", pa.string()), ("sku", pa.int64())])
    assert columns.read == ("url", "sku")


def test_a_column_that_is_there_twice_is_refused_only_when_used():
    schema = [("uri", pa.string()), ("x", pa.int64()), ("x", pa.int64())]
    assert chosen(schema).uri == ("uri",)
    with pytest.raises(ManifestError, match="'x' is there 2 times"):
        chosen(schema, passthrough=("x",))
    with pytest.raises(ManifestError, match="'uri' is there 2 times"):
        chosen([("uri", pa.string())] * 2)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.bool_(), pa.binary()], ids=str)
def test_a_column_named_like_one_of_ids_but_of_no_use_is_remembered(kind):
    columns = chosen([("uri", pa.string()), ("Image_ID", kind)])
    assert (columns.id, columns.unfit_id) == (None, ("Image_ID", str(kind)))


def test_nothing_is_said_of_it_where_another_column_gives_the_ids():
    schema = [("uri", pa.string()), ("image_id", pa.float64()), ("id", pa.int64()), ("sku", pa.string())]
    assert chosen(schema).unfit_id is None
    assert chosen(schema, id_column="sku").unfit_id is None
    assert chosen([("uri", pa.string()), ("sku", pa.float64())]).unfit_id is None
