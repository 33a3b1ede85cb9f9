"""What inductor makes of a model, found out in a process apart: it may take minutes, and may crash.

    stdin:  what to measure, as JSON
    stdout: images a second, as JSON

The kernels it compiled stay in the cache folder, so that whoever uses them afterwards starts in seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from batchrec.models.bundle import ModelSpec
from batchrec.models.preprocessing import Preprocess


def compiled_rate(
    model: ModelSpec,
    device: str,
    *,
    precision: str,
    batch_size: int,
    embeddings: bool,
    cache_dir: Path | None,
    within_s: float,
) -> float | None:
    """Return images a second of the compiled model alone, or None where there is no answer in time."""
    request = {
        "model": dataclasses.asdict(model) | {"preprocess": model.preprocess.to_json()},
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "embeddings": embeddings,
        "cache_dir": str(cache_dir) if cache_dir else None,
        "within_s": within_s,
    }
    answer = _ask(json.dumps(request).encode(), within_s)
    try:
        return float(json.loads(answer.splitlines()[-1])["images_per_s"])
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def _ask(request: bytes, within_s: float) -> bytes:
    # -P: whatever lies in the working directory is no module of ours.
    command = [sys.executable, "-P", "-m", __name__]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # A session of its own: inductor starts processes too, and none may outlive the answer.
    with subprocess.Popen(  # noqa: S603  this very package
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        try:
            return child.communicate(request, timeout=within_s)[0]
        except subprocess.TimeoutExpired:
            return b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def main(request: dict[str, Any]) -> dict[str, float]:
    """Compile and measure."""
    signal.alarm(int(request["within_s"]) + 1)  # whoever asked may be gone
    from batchrec.models.backends.queues import CudaDevice
    from batchrec.models.backends.recogniser import Recogniser
    from batchrec.models.backends.torch_cuda import TorchCudaBackend
    from batchrec.models.backends.trial import images_per_s

    fields = request["model"]
    model = ModelSpec(
        **fields | {"labels": tuple(fields["labels"]), "preprocess": Preprocess.from_json(fields["preprocess"])}
    )
    cache_dir = Path(request["cache_dir"]) if request["cache_dir"] else None
    recognise = Recogniser(
        model,
        precision=request["precision"],
        device=request["device"],
        top_k=1,
        embeddings=request["embeddings"],
    )
    recognise.compile(request["batch_size"], cache_dir)
    device = CudaDevice(request["device"])
    backend = TorchCudaBackend(recognise, device, batch_size=request["batch_size"], cache_dir=cache_dir)
    return {"images_per_s": images_per_s(backend, model.preprocess.crop)}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
