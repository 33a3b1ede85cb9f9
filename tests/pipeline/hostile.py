"""What each of the files made to break decoders is known to give."""

from __future__ import annotations

from pathlib import Path


def hostile_codes() -> dict[str, str]:
    """Error code, or ``ok``, by path inside the folder of hostile files."""
    lines = (Path(__file__).parent / "hostile_codes.tsv").read_text().splitlines()
    return {name: code for code, name in (line.split("\t") for line in lines)}
