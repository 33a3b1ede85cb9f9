"""No credential and no control character is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.redacting import printable, redact, shown

CANARY = "c4n4ryS3cr3t"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{CANARY}@host/a.jpg",
        f"https://{CANARY}@host/a.jpg",
        f"https://u@corp:{CANARY}@host/a.jpg",
        f"https://u:pa/{CANARY}?#@host/a.jpg",
        f"s3://KEY:{CANARY}@bucket/a.jpg",
        f"https://h/a.jpg?X-Amz-Algorithm=AWS4&X-Amz-Signature={CANARY}&X-Amz-Date=1",
        f"https://h/a.jpg?x-amz-credential={CANARY}%2Fus-east-1",
        f"https://h/a.jpg?X-Amz-Security-Token={CANARY}",
        f"https://h/a.jpg?X%2DAmz%2DSignature={CANARY}",
        f"https://h/a.jpg?AWSAccessKeyId={CANARY}&Signature={CANARY}&Expires=1",
        f"https://h.blob.core.windows.net/c/a.jpg?sv=2020&sig={CANARY}",
        f"https://h/a.jpg?X-Goog-Signature={CANARY}&X-Goog-Credential={CANARY}",
        f"https://h/a.jpg?Policy={CANARY}&Key-Pair-Id={CANARY}",
        f"https://h/a.jpg?access_token={CANARY}#token={CANARY}",
        f"https://h/a.jpg?a=1&amp;Signature={CANARY}",
        f"https://h/a.jpg?api_key={CANARY};password={CANARY}",
        f"AWS_SECRET_ACCESS_KEY={CANARY} AWS_SESSION_TOKEN: '{CANARY}'",
        f'{{"aws_secret_access_key": "{CANARY}"}}',
        f"Authorization: Bearer {CANARY}",
        f"authorization=Basic {CANARY}",
        f"No such file: 'https:/u:{CANARY}@h/a'",
        f"No such file: 's3:/{CANARY}@bucket/a'",
        f"failed for https://u:{CANARY}@h/a and https://h/b?sig={CANARY}: 403",
    ],
)
def test_credentials_are_masked(text):
    assert CANARY not in redact(text)
    assert CANARY not in shown(text)
    assert "***" in redact(text)


def test_a_control_character_does_not_smuggle_a_password_out():
    assert CANARY not in shown(f"https://user:{CANARY[:4]}\n\0{CANARY[4:]}@host/a.jpg")
    assert CANARY[4:] not in shown(f"https://user:{CANARY[:4]}\n\0{CANARY[4:]}@host/a.jpg")


def test_an_access_key_id_is_masked_wherever_it_stands():
    assert redact("denied for AKIAIOSFODNN7EXAMPLE here") == "denied for AKIA*** here"


@pytest.mark.parametrize(
    "text",
    [
        "photos/a@2x.jpg",
        "photos:/a@2x.jpg",
        "https:/host/a@2x.jpg",
        "s3://bucket/folder/a@2x.jpg",
        "s3://bucket/a:b@c.jpg",
        "https://host:8080/a@2x.jpg?width=10&format=webp",
        "https://host/a.jpg?signed=no&design=3",
        "mail somebody@example.com",
        "",
    ],
)
def test_what_is_no_credential_stays(text):
    assert redact(text) == text
    assert shown(text) == text


@given(st.text())
def test_redacting_twice_is_redacting_once(text):
    assert redact(redact(text)) == redact(text)


@given(st.text(st.characters(codec=None), max_size=300))
def test_what_is_shown_is_one_line_that_any_terminal_takes(text):
    line = shown(text)
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in line)
    line.encode()
    assert len(line.splitlines()) <= 1


def test_escapes_directions_and_surrogates_are_replaced():
    assert printable("a\x1b[31m\u202egpj\udcff.jpg\u2028\n") == "a\ufffd[31m\ufffdgpj\ufffd.jpg\ufffd\ufffd"
    assert printable("one\ntwo\r", keep="\n") == "one\ntwo\ufffd"
    assert printable("größe 😀.jpg") == "größe 😀.jpg"


@pytest.mark.parametrize("piece", ["://", "://a:", "?a", "&a=", "://@", "bearer ", "://a@b:"])
def test_a_hostile_uri_costs_no_time(piece):
    import time

    began = time.perf_counter()
    redact(piece * (32_768 // len(piece)))
    assert time.perf_counter() - began < 2
