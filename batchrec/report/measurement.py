"""One measurement of this machine: for people as lines, for programs as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from batchrec.redacting import shown
from batchrec.report.expectation import Expectation
from batchrec.report.limit import FetchTerm, Limit, ModelTerm, Terms, cores_without_model, limit_of
from batchrec.report.progress import duration

#: Less of the cores than this was to be had: a quota nobody told of, or others at work.
_CORES_MISSING = 0.9


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores of this machine.

    Attributes:
        num_present: That the system shows.
        num_usable: That this process may use: its affinity and its cgroup's quota; fractional under one.
        num_busy: That it got when it kept all of them busy.
    """

    num_present: int
    num_usable: float
    num_busy: float


@dataclass(frozen=True, slots=True)
class Untried:
    """What was not measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured of this machine with one model and one sample of images.

    Attributes:
        model: The model string.
        num_images: Images of the sample.
        cores: What there is.
        num_workers: Workers that would share it.
        cores_per_worker: Cores each is given.
        terms: Of one worker, each alone.
        other_models: The same model on other backends, for comparison.
        untried: What was not measured.
        expectation: What a job on such images can expect.
    """

    model: str
    num_images: int
    cores: Cores
    num_workers: int
    cores_per_worker: int
    terms: Terms
    other_models: tuple[ModelTerm, ...]
    untried: tuple[Untried, ...]
    expectation: Expectation

    @property
    def num_cores(self) -> float:
        """Cores of all workers, never more than there are."""
        return min(self.num_workers * self.cores_per_worker, self.cores.num_usable)

    @property
    def limit(self) -> Limit:
        """What this machine allows."""
        return limit_of(self.terms, num_cores=self.num_cores, num_workers=self.num_workers)

    @property
    def with_one_more_core(self) -> Limit:
        """What it would allow with another core."""
        return limit_of(self.terms, num_cores=self.num_cores + 1, num_workers=self.num_workers)

    @property
    def with_one_more_device(self) -> Limit | None:
        """What it would allow with another device and the same cores; None where no device was measured."""
        if self.terms.model.on_cpu:
            return None
        return limit_of(self.terms, num_cores=self.num_cores, num_workers=self.num_workers + 1)

    def to_json(self) -> dict[str, Any]:
        """Return everything measured and derived as JSON values."""
        more_devices = self.with_one_more_device
        return {
            **asdict(self),
            "num_cores": self.num_cores,
            "limit": _plain(self.limit),
            "with_one_more_core": _plain(self.with_one_more_core),
            "with_one_more_device": more_devices and _plain(more_devices),
        }


def measurement_lines(found: Measurement) -> list[str]:
    """Return a measurement as lines for people."""
    return [f"{name:10} {shown(text)}" for name, text in _facts(found)]


def expected_facts(found: Measurement, num_images: int, price_per_hour: float | None) -> dict[str, float | None]:
    """Return what a job over so many images can expect, as plain values.

    Args:
        found: What was measured.
        num_images: Images the job has left.
        price_per_hour: Of one worker; no cost is told when None.
    """
    expectation = found.expectation
    price = None if price_per_hour is None else price_per_hour * found.num_workers
    return {
        "images": num_images,
        "seconds": expectation.wall_s(num_images),
        "cost": None if price is None else expectation.cost(num_images, price),
    }


def expected_lines(found: Measurement, num_images: int, price_per_hour: float | None) -> list[str]:
    """Return the same as lines for people; see :func:`expected_facts`."""
    expectation, expected = found.expectation, expected_facts(found, num_images, price_per_hour)
    lines = [
        f"limit      {expectation.limit_images_per_s:,.0f} images/s on this machine; {expectation.binds}",
        f"expected   {_time(expectation.wall_s(num_images))}: {num_images:,} images at {expectation.images_per_s:,.0f} "
        f"images/s, and {expectation.outside_s:.1f} s to start and end",
    ]
    if (cost := expected["cost"]) is not None:
        workers = f"{found.num_workers} worker{'s' * (found.num_workers != 1)}"
        lines.append(f"cost       {cost:,.2f} for {workers} at {price_per_hour:g} an hour each")
    return lines


def _facts(found: Measurement) -> Iterator[tuple[str, str]]:
    terms, limit, expectation = found.terms, found.limit, found.expectation
    yield "cores", _cores(found)
    yield "sample", f"{found.num_images:,} images, {terms.fetch.image_bytes / 1024:,.0f} KiB mean, model {found.model}"
    yield "fetch", _fetch(terms.fetch)
    yield "decode", f"{1 / terms.decode_core_s:,.0f} images/s a core ({_ms(terms.decode_core_s)})"
    yield "model", _model(terms.model, terms.num_cores)
    for other in found.other_models:
        yield "", _model(other, terms.num_cores)
    if terms.transfer_images_per_s is not None:
        yield "transfer", f"{terms.transfer_images_per_s:,.0f} images/s to the device"
    yield "write", f"{terms.write.images_per_s:,.0f} rows/s into parts, {_ms(terms.write.core_s)} of a core each"
    for each in found.untried:
        yield "untried", f"{each.name}: {each.reason}"
    yield "limit", f"{limit.images_per_s:,.0f} images/s; {limit.sentence}"
    reached = expectation.images_per_s
    yield "reached", f"{reached:,.0f} images/s by whole workers on the sample, {reached / limit.images_per_s:.2f} of it"
    yield "start", f"{expectation.outside_s:.1f} s of a run go by before its first image and after its last"
    yield "one more", f"core: {_gain(found.with_one_more_core, limit)}; {_device(found)}"


def _cores(found: Measurement) -> str:
    cores = found.cores
    workers = f"{found.num_workers} worker{'s' * (found.num_workers != 1)} with {found.cores_per_worker} each"
    missing = cores.num_busy < _CORES_MISSING * found.num_cores
    note = "; others took some of them, or a quota outside this process does" if missing else ""
    return (
        f"{cores.num_usable:g} of {cores.num_present} may be used, {cores.num_busy:.2f} were to be had at once{note}; "
        f"{workers}"
    )


def _fetch(term: FetchTerm) -> str:
    return (
        f"{term.images_per_s:,.0f} images/s from {term.source}, {_ms(term.latency_s)} each with {term.num_in_flight} "
        f"in flight, {_ms(term.core_s)} of a core"
    )


def _model(term: ModelTerm, num_cores: float) -> str:
    where = f"{num_cores:g} cores" if term.on_cpu else term.device
    return (
        f"{term.images_per_s:,.0f} images/s with {term.backend} {term.precision} on {where}, {term.batch_size} a batch"
    )


def _device(found: Measurement) -> str:
    if (more := found.with_one_more_device) is not None:
        return f"device: {_gain(more, found.limit)}"
    rest = cores_without_model(found.terms, found.num_cores)
    return f"a CUDA device takes the model off the cores: up to {min(rest, found.limit.bounds['fetch']):,.0f} images/s"


def _gain(more: Limit, now: Limit) -> str:
    return f"{more.images_per_s:,.0f} images/s ({more.images_per_s / now.images_per_s - 1:+.0%})".replace("%", " %")


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else duration(seconds)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


def _plain(limit: Limit) -> dict[str, Any]:
    bounds = {name: None if math.isinf(bound) else bound for name, bound in limit.bounds.items()}
    return {**asdict(limit), "bounds": bounds, "sentence": limit.sentence}
