"""One trial in full, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from captune.errors import visible
from captune.model.effects import idle_in
from captune.model.metrics import METRICS
from captune.results.records import Record


def trial(record: Record, searched: Collection[str] = (), best: Record | None = None) -> list[Table]:
    """Fate and cost, the settings that were searched, curve, the other settings, of those that do nothing the names.

    Args:
        searched: dotted names of the dimensions.
        best: the trial that is ahead, whose values stand beside those that differ; None before there is one.
    """
    other = None if best is None or best.number == record.number else best
    facts = _table("trial", str(record.number), other)
    of_other = {} if other is None else other.row()
    for name, value in record.row().items():
        if name not in ("number", "config") and value is not None:
            compared = of_other.get(name) if name in (*METRICS, "epochs", "weights_bytes", "bundle_bytes") else None
            _add(facts, name, value, compared, other)
    spent = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in record.spent.items() if seconds)
    if spent:
        _add(facts, "seconds by kind", spent, None, other)
    curve = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("epoch", "loss", *METRICS, "rule", "train s", "evaluate s"):
        curve.add_column(heading, justify="right", no_wrap=heading in ("epoch", "loss", "mean_f1"))
    for e in record.curve:
        seconds = (e.train_seconds, e.evaluate_seconds)
        scores = (e.loss, *e.metrics().values())
        curve.add_row(str(e.epoch), *(f"{v:.4f}" for v in scores), str(e.rule or ""), *(f"{v:.1f}" for v in seconds))
    first = [name for name in record.config if name in searched]
    nothing = idle_in(record.config) - set(first)
    if other is not None:  # what it does not have does nothing there either
        nothing &= idle_in(other.config) | (record.config.keys() - other.config.keys())
    rest = [name for name in record.config if name not in (*first, *nothing)]
    parts = [facts, _settings("searched", first, record, other), curve, _settings("setting", rest, record, other)]
    parts = [part for part in parts if part is curve or part.row_count]
    if names := [name for name in record.config if name in nothing and record.config[name] is not None]:
        without = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        without.add_column("without effect")
        without.add_row(Text(visible(", ".join(names))))
        parts.append(without)
    return parts


def without_nan(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _settings(title: str, names: Iterable[str], record: Record, other: Record | None) -> Table:
    settings = _table(title, "value", other)
    for name in names:
        value, compared = record.config[name], None if other is None else other.config.get(name)
        if value is not None or compared is not None:
            _add(settings, name, value, compared, other)
    return settings


def _table(left: str, right: str, other: Record | None) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(left)
    table.add_column(right, overflow="fold")
    if other is not None:
        table.add_column(f"best, trial {other.number}", overflow="fold")
    return table


def _add(table: Table, name: str, value: Any, compared: Any, other: Record | None) -> None:
    """A line; of the other trial what differs."""
    cells = [_shown(name, value)]
    if other is not None:
        cells.append("" if compared is None or compared == value else _shown(name, compared))
    table.add_row(*(Text(visible(text)) for text in (name, *cells)))


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.4f}" if name in METRICS else f"{value:.1f}" if name == "seconds" else f"{value:.6g}"
