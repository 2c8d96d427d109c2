"""A CSV becomes examples; whatever is wrong with a row is told with its line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from posixpath import normpath

from captune.data_prep import csv_rows
from captune.data_prep.csv_rows import Columns, Lines, Row
from captune.data_prep.label_names import labels_in, numbers_by_name
from captune.data_prep.records import Collector, DataError, Example, OnBad, Records, listed, name_fault, shown
from captune.data_prep.source import digest, read_source

_NAMES = ("ImageID", "Labels", "Caption")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_csv(
    path: str | Path,
    *,
    on_bad: OnBad = "error",
    need_labels: bool = True,
    known_labels: frozenset[int] | None = None,
    label_names: Mapping[int, str] | None = None,
) -> Records:
    """All rows of a CSV at once: see open_csv and CsvFile.chunks."""
    file = open_csv(path, need_labels=need_labels, known_labels=known_labels, label_names=label_names)
    (records,) = file.chunks(None, on_bad=on_bad)
    return records


def open_csv(
    path: str | Path,
    *,
    need_labels: bool = True,
    known_labels: frozenset[int] | None = None,
    label_names: Mapping[int, str] | None = None,
) -> CsvFile:
    """A CSV with the columns ImageID, Labels and Caption, in any order, others ignored.

    Names of columns may be written with other capitals, blanks or an s at the end. Labels are whole numbers with blanks
    between them, or names that label_names has, see labels_in. Where need_labels is False they may be missing and are
    not looked at, and rows may share an ImageID; Caption may be missing always. How text becomes rows: see csv_rows.

    Raises DataError where the file as a whole is unusable: missing, empty, not UTF-8, a column missing.
    """
    source = read_source(Path(path))
    if source.text.lstrip()[:1] in ("{", "["):
        raise DataError(f"{path} is JSON and no CSV: COCO annotations are read by captune prepare --format coco")
    lines = csv_rows.lines_of(source.text)
    with csv_rows.fields_of_any_length():
        header = _header(source.path, lines)
    columns = _columns(source.path, header, need_labels)
    return CsvFile(source.path, digest([source]), lines, header, columns, need_labels, known_labels, label_names or {})


@dataclass(frozen=True)
class CsvFile:
    """A CSV that open_csv has opened. Its text is held; rows are made of it as often as they are asked for."""

    path: Path
    sha256: str
    lines: Lines
    header: Row
    columns: Columns
    need_labels: bool
    known_labels: frozenset[int] | None
    label_names: Mapping[int, str]

    @property
    def has_captions(self) -> bool:
        return self.columns.caption is not None

    def chunks(self, size: int | None, *, on_bad: OnBad = "error") -> Iterator[Records]:
        """All rows in their order, up to `size` of them at a time, all where it is None. The last has the notes on all.

        Raises DataError with the line: at the first bad row where on_bad is "error"; in both modes where no row of the
        file can be used, or those of a chunk have too many labels.
        """
        reader = _RowReader(self, on_bad)
        rows = csv_rows.rows(self.lines, self.header.last, self.columns)
        more = True
        while more:
            with csv_rows.fields_of_any_length():
                chunk = list(islice(rows, size))
            more = len(chunk) == size
            yield reader.records(chunk, last=not more)


class _RowReader:
    """Rows of fields become records, each held against those before."""

    def __init__(self, file: CsvFile, on_bad: OnBad) -> None:
        self._file = file
        self._on_bad: OnBad = on_bad
        self._by_name = numbers_by_name(file.label_names)
        self._line_of: dict[str, int] = {}
        self._odd: list[Row] = []
        self._ended_otherwise: list[int] = []
        self._other_end = "\n" if file.lines[file.header.last - 1].endswith("\r") else "\r"
        self._usable = 0

    def records(self, rows: Sequence[Row], *, last: bool) -> Records:
        file, columns = self._file, self._file.columns
        gathered = Collector(file.path, self._on_bad, "line")
        for row in rows:
            image_id = row.fields[columns.image].strip() if columns.image < len(row.fields) else ""
            name = normpath(image_id)
            labels: tuple[int, ...] = ()
            reason = row.fault or name_fault(image_id)
            if not reason and file.need_labels and columns.labels is not None:
                labels, reason = labels_in(row.fields[columns.labels], self._by_name, file.known_labels)
                if line := self._line_of.get(name):
                    reason = f"ImageID {shown(image_id)} stands on line {line} already"
            if row.mended or row.doubtful:
                self._odd.append(row)
            if file.lines[row.last - 1].endswith(self._other_end):
                self._ended_otherwise.append(row.line)
            if reason:
                gathered.fault(row.line, image_id, reason)
                continue
            if file.need_labels:
                self._line_of[name] = row.line
            caption = row.fields[columns.caption] if columns.caption is not None else ""
            gathered.good(row.line, Example(image_id, labels, caption))
        if last:
            gathered.notes += self._notes()
        self._usable += len(gathered.examples)
        return gathered.records(
            has_labels=file.need_labels,
            has_captions=file.has_captions,
            label_names=dict(file.label_names),
            rows=len(rows),
            sha256=file.sha256,
            may_be_empty=self._usable > 0 or not last,
        )

    def _notes(self) -> list[str]:
        """What is no fault and yet may not be as it was meant, with its lines."""
        columns, header = self._file.columns, self._file.header
        reasons = {
            "no CSV, and read with stray quotes as characters and commas without quotes as the caption's": [
                row.line for row in self._odd if row.mended
            ],
            "read as one field in quotes, though a further line of it could be a row by its commas": [
                row.line for row in self._odd if row.doubtful
            ],
            "ended by a carriage return where the header is by a line feed, or the reverse": self._ended_otherwise,
        }
        notes = [f"{why}: {len(places)} rows, on lines {listed(places)}" for why, places in reasons.items() if places]
        if columns.caption is None and columns.count > 2:
            names = shown(", ".join(header.fields), 120)
            notes.append(f"no captions: none of the columns {names} is named Caption")
        return notes


def _header(path: Path, lines: Lines) -> Row:
    try:
        header = csv_rows.header(lines)
    except csv.Error as error:
        raise DataError(f"{path} has a header that is no CSV ({error}): name the columns {','.join(_NAMES)}") from None
    if header is None:
        raise DataError(f"{path} is empty: it needs a header with {', '.join(_NAMES)}, and rows")
    if header.last > header.line:
        raise DataError(f"{path}, line {header.line}: a quote in the header closes on line {header.last}: mend it")
    return header


def _columns(path: Path, header: Row, need_labels: bool) -> Columns:
    place: dict[str, int | None] = {}
    written = [name.strip() for name in header.fields]
    for name in _NAMES:
        places = [i for i, other in enumerate(written) if other == name]
        places = places or [i for i, other in enumerate(written) if _plain(other) == _plain(name)]
        if len(places) > 1:
            raise DataError(f"{path}, line {header.line}: column {name} stands {len(places)} times, keep one")
        place[name] = places[0] if places else None
    image = place["ImageID"]
    missing = [name for name in _NAMES[: 1 + need_labels] if place[name] is None]
    if image is None or missing:
        reason = f"column {' and '.join(missing)} is missing from {shown(', '.join(written), 120)}"
        if len(written) == 1 and "," in written[0]:
            reason += ": the whole line is in quotes, and a line in quotes is one field; take them away"
        elif other := [word for separator, word in _OTHER_SEPARATORS.items() if len(written[0].split(separator)) > 1]:
            reason += f": its fields are separated by {other[0]}, captune reads commas"
        raise DataError(f"{path}, line {header.line}: {reason}; name the columns {','.join(_NAMES)}")
    return Columns(image, place["Labels"], place["Caption"], len(written))


def _plain(name: str) -> str:
    """The name of a column without what people and programs change in it: capitals, blanks, marks, the plural."""
    return "".join(filter(str.isalnum, name.casefold())).removesuffix("s")
