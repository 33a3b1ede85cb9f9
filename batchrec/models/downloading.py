"""Weights torchvision publishes: from its download folder, or fetched into it."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from batchrec.errors import ModelError
from batchrec.models.catalogue import PublishedWeights, downloads_folder
from batchrec.models.weights import sha256_of

_CONNECT_TIMEOUT_S = 20.0


def download(architecture: str, weights: PublishedWeights) -> Path:
    """Return the local file of published weights, fetching it with torchvision's own code if absent.

    Raises:
        ModelError: If it is neither here nor to be had, or is not the published content.
    """
    path = downloads_folder() / weights.file_name
    if not path.is_file():
        _fetch(architecture, weights, path)
    _require_published(path)
    return path.resolve()


def _fetch(architecture: str, weights: PublishedWeights, path: Path) -> None:
    from torchvision.models import get_model_weights

    try:
        with _impatient(), redirect_stdout(sys.stderr):  # where torch says what it does
            get_model_weights(architecture)[weights.name].get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"the weights of {architecture} are not here and cannot be downloaded",
            found=f"{type(error).__name__}: {error}",
            advice=f"put {weights.file_name} into {path.parent}, or name a local file: "
            f"torchvision:{architecture}@./FILE.safetensors or file:FILE.safetensors+{architecture}",
        ) from error


def _require_published(path: Path) -> None:
    # The file's own name ends in the first digits of its sha256; torch checks them only while downloading.
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named and not sha256_of(path).startswith(named[1]):
        raise ModelError(
            "the downloaded weights are damaged", found=f"sha256 of {path}", advice="delete that file and run again"
        )


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
