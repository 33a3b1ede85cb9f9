"""Outputs made by hand: two manifest files, six shards, fifty rows, every seventh failed."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from decimal import Decimal

import numpy as np
import pyarrow as pa

from batchrec.engine.identity import Identity, bind
from batchrec.errors import ErrorCode, ImageError
from batchrec.manifest.planning import Plan, plan_shards
from batchrec.manifest.rows import Rows
from batchrec.output.layout import Layout
from batchrec.output.parts import encode_part, publish_part
from batchrec.output.rows import prediction_rows
from batchrec.output.seal import Seal, seal
from batchrec.pipeline.collecting import ShardPredictions
from batchrec.records import Attempt, Shard
from batchrec.stats import ShardStats
from batchrec.storage import Store, create_or_compare

FILES = ("first.parquet", "more/second.parquet")
LABELS = ("shirt", "shoes", "hat", "dress")
PLAN: Plan = plan_shards([25, 25], 10, None)
NUM_ROWS, NUM_FAILED = 50, 7
IDENTITY = Identity({"manifest": [[name, 1000, "ab" * 32] for name in FILES], "top_k": 2})
LAYOUT = Layout(IDENTITY.job_id)
OTHER_JOB = "cd" * 32


def fails(position: int) -> bool:
    return position % 7 == 3


def passthrough(first: int, count: int) -> pa.Table:
    positions = range(first, first + count)
    return pa.table(
        {
            "shelf": pa.array([f"shelf {p % 3}" for p in positions]),
            "price": pa.array([Decimal(p).scaleb(-2) for p in positions], pa.decimal128(8, 2)),
            "seen": pa.array([dt.datetime(2024, 1, 1) + dt.timedelta(hours=p) for p in positions], pa.timestamp("us")),
            "sizes": pa.array([[p, None] if p % 2 else None for p in positions], pa.list_(pa.int32())),
            "tags": pa.array([{"a": p, "b": str(p)} for p in positions]),
        }
    )


def manifest_rows(shard: Shard) -> Rows:
    first, count = shard.first_position, shard.num_rows
    positions = range(first, first + count)
    ids = pa.array([f"id-{p}" for p in positions])
    return Rows([f"images/{p}.jpg" for p in positions], ids, passthrough(first, count))


def predictions(shard: Shard) -> ShardPredictions:
    positions = np.arange(shard.first_position, shard.first_position + shard.num_rows)
    best = np.stack([positions % 4, (positions + 1) % 4], axis=1).astype(np.int32)
    scores = np.stack([0.5 + positions / 200, 0.4 - positions / 200], axis=1).astype(np.float32)
    codes = (ErrorCode.NOT_FOUND, ErrorCode.CORRUPT)
    errors = {row: ImageError(codes[p % 2], f"row {p}") for row, p in enumerate(positions.tolist()) if fails(p)}
    sizes = (positions + 100).astype(np.int32)
    stats = ShardStats(
        num_ok=shard.num_rows - len(errors), num_errors=Counter(error.code.value for error in errors.values())
    )
    entropy = np.ones(shard.num_rows, np.float32)
    return ShardPredictions(best, scores, entropy, sizes, sizes, sizes.astype(np.int64), errors, stats, 1.0, 2.0)


def rows_of(shard: Shard, *, number: int = 1) -> pa.Table:
    return prediction_rows(manifest_rows(shard), predictions(shard), Attempt(shard, number, ""), LABELS)


def part_of(
    shard: Shard,
    *,
    rows: pa.Table | None = None,
    job_id: str = LAYOUT.job_id,
    index: int | None = None,
    attempt_id: str = "run-1",
) -> bytes:
    table = rows_of(shard) if rows is None else rows
    index = shard.index if index is None else index
    return encode_part(table, job_id=job_id, shard=index, attempt_id=attempt_id, facts={"model": "none"})


def begin(store: Store) -> None:
    """Bind a folder and put its plan, as every coordinator does first."""
    bind(store, IDENTITY)
    same = lambda data: Plan.from_parquet(data) == PLAN  # noqa: E731
    definition = json.dumps({"identity": IDENTITY.fields}).encode()
    create_or_compare(store, LAYOUT.spec_key, definition, same=lambda _: False)
    create_or_compare(store, LAYOUT.plan_key, PLAN.to_parquet(), same=same)


def publish_all(store: Store) -> None:
    begin(store)
    for shard in PLAN:
        publish_part(store, LAYOUT.part_key(shard.index), part_of(shard), pause=lambda _: None)


def seal_it(store: Store) -> Seal:
    return seal(store, LAYOUT, list(PLAN), FILES)
