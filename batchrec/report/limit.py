"""What a machine allows: terms that were measured alone, and the rate the scarcest of them leaves. Pure arithmetic.

    limit = min( reads, cores / core-seconds of an image, devices x model, devices x transfer, parts )

Terms of the CPU add, because they share its cores: fetching, decoding, building parts, and the model where it runs
there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

#: Parts a worker has under way at once.
_PARTS_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class FetchTerm:
    """Reads of images by one worker, nothing else running.

    Attributes:
        source: ``local disk``, ``s3`` or ``http``.
        images_per_s: With all reads in flight that a worker has.
        latency_s: Median of one such read.
        num_in_flight: Those reads.
        image_bytes: Mean size of an encoded image.
        core_s: Core-seconds of this process for each.
    """

    source: str
    images_per_s: float
    latency_s: float
    num_in_flight: int
    image_bytes: float
    core_s: float


@dataclass(frozen=True, slots=True)
class ModelTerm:
    """A model alone on all cores of one worker, or on its device.

    Attributes:
        backend: What ran it.
        device: ``cpu`` or ``cuda:0``.
        precision: ``fp32``, ``bf16``, ...
        batch_size: Images of one forward pass.
        images_per_s: Images of full batches.
    """

    backend: str
    device: str
    precision: str
    batch_size: int
    images_per_s: float

    @property
    def on_cpu(self) -> bool:
        """Whether it shares the cores with everything else."""
        return self.device == "cpu"


@dataclass(frozen=True, slots=True)
class WriteTerm:
    """Rows built into a part and published, one part at a time.

    Attributes:
        images_per_s: By the clock, waiting for the store included.
        core_s: Core-seconds of an image.
    """

    images_per_s: float
    core_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one image costs, each term measured alone on one worker's share of a machine.

    Attributes:
        num_cores: Cores of that worker; fractional under a quota.
        fetch: Reading it.
        decode_core_s: Core-seconds to decode and resize it, while all cores decode.
        model: Recognising it.
        write: Writing its row.
        transfer_images_per_s: Copies to the device; None where there is none.
    """

    num_cores: float
    fetch: FetchTerm
    decode_core_s: float
    model: ModelTerm
    write: WriteTerm
    transfer_images_per_s: float | None = None

    @property
    def core_s(self) -> dict[str, float]:
        """Core-seconds of one image by stage, in the order of the data flow."""
        model_s = self.num_cores / self.model.images_per_s if self.model.on_cpu else 0.0
        return {
            "fetch": self.fetch.core_s,
            "decode": self.decode_core_s,
            "model": model_s,
            "write": self.write.core_s,
        }

    def at_best(self, again: Terms) -> Terms:
        """Return the better of two measurements of what cores do: disturbance only makes it slower.

        Rates of the source and the store stay those of the first, which found nothing in a cache.
        """
        return replace(
            self,
            fetch=replace(self.fetch, core_s=min(self.fetch.core_s, again.fetch.core_s)),
            decode_core_s=min(self.decode_core_s, again.decode_core_s),
            model=max(self.model, again.model, key=lambda term: term.images_per_s),
            write=replace(self.write, core_s=min(self.write.core_s, again.write.core_s)),
        )


@dataclass(frozen=True, slots=True)
class Limit:
    """The rate a machine allows.

    Attributes:
        images_per_s: The least of ``bounds``.
        binds: Its name: ``cpu``, ``fetch``, ``model``, ``transfer`` or ``write``.
        bounds: What each resource alone would allow, in images/s.
        core_shares: Share of the core time by stage; adds to 1.
    """

    images_per_s: float
    binds: str
    bounds: Mapping[str, float]
    core_shares: Mapping[str, float]

    @property
    def sentence(self) -> str:
        """What binds, for people."""
        if self.binds == "cpu":
            stages = sorted(self.core_shares, key=lambda name: -self.core_shares[name])
            parts = [f"{name} {_percent(self.core_shares[name])}" for name in stages if self.core_shares[name] >= 0.005]
            return f"CPU-bound: {', '.join(parts)}"
        reason = {
            "fetch": "reads in flight over their latency, or the source itself",
            "model": "the device computes no faster",
            "transfer": "copies to the device",
            "write": "the store takes parts no faster",
        }[self.binds]
        return f"{self.binds}-bound: {reason}; the cores allow {self.bounds['cpu']:,.0f}"


def limit_of(terms: Terms, *, num_cores: float, num_workers: int) -> Limit:
    """Return what a machine allows that has so many cores in all, shared by so many such workers.

    Workers on CUDA have one device each; those on a CPU only divide the cores. Each has reads and parts of its own in
    flight.
    """
    core_s = terms.core_s
    whole_s = sum(core_s.values())
    bounds = {
        "fetch": num_workers * terms.fetch.images_per_s,
        "cpu": num_cores / whole_s if whole_s else math.inf,
        "write": num_workers * _PARTS_AT_ONCE * terms.write.images_per_s,
    }
    if not terms.model.on_cpu:
        bounds["model"] = num_workers * terms.model.images_per_s
    if terms.transfer_images_per_s is not None:
        bounds["transfer"] = num_workers * terms.transfer_images_per_s
    binds = min(bounds, key=lambda name: bounds[name])
    shares = {name: seconds / whole_s for name, seconds in core_s.items()} if whole_s else {}
    return Limit(bounds[binds], binds, bounds, shares)


def cores_without_model(terms: Terms, num_cores: float) -> float:
    """Return the images/s that the cores allow where a device takes the model off them."""
    rest_s = sum(seconds for name, seconds in terms.core_s.items() if name != "model")
    return num_cores / rest_s if rest_s else math.inf


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
