"""The file that `captune predict` writes, CSV or Parquet: rows are added as they are answered."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.label_names import SEPARATOR, check_label_names
from captune.data_prep.records import DataError
from captune.errors import ArgumentError, WorkError, is_of_the_machine
from captune.files import written_aside
from captune.model.bundle import Bundle
from captune.tuner.winner.answers import check_top, likeliest

PARQUET = ".parquet"
Write = Callable[[Sequence[str], NDArray[np.float32]], None]
"""Takes n image ids and (n, labels), the network's own probabilities."""


@dataclass(frozen=True)
class SubmissionForm:
    """What is written beside ImageID.

    top: how many of the likeliest labels, likeliest first; None for those that the rule gives. probabilities: a column
    for each label with its calibrated probability, or with top one column for those of its labels. names: names of
    labels in place of their numbers; in a CSV semicolons are between them.
    """

    probabilities: bool = False
    top: int | None = None
    names: bool = False

    def check(self, bundle: Bundle) -> None:
        """Raises ArgumentError where the labels of a bundle cannot be written so."""
        check_top(bundle, self.top)
        if self.names and self.probabilities and self.top is None and {"ImageID", "Labels"} & {*bundle.label_names}:
            raise ArgumentError("names", "a label is called as another column is; leave it out for numbers")
        if self.names:
            try:
                check_label_names(dict(zip(bundle.label_ids, bundle.label_names, strict=True)), "the bundle")
            except DataError as error:
                raise ArgumentError("names", f"{error}; leave it out for numbers") from None


@contextmanager
def submission(bundle: Bundle, out: Path, form: SubmissionForm) -> Iterator[Write]:
    """A file at `out` with the rows that are written inside, there once all are. Its ending says what it is.

    Raises:
        DataError: `out` exists, or there is no folder for it.
        WorkError: the disk refuses.
    """
    table = _Parquet if out.suffix.lower() == PARQUET else _Csv
    try:
        with written_aside(out, replace=False) as aside, aside.open("wb") as file:
            writer = table(file, _Columns(bundle, form))
            yield writer.write
            writer.close()
    except OSError as error:
        kind = WorkError if is_of_the_machine(error) else DataError
        raise kind(f"{out} cannot be written: {error.strerror or error}") from None


class _Columns:
    """What rows have beside their ImageID."""

    def __init__(self, bundle: Bundle, form: SubmissionForm) -> None:
        self._rule, self._form = bundle.rule, form
        self.words: Sequence[int | str] = bundle.label_names if form.names else bundle.label_ids
        self.separator = SEPARATOR if form.names else " "
        self.listed = form.probabilities and form.top is not None
        self.of_labels = list(map(str, self.words)) if form.probabilities and not self.listed else []

    def of(self, raw: NDArray[np.float32]) -> tuple[list[list[int | str]], list[NDArray[Any]], NDArray[Any]]:
        """For n rows their labels, the probabilities of these, and (n, columns) of those of all labels."""
        by_rule = self._rule.answers(raw)
        if self._form.top is None:
            places = [np.flatnonzero(row).tolist() for row in by_rule.labels]
        else:
            places = likeliest(raw)[:, : self._form.top].tolist()
        return (
            [[self.words[i] for i in row] for row in places],
            [p[row] for p, row in zip(by_rule.probabilities, places, strict=True)],
            by_rule.probabilities[:, : len(self.of_labels)],
        )


class _Csv:
    def __init__(self, file: IO[bytes], columns: _Columns) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self._columns = columns
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(["ImageID", "Labels", *["Probabilities"] * columns.listed, *columns.of_labels])

    def write(self, image_ids: Sequence[str], raw: NDArray[np.float32]) -> None:
        columns = self._columns
        for image_id, labels, listed, each in zip(image_ids, *columns.of(raw), strict=True):
            row = [image_id, columns.separator.join(map(str, labels))]
            if columns.listed:
                row.append(" ".join(f"{p:.6g}" for p in listed))
            self._writer.writerow([*row, *(f"{p:.6g}" for p in each)])

    def close(self) -> None:
        self._text.flush()


class _Parquet:
    def __init__(self, file: IO[bytes], columns: _Columns) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._columns = columns
        word = pa.string() if columns.separator == SEPARATOR else pa.int32()
        fields = [("ImageID", pa.string()), ("Labels", pa.list_(word))]
        fields += [("Probabilities", pa.list_(pa.float32()))] * columns.listed
        self._schema = pa.schema([*fields, *((name, pa.float32()) for name in columns.of_labels)])
        self._writer = parquet.ParquetWriter(file, self._schema)

    def write(self, image_ids: Sequence[str], raw: NDArray[np.float32]) -> None:
        import pyarrow as pa

        labels, listed, each = self._columns.of(raw)
        arrays = [list(image_ids), labels, *[listed] * self._columns.listed, *each.T]
        self._writer.write_table(
            pa.table([pa.array(a, f.type) for a, f in zip(arrays, self._schema, strict=True)], schema=self._schema)
        )

    def close(self) -> None:
        self._writer.close()
