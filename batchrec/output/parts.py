"""Parts: one Parquet object for one shard, published once.

The part is the commit. Its footer says whose it is, so that any answer of the store short of a plain
OK is settled by reading the object back.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.errors import OutputError, StorageLost
from batchrec.output.digest import table_sha256
from batchrec.output.schema import EMBEDDING, NOT_IN_DIGEST, OK
from batchrec.storage import KeyMissing, Store, create_or_find
from batchrec.storage.json_objects import parse_object

#: Entry of ours in the metadata of a Parquet file.
FOOTER_KEY = b"batchrec"
#: Writing takes several times the memory of a row group: 2,048 embeddings of 2,048 float32 numbers are 16 MiB.
_EMBEDDED_ROWS_PER_GROUP = 2048


@dataclass(frozen=True, slots=True)
class PartFooter:
    """What a part says of itself, kept as JSON in the Parquet footer.

    Attributes:
        job_id: Whose part it is.
        shard: Which shard it holds.
        attempt_id: Which attempt wrote it.
        num_rows: Rows, equal to the plan's.
        num_ok: Rows with a prediction.
        num_errors: Rows without, by code.
        rows_sha256: Digest of the rows, see :func:`batchrec.output.digest.table_sha256`.
        facts: Model, preprocessing and versions, for people.
    """

    job_id: str
    shard: int
    attempt_id: str
    num_rows: int
    num_ok: int
    num_errors: Mapping[str, int]
    rows_sha256: str
    facts: Mapping[str, object] = field(default_factory=dict)


class UnreadablePart(Exception):
    """An object under a part's name is not a part."""


def encode_part(rows: pa.Table, *, job_id: str, shard: int, attempt_id: str, facts: Mapping[str, object]) -> bytes:
    """Return a shard's rows as the bytes of its part.

    Args:
        rows: Predictions in manifest order, see :mod:`batchrec.output.schema`.
        job_id: Job the part belongs to.
        shard: Index of the shard.
        attempt_id: Attempt that made the rows.
        facts: Model, preprocessing and versions, for people.
    """
    codes = Counter(rows.column("error_code").drop_null().to_pylist())
    num_ok = rows.column("status").to_pylist().count(OK)
    digest = table_sha256(rows, leave_out=NOT_IN_DIGEST)
    footer = PartFooter(job_id, shard, attempt_id, rows.num_rows, num_ok, dict(sorted(codes.items())), digest, facts)
    metadata = {**(rows.schema.metadata or {}), FOOTER_KEY: json.dumps(asdict(footer), sort_keys=True).encode()}
    buffer = io.BytesIO()
    pq.write_table(
        rows.replace_schema_metadata(metadata),
        buffer,
        row_group_size=rows_per_group(rows.schema),
        **parquet_options(rows.schema),
    )
    return buffer.getvalue()


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Return how predictions of a schema are written, as arguments of pyarrow's writers."""
    options = {"compression": "zstd", "use_dictionary": _repeating(schema)}
    if EMBEDDING not in schema.names:
        return options
    # Nobody looks for the smallest number of all embeddings, and finding it takes half the time of writing them.
    return {**options, "write_statistics": [name for name in schema.names if name != EMBEDDING]}


def rows_per_group(schema: pa.Schema) -> int | None:
    """Return the most rows of a row group; pyarrow's own choice when None."""
    return _EMBEDDED_ROWS_PER_GROUP if EMBEDDING in schema.names else None


def _repeating(schema: pa.Schema) -> list[str]:
    # A dictionary of floats, ids or URIs is larger than the values; labels and codes repeat.
    always = {"status", "error_code", "label", "top_k.list.element.label"}
    own = {"image_id", "uri", "error_detail"}
    carried = {f.name for f in schema if pa.types.is_string(f.type) and f.name not in own}
    return sorted(always | carried)


def decode_footer(metadata: pq.FileMetaData) -> PartFooter:
    """Return the footer of a Parquet file of ours.

    Raises:
        UnreadablePart: It carries no footer of ours.
    """
    try:
        return _footer_from_json(parse_object((metadata.metadata or {})[FOOTER_KEY]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadablePart("it is Parquet, but not written by batchrec") from error


def _footer_from_json(plain: Mapping[str, Any]) -> PartFooter:
    # Fields this version does not know are left out, so that it can go on where a later one stopped.
    return PartFooter(
        job_id=str(plain["job_id"]),
        shard=int(plain["shard"]),
        attempt_id=str(plain["attempt_id"]),
        num_rows=int(plain["num_rows"]),
        num_ok=int(plain["num_ok"]),
        num_errors={code: int(count) for code, count in plain["num_errors"].items()},
        rows_sha256=str(plain["rows_sha256"]),
        facts=plain.get("facts") or {},
    )


def read_footer(store: Store, key: str) -> PartFooter:
    """Read the footer of a published part.

    Raises:
        KeyMissing: Nothing is stored there.
        UnreadablePart: What is stored there is not a part.
        StorageLost: It could not be read, which says nothing of what it is.
    """
    return read_footer_and_size(store, key)[0]


def read_footer_and_size(store: Store, key: str) -> tuple[PartFooter, int]:
    """Read the footer of a published part, and the bytes of that same object; raises as :func:`read_footer`."""
    with store.open(key) as stream:
        try:
            size = stream.seek(0, io.SEEK_END)
            return decode_footer(pq.ParquetFile(pa.PythonFile(stream, mode="r")).metadata), size
        except (pa.ArrowException, OSError) as error:
            # Arrow says OSError of a damaged footer too; only the system's own errors carry a number.
            if isinstance(error, OSError) and error.errno is not None:
                raise StorageLost(f"{store.url}/{key} cannot be read", found=str(error), advice="run again") from error
            raise UnreadablePart(f"it is not Parquet: {str(error).splitlines()[0]}") from error


def find_part(store: Store, key: str, *, job_id: str, shard: int) -> PartFooter | None:
    """Return the footer of a shard's part; None where nothing stands, or what only the put can settle.

    Raises:
        StorageLost: It could not be read, which says nothing of what it is.
    """
    try:
        found = read_footer(store, key)
    except (KeyMissing, UnreadablePart):
        return None
    return found if (found.job_id, found.shard) == (job_id, shard) else None


def publish_part(store: Store, key: str, data: bytes, *, pause: Callable[[float], None] = time.sleep) -> PartFooter:
    """Put a part in place unless one stands there, and return the footer of the one that stands.

    Raises:
        OutputError: What stands there belongs to another job or is not a part.
        StorageLost: The store would not say, within a bound; the shard may be tried again safely.
    """
    mine = decode_footer(pq.read_metadata(io.BytesIO(data)))

    def find() -> PartFooter | UnreadablePart:
        try:
            return read_footer(store, key)
        except UnreadablePart as error:
            return error

    standing = create_or_find(store, key, data, find, clear=lambda found: isinstance(found, PartFooter), pause=pause)
    return mine if standing is None else _settle(standing, mine, store, key)


def _settle(standing: PartFooter | UnreadablePart, mine: PartFooter, store: Store, key: str) -> PartFooter:
    if isinstance(standing, PartFooter) and (standing.job_id, standing.shard) == (mine.job_id, mine.shard):
        return standing
    found = str(standing) if isinstance(standing, UnreadablePart) else f"a part of job {standing.job_id[:12]}"
    raise OutputError(
        f"{store.url}/{key} is not a part of this job",
        found=found,
        advice=f"`batchrec repair {store.url}` moves it away",
    )
