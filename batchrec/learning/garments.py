"""Outlines of ten garments, each a little different every time.

Coordinates are in the unit square, x to the right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Part:
    """One polygon or stroke of a garment.

    Attributes:
        points: In the unit square.
        tone: Brightness against the garment's colour; 1 is filled with its pattern.
        stroke: Width of a line along the points, in the unit square; 0 fills the polygon.
    """

    points: Points
    tone: float = 1.0
    stroke: float = 0.0


def garment_parts(label: str, rng: np.random.Generator) -> list[Part]:
    """Return the parts of one garment, to be painted in order."""
    return _SHAPES[label](rng)


def _mirrored(left: Points) -> Points:
    """Close an outline given from top to bottom on the left of the axis x = 0.5."""
    return left + [(1 - x, y) for x, y in reversed(left)]


def _oval(x: float, y: float, radius_x: float, radius_y: float, start: float = 0, end: float = 2 * math.pi) -> Points:
    angles = [start + (end - start) * step / 20 for step in range(21)]
    return [(x + radius_x * math.cos(angle), y + radius_y * math.sin(angle)) for angle in angles]


def _top(rng: np.random.Generator, sleeve: float, width: float, hem: float) -> Points:
    """Outline of anything with sleeves; ``sleeve`` 0 is none, 1 down to the hip."""
    shoulder, armpit = 0.5 - width, 0.34 + rng.uniform(-0.02, 0.03)
    reach = shoulder - 0.06 - (0.14 + rng.uniform(-0.04, 0.03)) * (0.55 + 0.45 * sleeve)
    end = 0.24 + 0.56 * sleeve + rng.uniform(-0.03, 0.03)
    thick = 0.1 + rng.uniform(-0.01, 0.03)
    neck = 0.09 + rng.uniform(-0.01, 0.03)
    body = 0.5 - width + rng.uniform(0.0, 0.04)
    outline = [(0.5 - neck, 0.1), (shoulder, 0.15), (reach, end), (reach + thick, end + 0.03)]
    return _mirrored([*outline, (body, armpit + 0.02), (body + rng.uniform(-0.03, 0.03), hem)])


def _neckline(rng: np.random.Generator, depth: float = 0.06) -> Part:
    return Part(_oval(0.5, 0.1, 0.1, depth + rng.uniform(-0.015, 0.03)), tone=0.55)


def _t_shirt(rng: np.random.Generator) -> list[Part]:
    parts = [Part(_top(rng, rng.uniform(0.08, 0.28), rng.uniform(0.2, 0.25), rng.uniform(0.82, 0.92))), _neckline(rng)]
    if rng.random() < 0.4:
        radii = rng.uniform(0.05, 0.12), rng.uniform(0.04, 0.1)
        parts.append(Part(_oval(0.5, 0.42, *radii), tone=rng.uniform(0.4, 1.6)))
    return parts


def _longsleeve(rng: np.random.Generator) -> list[Part]:
    parts = [Part(_top(rng, rng.uniform(0.85, 1.0), rng.uniform(0.2, 0.25), rng.uniform(0.82, 0.92))), _neckline(rng)]
    if rng.random() < 0.5:
        parts.append(Part([(0.28, 0.85), (0.72, 0.85)], tone=0.75, stroke=0.012))
    return parts


def _shirt(rng: np.random.Generator) -> list[Part]:
    sleeve = rng.uniform(0.8, 1.0) if rng.random() < 0.7 else rng.uniform(0.15, 0.3)
    collar = rng.uniform(0.16, 0.21)
    left_collar = [(0.4, 0.08), (0.5, 0.14), (0.45, collar + 0.02), (0.37, 0.15)]
    buttons = [Part(_oval(0.5, y, 0.009, 0.009), tone=1.5) for y in (0.24, 0.36, 0.48, 0.6, 0.72)]
    parts = [
        Part(_top(rng, sleeve, rng.uniform(0.2, 0.25), rng.uniform(0.84, 0.93))),
        Part([(0.5, 0.14), (0.5, 0.88)], tone=0.6, stroke=0.014),
        Part(left_collar, tone=1.25),
        Part([(1 - x, y) for x, y in left_collar], tone=1.25),
    ]
    pocket = [(0.57, 0.33), (0.68, 0.33), (0.68, 0.45), (0.625, 0.48), (0.57, 0.45), (0.57, 0.33)]
    return parts + buttons + ([Part(pocket, tone=0.7, stroke=0.01)] if rng.random() < 0.6 else [])


def _outwear(rng: np.random.Generator) -> list[Part]:
    width = rng.uniform(0.26, 0.31)
    opening = rng.uniform(0.0, 0.1)
    parts = [
        Part(_top(rng, rng.uniform(0.9, 1.0), width, rng.uniform(0.85, 0.96))),
        Part([(0.42, 0.1), (0.58, 0.1), (0.5 + opening, 0.9), (0.5 - opening, 0.9)], tone=0.4),
        Part([(0.5, 0.1), (0.5, 0.92)], tone=1.7, stroke=0.014),
    ]
    for side in (0, 1):
        lapel = [(0.39, 0.07), (0.48, 0.16), (0.41, 0.42), (0.3, 0.24)]
        pocket = [(0.29, 0.66), (0.39, 0.62)]
        parts.append(Part([(abs(side - x), y) for x, y in lapel], tone=0.8))
        parts.append(Part([(abs(side - x), y) for x, y in pocket], tone=0.45, stroke=0.022))
    if rng.random() < 0.4:
        parts.append(Part(_oval(0.5, 0.09, 0.14, 0.07), tone=0.65))
    return parts


def _dress(rng: np.random.Generator) -> list[Part]:
    waist, flare = rng.uniform(0.1, 0.14), rng.uniform(0.22, 0.36)
    strap, middle = rng.uniform(0.08, 0.13), rng.uniform(0.38, 0.46)
    outline = [(0.5 - strap - 0.04, 0.04), (0.5 - strap, 0.04), (0.5 - strap + 0.04, 0.16), (0.499, 0.2)]
    right = [(1 - x, y) for x, y in reversed(outline)]
    sides = [(0.5 + strap + 0.07, 0.2), (0.5 + waist, middle), (0.5 + flare, 0.97)]
    body = outline + right + sides + [(1 - x, y) for x, y in reversed(sides)]
    parts = [Part(body), Part([(0.5 - waist, middle), (0.5 + waist, middle)], tone=0.6, stroke=0.02)]
    return parts + _folds(rng, middle, 0.96, waist, flare)


def _skirt(rng: np.random.Generator) -> list[Part]:
    waist, flare = rng.uniform(0.15, 0.2), rng.uniform(0.28, 0.42)
    bottom = rng.uniform(0.74, 0.88)
    body = _mirrored([(0.5 - waist, 0.2), (0.5 - flare, bottom)])
    band = _mirrored([(0.5 - waist, 0.17), (0.5 - waist - 0.005, 0.24)])
    return [Part(body), Part(band, tone=0.7), *_folds(rng, 0.24, bottom - 0.01, waist, flare)]


def _folds(rng: np.random.Generator, top: float, bottom: float, waist: float, flare: float) -> list[Part]:
    places = [place / 4 + rng.uniform(-0.08, 0.08) for place in range(-3, 4)]
    return [Part([(0.5 + waist * at, top), (0.5 + flare * at, bottom)], tone=0.8, stroke=0.008) for at in places]


def _legs(rng: np.random.Generator, bottom: float, opening: float, rise: float) -> list[Part]:
    waist, hip = rng.uniform(0.15, 0.19), rng.uniform(0.2, 0.25)
    outer = 0.5 - hip + rng.uniform(-0.05, 0.05)
    left = [(0.5 - waist, 0.06), (0.5 - hip, 0.26), (outer, bottom), (outer + opening, bottom), (0.499, rise)]
    band = _mirrored([(0.5 - waist, 0.05), (0.5 - waist - 0.008, 0.11)])
    parts = [Part(_mirrored(left)), Part(band, tone=0.7), Part([(0.5, 0.11), (0.5, rise)], tone=0.65, stroke=0.01)]
    pocket = [(0.37, 0.12), (0.31, 0.22)]
    return [*parts, Part(pocket, 0.65, 0.01), Part([(1 - x, y) for x, y in pocket], 0.65, 0.01)]


def _pants(rng: np.random.Generator) -> list[Part]:
    return _legs(rng, rng.uniform(0.92, 0.98), rng.uniform(0.12, 0.2), rng.uniform(0.3, 0.38))


def _shorts(rng: np.random.Generator) -> list[Part]:
    parts = _legs(rng, rng.uniform(0.52, 0.66), rng.uniform(0.19, 0.25), rng.uniform(0.34, 0.4))
    # Centred: the outline above hangs from the top of the square.
    return [Part([(x, y * 1.15 + 0.1) for x, y in part.points], part.tone, part.stroke) for part in parts]


def _shoes(rng: np.random.Generator) -> list[Part]:
    if rng.random() < 0.4:
        return _shoe(rng, 0.0, 0.0, 1.0)
    gap = rng.uniform(0.2, 0.26)
    return _shoe(rng, 0.04, -gap + 0.02, 0.85) + _shoe(rng, 0.1, gap - 0.05, 0.85)


def _shoe(rng: np.random.Generator, right: float, down: float, scale: float) -> list[Part]:
    ankle, toe = rng.uniform(0.28, 0.42), rng.uniform(0.52, 0.58)
    front = [(0.42, 0.46), (0.6, toe - 0.02), (0.82, toe), (0.92, 0.64), (0.93, 0.7)]
    upper = [(0.1, ankle), (0.34, ankle), *front, (0.08, 0.7)]
    sole = [(0.07, 0.68), (0.94, 0.68), (0.93, rng.uniform(0.74, 0.8)), (0.08, rng.uniform(0.74, 0.84))]
    laces = [Part([(x, y), (x + 0.09, y - 0.07)], 1.6, 0.012) for x, y in ((0.38, 0.5), (0.45, 0.54), (0.52, 0.58))]
    colour = 0.3 if rng.random() < 0.5 else 1.8
    parts = [Part(upper), Part(sole, colour), Part(_oval(0.22, ankle, 0.12, 0.035), 0.4), *laces]
    return [_moved(part, right, down, scale) for part in parts]


def _moved(part: Part, right: float, down: float, scale: float) -> Part:
    points = [(right + 0.5 + (x - 0.5) * scale, down + 0.5 + (y - 0.5) * scale) for x, y in part.points]
    return Part(points, part.tone, part.stroke)


def _hat(rng: np.random.Generator) -> list[Part]:
    kind = rng.integers(3)
    crown = [Part([*_oval(0.5, 0.58, rng.uniform(0.24, 0.3), rng.uniform(0.28, 0.36), math.pi, 2 * math.pi)])]
    if kind == 0:
        brim = Part(_oval(0.5, 0.6, rng.uniform(0.38, 0.46), rng.uniform(0.06, 0.11)), tone=0.85)
        return [brim, *crown, Part([(0.24, 0.56), (0.76, 0.56)], tone=0.4, stroke=0.05)]
    if kind == 1:
        visor = Part([(0.5, 0.56), (0.74, 0.54), (0.95, 0.62), (0.9, 0.66), (0.6, 0.64)], tone=0.7)
        return [*crown, visor, Part(_oval(0.5, 0.26, 0.02, 0.02), tone=0.6)]
    cuff = Part(_mirrored([(0.22, 0.55), (0.21, 0.7)]), tone=0.8)
    bobble = [Part(_oval(0.5, 0.24, 0.07, 0.07), tone=1.3)] if rng.random() < 0.6 else []
    return [*crown, cuff, *bobble]


_SHAPES: Final[dict[str, Callable[[np.random.Generator], list[Part]]]] = {
    "T-Shirt": _t_shirt,
    "Longsleeve": _longsleeve,
    "Pants": _pants,
    "Shoes": _shoes,
    "Shirt": _shirt,
    "Dress": _dress,
    "Outwear": _outwear,
    "Shorts": _shorts,
    "Hat": _hat,
    "Skirt": _skirt,
}
LABELS: Final = tuple(_SHAPES)
