"""A long job on four raylets against a bucket on a bad day, while workers, nodes and coordinators die and stand still.

    python -m tests.cluster.soak --rows 1000000 --kills 100

The command is typed again whenever it ends resumable. At the end: every row once, the same answer for the same image as
in an undisturbed run, `batchrec verify` clean. The model is next to nothing, so that the time goes into the protocol.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from batchrec.manifest.planning import Plan
from tests.cluster.raylets import Raylets, raylets
from tests.s3_server import BAD_DAY, Fault, Request, S3Server, SeededFaults

NUM_IMAGES = 200
OUT = "s3://results/out"
_SAYS_EVERY_S = 15.0
_FULL, _FULL_S = Fault(status=507, code="XMinioStorageFull"), 20.0
#: Of each kind, for one kill in all.
_BLOWS = {"workers": 0.6, "coordinators": 0.3, "nodes": 0.1, "stopped": 0.3, "bucket full": 0.05}
_PAUSE_S = 0.5
_REFUSED, _REFUSED_S, _MOST_REFUSED = 3, 4.0, 5
_RESUMABLE = (5, 6, 130, 143, -signal.SIGKILL)


def draw_archive(folder: Path, num_rows: int) -> Path:
    """Write tiny images and a manifest that names each again and again; returns the manifest."""
    from PIL import Image

    generator = random.Random(0)
    for number in range(NUM_IMAGES):
        colour = tuple(generator.randrange(256) for _ in range(3))
        image = Image.new("RGB", (40, 32), colour)
        image.putpixel((number % 40, 3), (255, 255, 255))
        image.save(folder / f"{number}.jpg", quality=90)
    names = pa.array([f"{number}.jpg" for number in range(NUM_IMAGES)])
    for path, count in ((folder / "few.parquet", NUM_IMAGES), (folder / "many.parquet", num_rows)):
        indices = pa.array((row % NUM_IMAGES for row in range(count)), pa.int32())
        pq.write_table(pa.table({"uri": names.take(indices)}), path, row_group_size=50_000)
    return folder / "many.parquet"


def draw_model(folder: Path) -> Path:
    """Save a bundle of next to no arithmetic."""
    import torch
    from torchvision.models import get_model

    from batchrec.models import Preprocess, save_bundle

    torch.manual_seed(1)
    state = get_model("shufflenet_v2_x0_5", num_classes=3).state_dict()
    save_bundle(
        folder / "model",
        architecture="shufflenet_v2_x0_5",
        weights={name: tensor.numpy() for name, tensor in state.items()},
        labels=("a", "b", "c"),
        preprocess=Preprocess(resize=32, crop=32),
        card="# random\n",
    )
    return folder / "model"


class Weather:
    """Faults of a bucket: those of a bad day, and now and then no room for anything."""

    def __init__(self, seed: int) -> None:
        self.faults = SeededFaults(seed, BAD_DAY)
        self.num_full = 0
        self._full_until = 0.0

    def __call__(self, request: Request) -> Fault | None:
        if request.method in ("PUT", "POST") and time.monotonic() < self._full_until:
            self.num_full += 1
            return _FULL
        return self.faults(request)

    def fill(self, seconds: float) -> None:
        """Let nothing more in for so long."""
        self._full_until = time.monotonic() + seconds


class Havoc:
    """Kills and stops what takes part in the job, as a seed says, and fills its bucket.

    Args:
        cluster: Its first node is the head, which is left alone.
        bucket: Where the job publishes.
        weather: Of the bucket.
        num_kills: Of workers, coordinators and nodes, over the whole job.
        rng: Draws.
    """

    def __init__(
        self, cluster: Raylets, bucket: S3Server, weather: Weather, num_kills: int, rng: random.Random
    ) -> None:
        self._cluster, self._bucket, self._weather, self._rng = cluster, bucket, weather, rng
        self._known_shards = 0
        self._blows = {name: share * num_kills for name, share in _BLOWS.items()}
        self._nodes = list(range(1, len(cluster.nodes)))
        self.done: Counter[str] = Counter()
        self.ended: Counter[int] = Counter()

    def strike(self) -> None:
        """Do one thing that the job has got far enough for, where there is somebody to do it to.

        Blows fall evenly over the parts of the job, on a slow machine as on a fast one. By the clock they could fall so
        thick that none is made.
        """
        if not self._num_shards:
            return
        share = (num_parts(self._bucket) + 1) / self._num_shards
        due = [name for name, most in self._blows.items() if self.done[name] < most * share]
        acts = {
            "workers": self._kill_worker,
            "coordinators": self._kill_coordinator,
            "nodes": self._kill_node,
            "stopped": self._stop,
            "bucket full": self._fill,
        }
        if due:
            with contextlib.suppress(psutil.NoSuchProcess):
                acts[self._rng.choice(due)]()

    @property
    def _num_shards(self) -> int:
        """How many the job has; 0 before it is planned."""
        if not self._known_shards:
            plans = [key for key in self._bucket.keys("results") if key.endswith("/plan.parquet")]
            self._known_shards = len(Plan.from_parquet(self._bucket.get("results", plans[0]) or b"")) if plans else 0
        return self._known_shards

    def _workers(self) -> list[psutil.Process]:
        return [worker for node in self._nodes for worker in self._cluster.workers(node)]

    def _kill_worker(self) -> None:
        if workers := self._workers():
            self._rng.choice(workers).kill()
            self.done["workers"] += 1

    def _kill_coordinator(self) -> None:
        for node in self._nodes:
            for process in psutil.Process(self._cluster.nodes[node].pid).children(recursive=True):
                words = process.cmdline()
                if "run" in words and any(word.endswith("batchrec") for word in words):
                    process.kill()
                    self.done["coordinators"] += 1
                    return

    def _kill_node(self) -> None:
        node = self._rng.choice(self._nodes)
        self._cluster.remove(node)
        self._nodes.remove(node)
        self._nodes.append(self._cluster.add_node(num_cpus=1))
        self.done["nodes"] += 1

    def _stop(self) -> None:
        if workers := self._workers():
            worker = self._rng.choice(workers)
            worker.suspend()
            time.sleep(2)
            worker.resume()
            self.done["stopped"] += 1

    def _fill(self) -> None:
        self._weather.fill(_FULL_S)
        self.done["bucket full"] += 1


def run(command: list[str], cluster: Raylets, havoc: Havoc, bucket: S3Server) -> int:
    """Type the command until it ends complete; returns how often it was typed."""
    refused = 0
    for typed in range(1, 10_000):
        process = subprocess.Popen(
            command, env=cluster.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PAUSE_S)
            if process.poll() is None:
                havoc.strike()
            say(havoc, typed, bucket)
        assert process.stderr
        errors = process.stderr.read()
        havoc.ended[process.returncode] += 1
        if process.returncode == 0:
            return typed
        if process.returncode == _REFUSED and "is being run already" in errors and refused < _MOST_REFUSED:
            # A coordinator outlives the raylet of its node by a second or two, and must not be passed while it lives.
            refused += 1
            time.sleep(_REFUSED_S)
            continue
        refused = 0
        if process.returncode not in _RESUMABLE:
            raise SystemExit(f"the command ended with {process.returncode}:\n{errors}\n{who_lives(errors)}")
    raise AssertionError("unreachable")


def who_lives(errors: str) -> str:
    """Describe the process that an error names: what it is, whose child, and where its threads stand."""
    named = re.search(r"process (\d+) on", errors)
    if named is None or not psutil.pid_exists(int(named[1])):
        return ""
    process = psutil.Process(int(named[1]))
    words = ["py-spy", "dump", "--pid", named[1]]
    stacks = subprocess.run(words, capture_output=True, text=True).stdout if shutil.which("py-spy") else ""
    return "\n".join([*(str(one) for one in (process, *process.parents())), " ".join(process.cmdline()), stacks])


_said_at = 0.0


def num_parts(bucket: S3Server) -> int:
    return sum("/part-" in key for key in bucket.keys("results"))


def say(havoc: Havoc, typed: int, bucket: S3Server) -> None:
    global _said_at
    if time.monotonic() - _said_at > _SAYS_EVERY_S:
        _said_at = time.monotonic()
        print(f"{time.strftime('%X')}  {num_parts(bucket)} parts, typed {typed} times, {dict(havoc.done)}", flush=True)


def check(manifest: Path, model: Path, num_rows: int, scratch: Path) -> None:
    """Compare with an undisturbed run of each image once."""
    import batchrec
    from batchrec.output.verifying import verify

    few = manifest.with_name("few.parquet")
    batchrec.submit(str(few), output=str(scratch / "few"), model=str(model), pool="inline", backend="openvino")
    wanted = {row["uri"]: (row["label"], row["score"]) for row in rows_of(str(scratch / "few"))}
    opened = batchrec.open(OUT)
    found = verify(opened.store, opened.layout, list(Plan.from_parquet(opened.store.read(opened.layout.plan_key))))
    seen = bytearray(num_rows)
    wrong = 0
    for row in rows_of(OUT):
        seen[row["row"]] += 1
        wrong += (row["label"], row["score"]) != wanted[row["uri"]]
    print(
        f"{num_rows:,} rows: {seen.count(0)} lost, {sum(times > 1 for times in seen)} twice, {wrong} wrong; "
        f"verify: complete={found.complete}, {len(found.faults)} faults"
    )
    if seen.count(1) != num_rows or wrong or found.faults or not found.complete:
        raise SystemExit(1)


def rows_of(out: str) -> list[dict[str, object]]:
    import batchrec

    return batchrec.open(out).predictions().to_table(columns=["row", "uri", "label", "score"]).to_pylist()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.monotonic()
    with S3Server() as bucket, tempfile.TemporaryDirectory(prefix="soak") as scratch:
        bucket.create_bucket("results")
        os.environ.update(bucket.environment)
        manifest, model = draw_archive(Path(scratch), asked.rows), draw_model(Path(scratch))
        bucket.fault = weather = Weather(asked.seed)
        with raylets() as cluster:
            cluster.start_head(num_cpus=0)
            for _ in range(3):
                cluster.add_node(num_cpus=1)
            havoc = Havoc(cluster, bucket, weather, asked.kills, random.Random(asked.seed))
            words = ["submit", manifest, "-o", OUT, "--model", model, "--address", cluster.url, "--backend", "openvino"]
            command = [sys.executable, "-m", "batchrec", *map(str, words)]
            typed = run(command, cluster, havoc, bucket)
        bucket.fault = None
        print(f"complete after {time.monotonic() - began:.0f} s, typed {typed} times, killed {dict(havoc.done)},")
        print(f"exit codes {dict(havoc.ended)},")
        print(f"faults of the store {sum(weather.faults.made.values()):,}, without room {weather.num_full:,}")
        check(manifest, model, asked.rows, Path(scratch))


if __name__ == "__main__":
    main()
