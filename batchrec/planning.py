"""A job with everything resolved that can be before any work: what `batchrec plan` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from batchrec.engine.devices import Placement
from batchrec.engine.identity import Identity, bound_identity, identify, refuse_foreign_content, refuse_other_job
from batchrec.engine.int8_record import standing_quantised
from batchrec.engine.sites import Site, site_of
from batchrec.errors import AccessError, ModelError, OutputError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.planning import Plan, plan_shards, rows_per_shard
from batchrec.manifest.reading import open_manifest
from batchrec.models.backends import resolve_precision
from batchrec.models.bundle import ModelSpec
from batchrec.models.embedding import resolve_embedding
from batchrec.models.zoo import resolve_model
from batchrec.output.layout import Layout
from batchrec.output.seal import Seal, read_seal, standing_parts
from batchrec.records import Agreement, EmbeddingSpec
from batchrec.spec import JobSpec
from batchrec.storage import KeyMissing, Store, UriPolicy, open_store


@dataclass(frozen=True, slots=True)
class Job:
    """A job with everything resolved that can be before any work.

    Attributes:
        spec: What the user asked for.
        manifest: The opened manifest.
        model: The resolved model.
        precision: Class of arithmetic for the whole job.
        site: Where its workers run.
        placement: How many, and on what.
        identity: What decides the rows.
        plan: The shards; an output begun earlier brings its own.
        num_done: Shards whose parts stand already.
        num_rows_done: Their rows.
        complete: Whether the output is sealed.
        embedding: What is kept of each image's embedding.
    """

    spec: JobSpec
    manifest: Manifest
    model: ModelSpec
    precision: str
    site: Site
    placement: Placement
    identity: Identity
    plan: Plan
    num_done: int
    num_rows_done: int
    complete: bool
    embedding: EmbeddingSpec | None = None

    @property
    def agreement(self) -> Agreement | None:
        """How often the quantised model of a job in int8 answers as the full one; None where that is not known."""
        return self.model.quantised.agreement if self.model.quantised else None

    def facts(self) -> dict[str, Any]:
        """Return the plan as plain values, for printing."""
        columns, model = self.manifest.columns, self.model
        shards = {
            "count": len(self.plan),
            "rows": self.plan.rows_per_shard,
            "done": self.num_done,
            "complete": self.complete,
        }
        return {
            "job_id": self.identity.job_id,
            "files": len(self.manifest.files),
            "rows": self.plan.num_rows,
            "columns": {
                "uri": list(columns.uri),
                "id": columns.id,
                "unfit_id": columns.unfit_id,
                "passthrough": list(columns.passthrough),
            },
            "model": model.name,
            "architecture": model.architecture,
            "labels": model.num_outputs,
            "label_examples": list(model.labels[:3]),
            "resize": model.preprocess.resize,
            "crop": model.preprocess.crop,
            "embeddings": self.embedding and asdict(self.embedding),
            "workers": self.placement.num_workers,
            "device": self.placement.device,
            "device_note": self.placement.note,
            "threads": self.placement.num_threads,
            "precision": self.precision,
            "agreement": self.agreement and asdict(self.agreement),
            "shards": shards,
            "output": self.spec.output,
        }


def plan_job(spec: JobSpec, *, site: Site | None = None, model: ModelSpec | None = None) -> Job:
    """Resolve a job without writing anything.

    Args:
        spec: What the user asked for.
        site: Where its workers run; what the spec and this process say when None.
        model: The model, where somebody resolved it already; the spec's otherwise.

    Raises:
        UsageError: ``--allow-http`` names no host.
        Refused: The manifest, the model, the output or the way of decoding cannot be used.
    """
    if missing := [root for root in spec.input_roots if not Path(root).is_dir()]:
        raise AccessError("an --input-root is not a folder", found=missing[0], advice="correct or drop it")
    manifest = open_manifest(spec)
    UriPolicy(manifest.root, spec.input_roots, spec.allow_buckets, spec.allow_http)  # raises where it cannot be one
    model = model or resolve_model(spec.model, labels=spec.labels)
    embedding = resolve_embedding(spec.embeddings, model)
    site = site or site_of(spec)
    placement = _place(site, spec)
    store = open_store(spec.output, spec.store)
    standing = bound_identity(store)
    precision = _precision(spec.precision, placement.device, standing)
    identity = identify(spec, manifest, model, precision)
    rows = spec.rows_per_shard or rows_per_shard(min(manifest.num_rows, spec.limit or manifest.num_rows))
    plan = plan_shards([file.num_rows for file in manifest.files], rows, spec.limit)
    layout = Layout(identity.job_id)
    done: dict[int, int] = {}
    complete = False
    if standing is None:
        refuse_foreign_content(store, layout.parts_prefix)
    else:
        refuse_other_job(store, standing, identity)
        # The seal first: a plan or parts looked for before another coordinator sealed would not be those it sealed.
        sealed = read_seal(store, layout)
        plan = standing_plan(store, layout, plan)
        if precision == "int8":
            model = replace(model, quantised=model.quantised or standing_quantised(store, layout))
        done = standing_parts(store, layout, len(plan))
        complete = sealed is not None
        if sealed is not None:
            _refuse_damaged(store, layout, sealed, done)
    num_rows_done = sum(plan[shard].num_rows for shard in done)
    return Job(
        spec,
        manifest,
        model,
        precision,
        site,
        placement,
        identity,
        plan,
        num_done=len(done),
        num_rows_done=num_rows_done,
        complete=complete,
        embedding=embedding,
    )


def _place(site: Site, spec: JobSpec) -> Placement:
    """Decide where workers run, and refuse a way of decoding that is not to be had there."""
    placement = site.place(spec)
    if spec.decoding == "nvjpeg" and placement.device == "cpu":
        raise ModelError(
            "nvJPEG decodes on a CUDA device",
            found="workers run on the CPU",
            advice="run it where there is one, or begin a job with --decoding exact (retry: --set decoding=exact)",
        )
    return placement


def _precision(asked: str, device: str, standing: Identity | None) -> str:
    """Return the class of arithmetic of a job: decided when it begins, refused where a device cannot compute in it."""
    begun = standing.fields.get("precision") if standing and asked == "auto" else None
    return resolve_precision(begun if isinstance(begun, str) else asked, device)


def _refuse_damaged(store: Store, layout: Layout, sealed: Seal, sizes: dict[int, int]) -> None:
    """Refuse a sealed output that has lost parts since, or has others in their place."""
    lost = [layout.part_key(part.shard) for part in sealed.parts if sizes.get(part.shard) != part.size]
    if lost:
        raise OutputError(
            f"the sealed output {store.url} is damaged",
            found=f"{len(lost)} of {len(sealed.parts)} parts are not as sealed, the first is {lost[0]}",
            advice=f"`batchrec verify` lists all faults, `batchrec repair {store.url}` lets this command mend them",
        )


def standing_plan(store: Store, layout: Layout, wanted: Plan) -> Plan:
    """Return the plan an output has, or the wanted one where it has none yet."""
    try:
        standing = Plan.from_parquet(store.read(layout.plan_key))
    except KeyMissing:
        return wanted
    if not standing.cuts_rows_of(wanted):
        same = standing.num_rows == wanted.num_rows
        raise OutputError(
            f"the plan in {store.url} is not one of this manifest",
            found="as many rows, of other files"
            if same
            else f"{standing.num_rows:,} rows where the job has {wanted.num_rows:,}",
            advice="it was changed after it was written: use another output folder (-o)",
        )
    return standing
