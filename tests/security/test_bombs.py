"""Small files that would become gigabytes, or endless work, are refused or cost little."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MIB = 2**20
Read = Callable[..., str]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a file in a child that may take so much more memory than it has; returns its one line."""

    def run(kind: str, name: str, limit: int = 2048 * MIB) -> str:
        command = [sys.executable, str(Path(__file__).parent / "bombing.py"), kind, str(limit), str(tmp_path / name)]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=root)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("\n") == 1
        return done.stdout.strip()

    return run


# --- Manifests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False], ids=["as-dictionary", "as-text"])
def test_one_long_text_named_by_a_million_rows_is_refused(tmp_path: Path, read: Read, stored: bool) -> None:
    """A terabyte in under 10 kB: the dictionary holds one text of a megabyte."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000_000, pa.int32()), ["a" * MIB])
    pq.write_table(pa.table({"uri": texts}), tmp_path / "m.parquet", compression="zstd", store_schema=stored)
    assert (tmp_path / "m.parquet").stat().st_size < 10_000
    assert "512 MiB of text" in read("manifest", "m.parquet")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_of_gigabytes_is_refused_unread(tmp_path: Path, read: Read, version: str) -> None:
    table = pa.table({"uri": ["a" * MIB] * 300})
    pq.write_table(
        table,
        tmp_path / "m.parquet",
        compression="zstd",
        use_dictionary=False,
        data_page_version=version,
        data_page_size=2**31 - 1,
        write_batch_size=10_000,
    )
    assert (tmp_path / "m.parquet").stat().st_size < 100_000
    assert "a page of 3" in read("manifest", "m.parquet", 256 * MIB)


def test_texts_that_repeat_the_text_before_them_are_refused(tmp_path: Path, read: Read) -> None:
    table = pa.table({"uri": ["a" * MIB] * 600})
    options = {"use_dictionary": False, "column_encoding": {"uri": "DELTA_BYTE_ARRAY"}, "compression": "zstd"}
    pq.write_table(table, tmp_path / "m.parquet", **options)
    assert (tmp_path / "m.parquet").stat().st_size < 2_000
    assert "512 MiB of text" in read("manifest", "m.parquet")


def test_long_texts_that_fit_are_read_in_bounded_memory(tmp_path: Path, read: Read) -> None:
    table = pa.table({"uri": [f"{row:08}" * 500 for row in range(20_000)]})
    pq.write_table(table, tmp_path / "m.parquet", compression="zstd")
    assert read("manifest", "m.parquet", 1024 * MIB) == "read: 20000 rows"


def test_a_giant_text_is_one_row_and_no_harm(tmp_path: Path, read: Read) -> None:
    pq.write_table(pa.table({"uri": ["a.jpg", "a" * (100 * MIB), "b.jpg"]}), tmp_path / "m.parquet", compression="zstd")
    assert read("manifest", "m.parquet") == "read: 3 rows"


def test_thousands_of_columns_cost_little(tmp_path: Path, read: Read) -> None:
    columns = {f"column_{number}": pa.nulls(1, pa.int8()) for number in range(5_000)}
    pq.write_table(pa.table({"uri": ["a.jpg"], **columns}), tmp_path / "m.parquet")
    assert read("manifest", "m.parquet", 512 * MIB) == "read: 1 rows"


def test_very_many_row_groups_cost_little(tmp_path: Path, read: Read) -> None:
    pq.write_table(pa.table({"uri": ["a.jpg"] * 20_000}), tmp_path / "m.parquet", row_group_size=1)
    assert read("manifest", "m.parquet", 512 * MIB) == "read: 20000 rows"


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def footer(depth: int, *, rows: int = 0, claims: int | None = None) -> bytes:
    """A Parquet file of nothing but a schema nested so deep; the list may claim more elements than it has."""
    element = b"\x35\x02\x18\x01a\x15\x02\x00"
    leaf = b"\x15\x0c\x25\x02\x18\x01a\x00"
    schema = b"\xfc" + varint(claims or depth + 1) + element * depth + leaf
    told = b"\x15\x02\x19" + schema + b"\x16" + varint(rows * 2) + b"\x19\x0c\x00"
    return b"PAR1" + told + len(told).to_bytes(4, "little") + b"PAR1"


@pytest.mark.parametrize(
    "data",
    [
        b'{"":' * 1_100,
        footer(500),
        footer(100_000),
        footer(1_000_000),
        footer(20, claims=2**31 - 1),
        footer(20, rows=2**40),
        b"PAR1" + (2**31 - 1).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + (2**32 - 1).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + bytes(100_000) + (100_000).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + b"\x1c" * 100_000 + (100_000).to_bytes(4, "little") + b"PAR1",
        b"PAR1" + b"\x19\xfc\xff\xff\xff\xff\x07" * 1000 + (7000).to_bytes(4, "little") + b"PAR1",
    ],
    ids=["json", "deep", "deeper", "deepest", "claims", "rows", "long", "longer", "zeros", "structs", "lists"],
)
def test_a_hostile_footer_is_refused(tmp_path: Path, read: Read, data: bytes) -> None:
    (tmp_path / "m.parquet").write_bytes(data)
    assert read("manifest", "m.parquet", 256 * MIB).startswith("ManifestError: ")


# --- Job files --------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "aliases are not taken"),
        ("&a a: *a", "aliases are not taken"),
        ("a: &a\n  <<: *a", "aliases are not taken"),
        ("[" * 100_000, "nested too deep"),
        ("{a: " * 100_000, "nested too deep"),
        ("a:\n" + "".join(" " * depth + "- \n" for depth in range(1, 1200)), ""),
        ("model: " + "x" * (2 * MIB), "too large"),
        ("# " + "x" * (2 * MIB), "too large"),
        ("limit: !!int " + "9" * 900_000, "UsageError"),
        ("limit: " + "1:" * 400_000 + "1", "UsageError"),
        ("limit: !!float " + "9" * 900_000, "UsageError"),
        ("model: !!python/object/apply:os.system ['touch it-ran']", "UsageError"),
        ("model: !!python/object/new:subprocess.Popen [[touch, it-ran]]", "UsageError"),
        ("!!binary " + "A" * 900_000, "UsageError"),
        ("? " * 10_000, "UsageError"),
        ("- " * 50_000, "UsageError"),
        ("%TAG ! tag:yaml.org,2002:\n" * 10_000 + "---\na: 1", "UsageError"),
        ("\n".join(f"name_{number}: 1" for number in range(20_000)), "and more"),
        ("passthrough: [" + "x, " * 100_000 + "x]", ""),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_job_file_that_would_grow_or_never_end_is_refused(tmp_path: Path, read: Read, text: str, reason: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    said = read("job", "job.yaml", 1024 * MIB)
    assert reason in said
    assert len(said) < 10_000
    assert not (tmp_path / "it-ran").exists()
    assert not Path("it-ran").exists()
