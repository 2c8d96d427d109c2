"""Records as a table: in the terminal, and as CSV, JSON, Parquet or Markdown for other programs."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captune.errors import ArgumentError, among, visible
from captune.model.metrics import ERRORS, METRICS
from captune.results.records import Record
from captune.results.report import without_nan
from captune.results.run_folder import RunError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

FORMATS = ("table", "csv", "json", "parquet", "markdown")
# What a terminal shows unless asked otherwise: then come the settings that differ between trials.
TERMINAL_COLUMNS = ("number", "fate", "mean_f1", "epochs", "weights_bytes", "seconds")

BYTES = {"weights_bytes": "MiB", "bundle_bytes": "bundle MiB", "margin_bytes": "margin MiB"}
"""Columns of bytes, and their headings in a terminal."""


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
        sort: a column; best first for scores, otherwise rising. Trials without a value come last.
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
        _check_columns([sort], columns)
        rising = sort not in METRICS or sort in ERRORS
        table = table.sort_values(sort, ascending=rising, na_position="last", kind="stable")
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
            _check_columns(columns, list(_empty_row()))
            rows = [{name: row[name] for name in columns} for row in rows]
        return (json.dumps(without_nan(rows), indent=2, allow_nan=False) + "\n").encode()
    table = frame(records, sort=sort, where=where, limit=limit)
    if columns is not None:
        _check_columns(columns, list(table.columns))
        table = table[list(columns)]
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


def terminal(
    records: Sequence[Record],
    *,
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> Table:
    """The trials for people: the usual columns, then the settings that vary between trials."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = frame(records, sort=sort, where=where, limit=limit)
    settings = dict.fromkeys(name for r in records for name in r.config)
    shown = list(columns) if columns is not None else [*TERMINAL_COLUMNS, *_varying(table, list(settings))]
    _check_columns(shown, list(table.columns))
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        heading = Text(visible(BYTES.get(name, name.removeprefix("train."))))
        view.add_column(heading, justify="left" if name in ("fate", "node", "reason") else "right", overflow="fold")
    for row in table[shown].itertuples(index=False):
        view.add_row(*(Text(visible(_shown(name, value))) for name, value in zip(shown, row, strict=True)))
    return view


def _varying(table: pd.DataFrame, settings: list[str]) -> list[str]:
    return [name for name in settings if name in table and table[name].map(repr).nunique() > 1]


def _shown(name: str, value: Any) -> str:
    import pandas as pd

    if value is None or (isinstance(value, float) and pd.isna(value)):
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

    def cell(name: str, value: Any) -> str:
        return f"{value:.0f}" if name in BYTES and value == value else _shown(name, value)

    rows = [line(list(map(cell, names, row))) for row in table.itertuples(index=False)]
    return "\n".join([line(names), line(["---"] * len(table.columns)), *rows]) + "\n"


def _check_columns(names: Sequence[str], columns: Sequence[str]) -> None:
    for name in names:
        if name not in columns:
            raise RunError(f"no column {name}; {among(name, columns)}")
    if len(set(names)) < len(names):
        raise RunError(f"each column can be named once, got {', '.join(names)}")


def _empty_row() -> dict[str, Any]:
    return Record(0, "", None, None, 0, 0, 0, 0, None, None, None, None, None, 0, {}, (), {}).row()


def _text(value: Any) -> str | None:
    return None if value is None or value != value else str(value)
