"""CSV text becomes rows of fields, and no stray quote swallows a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A quoted field counts only if a comma or a line end follows its closing quote; a quote that opens
# anything else is an ordinary character. Possessive, so that a stray quote costs one scan, not n**2.
_QUOTED = re.compile(r'"([^"]*+(?:""[^"]*+)*+)"(?=,|\r?\n|\r?\Z)')
_PLAIN = re.compile(r"[^,\n]*")
_IMAGE_NAME = re.compile(r"[^\s\"][^\"]*\.(?:jpe?g|png|webp|bmp|gif)", re.IGNORECASE)
LABEL = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the fields stand, 0-based; count: fields in the header."""

    image: int
    labels: int | None
    caption: int | None
    count: int

    @property
    def caption_is_last(self) -> bool:
        return self.caption == self.count - 1

    def look_like_a_row(self, line: str) -> bool:
        """Whether a line, its quotes taken as ordinary characters, can be a row of its own."""
        fields = line.removesuffix("\r").split(",")
        if len(fields) < self.count or not fields[self.image]:
            return False
        if _IMAGE_NAME.fullmatch(fields[self.image]):
            return True
        # Names without an ending convince only beside numbers where the labels should be.
        return (
            self.labels is not None
            and not re.search(r"\s", fields[self.image])
            and all(map(LABEL.fullmatch, fields[self.labels].split() or ["-"]))
        )


def rows(text: str, columns: Columns | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of each row that is not blank; without columns each quote is taken at its word."""
    start, line = 0, 1
    while start < len(text):
        fields, end = _row(text, start, columns)
        if len(fields) > 1 or fields[0].strip():
            yield line, fields
        line += text.count("\n", start, end)
        start = end


def _row(text: str, start: int, columns: Columns | None) -> tuple[list[str], int]:
    """The fields of the row at start, and where the next one starts."""
    fields: list[str] = []
    at = start
    while True:
        begin = at
        value, at = _field(text, at, start, columns)
        is_last = columns is not None and columns.caption_is_last and len(fields) == columns.count - 1
        if is_last and text[at : at + 1] == ",":
            at = _line_end(text, at)
            value = text[begin:at].removesuffix("\r")
        fields.append(value)
        if text[at : at + 1] == ",":
            at += 1
            continue
        return fields, _line_end(text, at) + 1


def _field(text: str, at: int, row_start: int, columns: Columns | None) -> tuple[str, int]:
    """The field at a place in the row that begins at row_start, and where it ends."""
    if text[at : at + 1] == '"' and (quoted := _QUOTED.match(text, at)):
        if columns is None or "\n" not in quoted[1]:
            return quoted[1].replace('""', '"'), quoted.end()
        # Over several lines it is two stray quotes if the lines make rows by themselves, else one long field.
        first, *others = text[row_start : _line_end(text, quoted.end())].split("\n")
        if not (columns.look_like_a_row(first) and any(map(columns.look_like_a_row, others))):
            return quoted[1].replace('""', '"'), quoted.end()
    plain = _PLAIN.match(text, at)
    assert plain is not None
    end = plain.end()
    value = plain[0]
    return (value if text[end : end + 1] == "," else value.removesuffix("\r")), end


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end
