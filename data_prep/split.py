"""Train, validation and test: seeded, with every label's share kept in each (Sechidis et al., 2011)."""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.records import DataError

SPLITS = ("train", "validation", "test")
Shares = tuple[float, float, float]


def parse_shares(text: str) -> Shares:
    """Read "80/10/10" (percent of train, validation and test) as (0.8, 0.1, 0.1).

    Raises DataError unless three numbers of 0 or more sum to 100, train and validation above 0.
    """
    parts = text.split("/")
    if len(parts) != 3 or not all(re.fullmatch(r"\s*\d{1,3}(\.\d{1,6})?\s*", part) for part in parts):
        raise DataError(f"a split is three percentages such as 80/10/10, got {text!r}")
    train, validation, test = (float(part) / 100 for part in parts)
    return check_shares((train, validation, test))


def check_shares(shares: Shares) -> Shares:
    """Return shares (fractions of train, validation, test) or raise DataError."""
    text = "/".join(f"{100 * share:g}" for share in shares)
    if len(shares) != 3 or not all(0 <= share <= 1 for share in shares):
        raise DataError(f"a split has three shares from 0 to 100 percent, got {text}")
    if not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise DataError(f"the shares of a split must sum to 100, {text} sums to {100 * sum(shares):g}")
    if shares[0] <= 0 or shares[1] <= 0:
        raise DataError(f"train and validation must get more than 0, got {text}: only test may be 0")
    return shares


def split(
    labels: NDArray[np.uint8], shares: Shares, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """Assign each of n rows: 0 train, 1 validation, 2 test.

    labels: (n, L) multi-hot. groups: (n,) numbers; rows of one group go together, as all captions of one
    picture must. Each share above 0 gets at least one group. Same arguments, same result. Raises DataError
    where shares are wrong, or there are fewer groups than shares above 0.
    """
    from iterstrat.ml_stratifiers import IterativeStratification

    check_shares(shares)
    if labels.ndim != 2:
        raise DataError(f"labels must be (n, L), got {labels.shape}")
    first, member = np.arange(len(labels)), np.arange(len(labels))
    united = labels.astype(bool)
    if groups is not None:
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        united = np.zeros((len(first), labels.shape[1]), bool)
        np.logical_or.at(united, member, labels.astype(bool))
    used = [place for place, share in enumerate(shares) if share > 0]
    if len(first) < len(used):
        raise DataError(f"{len(first)} pictures cannot fill {len(used)} splits: add rows, or take 0 for test")
    fractions = np.array([shares[place] for place in used])
    # The method walks through the rows of a label in order: shuffled, so that file order leaves no trace.
    order = np.random.default_rng(seed).permutation(len(first))
    folds = np.empty(len(first), np.int64)
    folds[order] = IterativeStratification(united[order], fractions, np.random.RandomState(seed % 2**32))
    _fill_empty(folds, len(used), order)
    return np.array(used, np.uint8)[folds][member]


def _fill_empty(folds: NDArray[np.int64], count: int, order: NDArray[np.int64]) -> None:
    """Give each empty fold one member of the largest, as happens with a dozen rows, in place."""
    for fold in range(count):
        sizes = np.bincount(folds, minlength=count)
        if sizes[fold] == 0:
            from_largest = order[folds[order] == sizes.argmax()]
            folds[from_largest[0]] = fold
