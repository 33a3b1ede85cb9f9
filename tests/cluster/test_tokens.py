"""Where a token is found, where it is sent, and that nobody sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec.cluster.addresses import Address
from batchrec.cluster.tokens import token_for
from batchrec.errors import AccessError

HERE, ELSEWHERE = Address("http://127.0.0.1:8265", "test"), Address("http://10.0.0.1:8265", "test")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from-home\n")
    return tmp_path


def test_places_are_asked_in_rays_order(home: Path) -> None:
    (home / "named").write_text("from-file\n")
    variables = {"HOME": str(home), "RAY_AUTH_TOKEN_PATH": str(home / "named"), "RAY_AUTH_TOKEN": "from-variable"}
    for name, text in (("RAY_AUTH_TOKEN", "from-variable"), ("RAY_AUTH_TOKEN_PATH", "from-file"), ("", "from-home")):
        token = token_for(ELSEWHERE, environ=variables)
        assert token is not None
        assert token.headers == {"Authorization": f"Bearer {text}"}
        variables.pop(name, None)


def test_elsewhere_without_a_token_is_refused_naming_every_place_and_the_way_out() -> None:
    with pytest.raises(AccessError) as refused:
        token_for(ELSEWHERE, environ={"HOME": "/nonexistent"})
    for said in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token", "--no-auth"):
        assert said in str(refused.value)


def test_loopback_needs_none_and_uses_one_that_is_there(home: Path) -> None:
    assert token_for(HERE, environ={}) is None
    assert token_for(HERE, environ={"HOME": str(home)}) is not None


def test_no_auth_sends_none(home: Path) -> None:
    assert token_for(ELSEWHERE, no_auth=True, environ={"HOME": str(home)}) is None


@pytest.mark.parametrize("text", ["canary canary", "canary\ncanary", "canary\x00", "ca\u00f1ary", " "])
def test_what_cannot_be_a_token_is_refused_and_not_repeated(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(AccessError) as refused:
        token_for(HERE, environ={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    assert "canary" not in str(refused.value)
    assert "RAY_AUTH_TOKEN_PATH" in str(refused.value)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="RAY_AUTH_TOKEN_PATH cannot be read"):
        token_for(HERE, environ={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})


def test_a_token_is_not_in_what_is_printed_of_it() -> None:
    token = token_for(HERE, environ={"RAY_AUTH_TOKEN": "canary"})
    assert "canary" not in f"{token} {token!r}"
