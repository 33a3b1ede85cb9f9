"""Whole jobs of several programs on the same images and weights, in turn; one command, one table.

    python benchmarks/compare.py --archive DIR --peers FOLDER --peer-python PYTHON [--images 8000] [--rounds 3]
        [--model resnet18] [--publish] [--more] [--record]

FOLDER holds peer scripts called as `peer_NAME.py MANIFEST OUT --weights W --model M --kernel K`, with kernel fp32 for
each program as its documentation writes it and inductor-bf16 for our best torch kernel inside it; PYTHON has the
peers installed. Archive and weights are made where they are missing. In each round every program runs once on each
track, ours too, in new processes. A run counts if it left one row for each image; its labels are compared with the
reference pipeline (Pillow, torchvision's preset, torch eager fp32) on a sample. `--publish` keeps the results in
benchmarks/results and writes table and picture into docs, with `--more` as further rounds of those kept already;
`--record` appends ours to the history.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch

from batchrec.learning.drawing import draw_archive
from batchrec.models.bundle import ModelSpec, save_bundle
from batchrec.models.labels import numbered_labels
from batchrec.models.preprocessing import Preprocess
from benchmarks.agreement import reference
from benchmarks.history import commit, machine, now, record
from benchmarks.publishing import OURS, RESULTS, joined, publish, table
from benchmarks.weights import make_weights

KERNELS = {"documented": "fp32", "tuned": "inductor-bf16"}
PEERS = ("raydata", "raydata_fused", "dataloader", "daft", "spark")
PACKAGES = ("ray", "daft", "pyspark", "torch", "torchvision", "pyarrow")
SAMPLE = 400


@dataclass
class Work:
    """What every program is given, and what it has to say.

    Attributes:
        manifest: With absolute URIs, which peers open as they stand.
        weights: A state dict.
        bundle: The same weights for our program, with the sizes that peers resize and crop to.
        model: Architecture.
        labels: Of the model's outputs.
        wanted: What the reference pipeline says, by URI.
    """

    manifest: Path
    weights: Path
    bundle: Path
    model: str
    labels: tuple[str, ...]
    wanted: dict[str, str]

    @property
    def num_images(self) -> int:
        """Rows of the manifest."""
        return int(pq.read_metadata(self.manifest).num_rows)


@dataclass
class Program:
    """One program on one track, and how its runs went: seconds of each round, None where not all work was done."""

    name: str
    track: str
    command: list[str]
    environment: dict[str, str]
    seconds: list[float | None] = field(default_factory=list)
    agreement: float = 0.0

    def run(self, work: Work, scratch: Path) -> None:
        """Time one whole process, and hold what it left against the work."""
        out, log = scratch / self.name, scratch / f"{self.name}-{self.track}.log"
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        with log.open("ab") as stream:
            command = [*self.command, str(out)]
            done = subprocess.run(command, stdout=stream, stderr=stream, env={**os.environ, **self.environment})
        wall_s = time.perf_counter() - began
        said = labels_of(out / "predictions" if self.name == OURS else out, work.labels)
        if done.returncode or sorted(said.column("uri").to_pylist()) != uris_of(work.manifest):
            print(f"{self.name}, {self.track}: exit {done.returncode}, {len(said)} rows; see {log}", flush=True)
            self.seconds.append(None)
            return
        self.seconds.append(wall_s)
        self.agreement = agreement(said, work.wanted)
        print(f"{self.name}, {self.track}: {wall_s:.1f} s, same top-1 {self.agreement:.2%}", flush=True)


def labels_of(folder: Path, labels: tuple[str, ...]) -> pa.Table:
    """Read what a program says of each image; peers give the number of the output."""
    parts = sorted(map(str, folder.rglob("*.parquet")))
    if not parts:
        return pa.table({"uri": pa.array([], pa.string()), "label": pa.array([], pa.string())})
    said = ds.dataset(parts, format="parquet").to_table(columns=["uri", "label"])
    if pa.types.is_integer(said.column("label").type):
        names = [labels[index] for index in said.column("label").to_pylist()]
        said = said.set_column(1, "label", pa.array(names, pa.string()))
    return said


def uris_of(manifest: Path) -> list[str]:
    """Return the URIs of a manifest, sorted."""
    return sorted(pq.read_table(manifest).column("uri").to_pylist())


def agreement(said: pa.Table, wanted: dict[str, str]) -> float:
    """Return the share of the sampled images that got the label of the reference."""
    pairs = zip(said.column("uri").to_pylist(), said.column("label").to_pylist(), strict=True)
    return sum(wanted.get(uri) == label for uri, label in pairs) / len(wanted)


def prepare(archive: Path, weights: Path | None, model: str, num_images: int) -> Work:
    """Draw the archive and make the weights where they are missing, and ask the reference."""
    if not (archive / "manifest.parquet").exists():
        draw_archive(archive, num_images=num_images, size=(500, 375))
    uris = pq.read_table(archive / "manifest.parquet", columns=["uri"]).column("uri").to_pylist()[:num_images]
    manifest = archive / f"absolute-{len(uris)}.parquet"
    paths = [(archive / uri).resolve() for uri in uris]
    pq.write_table(pa.table({"uri": [str(path) for path in paths]}), manifest)
    weights = weights or archive / f"{model}.pt"
    if not weights.exists():
        make_weights(model, archive, weights)
    bundle = archive / f"{model}-bundle"
    found = bundle_of(bundle, weights, model)
    sample = paths[:: max(1, len(paths) // SAMPLE)]
    wanted = dict(zip(map(str, sample), reference(str(bundle), sample), strict=True))
    return Work(manifest, weights, bundle, model, found.labels, wanted)


def bundle_of(folder: Path, weights: Path, model: str) -> ModelSpec:
    """Write weights as a bundle: peers resize to 256, whatever torchvision says of the architecture."""
    tensors = {name: tensor.numpy() for name, tensor in torch.load(weights, weights_only=True).items()}
    return save_bundle(
        folder,
        architecture=model,
        weights=tensors,
        labels=numbered_labels(len(tensors[list(tensors)[-1]])),
        preprocess=Preprocess(256, 224),
        card=f"The weights of {weights}.",
    )


def programs(work: Work, peers: Path, peer_python: str, names: list[str], tracks: list[str]) -> list[Program]:
    """Return every program on every track, ours first on each."""
    submit = ["-m", "batchrec", "submit", str(work.manifest), "-m", str(work.bundle), "-o"]
    # Workers that a peer starts elsewhere find its modules and its interpreter by these.
    found = {"PYTHONPATH": str(peers), "PYSPARK_PYTHON": peer_python}
    listed = []
    for track in tracks:
        listed.append(Program(OURS, track, [sys.executable, *submit], {}))
        for name in names:
            options = ["--weights", str(work.weights), "--model", work.model, "--kernel", KERNELS[track]]
            script = [peer_python, str(peers / f"peer_{name}.py"), *options, str(work.manifest)]
            listed.append(Program(name, track, script, found))
    return listed


def versions(peer_python: str) -> dict[str, str]:
    """Ask the peers' interpreter what it has."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {PACKAGES!r}}}))"
    return dict(json.loads(subprocess.run([peer_python, "-c", code], check=True, capture_output=True).stdout))


