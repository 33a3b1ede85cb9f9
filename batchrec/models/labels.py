"""The names of a model's outputs."""

from __future__ import annotations

from pathlib import Path

from batchrec.errors import ModelError


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read a file with one label a line, in the order of the model's outputs.

    Raises:
        ModelError: If the file cannot be read, is empty, or a line is blank.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError("the labels file cannot be read", found=str(error), advice="name a UTF-8 text file") from error
    labels = tuple(line.strip() for line in lines)
    blank = next((number for number, label in enumerate(labels, 1) if not label), None)
    if not labels or blank:
        found = f"line {blank} of {path} is blank" if blank else f"{path} is empty"
        raise ModelError("the labels file needs one label a line", found=found)
    return labels


def numbered_labels(num_outputs: int) -> tuple[str, ...]:
    """Return ``class_0`` onwards, for weights that carry no names."""
    return tuple(f"class_{index}" for index in range(num_outputs))


def require_count(labels: tuple[str, ...], num_outputs: int, *, source: str) -> None:
    """Refuse labels that do not fit the model.

    Raises:
        ModelError: Naming both numbers.
    """
    if len(labels) != num_outputs:
        raise ModelError(
            "the labels do not fit the model",
            found=f"{len(labels)} labels in {source}, {num_outputs} outputs of the model",
            advice="give the labels the model was trained with (--labels FILE, one a line)",
        )
