"""Starting is quiet and cheap: no telemetry, and no torch where it is not needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

WATCH = """
import json, os, sys
seen = {"written": [], "network": [], "started": []}
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
        seen["written"].append(arguments[0])
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        seen["network"].append(event)
    if event == "subprocess.Popen":
        seen["started"].append(str(arguments[0]))
sys.addaudithook(watch)
"""

IMPORT = """
from batchrec.models.backends.openvino_cpu import import_openvino
import_openvino().Core()
"""

START = """
import numpy
from batchrec.models import resolve_model
from batchrec.models.backends import open_backend, resolve_precision
model = resolve_model(NAME)
backend, line = open_backend(
    model,
    precision=resolve_precision("auto", "auto"),
    device="auto",
    backend="auto",
    batch_size=2,
    num_threads=1,
    top_k=1,
)
side = model.preprocess.crop
backend.predict(numpy.zeros((2, side, side, 3), dtype=numpy.uint8))
seen["line"] = line
"""

TELL = """
seen["modules"] = sorted(name for name in sys.modules if "." not in name)
print(json.dumps(seen))
"""


def watched(code, home):
    environment = {**os.environ, "HOME": str(home), "BATCHREC_CACHE": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", WATCH + code + TELL], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_rooms_imports_nothing_heavy(tmp_path):
    seen = watched("import batchrec.models, batchrec.models.backends, batchrec.learning.drawing", tmp_path)
    assert not {"torch", "torchvision", "openvino", "pyarrow", "ray"} & set(seen["modules"])


def test_openvino_neither_writes_nor_calls(tmp_path):
    seen = watched(IMPORT, tmp_path)
    assert "openvino" in seen["modules"]
    assert (seen["network"], seen["started"]) == ([], [])
    assert list(tmp_path.rglob("*")) == []


def test_a_second_start_imports_no_torch(tmp_path, weights_file):
    code = START.replace("NAME", repr(f"file:{weights_file}+shufflenet_v2_x0_5"))
    first, second = watched(code, tmp_path), watched(code, tmp_path)
    assert "torch" in first["modules"]
    assert first["line"] == second["line"]
    assert second["line"].startswith("torch-eager") or not {"torch", "torchvision"} & set(second["modules"])
    assert (first["network"], second["network"]) == ([], [])
    assert not (tmp_path / "intel").exists()
