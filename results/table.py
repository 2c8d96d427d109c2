"""Records as a table for other programs: a data frame, CSV, JSON, Parquet, Markdown."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captune.errors import ArgumentError, visible
from captune.model.metrics import ERRORS, METRICS
from captune.results.columns import BYTES, column, several
from captune.results.records import Record
from captune.results.trial_page import without_nan

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("table", "csv", "json", "parquet", "markdown")


def frame(
    records: Sequence[Record],
    *,
    sort: str | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """One row a trial, the configuration flattened to columns of dotted names, absent values empty.

    Args:
        records: trials.
        sort: a column, see captune.results.columns.column; best first for scores, otherwise rising, and the other way
            round behind a minus sign. Trials without a value come last.
        where: keeps the rows for which it holds, see captune.results.where.selected.
        limit: rows at most, at least 1.

    Raises:
        RunError: an unknown column.
        ArgumentError: `where` is no condition, or `limit` below 1.
    """
    import pandas as pd

    if limit is not None and limit < 1:
        raise ArgumentError("limit", f"1 or more, got {limit}")
    rows = [{k: v for k, v in r.row().items() if k != "config"} | r.config for r in records]
    # NaN, not None: a column of None alone has no order, so "mean_f1 > 0.8" would fail before the first score.
    rows = [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]
    columns = list(dict.fromkeys(name for row in rows for name in row)) or list(_empty_row())
    table = pd.DataFrame(rows, columns=columns)
    if where is not None:
        from captune.results.where import selected

        table = selected(table, where)
    if sort is not None:
        name = column(sort.removeprefix("-"), columns)
        rising = (name not in METRICS or name in ERRORS) != sort.startswith("-")
        table = table.sort_values(name, ascending=rising, na_position="last", kind="stable")
    return table.head(limit) if limit is not None else table


def render(
    records: Sequence[Record],
    format: str,  # noqa: A002 - the word users type
    *,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> bytes:
    """The trials in `format`, one of FORMATS but "table", as the bytes of a file.

    JSON is a list of objects with the keys of `Record.row`; `columns` then names keys of these.
    """
    if format == "json":
        rows = [records[i].row() for i in frame(records, sort=sort, where=where, limit=limit).index]
        if columns is not None:
            keys = several(columns, list(_empty_row()))
            rows = [{name: row[name] for name in keys} for row in rows]
        return (json.dumps(without_nan(rows), indent=2, allow_nan=False) + "\n").encode()
    table = frame(records, sort=sort, where=where, limit=limit)
    if columns is not None:
        table = table[several(columns, list(table.columns))]
    match format:
        case "csv":
            return table.to_csv(index=False).encode()
        case "parquet":
            buffer = io.BytesIO()
            # A setting that is a number in one trial and absent or text in another has no Parquet type but text.
            mixed = [str(name) for name in table if table[name].dropna().map(type).nunique() > 1]
            table.assign(**{name: table[name].map(_text) for name in mixed}).to_parquet(buffer, index=False)
            return buffer.getvalue()
        case _:
            return _markdown(table).encode()


def cell(name: str, value: Any) -> str:
    """A value of a column for people."""
    if value is None or value != value:
        return ""
    if name in BYTES:
        return f"{value / 2**20:.2f}"
    if name == "seconds":
        return f"{value:.1f}"
    if name in METRICS:
        return f"{value:.4f}"
    if isinstance(value, float):
        whole = name.endswith(("epochs", "best_epoch", "units", "width")) or value.is_integer()
        return str(int(value)) if whole else f"{value:.4g}"
    return str(value)


def _markdown(table: pd.DataFrame) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(" ".join(visible(str(cell)).replace("|", "\\|").split()) for cell in cells) + " |"

    names = [str(name) for name in table]

    def whole(name: str, value: Any) -> str:
        return f"{value:.0f}" if name in BYTES and value == value else cell(name, value)

    rows = [line(list(map(whole, names, row))) for row in table.itertuples(index=False)]
    return "\n".join([line(names), line(["---"] * len(table.columns)), *rows]) + "\n"


def _empty_row() -> dict[str, Any]:
    return Record(0, "", None, None, 0, 0, 0, 0, None, None, None, None, None, 0, {}, (), {}).row()


def _text(value: Any) -> str | None:
    return None if value is None or value != value else str(value)
