"""What our own processes do first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def test_pyarrow_looks_for_pandas_when_it_is_given_a_list() -> None:
    """Otherwise there would be nothing to leave out any more."""
    assert run("import sys, pyarrow as pa; pa.array(['a']); print('pandas' in sys.modules)") == "True\n"


def test_a_command_imports_no_pandas(archive: Path, tmp_path: Path) -> None:
    code = """
import sys
from batchrec.__main__ import main
try:
    main()
except SystemExit as end:
    print(end.code, "pandas" in sys.modules)
"""
    words = ["submit", archive / "manifest.parquet", "-o", tmp_path / "out", "--pool=inline", "--limit=20"]
    assert run(code, *words, "--set=max_failure_rate=1").splitlines()[-1] == "0 False"


@pytest.mark.parametrize("actor", ["ray_pool._WorkerActor", "ray_help._HelperActor"])
def test_an_actor_imports_no_pandas(actor: str) -> None:
    module, _, name = actor.partition(".")
    code = f"""
import os, sys
from batchrec.engine.{module} import {name}
stdout = os.dup(1)
{name}(dict)
import pyarrow as pa
pa.array(["a"])
os.write(stdout, str("pandas" in sys.modules).encode())
"""
    assert run(code) == "False"


def test_who_asks_for_pandas_gets_it_all_the_same() -> None:
    code = """
from batchrec.own_process import leave_out_pandas
leave_out_pandas()
leave_out_pandas()
import pyarrow as pa
print(list(pa.table({"a": [1, 2]}).to_pandas()["a"]))
"""
    assert run(code) == "[1, 2]\n"
