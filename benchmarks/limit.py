"""How near a whole job comes to what this machine allows, each term measured alone just before the job.

    python benchmarks/limit.py --images 8000 --size 500x375 --model random:resnet18
    python benchmarks/limit.py --images 400 --drawn 100 --size 4000x3000 --model random:resnet18
    python benchmarks/limit.py --images 40000 --drawn 4000 --size 64x64 --model random:mobilenet_v3_large
    python benchmarks/limit.py --images 8000 --drawn 1000 --kind png --model random:resnet18

The limit is that of `batchrec plan --measure`: of work that shares cores, cores / core-seconds of an image.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from material import archive_of, model_string

from batchrec.benching import measure_plan
from batchrec.job import run_job
from batchrec.planning import plan_job
from batchrec.report.measurement import measurement_lines
from batchrec.report.summary import comparison
from batchrec.spec import JobSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--drawn", type=int, help="different images among them; all when left out")
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--kind", choices=("jpeg", "png"), default="jpeg")
    parser.add_argument("--model", default="apparel", help="random:ARCHITECTURE for weights drawn here")
    parser.add_argument("--pool", default="ray")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archive", help="drawn before; drawn anew otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(arguments.archive or f"{scratch}/archive")
        archive_of(archive, arguments.images, arguments.size, arguments.kind, arguments.drawn)
        spec = JobSpec(
            source=(str(archive / "manifest.parquet"),),
            output=f"{scratch}/out",
            model=model_string(arguments.model, Path(scratch)),
            pool=arguments.pool,
            max_failure_rate=1.0,
        )
        ratios = [ratio_of(spec.replace(output=f"{scratch}/out{number}")) for number in range(arguments.rounds)]
    print(f"median: ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def ratio_of(spec: JobSpec) -> float:
    """Measure this machine on a job, run it, print both, and return achieved / limit."""
    found = measure_plan(plan_job(spec))
    print("\n".join(measurement_lines(found)))
    summary = run_job(spec)
    compared = comparison(summary)
    if compared is None:
        raise SystemExit("the job was too short to say anything: more --images")
    print(
        f"limit {found.limit.images_per_s:.0f}/s, steady {summary.steady_images_per_s:.0f}/s, ratio "
        f"{compared.achieved_over_limit:.3f}; whole {summary.wall_s:.1f} s, {summary.start_s:.1f} s of them before the "
        f"first row, {summary.images_per_s:.0f}/s, ratio {summary.images_per_s / found.limit.images_per_s:.3f}; "
        f"predicted / measured {compared.predicted_over_measured_rate:.3f} steady, "
        f"{compared.predicted_over_measured_s:.3f} whole\n",
        flush=True,
    )
    return compared.achieved_over_limit


if __name__ == "__main__":
    main()
