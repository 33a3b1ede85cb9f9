"""Pictures of garments on a background, in the colours, patterns and noise of chance."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from batchrec.learning.garments import Part, Points, garment_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Colour = tuple[int, int, int]
_TILE: Final = 1024


def paint_garment(label: str, size: tuple[int, int], rng: np.random.Generator, *, grain: float) -> Image:
    """Paint one garment.

    Args:
        label: One of :data:`batchrec.learning.garments.LABELS`.
        size: Width and height in pixels.
        rng: Decides everything else; the same state gives the same pixels.
        grain: Standard deviation of the noise, in grey levels.

    Returns:
        An RGB image.
    """
    from PIL import Image, ImageDraw

    canvas = _background(size, rng)
    place = _placement(size, rng)
    parts = [
        Part([place(point) for point in part.points], part.tone, part.stroke) for part in garment_parts(label, rng)
    ]
    base = _colour(rng)
    unit = min(size)
    _shadow(canvas, parts[0], unit, rng)
    cloth = _cloth(size, base, rng)
    pen = ImageDraw.Draw(canvas)
    for part in parts:
        if part.stroke:
            pen.line(part.points, fill=_toned(base, part.tone), width=max(1, round(part.stroke * unit)))
        elif part.tone == 1:
            canvas.paste(cloth, mask=_mask(size, part.points))
        else:
            pen.polygon(part.points, fill=_toned(base, part.tone))
    _creases(pen, parts[0].points, base, unit, rng)
    return Image.fromarray(_grained(np.asarray(canvas), grain, rng))


def _placement(size: tuple[int, int], rng: np.random.Generator) -> Callable[[tuple[float, float]], tuple[float, float]]:
    width, height = size
    unit = min(size) * rng.uniform(0.78, 1.0)
    angle = rng.normal(0, 0.12) if rng.random() < 0.85 else rng.uniform(-1.2, 1.2)
    cos, sin = math.cos(angle) * unit, math.sin(angle) * unit
    stretch, shear = rng.uniform(0.88, 1.12), rng.normal(0, 0.05)
    middle_x = width / 2 + rng.uniform(-0.05, 0.05) * width
    middle_y = height / 2 + rng.uniform(-0.05, 0.05) * height

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = (point[0] - 0.5) * stretch + shear * (point[1] - 0.5), point[1] - 0.5
        return middle_x + cos * x - sin * y, middle_y + sin * x + cos * y

    return place


def _colour(rng: np.random.Generator) -> Colour:
    saturation = rng.uniform(0.05, 0.9) if rng.random() < 0.75 else 0.03
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.15, 0.95))
    return round(255 * red), round(255 * green), round(255 * blue)


def _toned(colour: Colour, tone: float) -> Colour:
    red, green, blue = (min(255, round(value * tone + (tone > 1) * 20)) for value in colour)
    return red, green, blue


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image:
    from PIL import Image, ImageDraw

    paper = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.35, 1.0))
    colour = (round(255 * paper[0]), round(255 * paper[1]), round(255 * paper[2]))
    canvas = Image.new("RGB", size, colour)
    kind = rng.integers(4)
    if kind == 0:
        return canvas
    if kind == 1:
        slope = Image.linear_gradient("L").resize(size)
        return Image.composite(canvas, Image.new("RGB", size, _toned(colour, rng.uniform(0.5, 0.9))), slope)
    pen = ImageDraw.Draw(canvas)
    step = int(rng.integers(24, 90))
    for number, y in enumerate(range(0, size[1], step)):
        if kind == 2:
            tone = rng.uniform(0.85, 1.08)
            pen.rectangle((0, y, size[0], y + step - 2), fill=_toned(colour, tone))
        else:
            offset = (number % 2) * step
            for x in range(offset, size[0], 2 * step):
                pen.rectangle((x, y, x + step, y + step), fill=_toned(colour, 0.88))
    return canvas


def _cloth(size: tuple[int, int], base: Colour, rng: np.random.Generator) -> Image:
    from PIL import Image, ImageDraw

    cloth = Image.new("RGB", size, base)
    kind = rng.choice(5, p=[0.5, 0.15, 0.12, 0.11, 0.12])
    pen = ImageDraw.Draw(cloth)
    other, step = _toned(_colour(rng), 1), int(rng.integers(10, 40))
    if kind in (1, 3):
        for y in range(0, size[1], step):
            pen.rectangle((0, y, size[0], y + step // 3), fill=other)
    if kind in (2, 3):
        for x in range(0, size[0], step):
            pen.rectangle((x, 0, x + step // 4, size[1]), fill=other)
    if kind == 4:
        radius = max(2, step // 5)
        for y in range(0, size[1], step):
            for x in range((y // step % 2) * step // 2, size[0], step):
                pen.ellipse((x, y, x + radius, y + radius), fill=other)
    return cloth


def _mask(size: tuple[int, int], points: Points) -> Image:
    from PIL import Image, ImageDraw

    mask = Image.new("L", (2 * size[0], 2 * size[1]))
    ImageDraw.Draw(mask).polygon([(2 * x, 2 * y) for x, y in points], fill=255)
    return mask.reduce(2)


def _shadow(canvas: Image, outline: Part, unit: int, rng: np.random.Generator) -> None:
    from PIL import Image, ImageDraw

    right, down = rng.uniform(-0.02, 0.02) * unit, rng.uniform(0, 0.025) * unit
    mask = Image.new("L", canvas.size)
    depth = int(rng.integers(0, 110))
    ImageDraw.Draw(mask).polygon([(x + right, y + down) for x, y in outline.points], fill=depth)
    canvas.paste((0, 0, 0), mask=mask)


def _creases(pen: Any, outline: Points, base: Colour, unit: int, rng: np.random.Generator) -> None:
    corners = np.asarray(outline)
    middle = corners.mean(axis=0)
    for _ in range(rng.integers(0, 6)):
        start = middle + (corners[rng.integers(len(corners))] - middle) * rng.uniform(0.2, 0.7)
        end = start + rng.normal(0, 0.07, 2) * unit
        pen.line([tuple(start), tuple(end)], fill=_toned(base, rng.uniform(0.75, 0.95)), width=1 + unit // 200)


def _grained(pixels: NDArray[np.uint8], grain: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    top, left = rng.integers(0, max(1, _TILE - height)), rng.integers(0, max(1, _TILE - width))
    noise = _grain_tile(max(1, round(grain)))
    if height > _TILE or width > _TILE:
        noise = np.tile(noise, (-(-height // _TILE), -(-width // _TILE), 1))
    noise = noise[top : top + height, left : left + width]
    grained: NDArray[np.uint8] = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return grained


@cache
def _grain_tile(strength: int) -> NDArray[np.int16]:
    """Return noise drawn once: drawing it anew for every image would take longer than the image."""
    rng = np.random.default_rng(1)
    grey = rng.standard_normal((_TILE, _TILE, 1), dtype=np.float32)
    coloured = rng.standard_normal((_TILE, _TILE, 3), dtype=np.float32)
    tile: NDArray[np.int16] = np.rint((grey + 0.7 * coloured) * strength).astype(np.int16)
    return tile
