"""Names of labels: a file gives each number its name, and a CSV may have names in place of numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from captune.data_prep import csv_rows
from captune.data_prep.records import DataError, ranges, shown
from captune.data_prep.source import read_source
from captune.errors import among, visible

SEPARATOR = ";"
"""Between names of labels, which may hold blanks."""
LONGEST = 200
"""Characters of a name."""
_NUMBER = re.compile(r"[0-9]{1,9}")


def read_label_names(path: str | Path) -> dict[int, str]:
    """The names in a CSV with a number and its name on each line, below a header or without one.

    Raises DataError with the line: no number or name, or one that stands there already; see check_label_names.
    """
    path = Path(path)
    lines = csv_rows.lines_of(read_source(path).text)
    names: dict[int, str] = {}
    reader = csv.reader(lines)
    try:
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: no CSV ({error}); write a number and its name") from None
    for place, (line, row) in enumerate(rows):
        number, *name = map(str.strip, row)
        if place == 0 and not any(map(str.isdigit, number)):  # the header
            continue
        if len(name) != 1 or not _NUMBER.fullmatch(number):
            raise DataError(f"{path}, line {line}: {shown(','.join(row))} is not a number and its name, as 18,dog")
        if int(number) in names:
            raise DataError(f"{path}, line {line}: label {int(number)} is called {shown(names[int(number)])} already")
        names[int(number)] = name[0]
    if not names:
        raise DataError(f"{path} has no names; write a number and its name on each line, as 18,dog")
    check_label_names(names, path)
    return names


def check_label_names(names: Mapping[int, str], source: object) -> None:
    """Raises DataError unless every name is of one label and can be told from numbers and from several names.

    Args:
        source: of the names, for the message.
    """
    first: dict[str, int] = {}
    for number, name in names.items():
        is_a_line = len(name) <= LONGEST and name.splitlines() == [name] and "\t" not in name
        if not name.strip() or not is_a_line or visible(name) != name or SEPARATOR in name:
            reason = (
                f"a name is a line of up to {LONGEST} visible characters without {SEPARATOR!r}, which separates names"
            )
        elif name.isdigit() and name != str(number):
            reason = "a name that is a number is its own number"
        elif name in first:
            reason = f"label {first[name]} is called so already"
        else:
            first[name] = number
            continue
        raise DataError(f"{source}: label {number} cannot be called {shown(name)}: {reason}")


def numbers_by_name(names: Mapping[int, str]) -> dict[str, int]:
    """The labels that a name is enough for: no other has it, and it can be neither a number nor several names."""
    several = list(names.values())
    return {
        name: number
        for number, name in names.items()
        if several.count(name) == 1 and SEPARATOR not in name and not name.isdigit()
    }


def labels_in(
    field: str, by_name: Mapping[str, int], known: Iterable[int] | None
) -> tuple[tuple[int, ...], str | None]:
    """The label set in a field of a CSV, and what is wrong with it or None.

    Args:
        field: numbers with blanks between them; or numbers and names with semicolons, or blanks where no name has any.
        by_name: labels by their names.
        known: the labels that are allowed; None for all.
    """
    words = field.split()
    if by_name and SEPARATOR in field:
        words = list(filter(None, map(str.strip, field.split(SEPARATOR))))
    elif field.strip() in by_name:
        words = [field.strip()]
    if not words:
        return (), "no label: give at least one"
    labels = set()
    for word in words:
        if _NUMBER.fullmatch(word):
            label = int(word)
        elif word in by_name:
            label = by_name[word]
        elif by_name:
            return (), f"label {shown(word)} is neither a number nor a name; {among(word, by_name)}"
        else:
            return (
                (),
                f"label {shown(word)} must be a whole number from 0 to 999999999; give labels with blanks between them",
            )
        if known is not None and label not in known:
            return (), f"label {label} is unknown, known are {ranges(known)}"
        labels.add(label)
    return tuple(sorted(labels)), None
