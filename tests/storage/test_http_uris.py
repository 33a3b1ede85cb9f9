"""What http and https URIs may name: hosts of the command line, each spelt in one way only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec.errors import ErrorCode, ImageError, UsageError
from batchrec.storage import UriPolicy
from batchrec.storage.hosts import HttpObject, is_public

INVALID, REFUSED = ErrorCode.URI_INVALID, ErrorCode.URI_REFUSED
SECRET = "hunter2CANARY"
ALLOWED = (
    "images.example",
    "shop.example:8443",
    "127.0.0.1:8080",
    "[::1]:8080",
    "203.0.113.9",
    "xn--bcher-kva.example",
)
POLICY = UriPolicy("/data/shop", (), ("partner-photos",), ALLOWED)

HOSTILE: list[tuple[str, ErrorCode]] = [
    ("https://other.example/a.jpg", REFUSED),
    ("https://images.example.evil.example/a.jpg", REFUSED),
    ("https://evilimages.example/a.jpg", REFUSED),
    ("https://sub.images.example/a.jpg", REFUSED),
    ("https://images.example:8443/a.jpg", REFUSED),
    ("http://images.example:443/a.jpg", REFUSED),
    ("https://images.example:80/a.jpg", REFUSED),
    ("https://shop.example/a.jpg", REFUSED),
    ("https://shop.example:443/a.jpg", REFUSED),
    ("http://127.0.0.1/a.jpg", REFUSED),
    ("http://127.0.0.1:8081/a.jpg", REFUSED),
    ("http://127.0.0.2:8080/a.jpg", REFUSED),
    ("http://localhost:8080/a.jpg", REFUSED),
    ("http://[::1]/a.jpg", REFUSED),
    ("http://[::ffff:127.0.0.1]:8080/a.jpg", REFUSED),
    ("http://[::ffff:7f00:1]:8080/a.jpg", REFUSED),
    ("http://[::127.0.0.1]:8080/a.jpg", REFUSED),
    ("http://[64:ff9b::7f00:1]:8080/a.jpg", REFUSED),
    ("http://[fe80::1]/a.jpg", REFUSED),
    ("http://[fd00:ec2::254]/latest/meta-data/", REFUSED),
    ("http://169.254.169.254/latest/meta-data/", REFUSED),
    ("http://169.254.169.254:80/latest/api/token", REFUSED),
    ("http://metadata.google.internal/computeMetadata/v1/", REFUSED),
    ("http://100.100.100.200/latest/meta-data/", REFUSED),
    ("http://168.63.129.16/metadata", REFUSED),
    ("http://10.0.0.5/a.jpg", REFUSED),
    ("http://0.0.0.0:8080/a.jpg", REFUSED),
    ("http://2130706433:8080/a.jpg", INVALID),
    ("http://0x7f000001:8080/a.jpg", INVALID),
    ("http://0x7f.0.0.1:8080/a.jpg", INVALID),
    ("http://0177.0.0.1:8080/a.jpg", INVALID),
    ("http://127.1:8080/a.jpg", INVALID),
    ("http://127.0.0.1.:8080:1/a.jpg", INVALID),
    ("http://2852039166/latest/meta-data/", INVALID),
    ("http://0xA9FEA9FE/latest/meta-data/", INVALID),
    ("http://0251.0376.0251.0376/", INVALID),
    ("http://127.0.0.1\N{FULLWIDTH FULL STOP}:8080/a.jpg", INVALID),
    ("http://127\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}0\N{IDEOGRAPHIC FULL STOP}1:8080/a.jpg", INVALID),
    ("http://\N{FULLWIDTH DIGIT ONE}27.0.0.1:8080/a.jpg", INVALID),
    ("https://images\N{HALFWIDTH IDEOGRAPHIC FULL STOP}example/a.jpg", INVALID),
    ("https://im\N{CYRILLIC SMALL LETTER A}ges.example/a.jpg", INVALID),
    ("https://bücher.example/a.jpg", INVALID),
    (f"https://user:{SECRET}@images.example/a.jpg", INVALID),
    (f"https://{SECRET}@images.example/a.jpg", INVALID),
    ("https://images.example@169.254.169.254/a.jpg", INVALID),
    ("https://images.example:443@169.254.169.254/a.jpg", INVALID),
    ("https://images.example\\@169.254.169.254/a.jpg", INVALID),
    ("https://images.example\\.evil.example/a.jpg", INVALID),
    ("https:\\\\images.example\\a.jpg", REFUSED),
    ("https:/images.example/a.jpg", REFUSED),
    ("https:images.example/a.jpg", REFUSED),
    ("https:///images.example/a.jpg", INVALID),
    ("https://", INVALID),
    ("https://:443/a.jpg", INVALID),
    ("https://images.example:/a.jpg", INVALID),
    ("https://images.example:0/a.jpg", INVALID),
    ("https://images.example:65536/a.jpg", INVALID),
    ("https://images.example:443:443/a.jpg", INVALID),
    ("https://images.example:4\N{ARABIC-INDIC DIGIT FOUR}3/a.jpg", INVALID),
    ("https://images.example:+443/a.jpg", INVALID),
    ("https://images%2eexample/a.jpg", INVALID),
    ("https://images.example%00.evil.example/a.jpg", INVALID),
    ("https://images.example%2f@evil.example/a.jpg", INVALID),
    ("https://-images.example/a.jpg", INVALID),
    ("https://images..example/a.jpg", INVALID),
    ("https://images.example../a.jpg", INVALID),
    ("https://*.example/a.jpg", INVALID),
    ("https://images.example ./a.jpg", INVALID),
    ("https://[::1/a.jpg", INVALID),
    ("https://::1/a.jpg", INVALID),
    ("https://[fe80::1%25eth0]/a.jpg", INVALID),
    ("https://[v1.x]/a.jpg", INVALID),
    ("https://[127.0.0.1]:8080/a.jpg", INVALID),
    ("https://#@images.example/a.jpg", INVALID),
    ("https://?@images.example/a.jpg", INVALID),
    ("https://evil.example#@images.example/a.jpg", REFUSED),
    ("https://evil.example?@images.example/a.jpg", REFUSED),
    ("https://images.example/a\r\nHost: evil.example", INVALID),
    ("https://images.example/a\n.jpg", INVALID),
    ("https://images.example/\0a.jpg", INVALID),
    ("https://images.example\t/a.jpg", INVALID),
    ("https://images.example/a\N{LINE SEPARATOR}.jpg", INVALID),
    ("https://images.example/" + "x" * 8192, INVALID),
    ("https://images.example/a.jpg::file:///etc/passwd", REFUSED),
    ("https://images.example/::zip://a::https://evil.example/x", REFUSED),
    ("https::http://169.254.169.254/", REFUSED),
    ("simplecache::https://images.example/a.jpg", REFUSED),
    ("zip://a.jpg::https://images.example/a.zip", REFUSED),
    ("gopher://images.example/a.jpg", REFUSED),
    ("httpss://images.example/a.jpg", REFUSED),
    ("https+unix://images.example/a.jpg", REFUSED),
    ("//images.example/a.jpg", REFUSED),
    ("s3://images.example/a.jpg", REFUSED),
    ("s3://partner-photos@evil/a.jpg", INVALID),
    ("s3://partner-photos%2f..%2fother/a.jpg", INVALID),
    ("s3://partner-photos?x=/a.jpg", INVALID),
    ("s3://partner-photos#/a.jpg", INVALID),
    ("s3://partner-photos\\..\\other/a.jpg", INVALID),
    ("s3://partner\N{FULLWIDTH HYPHEN-MINUS}photos/a.jpg", INVALID),
    ("s3://PARTNER-PHOTOS/a.jpg", REFUSED),
    ("s3://partner-photos/../other/a.jpg", INVALID),
    ("s3://partner-photos/./a.jpg", INVALID),
]


@pytest.mark.parametrize(("uri", "code"), HOSTILE, ids=[ascii(uri)[:60] for uri, _ in HOSTILE])
def test_a_hostile_uri_gets_its_code_and_is_not_repeated(uri: str, code: ErrorCode) -> None:
    with pytest.raises(ImageError) as refused:
        POLICY.resolve(uri)
    assert refused.value.code is code
    assert 0 < len(refused.value.detail) <= 300
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("https://images.example/a.jpg", HttpObject("https", "images.example", 443, False, "/a.jpg")),
        ("HTTP://IMAGES.Example./a.jpg", HttpObject("http", "images.example", 80, False, "/a.jpg")),
        ("https://images.example:443", HttpObject("https", "images.example", 443, False, "/")),
        ("https://images.example?id=7#top", HttpObject("https", "images.example", 443, False, "/?id=7")),
        (
            "https://shop.example:8443/a b/é\\.jpg",
            HttpObject("https", "shop.example", 8443, False, "/a%20b/%C3%A9%5C.jpg"),
        ),
        ("http://shop.example:8443/a%20b/../c.jpg", HttpObject("http", "shop.example", 8443, False, "/a%20b/../c.jpg")),
        (
            "https://images.example/a::b@c.jpg?x=y:z@w",
            HttpObject("https", "images.example", 443, False, "/a::b@c.jpg?x=y:z@w"),
        ),
        ("http://127.0.0.1:8080/a.jpg", HttpObject("http", "127.0.0.1", 8080, True, "/a.jpg")),
        ("http://[0:0:0:0:0:0:0:1]:8080/a.jpg", HttpObject("http", "::1", 8080, True, "/a.jpg")),
        ("https://203.0.113.9/a.jpg", HttpObject("https", "203.0.113.9", 443, True, "/a.jpg")),
        ("https://xn--bcher-kva.example/a.jpg", HttpObject("https", "xn--bcher-kva.example", 443, False, "/a.jpg")),
    ],
)
def test_images_of_allowed_hosts_are_named(uri: str, place: HttpObject) -> None:
    assert POLICY.resolve(uri) == place


def test_the_refusal_names_the_flag_but_never_for_a_private_address() -> None:
    with pytest.raises(ImageError, match=r"--allow-http cdn\.example\)$"):
        POLICY.resolve("https://CDN.example/a.jpg")
    with pytest.raises(ImageError, match=r"--allow-http cdn\.example:8080\)$"):
        POLICY.resolve("https://cdn.example:8080/a.jpg")
    with pytest.raises(ImageError, match="private network"):
        POLICY.resolve("http://169.254.169.254/latest/meta-data/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "https://images.example",
        "images.example/a",
        "a b",
        "*.example",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "::1",
        "images.example:",
        "images.example:99999",
        "bücher.example",
        f"u:{SECRET}@images.example",
        "[::1",
        "[fe80::1%eth0]",
        "169.254.169.254",
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "0.0.0.0:80",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "[ff02::1]",
        "[::]",
    ],
)
def test_what_is_no_host_or_never_read_from_cannot_be_allowed(text: str) -> None:
    with pytest.raises(UsageError, match="--allow-http is not valid") as refused:
        UriPolicy("/data", allow_http=("images.example", text))
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "192.88.99.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "100::1",
    ],
)
def test_a_name_may_not_lead_to_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "64:ff9b::8.8.8.8"])
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@given(st.text() | st.text(alphabet="htps:/.@\\[]%#?0127x example"))
def test_whatever_the_text_only_allowed_hosts_are_named(rest: str) -> None:
    for uri in (rest, f"https://{rest}", f"http://images.example{rest}"):
        try:
            place = POLICY.resolve(uri)
        except ImageError as refused:
            assert refused.code in (ErrorCode.URI_MISSING, INVALID, REFUSED)
            continue
        if isinstance(place, HttpObject):
            default = {"http": 80, "https": 443}[place.scheme]
            assert (place.host if place.port == default else f"{place.host}:{place.port}") in {
                text.replace("[", "").replace("]", "") for text in ALLOWED
            }
            assert place.target.startswith("/")
            assert place.target.isascii()
            assert not any(letter in place.target for letter in " \r\n\0")
