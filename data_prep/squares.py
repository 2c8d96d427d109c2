"""An image of any mode becomes an upright RGB square."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from captune.data_prep.memory import is_rgb

STRIP_PIXELS = 2**20  # worked on at a time, where copies of a whole picture would take much

_Turn = Image.Transpose
_UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


def stretched(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """(side, side, 3) RGB, bilinear over the whole area, turned upright, on white where it is transparent."""
    image.load()
    orientation = _orientation(image)
    pixels = _to_rgb(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.array(pixels.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else pixels, np.uint8)


def _orientation(image: Image.Image) -> int:
    # Damaged EXIF is common in sound photographs and costs only the turn.
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except MemoryError:
        raise
    except Exception:
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if is_rgb(image):
        return image
    rgb = Image.new("RGB", image.size)
    for place, strip in strips(image):
        rgb.paste(_strip_to_rgb(strip), place)
    return rgb


def strips(image: Image.Image) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """Copies of rows that follow each other, each with its place (left, upper)."""
    rows = max(1, STRIP_PIXELS // image.width)
    for upper in range(0, image.height, rows):
        yield (0, upper), image.crop((0, upper, image.width, min(upper + rows, image.height)))


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        wide = np.asarray(image).clip(0, 65_535)
        return Image.fromarray((wide // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # Turned into RGBA only here: the picture and its white ground are then composited in one mode.
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(ground, layered).convert("RGB")
    return image.convert("RGB")
