"""Rows hold no secret, and no text of an error can cost a shard."""

from __future__ import annotations

import dataclasses

import pytest

from batchrec.errors import ErrorCode, ImageError
from batchrec.output.rows import prediction_rows
from batchrec.records import Attempt
from tests.output.making import LABELS, PLAN, manifest_rows, predictions, rows_of

SHARD = PLAN[2]
CANARY = "CANARYCANARYCANARY"


@pytest.mark.parametrize(
    "uri",
    [
        f"https://user:{CANARY}@host/a.jpg",
        f"https://host/a.jpg?X-Amz-Signature={CANARY}",
        f"a.jpg;token={CANARY}",
        f"https://host/a.jpg#sig={CANARY}",
        "s3://bucket/AKIACANARYCANARYCANA/a.jpg",
    ],
)
def test_no_secret_of_a_uri_or_an_error_reaches_the_rows(uri: str) -> None:
    rows = dataclasses.replace(manifest_rows(SHARD), uris=[uri] * SHARD.num_rows)
    found = dataclasses.replace(predictions(SHARD), errors={0: ImageError(ErrorCode.URI_REFUSED, f"not {uri}")})
    table = prediction_rows(rows, found, Attempt(SHARD, 1, ""), LABELS)
    assert "CANARYCANARY" not in str(table.to_pylist())
    assert table.column("error_detail")[0].as_py().startswith("not ")


def test_an_error_whose_text_is_no_text_is_one_row() -> None:
    found = dataclasses.replace(predictions(SHARD), errors={1: ImageError(ErrorCode.CORRUPT, "bad \udcff\x1b[2J byte")})
    table = prediction_rows(manifest_rows(SHARD), found, Attempt(SHARD, 1, ""), LABELS)
    assert table.column("error_detail").to_pylist()[1] == "bad \ufffd\ufffd[2J byte"
    assert table.column("status").to_pylist() == ["ok", "error", "ok", "ok", "ok"]


def test_a_shard_of_failures_only_is_whole() -> None:
    errors = {row: ImageError(ErrorCode.EMPTY) for row in range(SHARD.num_rows)}
    table = prediction_rows(
        manifest_rows(SHARD), dataclasses.replace(predictions(SHARD), errors=errors), Attempt(SHARD, 1, ""), LABELS
    )
    table.validate(full=True)
    for name in ("label", "score", "margin", "entropy", "top_k"):
        assert table.column(name).null_count == SHARD.num_rows
    assert table.schema == rows_of(SHARD).schema
