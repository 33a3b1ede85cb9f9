"""Thousands of good files damaged at random: each gives pixels or a code, in bounded memory and time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrec
from batchrec.errors import ErrorCode
from tests.pipeline.mutating import EVERY, FLIPS, MAX_PIXELS, mutant, seeds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what a process holds from /proc")

ROOT = Path(__file__).parents[2]
SEED = 7
NUM_MUTANTS, NUM_FLIPPED = 3_600, 3_000
ENDINGS = {
    "ok",
    ErrorCode.EMPTY,
    ErrorCode.NOT_AN_IMAGE,
    ErrorCode.UNSUPPORTED_FORMAT,
    ErrorCode.TRUNCATED,
    ErrorCode.CORRUPT,
    ErrorCode.TOO_MANY_PIXELS,
    ErrorCode.BAD_DIMENSIONS,
}


@dataclass
class Findings:
    """How mutants ended, by number, and what should not have happened, in words that say how to see it again."""

    endings: dict[int, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def take(self, line: dict[str, Any], seed: int) -> None:
        number = line["number"]
        self.endings[number] = line["ended"]
        if line["ended"] not in ENDINGS:
            self.faults.append(f"{line['ended']}: {again(seed, number)}")
        if line["beyond_bytes"]:
            self.faults.append(f"{line['beyond_bytes']} bytes more than its header allows: {again(seed, number)}")


def again(seed: int, number: int) -> str:
    return f"python -m tests.pipeline.mutating {seed} {number} {number + 1}"


def decode_mutants(seed: int, end: int, folder: Path, die_at: int = -1) -> Findings:
    """Decode mutants 0 to ``end`` in a child, and in a new one after each that ends it."""
    findings, first = Findings(), 0
    while first < end:
        with (folder / "lines").open("w+") as lines:
            numbers = [str(number) for number in (seed, first, end, die_at)]
            command = [sys.executable, "-m", "tests.pipeline.mutating", *numbers]
            child = subprocess.run(command, cwd=ROOT, stdout=lines, stderr=subprocess.PIPE, text=True, check=False)
            lines.seek(0)
            heard = [json.loads(line) for line in lines]
        for line in heard:
            if "ended" in line:
                findings.take(line, seed)
        if child.returncode == 0:
            break
        assert heard and "of" in heard[-1], child.stderr[-2000:]
        number = heard[-1]["number"]
        findings.faults.append(f"{heard[-1]['of']} ended its process ({child.returncode}): {again(seed, number)}")
        first = number + 1
    return findings


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """How each of 3,600 mutants ended."""
    return decode_mutants(SEED, NUM_MUTANTS, tmp_path_factory.mktemp("mutants"))


def test_3000_of_the_mutants_are_good_files_with_flipped_bits_and_nothing_else() -> None:
    files = seeds()
    flipped = 0
    for number in range(NUM_MUTANTS):
        name, data = mutant(files, SEED, number)
        good, damage = files[name.rpartition(", ")[0]], name.rpartition(", ")[2]
        if damage in {flip.__name__ for flip in FLIPS}:
            assert len(data) == len(good), name
            assert 1 <= (int.from_bytes(data) ^ int.from_bytes(good)).bit_count() <= 8, name
            flipped += 1
    assert flipped == NUM_FLIPPED


def test_3600_mutants_end_with_pixels_or_a_code_in_bounded_time_and_memory(findings: Findings) -> None:
    assert findings.faults == []
    assert sorted(findings.endings) == list(range(NUM_MUTANTS))


def test_the_mutants_are_neither_all_harmless_nor_all_ruined(findings: Findings) -> None:
    endings = Counter(findings.endings.values())
    assert set(endings) >= ENDINGS - {ErrorCode.EMPTY}
    assert NUM_MUTANTS / 5 < endings["ok"] < NUM_MUTANTS * 4 / 5


def test_a_mutant_that_ends_its_process_is_named_and_the_others_are_decoded(tmp_path: Path) -> None:
    found = decode_mutants(SEED, 6, tmp_path, die_at=3)
    name = mutant(seeds(), SEED, 3)[0]
    assert found.faults == [f"{name} ended its process (-6): python -m tests.pipeline.mutating 7 3 4"]
    assert sorted(found.endings) == [0, 1, 2, 4, 5]


def test_3600_mutants_in_a_job_give_one_row_each_with_the_same_code(
    findings: Findings, small_model: str, tmp_path: Path
) -> None:
    files = seeds()
    for number in range(NUM_MUTANTS):
        (tmp_path / f"{number:04}.jpg").write_bytes(mutant(files, SEED, number)[1])
    paths = [str(tmp_path / f"{number:04}.jpg") for number in range(NUM_MUTANTS)]
    pq.write_table(pa.table({"path": paths}), tmp_path / "mutants.parquet")
    out = str(tmp_path / "out")
    batchrec.submit(
        str(tmp_path / "mutants.parquet"),
        output=out,
        model=small_model,
        pool="inline",
        max_pixels=MAX_PIXELS,
        max_failure_rate=1.0,
    )
    rows = batchrec.open(out).predictions().to_table().to_pylist()
    codes = {int(Path(row["uri"]).stem): row["error_code"] or "ok" for row in rows}
    assert len(rows) == NUM_MUTANTS
    assert codes == findings.endings


@pytest.mark.slow
def test_100000_files_with_flipped_bits_and_20000_others_end_with_pixels_or_a_code_in_bounded_time_and_memory(
    tmp_path: Path,
) -> None:
    num_mutants = 100_000 * EVERY // (EVERY - 1)
    found = decode_mutants(1, num_mutants, tmp_path)
    assert found.faults == []
    assert len(found.endings) == num_mutants
