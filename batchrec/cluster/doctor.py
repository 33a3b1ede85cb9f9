"""What is right and wrong on this machine, one line each."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from batchrec.engine.devices import available_cores, cuda_trouble, num_cuda_devices
from batchrec.errors import BatchrecError
from batchrec.models.backends import resolve_precision
from batchrec.models.zoo import resolve_model
from batchrec.spec import StoreOptions
from batchrec.storage import OWN_FOLDERS, Store, open_store, probe

_NEEDED = ("ray", "torch", "torchvision", "pyarrow", "obstore", "pillow", "simplejpeg", "safetensors")
_HELPFUL = {"openvino": "CPU workers then run several times slower, on torch"}
_LEAST_SHM_BYTES = 200 * 2**20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: What.
        good: Whether jobs can run with it as it is.
        found: What was seen, and what to do where it is not good.
    """

    name: str
    good: bool
    found: str


def examine(output: str | None = None, options: StoreOptions | None = None) -> Iterator[Finding]:
    """Look at packages, cores, devices, memory, the bundled model, and the output folder if one is named."""
    yield Finding("python", True, f"{platform.python_version()} on {platform.platform()}")
    for package in (*_NEEDED, *_HELPFUL):
        yield _package(package)
    yield Finding("cores", True, f"{available_cores()} of {os.cpu_count()} may be used")
    yield _cuda()
    yield Finding("precision", True, f"auto means {resolve_precision('auto', 'cpu')} on this CPU")
    yield _shared_memory()
    yield _tried("bundled model", _bundled_model)
    if output is not None:
        yield _tried(f"output {output}", lambda: _probe(output, options or StoreOptions()))


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        consequence = _HELPFUL.get(name)
        return Finding(name, consequence is not None, f"not installed: {consequence or 'pip install ' + name}")


def _cuda() -> Finding:
    num_devices = num_cuda_devices()
    trouble = cuda_trouble() if num_devices else ""
    left = f", left alone: {trouble}" if trouble else ""
    return Finding("cuda", True, f"{num_devices} devices visible{left}")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")  # noqa: S108  Ray's object store lies here, nothing of ours
    if not folder.exists():
        return Finding("shared memory", True, "no /dev/shm: Ray uses its temporary folder")
    free = shutil.disk_usage(folder).free
    advice = "" if free >= _LEAST_SHM_BYTES else ": mount a larger /dev/shm, or run with --pool inline"
    return Finding("shared memory", free >= _LEAST_SHM_BYTES, f"{free / 2**20:,.0f} MiB free in /dev/shm{advice}")


def _tried(name: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, attempt())
    except BatchrecError as error:
        return Finding(name, False, str(error))


def _bundled_model() -> str:
    model = resolve_model("apparel")
    return f"{model.architecture}, {model.num_outputs} labels"


def _probe(output: str, options: StoreOptions) -> str:
    store = open_store(output, options)
    with _leaving_no_folder(store):
        probe(store)
    return "takes conditional puts"


@contextmanager
def _leaving_no_folder(store: Store) -> Iterator[None]:
    """Remove what folders a look at a local store makes; those of a job that runs there were there before."""
    root = Path(store.url)
    wanted = [] if "://" in store.url else [*(root / name for name in OWN_FOLDERS), root, *root.parents]
    made = [folder for folder in wanted if not folder.exists()]
    try:
        yield
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
