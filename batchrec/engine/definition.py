"""What a job was defined by, kept in its folder so that its rows can be done again years later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from batchrec.engine.absolute import absolute_spec
from batchrec.engine.identity import Identity, identify
from batchrec.errors import ManifestError, ModelError, OutputError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.reading import open_manifest
from batchrec.models.bundle import ModelSpec
from batchrec.models.zoo import resolve_model
from batchrec.output.layout import Layout
from batchrec.output.reading import Output
from batchrec.spec import ImageLimits, JobSpec, StoreOptions
from batchrec.storage import KeyMissing, Store, create_or_compare
from batchrec.storage.json_objects import json_object

_FORMAT = 2


def definition_record(identity: Identity, spec: JobSpec) -> bytes:
    """Return the content of ``spec.json``.

    Args:
        identity: What decides the rows.
        spec: The job, its paths absolute. How the store is reached is left out: whoever reads this says it again.
    """
    reached_anyhow = spec.replace(store=StoreOptions(requester_pays=spec.store.requester_pays))
    record = {"format": _FORMAT, "identity": dict(identity.fields), "spec": reached_anyhow.to_json()}
    return json.dumps(record, sort_keys=True, indent=1).encode()


def identity_in(record: bytes, job_id: str) -> Identity | None:
    """Return a job's identity from its ``spec.json``; None from one that is damaged or another job's."""
    plain = json_object(record)
    fields = plain.get("identity", plain)  # at first there was nothing else in it
    return Identity(fields) if isinstance(fields, dict) and Identity(fields).job_id == job_id else None


def define(store: Store, layout: Layout, identity: Identity, spec: JobSpec) -> None:
    """Keep what defines a job in its folder, unless it stands there.

    Args:
        store: The output folder.
        layout: Its keys.
        identity: What decides the rows.
        spec: The job as it is submitted.

    Raises:
        OutputError: What stands there does not define this job.
    """
    record = definition_record(identity, absolute_spec(spec))
    create_or_compare(store, layout.spec_key, record, same=partial(_refuse_other, store, layout))


def _refuse_other(store: Store, layout: Layout, record: bytes) -> bool:
    if identity_in(record, layout.job_id) is None:
        raise OutputError(
            f"{store.url}/{layout.spec_key} does not define this job",
            found=f"{len(record)} bytes that were changed or damaged after they were written",
            advice=f"`batchrec repair {store.url}` moves it away, and the same command writes it again",
        )
    return True


def stored_spec(store: Store, layout: Layout, options: StoreOptions) -> JobSpec | None:
    """Return a job as it was first submitted; None where its folder does not say.

    Args:
        store: The output folder.
        layout: Its keys.
        options: How the folder, and so its job's manifest, is reached.

    Raises:
        UsageError: Another version of batchrec wrote it.
    """
    try:
        record = store.read(layout.spec_key)
    except KeyMissing:
        return None
    plain = json_object(record).get("spec")
    if identity_in(record, layout.job_id) is None or not isinstance(plain, dict):
        return None  # damaged, or made before folders said so
    spec = JobSpec.from_json(plain)
    pays = spec.store.requester_pays or options.requester_pays
    return spec.replace(store=dataclasses.replace(options, requester_pays=pays))


def defined_again(parent: Output, given: Mapping[str, Any]) -> JobSpec:
    """Return the definition of a job from what its folder says.

    Args:
        parent: The job.
        given: ``source``, ``model`` and ``labels`` where they lie elsewhere now.

    Raises:
        OutputError: The folder does not say what the manifest and the model were, and nobody else does.
    """
    identity = parent.identity
    stored = stored_spec(parent.store, parent.layout, parent.options)
    if stored is None:
        if missing := [name for name in ("source", "model") if name not in given]:
            raise OutputError(
                f"{parent.store.url} does not say what its {' and '.join(missing)} was",
                found=f"no definition in {parent.layout.spec_key}",
                advice="name it: --set source=MANIFEST --set model=MODEL",
            )
        stored = JobSpec(
            source=given["source"],
            output=parent.store.url,
            input_roots=tuple(identity["input_roots"]),
            allow_buckets=tuple(identity["allow_buckets"]),
            allow_http=tuple(identity.get("allow_http", ())),
            image_limits=ImageLimits(**identity["image_limits"]),
            top_k=identity["top_k"],
            limit=identity["limit"],
            embeddings=identity.get("embeddings", "off"),
            store=parent.options,
        )
    columns = identity["columns"]
    return stored.replace(
        **given,
        uri_column=",".join(columns["uri"]),
        id_column=columns["id"],
        passthrough=tuple(columns["passthrough"]),
        precision=identity["precision"],
    )


def manifest_of(identity: Mapping[str, Any], spec: JobSpec) -> Manifest:
    """Open the manifest of a job that ran.

    Raises:
        ManifestError: It is not there, or not what it was.
    """
    manifest = open_manifest(spec)
    was = [[size, footer] for _, size, footer in identity["manifest"]]
    if [[file.size, file.footer_sha256] for file in manifest.files] != was:
        raise ManifestError(
            "the manifest is not the one this job was made with",
            found=", ".join(spec.source),
            advice="bring that one back, or say where it is now: --set source=MANIFEST",
        )
    return manifest


def model_of(identity: Mapping[str, Any], spec: JobSpec, manifest: Manifest) -> ModelSpec:
    """Resolve the model of a job that ran.

    Raises:
        ModelError: It is not there, or not what it was.
    """
    model = resolve_model(spec.model, labels=spec.labels)
    now = identify(spec, manifest, model, spec.precision).fields["model"]
    if changed := [name for name, value in now.items() if value != identity["model"].get(name)]:
        raise ModelError(
            f"{spec.model} is not the model this job was made with",
            found=f"other {', '.join(changed)}",
            advice="bring that one back, or say where it is now: --set model=MODEL",
        )
    return model
