"""Weights and bundles from strangers: nothing in them runs, and nothing leads out of them."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrec.errors import ModelError
from batchrec.models import resolve_model
from batchrec.models.weights import read_state_dict

MIB = 2**20
APPAREL = Path(__file__).parents[2] / "batchrec" / "models" / "bundles" / "apparel"


class Trap:
    """Makes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def as_zip(payload: bytes, path: Path, *, name: str = "archive/data.pkl") -> None:
    """What torch writes today: a zip with a pickle in it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def as_zip_in_zip(payload: bytes, path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", inner.getvalue())
        archive.writestr("archive/code/__torch__.py", "import os; os.mkdir('it-ran')")
        archive.writestr("archive/constants.pkl", payload)
        archive.writestr("archive/version", "3\n")


def as_tar(payload: bytes, path: Path) -> None:
    """What torch wrote before 2017: a tar with pickles in it."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            facts = tarfile.TarInfo(name)
            facts.size = len(payload)
            archive.addfile(facts, io.BytesIO(payload))


def as_pickles_in_a_row(payload: bytes, path: Path) -> None:
    """What torch wrote before 1.6: a magic number, a version, system facts, then the pickle."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    told = pickle.dumps({"protocol_version": 1001, "little_endian": True}, protocol=2)
    path.write_bytes(magic + pickle.dumps(1001, protocol=2) + told + payload)


def as_trap_before_the_magic(payload: bytes, path: Path) -> None:
    path.write_bytes(payload * 5)


def as_script(payload: bytes, path: Path) -> None:
    """What torch.jit.save writes; torch reads those with another reader, which runs code."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", payload)
        archive.writestr("model/constants.pkl", payload)
        archive.writestr("model/code/__torch__.py", "import os")
        archive.writestr("model/version", "3\n")


def as_safetensors(payload: bytes, path: Path) -> None:
    """A pickle under the harmless suffix."""
    path.write_bytes(payload)


WAYS = [as_zip, as_zip_in_zip, as_tar, as_pickles_in_a_row, as_trap_before_the_magic, as_script, as_safetensors]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_wrapping_makes_a_pickle_run(
    tmp_path: Path, write: Callable[[bytes, Path], None], suffix: str, protocol: int
) -> None:
    path, mark = tmp_path / f"weights{suffix}", tmp_path / "it-ran"
    write(pickle.dumps({"fc.weight": Trap(mark)}, protocol=protocol), path)
    with pytest.raises(ModelError) as refused:
        read_state_dict(path)
    assert not mark.exists()
    assert "\n" not in str(refused.value)


def test_the_trap_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps({"fc.weight": Trap(tmp_path / "it-ran")}))
    assert (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    "called",
    [
        *("os\nsystem", "posix\nsystem", "builtins\neval", "builtins\ngetattr", "subprocess\nPopen", "shutil\nrmtree"),
        *("torch\nload", "torch.hub\nload", "torch.jit\nload", "torch.serialization\n_load", "numpy\nload"),
        *("torch._utils\n_rebuild_wrapper_subclass", "torch.storage\n_load_from_bytes", "runpy\nrun_path"),
    ],
)
def test_no_function_is_called_for_a_pickle(tmp_path: Path, called: str) -> None:
    payload = f"c{called}\n(S'{tmp_path / 'it-ran'}'\ntR.".encode()
    pickletools.dis(payload, out=io.StringIO())
    as_zip(payload, tmp_path / "weights.pt")
    with pytest.raises(ModelError):
        read_state_dict(tmp_path / "weights.pt")


