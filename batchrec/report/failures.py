"""Failed rows, counted and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchrec.errors import CODES, ErrorCode
from batchrec.redacting import shown
from batchrec.storage.places import MEMBER

#: Of a URI, on a line for people; longer ones are whole in errors.parquet.
_MAX_CHARACTERS = 1000


def count_by(rows: Sequence[Mapping[str, Any]], by: str) -> dict[str, int]:
    """Count failed rows by ``code``, or by ``prefix``: the URI's folder, or its archive. Most frequent first."""
    if by == "code":
        return dict(Counter(row["error_code"] for row in rows).most_common())
    return dict(Counter(_folder(row["uri"]) for row in rows).most_common())


def _folder(uri: str | None) -> str:
    if uri is None:
        return "(none)"
    member = MEMBER.fullmatch(uri)
    return shown(member[1] if member else uri.rpartition("/")[0] or ".")


def _brief(text: str | None) -> str:
    text = shown((text or "")[: 2 * _MAX_CHARACTERS])
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def error_lines(
    rows: Sequence[Mapping[str, Any]], counted: Mapping[str, int] | None, limit: int | None
) -> Iterator[str]:
    """Yield one line for each count, or for each failed row, and one for those left out."""
    if counted is not None:
        for name, count in list(counted.items())[:limit]:
            advice = CODES[ErrorCode(name)].advice if name in list(ErrorCode) else ""
            yield f"{count:10,}  {name:22} {advice}".rstrip()
        total = len(counted)
    else:
        for row in rows[:limit]:
            seen = f"{_brief(row['uri'])}  {_brief(row['error_detail'])}".rstrip()
            yield f"{row['row']:10}  {row['error_code']:22} {seen}".rstrip()
        total = len(rows)
    if limit is not None and total > limit:
        yield f"... {total - limit:,} more: --limit 0 for all, or read errors.parquet"
