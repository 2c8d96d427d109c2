"""Label sets and multi-hot rows, one from the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.records import DataError


@dataclass(frozen=True)
class Labels:
    """The labels of a data set. Column i of a multi-hot row is ids[i]: numbers may have gaps."""

    ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.ids or list(self.ids) != sorted(set(self.ids)) or self.ids[0] < 0:
            raise DataError(f"label numbers must be at least one, rising and not negative, got {self.ids}")
        if len(self.names) != len(self.ids):
            raise DataError(f"{len(self.ids)} label numbers need as many names, got {len(self.names)}")

    @classmethod
    def of(cls, rows: Iterable[tuple[int, ...]], names: dict[int, str]) -> Labels:
        """The labels that rows use; a label without a name is called by its number."""
        ids = tuple(sorted({label for row in rows for label in row}))
        return cls(ids, tuple(names.get(label, str(label)) for label in ids))

    def multi_hot(self, rows: Sequence[tuple[int, ...]]) -> NDArray[np.uint8]:
        """(n, L) of 0 and 1. Raises DataError for a label that is not in ids."""
        from sklearn.preprocessing import MultiLabelBinarizer

        if unknown := {label for row in rows for label in row} - set(self.ids):
            ids = " ".join(map(str, self.ids))
            raise DataError(f"label {min(unknown)} is unknown: known are {ids}")
        if not rows:
            return np.zeros((0, len(self.ids)), np.uint8)
        matrix = MultiLabelBinarizer(classes=list(self.ids)).fit_transform(rows)
        return np.asarray(matrix, dtype=np.uint8)

    def label_sets(self, matrix: NDArray[np.generic]) -> list[tuple[int, ...]]:
        """The inverse: for each row of (n, L) the labels whose column is not 0."""
        if matrix.ndim != 2 or matrix.shape[1] != len(self.ids):
            raise DataError(f"a multi-hot matrix must be (n, {len(self.ids)}), got {matrix.shape}")
        ids = np.array(self.ids)
        return [tuple(ids[row != 0].tolist()) for row in matrix]
