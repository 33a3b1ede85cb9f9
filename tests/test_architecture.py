"""The house keeps its shape: doors, sizes, and an import that costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "batchrec"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Each heavy dependency may be imported only through its doors.
DOORS = {
    "ray": ("engine/ray_", "cluster/", "report/metrics.py"),
    "torch": ("models/", "pipeline/", "learning/"),
    "torchvision": ("models/", "learning/"),
    "openvino": ("models/backends/",),
    "nncf": ("models/backends/quantising_child.py",),
    "pyarrow": ("manifest/", "output/", "learning/", "engine/summing.py", "own_process.py"),
    "obstore": ("storage/",),
    "fsspec": ("storage/",),
    "s3fs": ("storage/",),
    "click": ("cli/",),
    "rich": ("report/", "cli/"),
    "jinja2": ("report/html.py",),
    "yaml": ("jobfile/", "cluster/yaml_text.py"),
}
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 300, 60


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.fixture(scope="module", params=MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def module(request: pytest.FixtureRequest) -> tuple[str, str, ast.Module]:
    text = request.param.read_text()
    return str(request.param.relative_to(PACKAGE)), text, ast.parse(text)


def test_heavy_libraries_come_in_through_their_doors_only(module: tuple[str, str, ast.Module]) -> None:
    name, _, tree = module
    roots = {imported.split(".")[0] for imported in imports(tree)}
    assert {root for root in roots & DOORS.keys() if not name.startswith(DOORS[root])} == set()


def test_modules_and_functions_stay_small(module: tuple[str, str, ast.Module]) -> None:
    _, text, tree = module
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno}
    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}
    assert text.count("\n") <= MAX_MODULE_LINES


def test_a_broad_except_says_which_border_it_guards(module: tuple[str, str, ast.Module]) -> None:
    _, text, tree = module
    lines = text.splitlines()
    for node in ast.walk(tree):
        broad = isinstance(node, ast.ExceptHandler) and (
            node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        )
        if broad and not isinstance(node.body[-1], ast.Raise):
            assert "border" in lines[node.lineno - 1] + lines[node.lineno], f"line {node.lineno}"


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'openvino', 'pyarrow', 'obstore', 'PIL', 'rich', 'jinja2'}"
    code = f"import sys, batchrec; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_public_names_exist_and_are_documented() -> None:
    import batchrec

    for name in batchrec.__all__:
        assert getattr(batchrec, name).__doc__


def test_a_job_in_one_process_needs_neither_ray_nor_openvino(archive: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules |= dict.fromkeys(("ray", "openvino", "s3fs"))
import batchrec
summary = batchrec.submit({str(archive / "manifest.parquet")!r}, output={str(tmp_path / "out")!r}, pool="inline",
                          device="cpu", backend="torch-eager", limit=20, max_failure_rate=1.0)
print(summary.num_rows)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "20\n", done.stderr
