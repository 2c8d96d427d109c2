"""Several runs beside each other: what each came to, what it cost, and in what they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from captune.model.config import TITLES, Metric
from captune.model.effects import idle_in
from captune.results.baselines import Baseline
from captune.results.frontier import frontier, qualifies
from captune.results.records import Record
from captune.results.run_facts import RunFacts
from captune.results.spans import spans
from captune.results.summary import slot_hours


@dataclass(frozen=True)
class RunResult:
    """What one run is compared by.

    where: as a person named it. baselines: of validation, none where the run has no such file. test: mean F1 of the
    refitted winner, None before refit. shipped: trials whose networks it is made of. shipped_bytes: of its weights.
    """

    where: str
    facts: RunFacts
    records: tuple[Record, ...]
    baselines: tuple[Baseline, ...] = ()
    test: float | None = None
    shipped: tuple[int, ...] = ()
    shipped_bytes: int | None = None


@dataclass(frozen=True)
class RunRow:
    """One run in figures.

    best: number of the best trial inside the budget, None without any, as the next three. mean_f1: on validation.
    metric: that the search maximised. score: of the best by it.
    weights_bytes, bundle_bytes: of the best. test, shipped, shipped_bytes: as RunResult has them. baseline: the best
    mean F1 on validation of the best baseline. trials: by fate. slot_hours: for which trials held a slot. data:
    fingerprint. course: (seconds of search, score) each time that a trial ended as the best so far.
    """

    run: str
    best: int | None
    mean_f1: float | None
    weights_bytes: int | None
    bundle_bytes: int | None
    test: float | None
    baseline: float | None
    trials: Mapping[str, int]
    slot_hours: float
    data: str
    course: tuple[tuple[float, float], ...] = ()
    metric: Metric = "mean_f1"
    score: float | None = None
    shipped: tuple[int, ...] = ()
    shipped_bytes: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Runs in the order in which they were named.

    settings: of the searches that differ, by name, a value for each run, None where a run has none; winners: the same
    of the configurations of the best trials.
    """

    runs: tuple[RunRow, ...]
    settings: Mapping[str, tuple[Any, ...]]
    winners: Mapping[str, tuple[Any, ...]]

    @property
    def same_data(self) -> bool:
        """Whether the scores are of the same rows, so that they can be held against each other."""
        return len({run.data for run in self.runs}) <= 1

    def to_json(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self) | {"same_data": self.same_data}


def compare(results: Sequence[RunResult]) -> Comparison:
    """The runs beside each other. Nothing is read; scores of a running search are those so far."""
    best = [_best(result) for result in results]
    return Comparison(
        runs=tuple(map(_row, results, _names(results), best)),
        settings=_differing([result.facts.settings for result in results]),
        winners=_differing([{} if record is None else _of_use(record) for record in best]),
    )


def _best(result: RunResult) -> Record | None:
    return next(reversed(frontier(result.records, result.facts.budget)), None)


def _of_use(record: Record) -> Mapping[str, Any]:
    """Its configuration without the settings that do nothing in it."""
    without = idle_in(record.config)
    return {name: value for name, value in record.config.items() if name not in without}


def _row(result: RunResult, name: str, best: Record | None) -> RunRow:
    return RunRow(
        run=name,
        best=None if best is None else best.number,
        mean_f1=None if best is None else best.mean_f1,
        weights_bytes=None if best is None else best.weights_bytes,
        bundle_bytes=None if best is None else best.bundle_bytes,
        test=result.test,
        baseline=max((each.mean_f1 for each in result.baselines if each.rows == "validation"), default=None),
        trials=dict(Counter(record.fate for record in result.records)),
        slot_hours=slot_hours(result.records),
        data=result.facts.fingerprint,
        course=_course(result),
        metric=result.facts.metric,
        score=None if best is None else best.score,
        shipped=result.shipped,
        shipped_bytes=result.shipped_bytes,
    )


def _course(result: RunResult) -> tuple[tuple[float, float], ...]:
    ran = spans(result.records)
    scored = [r for r in result.records if qualifies(r, result.facts.budget) and r.number in ran]
    course: list[tuple[float, float]] = []
    for end, score in sorted((ran[record.number][1], record.score or 0.0) for record in scored):
        if not course or score > course[-1][1]:
            course.append((end, score))
    return tuple(course)


def _names(results: Sequence[RunResult]) -> list[str]:
    """The runs' own names; where two have the same, what they were named by."""
    names = Counter(result.facts.name for result in results)
    return [result.facts.name if names[result.facts.name] == 1 else result.where for result in results]


def _differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: tuple(each.get(name) for each in settings) for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


FIGURES: Mapping[str, Callable[[RunRow], str]] = {
    "best trial": lambda row: _shown(row.best),
    "chosen by": lambda row: "" if row.metric == "mean_f1" else f"{TITLES[row.metric]} {_score(row.score)}".strip(),
    "mean F1": lambda row: _score(row.mean_f1),
    "shipped": lambda row: "" if row.shipped in ((), (row.best,)) else _shipped(row),
    "mean F1 on test": lambda row: _score(row.test),
    "best baseline, mean F1": lambda row: _score(row.baseline),
    "MiB": lambda row: "" if row.weights_bytes is None else f"{row.weights_bytes / 2**20:.2f}",
    "trials": lambda row: str(sum(n for fate, n in row.trials.items() if fate not in ("over_budget", "waiting"))),
    "refused": lambda row: str(row.trials.get("over_budget", 0)),
    "slot hours": lambda row: f"{row.slot_hours:.2f}",
}
"""What is shown of a run to people, each with how it is written; "" for what there is none of."""


@dataclass(frozen=True)
class Table:
    """Words to be shown: what it is of, a heading for each column, rows of as many cells."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(comparison: Comparison) -> list[Table]:
    """Figures of the runs, then the settings that differ; none without rows."""
    names = tuple(row.run for row in comparison.runs)
    figures = tuple((name, *map(figure, comparison.runs)) for name, figure in FIGURES.items())
    tables = [Table("runs", ("", *names), tuple(row for row in figures if any(row[1:])))]
    for title, settings in (("search", comparison.settings), ("best trial", comparison.winners)):
        rows = tuple((name, *cells_of(values)) for name, values in settings.items())
        tables.append(Table(f"what differs in the {title}", ("setting", *names), rows))
    return [table for table in tables if table.rows]


def cells_of(values: Sequence[Any]) -> list[str]:
    """A setting of each run as people read it."""
    return [_shown(value) or "-" for value in values]


def _shipped(row: RunRow) -> str:
    what = f"trial {row.shipped[0]}" if len(row.shipped) == 1 else f"average of {', '.join(map(str, row.shipped))}"
    return what if row.shipped_bytes is None else f"{what}, {row.shipped_bytes / 2**20:.2f} MiB"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4g}"
        case {"low": low, "high": high, **others}:
            step = f", step {_shown(others['step'])}" if others.get("step") is not None else ""
            return f"{_shown(low)} to {_shown(high)}{step}{', log' if others.get('log') else ''}"
        case dict():
            return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
        case list() | tuple():
            return ("; " if any(isinstance(each, dict) for each in value) else ", ").join(map(_shown, value))
    return str(value)
