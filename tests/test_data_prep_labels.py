"""Label sets and multi-hot rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.data_prep.labels import Labels
from captune.data_prep.records import DataError

GAPPED = Labels((1, 3, 11, 13), ("person", "car", "hydrant", "stop sign"))


def test_gaps_in_the_numbers_take_no_column() -> None:
    assert GAPPED.multi_hot([(1, 13), (), (11,)]).tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_unknown_label_is_named() -> None:
    with pytest.raises(DataError, match="label 12 is unknown"):
        GAPPED.multi_hot([(1,), (12,)])


def test_labels_of_rows_are_those_used() -> None:
    assert Labels.of([(5, 9), (1,), (5,)], {5: "airplane"}) == Labels((1, 5, 9), ("1", "airplane", "9"))


@given(st.lists(st.sets(st.sampled_from(GAPPED.ids)).map(lambda labels: tuple(sorted(labels))), max_size=20))
def test_multi_hot_and_back_is_the_same(rows: list[tuple[int, ...]]) -> None:
    matrix = GAPPED.multi_hot(rows)
    assert matrix.shape == (len(rows), 4)
    assert matrix.dtype == np.uint8
    assert GAPPED.label_sets(matrix) == rows


@pytest.mark.parametrize("ids", [(), (2, 1), (1, 1), (-1, 2)])
def test_wrong_numbers_are_refused(ids: tuple[int, ...]) -> None:
    with pytest.raises(DataError):
        Labels(ids, tuple(map(str, ids)))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="names"):
        Labels((1, 2), ("one",))
    with pytest.raises(DataError, match=r"\(3, 2\)"):
        GAPPED.label_sets(np.zeros((3, 2)))
