"""Train, validation and test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.data_prep.records import DataError
from captune.data_prep.split import Shares, parse_shares, split

EIGHTY: Shares = (0.8, 0.1, 0.1)


def random_labels(rows: int, columns: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((rows, columns)) < rng.uniform(0.02, 0.7, columns)).astype(np.uint8)


def test_every_label_keeps_its_share() -> None:
    labels = random_labels(6000, 18, seed=1) * random_labels(6000, 18, seed=2)
    labels[:, 0] = np.random.default_rng(3).random(6000) < 0.76
    assigned = split(labels, EIGHTY, seed=0)
    for code, share in enumerate(EIGHTY):
        off = np.abs(labels[assigned == code].sum(axis=0) - share * labels.sum(axis=0))
        assert (off <= 1 + 0.005 * labels.sum(axis=0)).all()
        assert abs((assigned == code).mean() - share) < 0.01


def test_same_seed_same_split_other_seed_other_split() -> None:
    labels = random_labels(300, 5, seed=2)
    assert (split(labels, EIGHTY, 7) == split(labels, EIGHTY, 7)).all()
    assert (split(labels, EIGHTY, 7) != split(labels, EIGHTY, 8)).any()


def test_test_share_of_nothing_gives_no_test() -> None:
    assigned = split(random_labels(100, 4, seed=3), (0.75, 0.25, 0.0), 0)
    assert set(assigned.tolist()) == {0, 1}


@given(
    st.integers(3, 30),
    st.integers(1, 6),
    st.integers(0, 10**6),
    st.sampled_from([EIGHTY, (0.98, 0.01, 0.01), (0.5, 0.5, 0.0), (0.2, 0.4, 0.4)]),
)
def test_tiny_data_fills_every_split(rows: int, columns: int, seed: int, shares: Shares) -> None:
    assigned = split(random_labels(rows, columns, seed), shares, seed)
    assert assigned.dtype == np.uint8
    assert assigned.shape == (rows,)
    assert set(assigned.tolist()) == {code for code, share in enumerate(shares) if share > 0}


@given(st.integers(3, 20), st.integers(0, 10**6))
def test_groups_stay_together(groups: int, seed: int) -> None:
    numbers = np.random.default_rng(seed).permutation(np.repeat(np.arange(groups), 3))
    assigned = split(random_labels(3 * groups, 4, seed), EIGHTY, seed, groups=numbers)
    for group in range(groups):
        assert len(set(assigned[numbers == group].tolist())) == 1
    assert set(assigned.tolist()) == {0, 1, 2}


def test_rows_without_labels_and_single_examples_are_split() -> None:
    labels = np.zeros((12, 12), np.uint8)
    assert np.bincount(split(labels, EIGHTY, 0)).tolist() == [10, 1, 1]
    assert set(split(np.eye(12, dtype=np.uint8), EIGHTY, 0).tolist()) == {0, 1, 2}


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match="2 pictures cannot fill 3"):
        split(np.ones((2, 1), np.uint8), EIGHTY, 0)
    with pytest.raises(DataError, match="1 pictures cannot fill 3"):
        split(np.ones((5, 1), np.uint8), EIGHTY, 0, groups=np.zeros(5, np.int64))


@pytest.mark.parametrize(
    ("text", "shares"),
    [("80/10/10", EIGHTY), (" 70 / 30 / 0 ", (0.7, 0.3, 0)), ("33.4/33.3/33.3", (0.334, 0.333, 0.333))],
)
def test_shares_are_read_as_percent(text: str, shares: Shares) -> None:
    assert parse_shares(text) == pytest.approx(shares)


@pytest.mark.parametrize(
    "text", ["", "80", "80/20", "80/10/5", "0/50/50", "100/0/0", "90/-5/15", "a/b/c", "80/10/10/0", "nan/1/1"]
)
def test_wrong_shares_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        parse_shares(text)
