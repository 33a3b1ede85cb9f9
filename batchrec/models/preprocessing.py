"""How a model wants its images: the geometry and the scale of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from batchrec.errors import ModelError

INTERPOLATIONS: Final = ("bilinear", "bicubic")
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
#: Antialiased resizing hides that a picture was shrunk before, as long as it has so many pixels for each one left.
_SHRUNK_OVER_RESIZED: Final = 2


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resize the short side, cut the centre square, normalise.

    Attributes:
        resize: Pixels of the short side after resizing; the other follows the aspect.
        crop: Pixels of the centre square; never more than ``resize``.
        interpolation: ``bilinear`` or ``bicubic``.
        mean: Subtracted for each of red, green, blue, on the scale 0..1.
        std: Divided by, likewise.
        antialias: Always True; stands here because it decides the pixels.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    antialias: bool = True

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise ModelError("the preprocessing is not valid", found="; ".join(faults))

    def shrink_to(self, decoding: str) -> int | None:
        """Return to how few pixels of either side a JPEG may be shrunk while it is decoded; None for not at all."""
        return _SHRUNK_OVER_RESIZED * self.resize if decoding == "scaled" else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as ``bundle.json`` and the job's identity carry them."""
        plain = asdict(self)
        plain["mean"], plain["std"] = list(self.mean), list(self.std)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Preprocess:
        """Rebuild from :meth:`to_json`.

        Raises:
            ModelError: If a field is missing, unknown or out of range.
        """
        try:
            return cls(
                **{
                    **plain,
                    "mean": tuple(map(float, plain["mean"])),
                    "std": tuple(map(float, plain["std"])),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError("the preprocessing cannot be read", found=str(error)) from error


def _faults(preprocess: Preprocess) -> list[str]:
    faults = []
    if not 1 <= preprocess.crop <= preprocess.resize <= 4096:
        faults.append(f"crop {preprocess.crop} and resize {preprocess.resize} must be 1 <= crop <= resize <= 4096")
    if preprocess.interpolation not in INTERPOLATIONS:
        faults.append(f"interpolation {preprocess.interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
    if {len(preprocess.mean), len(preprocess.std)} != {3}:
        faults.append("mean and std must have three values")
    if any(value <= 0 for value in preprocess.std):
        faults.append("std must be positive")
    if not preprocess.antialias:
        faults.append("antialias must be true")
    return faults
