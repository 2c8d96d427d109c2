"""CSV text becomes rows of fields: as the standard has it, and where that fails line by line, inventing no row."""

from __future__ import annotations

import contextlib
import csv
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

# A quoted field counts only if a comma or the line's end follows its closing quote; a quote that opens anything else
# is an ordinary character. Possessive, so that stray quotes cost one scan.
_QUOTED = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"(?=,|\Z)')
_ENDING = re.compile(r"\.(?=\w*[a-z])\w{1,5}$", re.IGNORECASE)
_LINE = re.compile(r"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++\Z")
_MOST_LINES = 100  # of one field in a text whose quotes do not balance


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the fields stand, 0-based; count: fields in the header."""

    image: int
    labels: int | None
    caption: int | None
    count: int

    @property
    def caption_takes_commas(self) -> bool:
        """Whether fields left over can be of nothing but the caption."""
        return self.caption == self.count - 1 and self.labels in (None, self.count - 2)


class Row(NamedTuple):
    """A row from its first line to its last, 1-based.

    fault: why its fields cannot be known. mended: a stray quote was taken as a character, or commas without quotes as
    the caption's. doubtful: one of its further lines could be a row, by the number of its fields.
    """

    line: int
    last: int
    fields: list[str]
    fault: str | None = None
    mended: bool = False
    doubtful: bool = False


def lines_of(text: str) -> Lines:
    """Lines with their ends, which are line feeds, carriage returns, or both."""
    return Lines(text)


class Lines(Sequence[str]):
    """The lines of a text, cut out of it when they are asked for: a list of them takes more than the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends = array("Q", (match.end() for match in _LINE.finditer(text)))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[each] for each in range(len(self))[place]]
        place = range(len(self))[place]
        return self._text[self._ends[place - 1] if place else 0 : self._ends[place]]

    def between(self, start: int, stop: int | None) -> Iterator[str]:
        """Those from `start` on, up to `stop` or the last."""
        return (self[place] for place in range(len(self))[start:stop])


def header(lines: Lines) -> Row | None:
    """The first row that is not blank, or None. Raises csv.Error where it cannot be one."""
    return next(filter(_has_text, _strict(lines, 0)), None)


def rows(lines: Lines, start: int, columns: Columns) -> Iterator[Row]:
    """The rows below the first `start` lines that are not blank.

    Text that parses by RFC 4180, with as many fields in each row as the header has, is taken at its word: but for a
    field whose further lines look like rows of this file, names and all, which can be read in two ways. Each of its
    lines is then a fault. In other text each line is a row that has as many fields, if need be with quotes as
    characters and commas in the caption.
    """
    if not _parses(lines, start, columns):
        yield from _line_by_line(lines, start, columns)
        return
    for row in filter(_has_text, _strict(lines, start)):
        yield from _judged(lines, row, columns)


