"""A CSV becomes examples; whatever is wrong with a row is told with its line."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from posixpath import normpath

from captune.data_prep import csv_rows
from captune.data_prep.csv_rows import Columns, Row
from captune.data_prep.records import Collector, DataError, Example, OnBad, Records, listed, name_fault, ranges, shown
from captune.data_prep.source import Source, digest, read_source

_LABEL = re.compile(r"[0-9]{1,9}")
_NAMES = ("ImageID", "Labels", "Caption")
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_csv(
    path: str | Path,
    *,
    on_bad: OnBad = "error",
    need_labels: bool = True,
    known_labels: frozenset[int] | None = None,
) -> Records:
    """Read a CSV with the columns ImageID, Labels and Caption, in any order, others ignored.

    Names of columns may be written with other capitals, blanks or an s at the end. Labels are whole numbers with blanks
    between them. Where need_labels is False they may be missing and are not looked at, and rows may share an ImageID;
    Caption may be missing always. How text becomes rows: see csv_rows.

    Raises DataError with the line: at the first bad row where on_bad is "error"; in both modes where the file
    as a whole is unusable (missing, empty, not UTF-8, a column missing, no usable row).
    """
    source = read_source(Path(path))
    if source.text.lstrip()[:1] in ("{", "["):
        raise DataError(f"{path} is JSON and no CSV: COCO annotations are read by captune prepare --format coco")
    with csv_rows.fields_of_any_length():
        return _read(source, on_bad, need_labels, known_labels)


def _read(source: Source, on_bad: OnBad, need_labels: bool, known_labels: frozenset[int] | None) -> Records:
    lines = csv_rows.lines_of(source.text)
    header = _header(source.path, lines)
    columns = _columns(source.path, header, need_labels)
    other_end = "\n" if lines[header.last - 1].endswith("\r") else "\r"
    gathered = Collector(source.path, on_bad, "line")
    line_of: dict[str, int] = {}
    odd: list[Row] = []
    ended_otherwise: list[int] = []
    count = 0
    for row in csv_rows.rows(lines, header.last, columns):
        count += 1
        image_id = row.fields[columns.image].strip() if columns.image < len(row.fields) else ""
        name = normpath(image_id)
        labels: tuple[int, ...] = ()
        reason = row.fault or name_fault(image_id)
        if not reason and need_labels and columns.labels is not None:
            labels, reason = _labels(row.fields[columns.labels], known_labels)
            if line := line_of.get(name):
                reason = f"ImageID {shown(image_id)} stands on line {line} already"
        if row.mended or row.doubtful:
            odd.append(row)
        if lines[row.last - 1].endswith(other_end):
            ended_otherwise.append(row.line)
        if reason:
            gathered.fault(row.line, image_id, reason)
            continue
        line_of[name] = row.line
        caption = row.fields[columns.caption] if columns.caption is not None else ""
        gathered.good(row.line, Example(image_id, labels, caption))
    gathered.notes += _notes(odd, ended_otherwise)
    if columns.caption is None and columns.count > 2:
        names = shown(", ".join(header.fields), 120)
        gathered.notes.append(f"no captions: none of the columns {names} is named Caption")
    return gathered.records(
        has_labels=need_labels,
        has_captions=columns.caption is not None,
        label_names={},
        rows=count,
        sha256=digest([source]),
    )


def _header(path: Path, lines: list[str]) -> Row:
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


def _labels(value: str, known_labels: frozenset[int] | None) -> tuple[tuple[int, ...], str | None]:
    """The label set in value, and what is wrong with it or None."""
    words = value.split()
    if not words:
        return (), "no label: give at least one"
    for word in words:
        if not _LABEL.fullmatch(word):
            return (), f"label {shown(word)} is not a whole number below 10**9; give labels with blanks between them"
        if known_labels is not None and int(word) not in known_labels:
            return (), f"label {int(word)} is unknown, known are {ranges(known_labels)}"
    return tuple(sorted({int(word) for word in words})), None


def _notes(odd: list[Row], ended_otherwise: list[int]) -> list[str]:
    """What is no fault and yet may not be as it was meant, with its lines."""
    mended = [row.line for row in odd if row.mended]
    doubtful = [row.line for row in odd if row.doubtful]
    reasons = {
        "no CSV, and read with stray quotes as characters and commas without quotes as the caption's": mended,
        "read as one field in quotes, though a further line of it could be a row by its commas": doubtful,
        "ended by a carriage return where the header is by a line feed, or the reverse": ended_otherwise,
    }
    return [f"{why}: {len(places)} rows, on lines {listed(places)}" for why, places in reasons.items() if places]
