"""Untrusted picture bytes become (side, side, 3) uint8, or a reason why not."""

from __future__ import annotations

import contextlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from captune.data_prep.records import DataError, name_fault

Pixels = NDArray[np.uint8]
Picture = str | Path | Image.Image | Pixels
"""A file, an image of Pillow, or (height, width, 3) RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Eight times the largest common photograph of 8 MP; a decoded picture of this size takes 192 MiB.
MAX_PIXELS = 64 * 2**20
MAX_FILE_BYTES = 256 * 2**20
MAX_SIDE = 1024

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


class ImageError(DataError):
    """A picture that cannot be used."""


def check_side(side: int) -> int:
    """Return side (pixels, 1 to 1024) or raise DataError."""
    if type(side) is not int or not 1 <= side <= MAX_SIDE:
        raise DataError(f"the side of a picture must be from 1 to {MAX_SIDE} whole pixels, got {side!r}")
    return side


def image_path(folder: str | Path, image_id: str) -> Path:
    """Where image_id lies in folder. Raises DataError for a name that would leave the folder."""
    if fault := name_fault(image_id):
        raise DataError(fault)
    return Path(folder) / image_id


def read_image(path: str | Path, side: int) -> Pixels:
    """Decode the picture file at path: see decode. Raises ImageError naming the path."""
    path = Path(path)
    with _file(path):
        data = path.read_bytes()
    return decode(data, side, name=str(path))


def check_image(path: Path) -> None:
    """Raise ImageError for a file that is no picture by its first bytes. One that is cut short shows when decoded."""
    with _file(path), path.open("rb") as file, _opened(file, str(path)):
        pass


@contextlib.contextmanager
def _file(path: Path) -> Iterator[None]:
    """Raises ImageError for what is no file to read, and for what the system says while it is read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"picture {path} is not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"picture {path} has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read")
        if not status.st_size:
            raise ImageError(f"picture {path} is empty (0 bytes)")
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"picture {path} does not exist") from None
    except OSError as error:
        raise ImageError(f"picture {path} cannot be read: {error.strerror or error}") from None


def decode(data: bytes, side: int, *, name: str) -> Pixels:
    """Decode picture bytes to (side, side, 3) uint8 RGB.

    Stretched to a square, bilinear over the whole source area; turned upright as EXIF says; transparency is
    laid on white; 16-bit greys are scaled to 8; of an animation the first frame counts. Raises ImageError,
    which calls the picture by name: no bytes, not one of FORMATS, cut short, or above MAX_PIXELS (told from
    the header, before anything is decoded).
    """
    check_side(side)
    if not data:
        raise ImageError(f"picture {name} is empty (0 bytes)")
    with _opened(io.BytesIO(data), name) as image:
        # JPEG only: decodes at 1/2, 1/4 or 1/8, the smallest that still covers the target.
        image.draft("RGB", (side, side))
        return _stretched(image, side)


@contextlib.contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[Image.Image]:
    """A picture of which the header is read. Raises ImageError for what is wrong with it, or goes wrong inside."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(_too_large(name, f"{width} x {height}"))
            yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"picture {name} is not one of {', '.join(FORMATS)}: convert it to JPEG") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(_too_large(name, "size in its header")) from None
    except Exception as error:  # Pillow's readers raise almost anything on hostile bytes
        raise ImageError(f"picture {name} is damaged: {error or type(error).__name__}") from None


def square(picture: Picture, side: int) -> Pixels:
    """A picture, however it is given, as `decode` makes it of a file.

    Raises:
        ImageError: a file that cannot be used, or an array that is not (height, width, 3) uint8.
    """
    check_side(side)
    if isinstance(picture, str | Path):
        return read_image(picture, side)
    if not isinstance(picture, Image.Image):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            raise ImageError(
                f"a picture must be a file, an image of Pillow, or an array of (height, width, 3) uint8, "
                f"got {type(picture).__name__} of {array.shape} {array.dtype}"
            )
        picture = Image.fromarray(array)
    try:
        return _stretched(picture, side)
    except Exception as error:  # an image that Pillow has opened and not yet read may be damaged
        raise ImageError(f"picture {picture!r} is damaged: {error or type(error).__name__}") from None


def _stretched(image: Image.Image, side: int) -> Pixels:
    orientation = _orientation(image)
    pixels = _to_rgb(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.array(pixels.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else pixels, np.uint8)


def _too_large(name: str, size: str) -> str:
    return f"picture {name} has too many pixels ({size}), at most {MAX_PIXELS} are decoded: scale it down"


def _orientation(image: Image.Image) -> int:
    # Damaged EXIF is common in sound photographs and costs only the turn.
    with contextlib.suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((wide.clip(0, 65_535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # Turned into RGBA only here: the picture and its white ground are then composited in one mode.
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(ground, layered).convert("RGB")
    return image.convert("RGB")
