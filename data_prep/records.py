"""What a source of examples holds: each row becomes an example, or is listed with what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from captune.errors import UsageError, WorkError

OnBad = Literal["error", "skip"]

_NO_NAME = re.compile(r"[\0\\\n\r\ud800-\udfff]")
_ABSOLUTE = re.compile(r"/|[A-Za-z]:[/\\]")

MOST_LABELS = 1_000
"""Distinct labels of a source, as many as ImageNet has. The split counts all labels of all rows anew for each of them:
24,000 rows of 500 labels take 9 s, of 3,000 minutes. A column of more holds numbers of another kind as a rule."""


class DataError(UsageError):
    """Input that a person must mend: one sentence with the rule, the value and the way out."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled picture with its caption.

    image_id is a relative path with forward slashes; labels are sorted, unique, non-negative, and empty
    where the source has none; caption may be empty.
    """

    image_id: str
    labels: tuple[int, ...]
    caption: str

    def __post_init__(self) -> None:
        if fault := name_fault(self.image_id):
            raise DataError(fault)
        if list(self.labels) != sorted(set(self.labels)) or any(label < 0 for label in self.labels):
            raise DataError(f"labels must be sorted, unique and not negative, got {self.labels}")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row left out. line: 1-based, of the CSV; for COCO the place of the image in its list."""

    line: int
    image_id: str
    reason: str


@dataclass(frozen=True)
class Records:
    """What a source holds, in its order.

    lines[i] is where examples[i] stands, counted as in BadRow.line, in units of unit ("line" or "image"). rows: how
    many rows, or images, the source has; each is an example (or several) or a bad row. sha256: of the bytes that were
    read, in hex. notes: what a person should know of how they were read, a sentence each.
    """

    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]
    has_labels: bool
    has_captions: bool
    label_names: dict[int, str]
    lines: tuple[int, ...]
    unit: str
    rows: int
    sha256: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.lines) != len(self.examples):
            raise ValueError(f"{len(self.lines)} lines for {len(self.examples)} examples")
        accounted = len({*self.lines, *(row.line for row in self.bad)})
        if accounted != self.rows:
            raise WorkError(f"{self.rows} {self.unit}s were read and {accounted} came out: a fault of captune's")

    def without(self, faults: Mapping[int, str]) -> Records:
        """The records with some examples as bad rows: by their places from 0, why they cannot be used."""
        places = [place for place in range(len(self.examples)) if place not in faults]
        bad = [BadRow(self.lines[place], self.examples[place].image_id, reason) for place, reason in faults.items()]
        return replace(
            self,
            examples=tuple(self.examples[place] for place in places),
            lines=tuple(self.lines[place] for place in places),
            bad=tuple(sorted([*self.bad, *bad], key=lambda row: row.line)),
        )


def name_fault(image_id: str) -> str | None:
    """Why image_id cannot name a picture inside a folder, or None where it can."""
    if not image_id:
        return "ImageID is empty"
    if _NO_NAME.search(image_id):
        what = "a NUL, a line end, a backslash or half a character"
        return f"ImageID {shown(image_id)} holds {what}: name it with forward slashes"
    if _ABSOLUTE.match(image_id):
        return f"ImageID {shown(image_id)} is an absolute path: name it relative to the image folder"
    if ".." in image_id.split("/"):
        return f"ImageID {shown(image_id)} leaves the image folder: take the '..' out"
    return None


def shown(value: object, limit: int = 60) -> str:
    """A value as JSON or CSV has it, for a message of one line: of objects and lists the kind alone."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def listed(places: list[int]) -> str:
    """The first of some places, and how many more there are."""
    first = ", ".join(map(str, places[:5]))
    return first if len(places) <= 5 else f"{first} and {len(places) - 5} more"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as a person writes them, 1-11,13-19: the first five ranges, and how many more there are."""
    bounds: list[list[int]] = []
    for number in sorted(numbers):
        if bounds and number == bounds[-1][1] + 1:
            bounds[-1][1] = number
        else:
            bounds.append([number, number])
    first = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in bounds[:5])
    return first if len(bounds) <= 5 else f"{first} and {sum(high - low + 1 for low, high in bounds[5:])} more"


@dataclass
class Collector:
    """Gathers good and bad rows; raises at the first bad one where on_bad is "error"."""

    path: Path
    on_bad: OnBad
    unit: str
    examples: list[Example] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def good(self, line: int, example: Example) -> None:
        self.examples.append(example)
        self.lines.append(line)

    def fault(self, line: int, image_id: str, reason: str) -> None:
        if self.on_bad == "error":
            raise DataError(f"{self.path}, {self.unit} {line}: {reason}; mend it or use --on-bad skip")
        self.bad.append(BadRow(line, image_id, reason))

    def records(
        self,
        *,
        has_labels: bool,
        has_captions: bool,
        label_names: dict[int, str],
        rows: int,
        sha256: str,
        may_be_empty: bool = False,
    ) -> Records:
        """Raises DataError where no row can be used, unless that may be, or the labels are too many to be labels."""
        if not self.examples and not may_be_empty:
            reason = f"it has no {'row below its header' if self.unit == 'line' else 'image'}"
            if self.bad:
                reason = f"{len(self.bad)} are bad; the first, {self.unit} {self.bad[0].line}: {self.bad[0].reason}"
            raise DataError(f"{self.path} has no usable row: {reason}")
        labels = {label for example in self.examples for label in example.labels}
        if len(labels) > MOST_LABELS:
            mend = "choose among them by --categories"
            if self.unit == "line":
                mend = "these look like numbers of another kind; put labels there, or fewer of them"
            raise DataError(
                f"{self.path} has {len(labels)} distinct labels in {len(self.examples)} {self.unit}s, at most"
                f" {MOST_LABELS} are taken: {mend}"
            )
        return Records(
            tuple(self.examples),
            tuple(self.bad),
            has_labels,
            has_captions,
            label_names,
            tuple(self.lines),
            self.unit,
            rows,
            sha256,
            tuple(self.notes),
        )