def header(content: bytes, claims: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(content) if claims is None else claims) + content + data


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = [
    header(b"", 2**64 - 1),
    header(b"", 2**63),
    header(b"{}", 2**40),
    header(b"{}", 100_000_001),
    header(b"{" + b" " * (101 * MIB)),
    header(b"[" * 1_000_000),
    header(b'{"a":' * 100_000),
    header(json.dumps({"w": tensor([2**62, 4], 0, 2**64 - 1)}).encode()),
    header(json.dumps({"w": tensor([2**31, 2**31], 0, 16)}).encode(), data=bytes(16)),
    header(json.dumps({"w": tensor([4], 0, 2**50)}).encode(), data=bytes(16)),
    header(json.dumps({"w": tensor([4], -16, 0)}).encode(), data=bytes(16)),
    header(json.dumps({"w": tensor([4], 16, 0)}).encode(), data=bytes(16)),
    header(json.dumps({"w": tensor([4], 0, 16), "v": tensor([4], 8, 24)}).encode(), data=bytes(24)),
    header(json.dumps({"w": tensor([4], 0, 16)}).encode(), data=bytes(4000)),
    header(json.dumps({"w": tensor([4], 0, 16, "PICKLE")}).encode(), data=bytes(16)),
    header(b'{"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "w": ' + b"[" * 50_000),
    header(b"\xff" * 64),
]


def test_hostile_safetensors_headers_are_refused_in_little_memory(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(len(HEADERS))]
    for path, data in zip(paths, HEADERS, strict=True):
        path.write_bytes(data)
    script = Path(__file__).parent / "bombing.py"
    command = [sys.executable, script, "weights", 1024 * MIB, *paths]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, cwd=APPAREL.parents[3])
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line[:11] for line in lines] == ["ModelError:"] * len(HEADERS)
    assert max(map(len, lines)) < 1000


# --- Bundles ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundled model, which somebody then meddles with."""
    return Path(shutil.copytree(APPAREL, tmp_path / "bundle"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "labels.json"
    path.parent.mkdir()
    path.write_text(json.dumps(["a secret"] * 10))
    return path


def test_a_bundle_is_taken_as_it_was_saved(bundle: Path) -> None:
    assert resolve_model(str(bundle)).num_outputs == 10


@pytest.mark.parametrize("name", ["labels.json", "weights.safetensors"])
def test_a_link_out_of_a_bundle_shows_nothing(bundle: Path, secret: Path, name: str) -> None:
    (bundle / name).unlink()
    (bundle / name).symlink_to(secret)
    with pytest.raises(ModelError, match="not the one it was saved with") as refused:
        resolve_model(str(bundle))
    assert "a secret" not in str(refused.value)


@pytest.mark.parametrize("path", ["../elsewhere/labels.json", "/etc/passwd", "..\\elsewhere", "file:///etc/passwd"])
def test_a_bundles_description_names_no_other_files(bundle: Path, secret: Path, path: str) -> None:
    """The files of a bundle have fixed names; whatever else the description lists is not opened."""
    told = json.loads((bundle / "bundle.json").read_text())
    told["files"] = {path if name == "labels.json" else name: digest for name, digest in told["files"].items()}
    (bundle / "bundle.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="not the one it was saved with"):
        resolve_model(str(bundle))


@pytest.mark.parametrize(
    "source", ["python:os:system", "pt2:/tmp/model.pt2", "../../etc", "resnet18; import os", "__class__"]
)
def test_a_bundle_names_no_code(bundle: Path, source: str) -> None:
    told = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**told, "architecture": source}))
    from batchrec.models.building import load_model

    with pytest.raises(ModelError):
        spec = resolve_model(str(bundle))
        load_model(spec.architecture, Path(spec.weights_path), 64)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, " " * (17 * MIB), "1" * 5_000, '"' + "x" * 10**6])
def test_a_description_that_would_grow_is_refused(bundle: Path, text: str) -> None:
    for name in ("bundle.json", "labels.json"):
        kept = (bundle / name).read_bytes()
        (bundle / name).write_text(text)
        with pytest.raises(ModelError) as refused:
            resolve_model(str(bundle))
        assert len(str(refused.value)) < 1000
        (bundle / name).write_bytes(kept)
