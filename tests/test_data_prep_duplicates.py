"""Rows that have something in common, and what of it is in which split."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.data_prep.duplicates import caption_keys, grouped, repeats, same_pixels
from captune.data_prep.images import Pixels
from captune.data_prep.journal import GrowingPixels

keys = st.one_of(st.none(), st.integers(0, 6))


@given(st.lists(st.tuples(keys, keys), min_size=1, max_size=12))
def test_groups_are_what_chains_of_equal_keys_connect(rows: list[tuple[int | None, int | None]]) -> None:
    groups = grouped(*zip(*rows, strict=True)).tolist()
    linked = np.eye(len(rows), dtype=bool)
    for one, of_one in enumerate(rows):
        for other, of_other in enumerate(rows):
            linked[one, other] |= any(
                a == b is not None and a is not None for a, b in zip(of_one, of_other, strict=True)
            )
    for _ in rows:
        linked |= linked @ linked
    assert groups == [int(np.flatnonzero(line)[0]) for line in linked]


def test_rows_of_other_keys_are_groups_of_their_own() -> None:
    assert grouped(list("abc"), [None, None, None]).tolist() == [0, 1, 2]


def test_same_caption_is_told_by_its_words() -> None:
    assert len(set(caption_keys(["A  dog", "a dog ", " A\tDOG"]))) == 1
    assert len(set(caption_keys(["caf\u00e9", "cafe\u0301"]))) == 1
    assert len(set(caption_keys(["a dog", "a dog.", "dog a"]))) == 3
    assert caption_keys(["", "  "]) == [None, None]


def test_repeats_are_of_train_alone() -> None:
    assigned = np.array([0, 0, 1, 1, 2, 2, 2], np.uint8)
    assert repeats(["a", None, "a", "b", "b", "a", None], assigned) == {"validation": 1, "test": 1}


def written(folder: Path, pictures: list[Pixels], side: int) -> Path:
    growing = GrowingPixels(folder / "pixels", folder / "journal", side, {})
    for place in range(0, len(pictures), 3):
        growing.append(np.stack(pictures[place : place + 3]), place, [])
    growing.finish()
    growing.close()
    return folder / "pixels"


@pytest.mark.parametrize("side", [1, 2, 9])
def test_pictures_are_the_same_if_every_pixel_is(tmp_path: Path, side: int) -> None:
    one = np.random.default_rng(0).integers(0, 200, (side, side, 3), dtype=np.uint8)
    other, third = one.copy(), one + 1
    other[0, 0, 2] += 1  # not in the line by which pictures are told apart at first, where there are more
    assert same_pixels(written(tmp_path, [one, other, third, one, third, other, other], side), side).tolist() == [
        *[0, 1, 2, 0, 2, 1, 1]
    ]