@contextlib.contextmanager
def fields_of_any_length() -> Iterator[None]:
    """Takes away the limit of the csv module, which is one for all of its readers, for a while."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _parses(lines: Lines, start: int, columns: Columns) -> bool:
    """Whether all is CSV with as many fields as the header. To parse it twice costs less than to keep all rows."""
    try:
        return all(len(row.fields) == columns.count for row in filter(_has_text, _strict(lines, start)))
    except csv.Error:
        return False


def _strict(lines: Lines, start: int, stop: int | None = None) -> Iterator[Row]:
    """Rows by RFC 4180, blank ones too; csv.Error where the text is none."""
    reader = csv.reader(lines.between(start, stop), strict=True)
    last = start
    for fields in reader:
        yield Row(last + 1, start + reader.line_num, fields)
        last = start + reader.line_num


def _has_text(row: Row) -> bool:
    return len(row.fields) > 1 or (len(row.fields) == 1 and bool(row.fields[0].strip()))


def _judged(lines: Lines, row: Row, columns: Columns) -> Sequence[Row]:
    """The row, or its lines as faults where it goes over lines that look like rows."""
    if row.last == row.line:
        return (row,)
    first, *others = (_image(line, columns) for line in lines[row.line - 1 : row.last])
    if first is None:  # cut after its first line it is no row
        return (row,)
    for line, image in enumerate(others, start=row.line + 1):
        if image and _kind(image) == _kind(first) == _kind(row.fields[columns.image]):
            reason = (
                f"its quotes open on line {row.line} and close on line {row.last}, and line {line} looks like a row:"
                " close the quote, or write the field in one line"
            )
            return _faults(lines, row.line, row.last, reason)
    return (row._replace(doubtful=any(others)),)


def _line_by_line(lines: Lines, start: int, columns: Columns) -> Iterator[Row]:
    while start < len(lines):
        row = _strict_row(lines, start)
        if row and not _has_text(row):
            start = row.last
        elif row and len(row.fields) == columns.count:
            yield from _judged(lines, row, columns)
            start = row.last
        else:
            first, last = start + 1, start + 1
            if row is None or row.last > first:
                last = _end_of_stray(lines, first, columns)
            if last > first:
                yield from _faults(lines, first, last, f"its quotes are not in pairs up to line {last}: mend them")
            else:
                yield _mended(lines[start], first, columns)
            start = last


def _strict_row(lines: Lines, start: int) -> Row | None:
    """The row that begins there by RFC 4180, if there is one."""
    if '"' not in lines[start]:
        return Row(start + 1, start + 1, lines[start].rstrip("\r\n").split(","))
    try:
        return next(_strict(lines, start, start + _MOST_LINES))
    except csv.Error:
        return None


def _end_of_stray(lines: Lines, first: int, columns: Columns) -> int:
    """Where the row ends whose first line has a stray quote.

    That is its first line if the next one looks like a row of the same file. Else all lines before such a one may be
    parts of the row.
    """
    image = _image(lines[first - 1], columns)
    if image is None:
        return first
    last = end = first
    while end < len(lines):
        next_image = _image(lines[end], columns)
        if next_image and _kind(next_image) == _kind(image):
            break
        end += 1
        if lines[end - 1].strip():
            last = end
    return last


def _mended(line: str, place: int, columns: Columns) -> Row:
    """A row that ends with its line, quotes and commas taken for characters where they can be nothing else."""
    fields, left_over = _fields(line, columns)
    fault = None
    if len(fields) == columns.count and '"' in fields[columns.image]:
        fault = f"ImageID {fields[columns.image][:60]!r} has a quote that is not one of a pair: mend the quotes"
    elif len(fields) + left_over != columns.count and not (left_over and _reads_as_text(fields[-1])):
        fault = f"{len(fields) + left_over} fields where the header has {columns.count}"
        if len(fields) == 1 and "," in fields[0]:
            fault += ": the whole line is in quotes, take them away"
        elif len(fields) + left_over > columns.count:
            fault += ": put a caption with commas into quotes, and blanks between labels"
    return Row(place, place, fields, fault, mended=fault is None)


def _reads_as_text(caption: str) -> bool:
    """Whether it begins with words. Labels with commas between them would else become a caption."""
    return any(map(str.isalpha, caption.partition(",")[0]))


def _faults(lines: Lines, first: int, last: int, reason: str) -> list[Row]:
    """Each line that is not blank as a row that cannot be read."""
    places = [place for place in range(first, last + 1) if lines[place - 1].strip()]
    return [Row(place, place, lines[place - 1].rstrip("\r\n").split(","), reason) for place in places]


def _image(line: str, columns: Columns) -> str | None:
    """The name of the picture if the line is a row by the number of its fields, else None."""
    fields, _ = _fields(line, columns)
    if len(fields) < columns.count:
        return None
    # Commas may be the caption's: what stands behind it is counted from the end.
    behind = columns.caption is not None and columns.image > columns.caption
    return fields[columns.image - columns.count if behind else columns.image].strip() or None


def _kind(image: str) -> bool | tuple[bool, bool]:
    """What the names of one file have in common: an ending, or else whether they have digits and blanks."""
    return bool(_ENDING.search(image)) or (bool(re.search(r"\d", image)), bool(re.search(r"\s", image)))


def _fields(line: str, columns: Columns) -> tuple[list[str], int]:
    """The fields of a line whose quotes may not be in pairs, and how many are left over and went to the caption."""
    text = line.rstrip("\r\n")
    fields: list[str] = []
    at = left_over = 0
    while at <= len(text):
        begin = at
        if quoted := _QUOTED.match(text, begin):
            value, at = quoted[1].replace('""', '"'), quoted.end()
        else:
            at = text.find(",", begin) % (len(text) + 1)
            value = text[begin:at]
        if columns.caption_takes_commas and len(fields) == columns.count - 1 and at < len(text):
            left_over = text.count(",", at)
            value, at = text[begin:], len(text)
        fields.append(value)
        at += 1
    return fields, left_over
