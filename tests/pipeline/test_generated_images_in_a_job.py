"""Every generated image, good and bad, as a row of one job, and none under a name that says what it is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import batchrec
from tests.pipeline.bad_images import CASES
from tests.pipeline.good_images import GOOD

#: What each kind of image begins with, and what its name would end with.
SUFFIXES = {
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II": ".tif",
    b"MM": ".tif",
}


def wrong_suffix(data: bytes, number: int) -> str:
    """Each of the suffixes in turn, but for the right one."""
    right = next((suffix for magic, suffix in SUFFIXES.items() if data.startswith(magic)), "")
    wrong = sorted(set(SUFFIXES.values()) - {right})
    return wrong[number % len(wrong)]


def files() -> dict[str, tuple[bytes, object]]:
    """The bytes of each case, and its code or, where it decodes, its size; those of equal bytes once."""
    bad = {name: (data, code.value) for name, (data, code) in CASES.items()}
    good = {name: (case.data, case.size) for name, case in GOOD.items()}
    once = {data: (name, expected) for name, (data, expected) in [*bad.items(), *good.items()]}
    return {name: (data, expected) for data, (name, expected) in once.items()}


def test_every_generated_image_under_a_wrong_suffix_is_one_row_with_its_exact_code_or_size(
    small_model: str, tmp_path: Path
) -> None:
    cases = files()
    paths = []
    for number, (data, _) in enumerate(cases.values()):
        paths.append(tmp_path / f"{number:03}{wrong_suffix(data, number)}")
        paths[-1].write_bytes(data)
    pq.write_table(pa.table({"name": list(cases), "path": list(map(str, paths))}), tmp_path / "generated.parquet")
    batchrec.submit(
        str(tmp_path / "generated.parquet"),
        output=str(tmp_path / "out"),
        model=small_model,
        id_column="name",
        pool="inline",
        max_failure_rate=1.0,
    )
    columns = ["image_id", "status", "error_code", "width", "height"]
    rows = batchrec.open(str(tmp_path / "out")).predictions().to_table(columns=columns).to_pylist()
    assert [row["image_id"] for row in rows] == list(cases)
    got = {row["image_id"]: row["error_code"] or (row["width"], row["height"]) for row in rows}
    assert got == {name: expected for name, (_, expected) in cases.items()}
    assert {row["status"] for row in rows if row["error_code"] is None} == {"ok"}
