"""Reading weights without running anything that lies in them."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batchrec.errors import ModelError

if TYPE_CHECKING:
    import torch

SUFFIXES: Final = (".safetensors", ".pt", ".pth")


def require_weights_file(path: str | Path) -> Path:
    """Return the absolute path of a weights file that exists and has a known suffix.

    Raises:
        ModelError: If there is no such file, or its suffix is not one of :data:`SUFFIXES`.
    """
    found = Path(path).expanduser()
    if not found.is_file():
        raise ModelError("the weights file is not there", found=str(path), advice="check the path")
    if found.suffix not in SUFFIXES:
        raise ModelError(
            "weights are read from .safetensors, or from .pt and .pth holding plain tensors",
            found=found.name,
            advice="save them with safetensors.torch.save_file(model.state_dict(), ...)",
        )
    return found.resolve()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError("a file of the model cannot be read", found=str(error)) from error


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read named tensors onto the CPU; a pickle with anything but tensors is refused unread.

    Raises:
        ModelError: If the file is damaged, holds code, or is not a state_dict.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)  # type: ignore[no-any-return]
        with warnings.catch_warnings():
            # What torch warns of in foreign pickles, it then either reads or refuses.
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        return _named_tensors(loaded, path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            "the weights file holds more than tensors and was not loaded",
            found=f"{path.name}: {_first_line(error)}",
            advice="save model.state_dict() with safetensors.torch.save_file",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError("the weights file is damaged", found=f"{path.name}: {_first_line(error)}") from error


def _named_tensors(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    import torch

    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError(
            "the weights file does not hold a state_dict",
            found=f"{path.name}: {type(loaded).__name__}",
            advice="save model.state_dict()",
        )
    named = {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}
    return type(loaded)(named)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
