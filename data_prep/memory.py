"""The memory that decoding a picture takes, counted before it begins and shared by all threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from threading import Condition

import numpy as np
from PIL import Image

# Tested against what Pillow takes for pictures of 64 million pixels.
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # others take 4
_WEBP_BYTES_PER_PIXEL = 12  # two canvases, and what libwebp works in
_SLACK_BYTES = 64 * 2**20


class SharedBytes:
    """Bytes that threads share: each waits until as many as it needs are free."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._changed = Condition()

    @contextlib.contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Holds count of them, from 0 to the total."""
        with self._changed:
            self._changed.wait_for(lambda: count <= self._free)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


def is_rgb(image: Image.Image) -> bool:
    """Whether the pixels of an image are RGB as they are, without anything transparent."""
    return image.mode == "RGB" and not image.has_transparency_data


def bytes_needed(image: Image.Image, pixels: int, side: int, *, buffered: bool) -> int:
    """Bytes that it takes at most to decode an opened image, make it RGB and stretch it to side x side.

    pixels: of the file, of which a JPEG at a smaller scale gives fewer. buffered: whether a JPEG comes in several
    scans, whose coefficients are held until the last has come.
    """
    needed = image.width * image.height * (_BYTES_PER_PIXEL.get(image.mode, 4) + (0 if is_rgb(image) else 4))
    needed += 4 * side * image.height  # stretched in width, not yet in height
    if buffered:
        needed += 2 * len(image.getbands()) * pixels
    if image.format == "WEBP":
        needed += _WEBP_BYTES_PER_PIXEL * pixels
    return needed


def is_free(count: int) -> bool:
    """Whether the system would give count bytes, and a little more for all else."""
    try:
        np.empty(count + _SLACK_BYTES, np.uint8)
    except MemoryError:
        return False
    return True
