"""Publishing one part: whatever the store answers, what stands is found out by reading it back."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrec.errors import AccessError, OutputError, StorageLost
from batchrec.output.digest import table_sha256
from batchrec.output.parts import PartFooter, UnreadablePart, decode_footer, publish_part, read_footer
from batchrec.output.schema import NOT_IN_DIGEST
from batchrec.output.tables import read_table
from batchrec.storage import KeyExists, KeyMissing, Store, Uncertain
from tests.output.making import LAYOUT, OTHER_JOB, PLAN, fails, part_of, rows_of
from tests.s3_server import Fault, Request, S3Server

SHARD = PLAN[1]
KEY = LAYOUT.part_key(1)
MINE = part_of(SHARD, attempt_id="mine")
THEIRS = part_of(SHARD, attempt_id="theirs")
not_parquet = pytest.mark.parametrize(
    "data", [b"", b"x", b"PAR1", b"<html>", MINE[:-1], MINE[:100], MINE[10:] + b"PAR2"]
)


@dataclass
class Answering:
    """A store whose creates answer as told, applied or not, before they answer truly."""

    store: Store
    answers: list[tuple[type[Exception], bool]]
    pauses: list[float] = field(default_factory=list)
    num_creates: int = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def create(self, key: str, data: bytes) -> None:
        self.num_creates += 1
        answer, applied = self.answers.pop(0) if self.answers else (None, True)
        if applied:
            self.store.create(key, data)
        if answer is not None:
            raise answer(key)

    def publish(self) -> PartFooter:
        return publish_part(self, KEY, MINE, pause=self.pauses.append)  # type: ignore[arg-type]


def publish(store: Store, data: bytes = MINE) -> PartFooter:
    return publish_part(store, KEY, data, pause=lambda _: None)


def with_footer(record: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows_of(SHARD).replace_schema_metadata({b"batchrec": json.dumps(record).encode()}), sink)
    return sink.getvalue()


def plain_footer() -> dict[str, object]:
    return dataclasses.asdict(decode_footer(pq.read_metadata(io.BytesIO(MINE))))


def test_a_part_says_whose_it_is_and_what_it_holds() -> None:
    footer = decode_footer(pq.read_metadata(io.BytesIO(MINE)))
    failed = sum(fails(position) for position in range(10, 20))
    assert (footer.job_id, footer.shard, footer.attempt_id) == (LAYOUT.job_id, 1, "mine")
    assert (footer.num_rows, footer.num_ok, sum(footer.num_errors.values())) == (10, 10 - failed, failed)
    assert footer.facts == {"model": "none"}
    assert footer.rows_sha256 == table_sha256(read_table(io.BytesIO(MINE)), leave_out=NOT_IN_DIGEST)


def test_attempts_of_one_shard_have_one_digest() -> None:
    digests = {
        decode_footer(pq.read_metadata(io.BytesIO(part_of(SHARD, rows=rows_of(SHARD, number=number))))).rows_sha256
        for number in (1, 2, 20)
    }
    assert len(digests) == 1


def test_what_was_put_is_what_stands(store: Store) -> None:
    assert publish(store).attempt_id == "mine"
    assert read_footer(store, KEY) == decode_footer(pq.read_metadata(io.BytesIO(MINE)))
    assert store.read(KEY) == MINE


def test_another_attempts_part_stays_and_is_named(store: Store) -> None:
    publish(store, THEIRS)
    assert publish(store).attempt_id == "theirs"
    assert store.read(KEY) == THEIRS


@pytest.mark.parametrize(
    "foreign", [part_of(SHARD, job_id=OTHER_JOB), part_of(SHARD, index=2)], ids=["other job", "other shard"]
)
def test_a_foreign_part_stops_the_job_and_stays(store: Store, foreign: bytes) -> None:
    store.create(KEY, foreign)
    with pytest.raises(OutputError, match=r"part-00000001\.parquet is not a part of this job"):
        publish(store)
    assert store.read(KEY) == foreign


@not_parquet
def test_what_is_no_part_stops_the_job_and_stays(local_store: Store, data: bytes) -> None:
    local_store.create(KEY, data)
    with pytest.raises(OutputError, match="not Parquet"):
        publish(local_store)
    assert local_store.read(KEY) == data


def test_parquet_of_somebody_else_is_no_part(store: Store) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    store.create(KEY, sink.getvalue())
    with pytest.raises(OutputError, match="not written by batchrec"):
        publish(store)


def test_an_empty_object_in_a_bucket_is_no_part(s3_store: Store) -> None:
    s3_store.create(KEY, b"")
    with pytest.raises(OutputError, match="not Parquet"):
        publish(s3_store)


def test_every_damaged_byte_of_a_footer_gives_a_footer_or_an_unreadable_part(local_store: Store) -> None:
    for offset in range(max(4, len(MINE) - 6000), len(MINE), 13):
        damaged = bytearray(MINE)
        damaged[offset] ^= 0x5A
        local_store.overwrite(KEY, bytes(damaged))
        try:
            footer = read_footer(local_store, KEY)
        except UnreadablePart as error:
            assert str(error)
        else:
            assert isinstance(footer, PartFooter)


@pytest.mark.parametrize(
    "record",
    [None, [], "x", {}, {**plain_footer(), "shard": "one"}, {**plain_footer(), "num_errors": [1]}],
)
def test_a_footer_of_another_shape_is_no_part(local_store: Store, record: object) -> None:
    local_store.create(KEY, with_footer(record))
    with pytest.raises(UnreadablePart):
        read_footer(local_store, KEY)


def test_a_footer_of_a_later_version_is_understood(local_store: Store) -> None:
    local_store.create(KEY, with_footer({**plain_footer(), "seen_by": ["v9"], "attempt_id": "later"}))
    assert publish(local_store).attempt_id == "later"


def test_a_missing_part_is_missing(store: Store) -> None:
    with pytest.raises(KeyMissing):
        read_footer(store, KEY)


@pytest.mark.parametrize("answer", [Uncertain, KeyExists])
def test_an_unclear_answer_to_a_put_that_was_applied_counts(local_store: Store, answer: type[Exception]) -> None:
    scene = Answering(local_store, [(answer, True)])
    assert scene.publish().attempt_id == "mine"
    assert (scene.num_creates, scene.pauses) == (1, [])


@pytest.mark.parametrize("answer", [Uncertain, KeyExists])
def test_a_put_that_was_not_applied_is_made_again(local_store: Store, answer: type[Exception]) -> None:
    scene = Answering(local_store, [(answer, False), (answer, False)])
    assert scene.publish().attempt_id == "mine"
    assert scene.num_creates == 3
    assert local_store.read(KEY) == MINE


def test_putting_again_has_a_bound_and_its_pauses_grow(local_store: Store) -> None:
    scene = Answering(local_store, [(Uncertain, False)] * 100)
    with pytest.raises(StorageLost, match="unclear answers"):
        scene.publish()
    assert 3 <= scene.num_creates <= 10
    assert scene.pauses[-1] > 4 * scene.pauses[1]


def test_a_read_back_that_fails_leaves_the_shard_unknown(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(key: str) -> io.BytesIO:
        raise StorageLost("gone")

    monkeypatch.setattr(local_store, "open", lost)
    with pytest.raises(StorageLost, match="gone"):
        Answering(local_store, [(Uncertain, True)]).publish()


def test_a_disk_that_fails_while_reading_back_accuses_nobody(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(local_store, "open", lambda key: Broken(MINE))
    with pytest.raises(StorageLost, match="Input/output error"):
        Answering(local_store, [(Uncertain, True)]).publish()


def test_what_cannot_be_read_is_looked_at_twice_before_judging(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [b"PAR1 half of it", MINE]
    monkeypatch.setattr(local_store, "open", lambda key: io.BytesIO(views.pop(0)))
    scene = Answering(local_store, [(KeyExists, False)])
    assert scene.publish().attempt_id == "mine"
    assert (len(views), len(scene.pauses)) == (0, 1)


def on_puts(*faults: Fault) -> Callable[[Request], Fault | None]:
    """Meet the first PUTs of the part with these faults."""
    left = list(faults)
    return lambda request: left.pop(0) if left and request.method == "PUT" and request.key.endswith(KEY) else None


@pytest.mark.parametrize(
    "faults",
    [
        (Fault(status=500, applied=True),),
        (Fault(reset=True, applied=True),),
        (Fault(status=500),),
        (Fault(reset=True),),
        (Fault(status=503, code="SlowDown"),),
        (Fault(status=409, code="ConditionalRequestConflict"),),
        (Fault(status=412, code="PreconditionFailed"),),
        (Fault(status=500), Fault(status=500), Fault(status=500, applied=True)),
    ],
    ids=repr,
)
def test_a_bucket_ends_with_my_part_whatever_it_answers(
    s3_server: S3Server, s3_store: Store, faults: tuple[Fault, ...]
) -> None:
    s3_server.fault = on_puts(*faults)
    assert publish(s3_store).attempt_id == "mine"
    assert s3_server.get("photos", f"out/{KEY}") == MINE
    assert all(line.conditional for line in s3_server.requests("PUT"))


def test_a_bucket_that_denies_the_put_is_no_clear_answer_but_stops(s3_server: S3Server, s3_store: Store) -> None:
    s3_server.fault = on_puts(*[Fault(status=403, code="AccessDenied")] * 9)
    with pytest.raises(AccessError):
        publish(s3_store)
    s3_server.fault = None
    assert publish(s3_store).attempt_id == "mine"


def test_a_bucket_that_never_answers_clearly_is_given_up(s3_server: S3Server, s3_store: Store) -> None:
    s3_server.fault = lambda request: Fault(status=409) if request.method == "PUT" else None
    with pytest.raises(StorageLost):
        publish(s3_store)


def test_the_footer_of_a_part_in_a_bucket_costs_one_request(s3_server: S3Server, s3_store: Store) -> None:
    publish(s3_store)
    before = len(s3_server.log)
    read_footer(s3_store, KEY)
    assert len(s3_server.log) == before + 1
