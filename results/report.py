"""One trial in full, for the terminal."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from captune.errors import visible
from captune.model.metrics import METRICS
from captune.results.records import Record


def trial(record: Record) -> list[Table]:
    """Fate and cost, curve, configuration."""
    facts = _two_columns("trial", str(record.number))
    for name, value in record.row().items():
        if name not in ("number", "config") and value is not None:
            facts.add_row(name, Text(f"{value:.4f}" if isinstance(value, float) else visible(str(value))))
    spent = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in record.spent.items() if seconds)
    if spent:
        facts.add_row("seconds by kind", spent)
    curve = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("epoch", "loss", *METRICS, "rule", "train s", "evaluate s"):
        curve.add_column(heading, justify="right")
    for e in record.curve:
        seconds = (e.train_seconds, e.evaluate_seconds)
        scores = (e.loss, *e.metrics().values())
        curve.add_row(str(e.epoch), *(f"{v:.4f}" for v in scores), str(e.rule or ""), *(f"{v:.1f}" for v in seconds))
    settings = _two_columns("setting", "value")
    for name, value in record.config.items():
        if value is not None:
            settings.add_row(Text(visible(name)), Text(visible(str(value))))
    return [facts, curve, settings]


def without_nan(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _two_columns(left: str, right: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(left)
    table.add_column(right, overflow="fold")
    return table
