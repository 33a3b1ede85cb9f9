"""What a store makes of every answer an S3 server may give, or not give."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from batchrec.errors import AccessError, OutputError, StorageLost, UsageError
from batchrec.spec import StoreOptions
from batchrec.storage import KeyExists, Store, Uncertain, create_or_compare, open_store, probe
from tests.s3_server import Fault, Request, S3Server

SECRET = "CANARY"


def on_put(fault: Fault):
    return lambda request: fault if request.method == "PUT" else None


def first_put(fault: Fault):
    seen: list[int] = []

    def decide(request: Request) -> Fault | None:
        if request.method != "PUT":
            return None
        seen.append(request.number)
        return fault if len(seen) == 1 else None

    return decide


def never(data: bytes) -> bool:
    return False


def test_an_applied_put_answered_500_comes_back_as_exists(s3_server: S3Server, s3_store: Store):
    s3_server.fault = first_put(Fault(status=500, applied=True))
    with pytest.raises(KeyExists):
        s3_store.create("part", b"mine")
    assert s3_store.read("part") == b"mine"


def test_an_applied_put_whose_connection_drops_comes_back_as_exists(s3_server: S3Server, s3_store: Store):
    s3_server.fault = first_put(Fault(reset=True, applied=True))
    with pytest.raises(KeyExists):
        s3_store.create("part", b"mine")


def test_a_put_not_applied_is_put_by_the_clients_own_retry(s3_server: S3Server, s3_store: Store):
    s3_server.fault = first_put(Fault(status=503, code="SlowDown"))
    s3_store.create("part", b"mine")
    assert s3_server.get("photos", "some/out/part") == b"mine"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=409, code="ConditionalRequestConflict"),
        Fault(status=500),
        Fault(status=503, code="SlowDown"),
        Fault(status=429, code="TooManyRequests"),
        Fault(status=500, applied=True, delay_s=0.0),
        Fault(reset=True),
    ],
    ids=["409", "500", "503", "429", "500-applied", "reset"],
)
def test_an_answer_that_leaves_it_open_is_uncertain(s3_server: S3Server, s3_store: Store, fault: Fault):
    s3_server.fault = on_put(fault)
    with pytest.raises((Uncertain, KeyExists)) as answer:
        s3_store.create("part", b"mine")
    assert answer.type is Uncertain
    assert SECRET not in str(answer.value)


def test_a_put_without_an_answer_in_time_is_uncertain(s3_server: S3Server, s3_store: Store):
    s3_server.fault = on_put(Fault(applied=True, answer_delay_s=1.5))
    with pytest.raises(Uncertain):
        s3_store.create("part", b"mine")
    assert s3_store.read("part") == b"mine"


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Fault(status=403, code="AccessDenied"), AccessError, "denied access"),
        (Fault(status=403, code="SignatureDoesNotMatch"), AccessError, "SignatureDoesNotMatch"),
        (Fault(status=401, code="Unauthorized"), AccessError, "denied access"),
        (Fault(status=404, code="NoSuchBucket"), AccessError, "bucket does not exist"),
        (Fault(status=301, code="PermanentRedirect"), AccessError, "another region"),
        (Fault(status=403, code="ExpiredToken"), StorageLost, "have expired"),
        (Fault(status=400, code="ExpiredToken"), StorageLost, "have expired"),
        (Fault(status=507, code="XMinioStorageFull"), StorageLost, "no space"),
        (Fault(status=501, code="NotImplemented"), OutputError, "does not know"),
    ],
)
def test_a_definite_refusal_says_what_it_is(s3_server: S3Server, s3_store: Store, fault, kind, says):
    s3_server.fault = lambda request: fault
    for act in (
        lambda: s3_store.create("part", b""),
        lambda: s3_store.overwrite("part", b""),
        lambda: s3_store.read("part"),
        lambda: list(s3_store.list("")),
        lambda: probe(s3_store),
    ):
        with pytest.raises(kind, match=says) as error:
            act()
        assert SECRET not in str(error.value)
        assert "s3://photos/some/out" in str(error.value)


@pytest.mark.parametrize("fault", [Fault(status=503, code="SlowDown"), Fault(reset=True)], ids=["503", "reset"])
def test_reading_from_a_store_that_stays_down_is_storage_lost(s3_server: S3Server, s3_store: Store, fault: Fault):
    s3_server.fault = lambda request: fault
    for act in (lambda: s3_store.read("a"), lambda: s3_store.overwrite("a", b""), lambda: list(s3_store.list(""))):
        with pytest.raises(StorageLost, match="failed"):
            act()


def test_a_missing_bucket_is_told_from_a_missing_key(s3_server: S3Server, impatient: None):
    store = open_store("s3://nosuchbucket/out", StoreOptions())
    with pytest.raises(AccessError, match="bucket does not exist"):
        probe(store)
    with pytest.raises(AccessError, match="bucket does not exist"):
        list(store.list(""))


def test_an_endpoint_nobody_answers_is_unreachable(s3_server: S3Server, impatient: None):
    for endpoint in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        store = open_store("s3://photos/out", StoreOptions(endpoint=endpoint))
        with pytest.raises(StorageLost, match="endpoint cannot be reached"):
            store.create("a", b"")


def test_the_endpoint_option_outranks_every_variable(
    s3_server: S3Server, impatient: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    open_store("s3://photos/out", StoreOptions(endpoint=s3_server.url)).create("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    assert open_store("s3://photos/out", StoreOptions()).read("a") == b"1"


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://h", "http://CANARY:CANARY@h:9000", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str):
    with pytest.raises(UsageError, match="not a URL of a host") as error:
        open_store("s3://photos/out", StoreOptions(endpoint=endpoint))
    assert SECRET not in str(error.value)


def test_a_profile_gives_credentials_region_and_endpoint(
    s3_server: S3Server, impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("botocore")
    config = tmp_path / "config"
    config.write_text(f"[profile shop]\nregion = eu-north-1\nendpoint_url = {s3_server.url}\n")
    profile = tmp_path / "credentials"
    profile.write_text("[shop]\naws_access_key_id = AKIAFROMPROFILE00000\naws_secret_access_key = s3cr3t\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "shop")
    seen = []
    s3_server.fault = lambda request: seen.append(request.headers.get("authorization", ""))
    open_store("s3://photos/out", StoreOptions()).create("a", b"1")
    assert "AKIAFROMPROFILE00000" in seen[0]
    assert "/eu-north-1/s3/" in seen[0]
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessError, match="AWS profile"):
        open_store("s3://photos/out", StoreOptions())


def test_without_credentials_the_message_says_so(s3_server: S3Server, impatient: None, monkeypatch, tmp_path: Path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AccessError, match="no AWS credentials"):
        open_store("s3://photos/out", StoreOptions()).read("a")


def test_requester_pays_is_said_in_the_request(s3_server: S3Server, impatient: None):
    seen = []
    s3_server.fault = lambda request: seen.append(request.headers.get("x-amz-request-payer"))
    open_store("s3://photos/out", StoreOptions(requester_pays=True)).create("a", b"1")
    assert seen == ["requester"]


def test_create_or_compare_finds_its_own_value_after_a_lost_answer(s3_server: S3Server, s3_store: Store):
    s3_server.fault = first_put(Fault(status=500, applied=True))
    create_or_compare(s3_store, "SEAL.json", b"seal", same=never)
    assert s3_store.read("SEAL.json") == b"seal"


def test_create_or_compare_puts_again_after_a_409_without_an_object(s3_server: S3Server, s3_store: Store):
    s3_server.fault = first_put(Fault(status=409, code="ConditionalRequestConflict"))
    assert create_or_compare(s3_store, "SEAL.json", b"seal", same=never)
    assert len(s3_server.requests("PUT")) == 2


def test_create_or_compare_looks_twice_before_it_judges(s3_server: S3Server, s3_store: Store):
    s3_store.create("SEAL.json", b"seal")
    looks = []

    def sees(data: bytes) -> bool:
        looks.append(time.monotonic())
        return len(looks) == 2

    assert not create_or_compare(s3_store, "SEAL.json", b"other bytes, same value", same=sees)
    assert looks[1] - looks[0] >= 0.1


def test_create_or_compare_gives_up_within_a_bound(s3_server: S3Server, s3_store: Store, monkeypatch):
    monkeypatch.setattr("batchrec.storage.publishing.PAUSE_S", 0.001)
    s3_server.fault = on_put(Fault(status=409, code="ConditionalRequestConflict"))
    with pytest.raises(StorageLost, match="neither took nor showed"):
        create_or_compare(s3_store, "SEAL.json", b"seal", same=never)
    assert 3 <= len(s3_server.requests("PUT")) <= 10


def test_a_store_without_conditional_put_is_refused_by_the_probe(s3_server: S3Server, s3_store: Store):
    s3_server.conditional_put = False
    with pytest.raises(OutputError, match="only where none is"):
        probe(s3_store)
    assert s3_server.keys("photos") == []


def test_a_store_that_checks_but_does_not_lock_is_refused_by_the_probe(s3_server: S3Server, s3_store: Store):
    # Like a server that looks first and writes later: right one after another, wrong all at once.
    races = []

    def forget_the_condition(request: Request) -> Fault | None:
        if request.method == "PUT" and request.key.endswith("-race"):
            races.append(request.headers.pop("if-none-match", None))
        return None

    s3_server.fault = forget_the_condition
    with pytest.raises(OutputError, match="at once, one that does not stand"):
        probe(s3_store)
    assert len(races) == 8


def test_a_probe_survives_lost_answers(s3_server: S3Server, s3_store: Store):
    def every_third(request: Request) -> Fault | None:
        return Fault(status=500, applied=True) if request.method == "PUT" and request.number % 3 == 0 else None

    s3_server.fault = every_third
    probe(s3_store)


def test_credentials_that_may_not_delete_still_pass_the_probe(s3_server: S3Server, s3_store: Store):
    s3_server.fault = lambda request: (
        Fault(status=403, code="AccessDenied") if request.method in ("POST", "DELETE") else None
    )
    probe(s3_store)


def test_listing_goes_on_past_one_page(s3_server: S3Server, s3_store: Store):
    for number in range(2100):
        s3_server.put("photos", f"some/out/n/{number:05d}", b"")
    assert [info.key for info in s3_store.list("n/")] == [f"n/{number:05d}" for number in range(2100)]
    assert len(s3_server.requests("GET")) == 3


def test_reading_the_footer_of_a_small_object_is_one_request(s3_server: S3Server, s3_store: Store):
    s3_store.create("part", bytes(50_000))
    before = len(s3_server.log)
    with s3_store.open("part") as file:
        file.seek(-8, 2)
        file.read(8)
        file.seek(0)
        assert len(file.read()) == 50_000
    assert len(s3_server.log) == before + 1


def test_an_object_replaced_while_it_is_read_is_noticed(s3_server: S3Server, s3_store: Store):
    s3_store.create("manifest", bytes(500_000))
    with s3_store.open("manifest") as file:
        s3_store.overwrite("manifest", bytes(400_000))
        with pytest.raises(AccessError, match="changed while it was read"):
            file.read(10)
