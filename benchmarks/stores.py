"""What a store's latency and rejections cost: whole jobs, manifest, images and output in a bucket, in turn.

    python benchmarks/stores.py --images 4000 --model random:resnet18

Three S3 servers, each a process of its own, serve one folder: one at once, one 60 ms late, one that answers 5 % of the
requests with 503. The server shares the machine with the job (it needs some 0.3 ms of a core for each image), in all
three cases alike; choose a model that makes an image cost far more than that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from material import archive_of, model_string, serving

import batchrec
from batchrec.report.summary import RunSummary

FIRST_PORT = 19_740


def run(endpoint: str, model: str, output: str) -> RunSummary:
    summary = batchrec.submit(
        "s3://bucket/archive/manifest.parquet",
        output=f"s3://bucket/{output}",
        model=model,
        pool="inline",
        s3_endpoint=endpoint,
    )
    if summary.num_failed:
        raise SystemExit(f"{summary.num_failed} images failed")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--drawn", type=int, default=1000, help="different images among them")
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--model", default="random:resnet18")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=60)
    parser.add_argument("--rejected", type=float, default=0.05)
    arguments = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1")
    faults = {
        "as it is": [],
        f"{arguments.latency_ms:g} ms late": ["--latency-s", str(arguments.latency_ms / 1000)],
        f"{arguments.rejected:.0%} rejected": ["--rejected", str(arguments.rejected)],
    }
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as servers:
        folder = Path(scratch)
        archive_of(folder / "buckets/bucket/archive", arguments.images, arguments.size, num_drawn=arguments.drawn)
        endpoints = {
            name: servers.enter_context(serving(folder / "buckets", FIRST_PORT + number, *options))
            for number, (name, options) in enumerate(faults.items())
        }
        measure(endpoints, model_string(arguments.model, folder), folder / "buckets/bucket", arguments.rounds)


def measure(endpoints: dict[str, str], model: str, bucket: Path, num_rounds: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in endpoints}
    first = next(iter(endpoints))
    run(endpoints[first], model, "warm-up")
    for number in range(num_rounds):
        for name, endpoint in endpoints.items():
            output = "out"
            summary = run(endpoint, model, output)
            shutil.rmtree(bucket / output)
            rates[name].append(summary.steady_images_per_s)
            print(f"round {number}, {name}: {rates[name][-1]:.0f} images/s, whole {summary.wall_s:.1f} s", flush=True)
    for name, found in rates.items():
        ratios = [rate / base for rate, base in zip(found, rates[first], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name}: {statistics.median(found):.0f} images/s, {statistics.median(ratios):.3f} of it {first} ({spread})"
        )


if __name__ == "__main__":
    main()