def results(work: Work, listed: list[Program], peer_python: str) -> dict[str, object]:
    """Return a comparison as plain values."""
    runs = [
        {"program": each.name, "track": each.track, "seconds": each.seconds, "agreement": each.agreement}
        for each in listed
    ]
    about = {"machine": machine(), "date": now(), "commit": commit(), "versions": versions(peer_python)}
    return {"model": work.model, "images": work.num_images, **about, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--names", default=",".join(PEERS))
    parser.add_argument("--tracks", default=",".join(KERNELS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/batchrec-compare"))
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    if asked.more and not asked.publish:
        parser.error("--more adds to what --publish keeps: it needs it")
    asked.scratch.mkdir(parents=True, exist_ok=True)
    work = prepare(asked.archive, asked.weights, asked.model, asked.images)
    names = [name for name in asked.names.split(",") if name]
    listed = programs(work, asked.peers, asked.peer_python, names, asked.tracks.split(","))
    place = RESULTS / f"{work.model}-{work.num_images}.json"
    kept = json.loads(place.read_text()) if asked.more else None
    if kept:
        joined(kept, results(work, listed, asked.peer_python))  # what cannot be is said before hours of measuring
    for number in range(asked.rounds):
        print(f"round {number + 1} of {asked.rounds}", flush=True)
        for program in listed:
            program.run(work, asked.scratch)
    found = results(work, listed, asked.peer_python)
    print(table(found))
    (asked.scratch / "results.json").write_text(json.dumps(found, indent=1))  # whatever becomes of it below
    if asked.publish:
        RESULTS.mkdir(exist_ok=True)
        place.write_text(json.dumps(joined(kept, found) if kept else found, indent=1) + "\n")
        publish()
    if asked.record:
        mine = [seconds for program in listed if program.name == OURS for seconds in program.seconds if seconds]
        record([(f"whole job, {work.model}, {work.num_images} images, s", statistics.median(mine), "lower")])


if __name__ == "__main__":
    main()
