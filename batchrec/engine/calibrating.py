"""Quantising a job's model by a sample of its manifest; one that answers too often otherwise than before is refused."""

from __future__ import annotations

import random
from contextlib import closing

import numpy as np

from batchrec.errors import CODES, AccessLost, BatchrecError, ModelError
from batchrec.manifest.definition import Manifest
from batchrec.manifest.planning import Plan
from batchrec.manifest.sampling import sampled_uris
from batchrec.models.backends.quantising import quantise, require_nncf
from batchrec.models.bundle import ModelSpec
from batchrec.models.carrying import weights_here
from batchrec.models.quantised import Quantised
from batchrec.pipeline.decoding import Decoder
from batchrec.pipeline.isolating import IsolatedReader
from batchrec.pipeline.resizing import Pixels
from batchrec.pipeline.sampling import ImageSample, read_sample
from batchrec.records import Agreement
from batchrec.spec import JobSpec
from batchrec.storage import ImageReader, Store, UriPolicy

#: Images that set the scales, and images that both models are asked about.
NUM_CALIBRATED, NUM_CHECKED = 320, 512
#: Fewer checked images say nothing of one in a hundred.
LEAST_CHECKED = 100
LEAST_AGREEMENT = 0.99
#: Rows looked at for each image wanted: some cannot be had, some come twice.
_SPARE = 1.25


def calibrated(
    spec: JobSpec, manifest: Manifest, plan: Plan, model: ModelSpec, store: Store, *, num_threads: int
) -> Quantised:
    """Quantise a model by images of the manifest; writes nothing into the output.

    Args:
        spec: The job.
        manifest: Its manifest.
        plan: Its shards.
        model: Its model.
        store: The output folder, where the model's weights may be.
        num_threads: Cores to use.

    Raises:
        ModelError: It agrees too seldom with the full model, or there are too few images to tell.
        AccessLost: The run lost its access to them.
        Refused: The manifest cannot be read.
    """
    require_nncf()
    sample = _sample(spec, manifest, plan, model, num_threads)
    calibration, check = split(sample)
    found = quantise(
        weights_here(model, store), calibration, check, num_threads=num_threads, embeddings=spec.embeddings != "off"
    )
    refuse_disagreement(model, found.agreement)
    return found


def split(sample: ImageSample) -> tuple[Pixels, Pixels]:
    """Part a sample into images to calibrate with and others to check with, each from all over the manifest.

    Raises:
        AccessLost: There are too few, and would be enough if the run could read them.
        ModelError: There are too few.
    """
    pixels = list(sample.pixels)
    random.Random(0).shuffle(pixels)
    num_calibrated = len(pixels) * NUM_CALIBRATED // (NUM_CALIBRATED + NUM_CHECKED)
    if len(pixels) - num_calibrated < LEAST_CHECKED:
        raise _too_few(sample)
    return np.stack(pixels[:num_calibrated]), np.stack(pixels[num_calibrated:])


def _too_few(sample: ImageSample) -> BatchrecError:
    least = -(-LEAST_CHECKED * (NUM_CALIBRATED + NUM_CHECKED) // NUM_CHECKED)
    systemic = [fault for fault in sample.faults if CODES[fault.code].systemic]
    faults, lost = systemic or sample.faults, len(sample.pixels) + len(systemic) >= least
    unfit = f", and {len(sample.faults)} of the rows looked at have none: {faults[0]}" if faults else ""
    cause, found = (
        f"int8 needs {least} different images to be calibrated and checked with",
        f"{len(sample.pixels)}{unfit}",
    )
    if lost:
        return AccessLost(cause, found=found, advice=f"{CODES[faults[0].code].advice}; the same command resumes")
    return ModelError(cause, found=found, advice="use --precision auto")


def refuse_disagreement(model: ModelSpec, agreement: Agreement) -> None:
    """Refuse a quantised model that answers too often otherwise than the full one.

    Raises:
        ModelError: It does; the message says how often.
    """
    if agreement.num_agreeing < LEAST_AGREEMENT * agreement.num_checked:
        raise ModelError(
            f"in int8 {model.name} is another model",
            found=f"{agreement}, where {LEAST_AGREEMENT:.0%} are asked for",
            advice="use --precision auto",
        )


def _sample(spec: JobSpec, manifest: Manifest, plan: Plan, model: ModelSpec, num_threads: int) -> ImageSample:
    wanted = NUM_CALIBRATED + NUM_CHECKED
    uris = sampled_uris(manifest, plan, spec.store, round(_SPARE * wanted))
    policy = UriPolicy(manifest.root, spec.input_roots, spec.allow_buckets, spec.allow_http)
    # Apart: an image that ends the decoder must not end the coordinator.
    apart = IsolatedReader(spec.image_limits, spec.decode_within_s, model.preprocess.shrink_to(spec.decoding))
    reader = ImageReader(policy, spec.store, spec.image_limits.max_bytes)
    with closing(apart), closing(reader):
        decoder = Decoder(model.preprocess, spec.image_limits, apart.read)
        return read_sample(uris, reader, decoder, wanted=wanted, num_threads=num_threads)
