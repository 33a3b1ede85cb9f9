"""What a measurement said of a job before it ran, held against what it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from batchrec.report.binding import MIN_SPAN_S

_SECONDS_OF_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A run beside what was expected of it.

    Attributes:
        achieved_over_limit: Rate of recognised images from first to last row, over what the machine allows.
        predicted_over_measured_rate: Rates of rows from first to last.
        predicted_s: Seconds expected of the whole run.
        predicted_over_measured_s: Those over what it took.
    """

    achieved_over_limit: float
    predicted_over_measured_rate: float
    predicted_s: float
    predicted_over_measured_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How fast a job should be on this machine, measured on a sample of its images.

    Attributes:
        limit_images_per_s: What the machine allows, see :mod:`batchrec.report.limit`.
        binds: What binds at that limit, for people.
        images_per_s: What whole workers reached on the sample: the rate from first to last row.
        outside_s: Seconds of a run before its first row and after its last.
        measured_at: When, in UTC, ISO 8601 to the minute.
    """

    limit_images_per_s: float
    binds: str
    images_per_s: float
    outside_s: float
    measured_at: str

    def wall_s(self, num_images: int) -> float:
        """Return how long a run over so many images should take, start-up and end included."""
        return self.outside_s + num_images / self.images_per_s

    def cost(self, num_images: int, price_per_hour: float) -> float:
        """Return what that costs where all workers together cost so much an hour."""
        return self.wall_s(num_images) / _SECONDS_OF_AN_HOUR * price_per_hour

    def against(self, *, num_ok: int, num_rows: int, steady_s: float, wall_s: float) -> Comparison | None:
        """Hold it against a run; None where the run was too short to say anything.

        Args:
            num_ok: Images it recognised; only those count against the limit.
            num_rows: All rows it ended: what it was expected to end.
            steady_s: Seconds from its first row to its last.
            wall_s: Seconds of all of it.
        """
        if not num_rows or steady_s < MIN_SPAN_S:
            return None
        return Comparison(
            achieved_over_limit=num_ok / steady_s / self.limit_images_per_s,
            predicted_over_measured_rate=self.images_per_s / (num_rows / steady_s),
            predicted_s=self.wall_s(num_rows),
            predicted_over_measured_s=self.wall_s(num_rows) / wall_s,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)
