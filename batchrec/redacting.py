"""Text that came from outside, made fit to be shown: no credentials, nothing that moves a cursor."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

MASK = "***"
_REPLACEMENT = "\ufffd"
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

# The second form takes passwords with a raw slash or question mark, but no plain host:port/path.
_USERINFO = re.compile(r"://(?:[^/?#\s]{0,1024}@|[^\s@/:]{0,512}:(?!\d+(?:/|$))[^\s@]{0,512}@)")
# What is left of a URL that somebody took for a path: a doubled slash becomes one.
_COLLAPSED = re.compile(r"(?i)\b((?:https?|s3[an]?|s?ftps?|gs|abfss?|wasbs?):(?:/|\\{1,2}))(?!/)[^/?#\s]{0,1024}@")
# A URL without its scheme.
_BARE = re.compile(r"^//[^/?#\s@]{0,1024}:[^/?#\s@]{0,1024}@")
_PARAMETER = re.compile(r"(?P<before>[?&;#]|&amp;)(?P<name>[^=&;?#\s]{1,128})=(?P<value>[^&#\s\"'<>]*)")
_SECRET_NAME = re.compile(
    r"signature|credential|token|secret|passw|accesskey|access_key|accessid|api_?key|key-pair-id|^sig$|^auth|^jwt$|^policy$|sessionid"
)
_ASSIGNMENT = re.compile(
    r"(?i)\b(aws_(?:secret_access_key|session_token|access_key_id)|password|secret_key)(\"?'?\s*[=:]\s*[\"']?)[^\s\"'&,;]+"
)
_AUTHORIZATION = re.compile(
    r"(?i)\b(authorization\s*[:=]\s*|bearer\s+)(?:(?:bearer|basic|aws4-hmac-sha256)\s+)?[^\s\"']+"
)
_ACCESS_KEY_ID = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b")


def redact(text: str) -> str:
    """Return a URI, or a text with URIs in it, without credentials.

    Masked are user and password, signatures, tokens and keys in queries (Amazon, Google, Azure,
    CloudFront), access key ids, and values assigned to names like ``AWS_SECRET_ACCESS_KEY``.
    """
    text = _USERINFO.sub(f"://{MASK}@", text)
    text = _COLLAPSED.sub(rf"\1{MASK}@", text)
    text = _BARE.sub(f"//{MASK}@", text)
    text = _PARAMETER.sub(_without_secret, text)
    text = _ASSIGNMENT.sub(rf"\1\2{MASK}", text)
    text = _AUTHORIZATION.sub(rf"\1{MASK}", text)
    return _ACCESS_KEY_ID.sub(rf"\1{MASK}", text)


def _without_secret(parameter: re.Match[str]) -> str:
    if not _SECRET_NAME.search(unquote(parameter["name"]).casefold()):
        return parameter[0]
    return f"{parameter['before']}{parameter['name']}={MASK}"


def printable(text: str, *, keep: str = "") -> str:
    """Return text with control, direction and other invisible characters replaced by U+FFFD.

    Args:
        text: Anything, lone surrogates included.
        keep: Control characters to leave, for example a newline.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each in keep or not _hidden(each) else _REPLACEMENT for each in text)


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN_CATEGORIES


def shown(text: str) -> str:
    """Return text from outside as one line fit for people: printable first, so that nothing hides a secret."""
    return redact(printable(text))
