"""The predictions table: one row out for each manifest row in.

Columns are documented for users in docs/formats.md; ``SCHEMA_VERSION`` is part of a job's identity.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from batchrec.records import EmbeddingSpec

SCHEMA_VERSION: Final = 1

#: Differs between attempts that are equal in every other respect, so it is not part of the digest.
NOT_IN_DIGEST: Final = frozenset({"attempt"})

OK: Final = "ok"
ERROR: Final = "error"

SCORED_LABEL: Final = pa.struct([pa.field("label", pa.string()), pa.field("score", pa.float32())])

FIELDS: Final = (
    pa.field("image_id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("row", pa.int64(), nullable=False),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_code", pa.string()),
    pa.field("error_detail", pa.string()),
    pa.field("label", pa.string()),
    pa.field("score", pa.float32()),
    pa.field("margin", pa.float32()),
    pa.field("entropy", pa.float32()),
    pa.field("top_k", pa.list_(SCORED_LABEL)),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("bytes", pa.int64()),
    pa.field("attempt", pa.int32(), nullable=False),
)

OUTPUT_COLUMNS: Final = tuple(field.name for field in FIELDS)

EMBEDDING: Final = "embedding"
_NUMBERS: Final = {"float16": pa.float16(), "float32": pa.float32()}


def predictions_schema(passthrough: pa.Schema, embedding: EmbeddingSpec | None = None) -> pa.Schema:
    """Return the schema of a part whose manifest carries ``passthrough`` along."""
    kept = [] if embedding is None else [pa.field(EMBEDDING, embedding_type(embedding))]
    return pa.schema([*FIELDS, *kept, *passthrough])


def embedding_type(embedding: EmbeddingSpec) -> pa.DataType:
    """Return the type of the column ``embedding``; see docs/decisions/0008-embeddings.md."""
    return pa.list_(pa.field("element", _NUMBERS[embedding.dtype]), embedding.dimension)


def errors_schema() -> pa.Schema:
    """Return the schema of ``errors.parquet``: the failed rows, each with a pointer into the manifest."""
    pointer = [pa.field("manifest_file", pa.string(), nullable=False), pa.field("file_row", pa.int64(), nullable=False)]
    wanted = ("image_id", "uri", "row", "error_code", "error_detail", "attempt")
    return pa.schema([*(field for field in FIELDS if field.name in wanted), *pointer])
