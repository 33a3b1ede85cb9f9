"""How near `batchrec plan --measure` predicts three jobs: the rate of their steady part, and the seconds of the whole.

    python benchmarks/predicting.py [--seconds 20] [--pool inline]

Nothing in the product is calibrated on these: mobilenet_v3_large and resnet50 with random weights on drawn JPEGs of
500x375, and the bundled model on drawn photographs of 1600x1200. Each job is sized to last about so many seconds;
manifests name few drawn images again and again. Every configuration first runs a small job, as start-ups are
predicted from the last run of a model.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from material import archive_of, model_string

from batchrec.benching import measure_plan
from batchrec.job import run_job
from batchrec.planning import plan_job
from batchrec.report.summary import RunSummary, comparison
from batchrec.spec import JobSpec

#: Below this the prediction counts as kept, either way.
TOLERANCE = 0.15


@dataclass(frozen=True)
class Configuration:
    """One job to predict."""

    model: str
    size: str
    num_drawn: int


CONFIGURATIONS = (
    Configuration("random:mobilenet_v3_large", "500x375", 500),
    Configuration("random:resnet50", "500x375", 500),
    Configuration("apparel", "1600x1200", 100),
)


def repeated_manifest(archive: Path, num_rows: int) -> str:
    """Write a manifest that names an archive's images again and again."""
    rows = pq.read_table(archive / "manifest.parquet", columns=["uri"])
    times = -(-num_rows // len(rows))
    path = archive / f"repeated-{num_rows}.parquet"
    pq.write_table(pa.concat_tables([rows] * times).slice(0, num_rows), path)
    return str(path)


def predict_and_run(spec: JobSpec) -> RunSummary:
    """Predict a job with the product's own code, then run it; its report holds both."""
    measure_plan(plan_job(spec))
    return run_job(spec)


def sized(spec: JobSpec, archive: Path, seconds: float) -> JobSpec:
    """Return a job that lasts about so many seconds, judged by a small one that also warms the caches."""
    small = spec.replace(source=(repeated_manifest(archive, 256),))
    run_job(small.replace(output=f"{spec.output}-warming", limit=32))
    first = run_job(small.replace(output=f"{spec.output}-small"))
    num_rows = max(512, round(first.steady_images_per_s * seconds))
    return spec.replace(source=(repeated_manifest(archive, num_rows),))


def report(configuration: Configuration, arguments: argparse.Namespace, scratch: Path) -> bool:
    """Print how near one prediction came; return whether it was kept."""
    archive = archive_of(scratch / configuration.size, configuration.num_drawn, configuration.size).parent
    model = model_string(configuration.model, scratch)
    output = str(scratch / f"out-{configuration.model.partition(':')[2]}")
    spec = JobSpec(source=("unsized",), output=output, model=model, pool=arguments.pool)
    summary = predict_and_run(sized(spec, archive, arguments.seconds))
    compared, expectation = comparison(summary), summary.expectation
    if compared is None or expectation is None:
        raise SystemExit("the job was too short to say anything: more --seconds")
    steady, whole = compared.predicted_over_measured_rate, compared.predicted_over_measured_s
    print(
        f"{configuration.model}, {configuration.size}: {summary.num_ok} images; "
        f"steady {expectation.images_per_s:.0f} of {summary.steady_images_per_s:.0f} images/s, "
        f"predicted / measured {steady:.3f}; whole {compared.predicted_s:.1f} of {summary.wall_s:.1f} s, {whole:.3f}; "
        f"achieved / limit {compared.achieved_over_limit:.3f} of {expectation.limit_images_per_s:.0f} images/s "
        f"({expectation.binds})",
        flush=True,
    )
    return all(abs(ratio - 1) <= TOLERANCE for ratio in (steady, whole))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each job should last")
    parser.add_argument("--pool", default="inline", choices=("inline", "ray"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept = [report(configuration, arguments, Path(scratch)) for configuration in CONFIGURATIONS]
    print(f"{sum(kept)} of {len(kept)} predictions within {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()
