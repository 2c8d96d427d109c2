"""Untrusted picture bytes become (side, side, 3) uint8, or a reason why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from captune.data_prep import containers
from captune.data_prep.memory import SharedBytes, bytes_needed, is_free
from captune.data_prep.records import DataError, name_fault
from captune.data_prep.squares import stretched, strips
from captune.errors import WorkError, is_of_the_machine, one_line

Pixels = NDArray[np.uint8]
Picture = str | Path | Image.Image | Pixels
"""A file, an image of Pillow, or (height, width, 3) RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
# Eight times the largest common photograph of 8 MP, at most as long as a JPEG can be.
MAX_PIXELS = 64 * 2**20
MAX_LENGTH = 65_535
MAX_FILE_BYTES = 256 * 2**20
MAX_SIDE = 1024
# A progressive JPEG comes in some ten scans; each takes as long as decoding it anew.
MAX_SCANS = 100
# What all pictures that are being decoded may take at a time, so that a small file of many pixels harms no one.
MAX_BYTES = 768 * 2**20
SMALL_FILE_BYTES = 16 * 2**20

# Pillow decodes the runs of a BMP in Python, one after another.
MAX_RUN_PIXELS = 8 * 2**20
_RUNS = (1, 2)  # compressions of a BMP


class ImageError(DataError):
    """A picture that cannot be used."""


class MachineError(WorkError):
    """A picture that could not be read for want of memory, open files or permission, or by a disk that fails.

    The picture may be sound, so it is never left out as a bad one.
    """


_in_flight = SharedBytes(MAX_BYTES)


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
    """Decode the picture file at path: see decode. Raises ImageError or MachineError naming the path."""
    path, name = Path(path), str(path)
    with _read(path) as size:
        if size <= SMALL_FILE_BYTES:
            return decode(path.read_bytes(), side, name=name)
        # What it takes is known when it has been read; so all others wait until it is done.
        with _in_flight.taken(MAX_BYTES):
            return _decoded(path.read_bytes(), side, name, SharedBytes(MAX_BYTES))


def check_image(path: Path) -> None:
    """Raise ImageError for a file that is no picture by its first bytes. What else is wrong shows when decoded."""
    with _read(path), path.open("rb") as file:
        _kind(file.read(16), str(path))


@contextlib.contextmanager
def _read(path: Path) -> Iterator[int]:
    """The size of a file, in bytes; ImageError for what is no file, MachineError for what the system says inside."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"picture {path} is not a file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"picture {path} has {status.st_size} bytes, at most {MAX_FILE_BYTES} are read")
        yield status.st_size
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"picture {path} does not exist") from None
    except (OSError, MemoryError) as error:
        raise _fault(str(path), error) from None


def decode(data: bytes, side: int, *, name: str) -> Pixels:
    """Decode picture bytes to (side, side, 3) uint8 RGB.

    Stretched to a square, bilinear over the whole source area; turned upright as EXIF says; transparency is
    laid on white; 16-bit greys are scaled to 8; of an animation the first frame counts. Metadata is not looked
    at, nor missed is the end mark of a JPEG that is whole otherwise. All that is decoded at a time, by whatever
    threads, takes MAX_BYTES.

    Raises:
        ImageError: calls the picture by name: no bytes, not one of FORMATS, cut short, or more than is decoded
            of pixels, scans or bytes (told before anything is decoded).
        MachineError: no memory, or a fault of the system.
    """
    return _decoded(data, side, name, _in_flight)


def square(picture: Picture, side: int) -> Pixels:
    """A picture, however it is given, as `decode` makes it of a file.

    Raises:
        ImageError: a file that cannot be used, or an array that is not (height, width, 3) uint8.
        MachineError: no memory, or a fault of the system.
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
        return stretched(picture, side)
    except Exception as error:  # an image that Pillow has opened and not yet read may be damaged
        raise _fault(repr(picture), error) from None


