"""Rows that have the picture or the caption of another row."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.pixels import pictures
from captune.data_prep.split import SPLITS

Keys = Sequence[Hashable | None]
"""Of each row what it has in common with others of the same key; None for nothing."""


def same_pixels(path: Path, side: int) -> NDArray[np.int64]:
    """(n,) for each picture of a file of write_pixels the number of the first one with the same pixels.

    Files of the same bytes have them, and so have others that differ in metadata alone.
    """
    # A line in the middle tells almost all apart, and is far less to sum up.
    lines = [hash(picture[side // 2].tobytes()) for picture in pictures(path, side)]
    first, times = np.arange(len(lines)), Counter(lines)
    if len(times) < len(lines):
        seen: dict[bytes, int] = {}
        for place, picture in enumerate(pictures(path, side)):
            if times[lines[place]] > 1:
                first[place] = seen.setdefault(hashlib.sha256(picture.data).digest(), place)
    return first


def caption_keys(captions: Sequence[str]) -> list[str | None]:
    """Captions without what does not make them another: blanks, case, the form of their characters."""
    return [" ".join(unicodedata.normalize("NFC", caption).casefold().split()) or None for caption in captions]


def grouped(*columns: Keys) -> NDArray[np.int64]:
    """(n,) for each of n rows the number of the first row of its group.

    columns: keys of the rows. Rows with the same key in a column are of one group, as are those that a third row joins.
    """
    group = list(range(len(columns[0])))

    def first_of(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    for column in columns:
        first: dict[Hashable, int] = {}
        for row, key in enumerate(column):
            if key is not None:
                one, other = first_of(row), first_of(first.setdefault(key, row))
                group[max(one, other)] = min(one, other)
    return np.array([first_of(row) for row in range(len(group))])


def repeats(keys: Keys, assigned: NDArray[np.uint8]) -> dict[str, int]:
    """Rows of validation and of test that share their key with a row of train. assigned: (n,) places in SPLITS."""
    splits = [SPLITS[code] for code in assigned]
    train = {key for key, split in zip(keys, splits, strict=True) if split == "train" and key is not None}
    of_train = [split for key, split in zip(keys, splits, strict=True) if key in train]
    return {split: of_train.count(split) for split in SPLITS[1:]}
