"""What the documents say exists: commands, paths, targets, tests, columns and codes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from batchrec.cli.main import cli
from batchrec.cli.options import settings_from
from batchrec.errors import ErrorCode
from batchrec.output.layout import OUTPUT_KEY, SUCCESS_KEY, Layout
from batchrec.output.schema import FIELDS, errors_schema

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("jobs/*.yaml")])
MAX_README_LINES = 150
EXIT_CODES = {"0", "1", "2", "3", "4", "5", "6", "129", "130", "143"}

_FENCED = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)\)")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
_OF_THE_REPOSITORY = re.compile(r"(?:batchrec|tests|docs|jobs|benchmarks|deploy)/[\w./-]*|Makefile|[\w-]+\.(?:md|toml)")
_SHELL = {"|", "||", "&&", ";", ">", "2>", "<"}


def code(text: str) -> Iterator[str]:
    """Every line of code blocks and comments of job files, and every inline code."""
    for block in _FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from (line.lstrip("# ") for line in text.splitlines() if line.startswith("#     "))
    yield from (inline.replace("\\|", "|") for inline in _INLINE.findall(_FENCED.sub("", text)))


def commands() -> Iterator[tuple[str, str]]:
    """Every command line of a document, and of the Makefile."""
    for path in DOCUMENTS:
        for line in code(path.read_text()):
            if line.removeprefix("$ ").startswith("batchrec "):
                yield path.name, line.removeprefix("$ ")
    for line in (ROOT / "Makefile").read_text().splitlines():
        if line.strip().startswith("$(BIN)/batchrec "):
            yield "Makefile", line.strip().removeprefix("$(BIN)/")


def words_of(line: str) -> list[str]:
    """The arguments of a command line, up to a pipe or the next command."""
    words = shlex.split(line, comments=True)[1:]
    end = next((index for index, word in enumerate(words) if word in _SHELL), len(words))
    return words[:end]


def parse(words: list[str]) -> None:
    """Take a command line as the command would, without running it."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no verb {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    # A verb alone is its name, not a command line; help and version would print.
    name_only = not words or bool({"--help", "--version"} & set(words))
    params = command.make_context("batchrec", words, resilient_parsing=name_only).params
    if "sets" in params:
        settings_from((), None, params.pop("sets"), params)


@pytest.mark.parametrize(("document", "line"), sorted(set(commands())))
def test_every_command_line_parses(document: str, line: str) -> None:
    parse(words_of(line))


def test_a_wrong_command_line_would_be_found() -> None:
    for line in ("batchrec subit x", "batchrec submit x --topk 3"):
        with pytest.raises((AssertionError, click.UsageError)):
            parse(words_of(line))
    assert words_of("batchrec errors OUT --by code | head  # the first") == ["errors", "OUT", "--by", "code"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_a_document_names_exists(path: Path) -> None:
    text = path.read_text()
    named = {found.partition("::")[0] for found in _INLINE.findall(_FENCED.sub("", text))}
    missing = [name for name in named if _OF_THE_REPOSITORY.fullmatch(name) and not exists(name, path)]
    linked = [link for link in _LINK.findall(text) if not (path.parent / link).exists()]
    assert (missing, linked) == ([], [])


def exists(name: str, document: Path) -> bool:
    return (ROOT / name).exists() or (document.parent / name).exists() or name in FILES_OF_OTHERS


#: Names of files that documents speak of and that lie elsewhere.
FILES_OF_OTHERS = {"card.md"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_a_document_names_exists(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in code(path.read_text()) if re.match(r"make [a-z]", line)}
    assert named <= targets


def named_tests() -> list[tuple[str, str]]:
    return sorted({found for path in DOCUMENTS for found in _TEST.findall(path.read_text())})


@pytest.mark.parametrize(("file", "name"), named_tests())
def test_every_test_a_document_names_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_failure_has_its_exit_code_and_its_test() -> None:
    lines = (ROOT / "docs" / "failures.md").read_text().splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("| ")]
    rows = [row for row in rows if row[0].strip() != "what happens"]
    assert len(rows) > 30
    for row in rows:
        assert len(row) == 5, row
        assert set(re.findall(r"\d+", row[2])) <= EXIT_CODES, row
        assert _TEST.search(row[4]), row


def test_the_failures_name_every_code_of_an_image() -> None:
    named = set(_INLINE.findall((ROOT / "docs" / "failures.md").read_text()))
    assert {code.value for code in ErrorCode} - named == set()


def test_the_formats_name_every_column_and_key() -> None:
    text = (ROOT / "docs" / "formats.md").read_text()
    inline = set(_INLINE.findall(text))
    assert {field.name for field in FIELDS} | set(errors_schema().names) <= inline
    layout = Layout("JOB")
    keys = [layout.spec_key, layout.plan_key, layout.seal_key, layout.progress_key, OUTPUT_KEY, SUCCESS_KEY]
    assert [key for key in keys if key not in inline] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < MAX_README_LINES


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