def _decoded(data: bytes, side: int, name: str, memory: SharedBytes) -> Pixels:
    check_side(side)
    content = containers.without_metadata(data)
    held = len(data) + (0 if content is data else len(content))
    try:
        with _opened(content, name, memory, held, side) as image:
            return stretched(image, side)
    except ImageError:
        if not containers.jpeg_lacks_only_its_end(content):
            raise
        # Whatever is put behind a scan that is whole changes no pixel.
        ended, continued = (content.rstrip(b"\xff") + more + b"\xff\xd9" for more in (b"", bytes(range(1, 255)) * 8))
        held += len(ended) + len(continued)
        if _digest(ended, name, memory, held) != _digest(continued, name, memory, held):
            raise
        with _opened(ended, name, memory, held, side) as image:
            return stretched(image, side)


def _digest(data: bytes, name: str, memory: SharedBytes, held: int) -> bytes:
    """Of all pixels of a picture in its full size."""
    digest = hashlib.sha256()
    with _opened(data, name, memory, held) as image:
        for _, strip in strips(image):
            digest.update(strip.tobytes())
    return digest.digest()


@contextlib.contextmanager
def _opened(data: bytes, name: str, memory: SharedBytes, held: int, side: int = 0) -> Iterator[Image.Image]:
    """A picture that can be decoded, with the memory for it; a JPEG at 1/2, 1/4 or 1/8 where that still covers side.

    held: bytes that its file takes already. What goes wrong inside becomes an ImageError or a MachineError.
    """
    kind = _kind(data, name)
    width, height = containers.size_of(data)
    _check_size(width, height, name)
    scans = containers.jpeg_scans(data, MAX_SCANS) if kind == "JPEG" else 1
    if scans > MAX_SCANS:
        raise ImageError(f"picture {name} comes in more than {MAX_SCANS} scans, the most that are read: save it anew")
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            _check_size(*image.size, name)  # a GIF may be larger than it says in front
            if image.info.get("compression") in _RUNS and width * height > MAX_RUN_PIXELS:
                raise ImageError(
                    f"picture {name} has {width * height} pixels in runs, at most {MAX_RUN_PIXELS} are read"
                )
            if side:
                image.draft("RGB", (side, side))
            buffered = scans > 1 or "progressive" in image.info
            count = held + bytes_needed(image, width * height, side, buffered=buffered)
            if count > MAX_BYTES:
                raise ImageError(
                    f"picture {name} ({width} x {height} pixels) takes {count >> 20} MiB of memory, at most "
                    f"{MAX_BYTES >> 20} MiB are given to one: scale it down"
                )
            with memory.taken(count):
                yield image
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise almost anything on hostile bytes
        raise _fault(name, error, 12 * width * height) from None


def _fault(name: str, error: Exception, count: int = 0) -> ImageError | MachineError:
    """What an error says of a picture that takes some count of bytes, or of the machine."""
    if isinstance(error, OSError) and error.errno is not None:
        if not is_of_the_machine(error):
            return ImageError(f"picture {name} cannot be read: {error.strerror}")
        return MachineError(f"picture {name} cannot be read: {error.strerror}; mend that, then do the same again")
    if isinstance(error, MemoryError) or not is_free(count):
        return MachineError(f"picture {name} cannot be read: memory ran out; give more, then do the same again")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return ImageError(f"picture {name} has too many pixels: scale it down")
    if isinstance(error, UnidentifiedImageError):
        return ImageError(f"picture {name} is damaged, or of a kind that is rarely read: save it anew")
    return ImageError(f"picture {name} is damaged: {one_line(error, 200) or type(error).__name__}")


def _kind(data: bytes, name: str) -> containers.Kind:
    if not data:
        raise ImageError(f"picture {name} is empty (0 bytes)")
    kind = containers.kind_of(data)
    if kind is None:
        raise ImageError(f"picture {name} is not one of {', '.join(FORMATS)}: convert it to JPEG")
    return kind


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_LENGTH:
        raise ImageError(
            f"picture {name} has too many pixels ({width} x {height}), at most {MAX_PIXELS} are decoded and "
            f"{MAX_LENGTH} a side: scale it down"
        )
