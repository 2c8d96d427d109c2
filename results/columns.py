"""Names of columns: what stands at the head of a table can be typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from captune.errors import among, one_line
from captune.results.run_folder import RunError

BYTES = {"weights_bytes": "MiB", "bundle_bytes": "bundle_MiB", "margin_bytes": "margin_MiB"}
"""Columns of bytes, and their headings where they are shown in MiB."""
BYTES_OF = {heading: name for name, heading in BYTES.items()}
_TRAIN = "train."
_OF_TRIALS = {"epochs"}  # columns that a setting of training shares its last name with


def heading(name: str) -> str:
    """What stands above a column in a terminal."""
    short = name.removeprefix(_TRAIN)
    return BYTES.get(name, name if short in _OF_TRIALS else short)


def column(name: str, columns: Iterable[str]) -> str:
    """The column that is meant by its whole name, its heading, or the end of a dotted name that no other has.

    Raises:
        RunError: none, or several.
    """
    columns = list(columns)
    for whole in (name, BYTES_OF.get(name), _TRAIN + name):
        if whole in columns:
            return str(whole)
    ends = [each for each in columns if each.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise RunError(f"column {one_line(name, 60)} may be {' or '.join(ends)}; write it whole")
    raise RunError(
        f"no column {one_line(name, 60)}; {among(name, [*columns, *(BYTES[c] for c in columns if c in BYTES)])}"
    )


def several(names: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Each column that is meant, "all" for all of them.

    Raises:
        RunError: as `column`; or one is named twice.
    """
    if list(names) == ["all"]:
        return list(columns)
    meant = [column(name, columns) for name in names]
    if len(set(meant)) < len(meant):
        raise RunError(f"each column can be named once, got {', '.join(names)}")
    return meant
