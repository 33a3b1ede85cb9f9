"""The ways in which images of real archives are broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

_HTML: Final = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>No such image.</body></html>\n"
_PDF: Final = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
_HUGE_SIDE: Final = 65_500


def _bomb(content: bytes) -> bytes:
    """Let a JPEG claim 4.3 thousand million pixels in its frame header."""
    frame = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := content.find(marker)) >= 0)
    return content[: frame + 5] + struct.pack(">HH", _HUGE_SIDE, _HUGE_SIDE) + content[frame + 9 :]


_BREAKERS: Final[dict[str, Callable[[bytes], bytes | None]]] = {
    "truncated": lambda content: content[: len(content) * 3 // 5],
    "empty": lambda content: b"",
    "html": lambda content: _HTML,
    "missing": lambda content: None,
    "wrong_extension": lambda content: _PDF,
    "bomb": _bomb,
}
BROKEN_KINDS: Final = tuple(_BREAKERS)


def break_image(content: bytes, kind: str) -> bytes | None:
    """Return what stands in place of a JPEG image broken in one way; None is no file at all.

    Args:
        content: A JPEG image.
        kind: One of :data:`BROKEN_KINDS`: cut off, no bytes, an error page, not there, a document
            named ``.jpg``, or a header claiming far more pixels than any machine holds.
    """
    return _BREAKERS[kind](content)
