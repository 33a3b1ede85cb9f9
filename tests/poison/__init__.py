"""Images that end whoever decodes them."""

from __future__ import annotations

from pathlib import Path

#: To be put first on the path of a process.
FOLDER = str(Path(__file__).parent)


def poisoned(jpeg: bytes, deed: str) -> bytes:
    """Mark an image; see simplejpeg.py here for the deeds."""
    return jpeg + b"\nPOISON:" + deed.encode()
