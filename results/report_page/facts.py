"""What the page of a run is made of: a frozen value, of a run's study and what lies beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from captune.model.config import Metric
from captune.model.size import Budget
from captune.results.baselines import Baseline
from captune.results.error_analysis import ErrorAnalysis
from captune.results.frontier import frontier, qualifies
from captune.results.importance import Importance, importance
from captune.results.journal import study_reader
from captune.results.records import Record, left_behind, record_of
from captune.results.run_folder import RunFolder
from captune.results.spans import spans


@dataclass(frozen=True)
class SearchFacts:
    """How the search was asked for. read: in words, as "captions and pictures"."""

    name: str  # of the run, as it was named
    preset: str
    read: str
    budget: Budget
    created: str  # ISO 8601
    versions: Mapping[str, str]
    metric: Metric = "mean_f1"  # that trials are judged by
    price: float | None = None  # money for an hour of one slot


@dataclass(frozen=True)
class TestScores:
    """What the winner's proof says. low, high: 95 % interval of mean_f1. per_label: F1 by the id of each label.
    members: trials whose networks it averages, if it does; validation: their score on the validation rows.
    confirmed: how further seeds chose it, and how what was expected came true; empty where they did not.
    latency: milliseconds a row and their limit in words, None without a limit. gain: over a baseline, in words.
    """

    __test__ = False  # nothing for pytest

    trial: int
    mean_f1: float
    low: float
    high: float
    micro_f1: float
    macro_f1: float
    ece: float
    examples: int
    validation_examples: int
    per_label: Mapping[str, float]
    seeds: tuple[float, ...]
    weights_bytes: int
    bundle_bytes: int
    members: tuple[int, ...] = ()
    validation: float | None = None
    confirmed: str = ""
    map: float = math.nan
    latency: str | None = None
    gain: str = ""  # of an earlier captune


@dataclass(frozen=True)
class Facts:
    """All that the page shows.

    spans: see captune.results.spans.
    running: whether the search goes on while this is written.
    """

    search: SearchFacts
    records: tuple[Record, ...]
    spans: Mapping[int, tuple[float, float]]
    importance: Importance
    searched: tuple[str, ...]  # settings that the search draws
    running: bool
    baselines: tuple[Baseline, ...] = ()
    test: TestScores | None = None
    analysis: ErrorAnalysis | None = None

    @cached_property
    def scored(self) -> tuple[Record, ...]:
        """Trials whose score may win inside the budget, best first; of equal ones the smaller, then the earlier."""
        budget = self.search.budget
        qualified = [record for record in self.records if qualifies(record, budget)]
        return tuple(sorted(qualified, key=lambda r: (-(r.score or 0.0), budget.bytes_of(r), r.number)))

    @cached_property
    def best(self) -> Record | None:
        """The trial that was refitted, or else the best so far, of those that still run, too."""
        if self.test is not None:
            return next((record for record in self.records if record.number == self.test.trial), None)
        running = [r for r in self.records if r.score is not None and r.fate == "running"]
        return max([*self.scored, *running], key=lambda r: r.score or 0.0, default=None)

    @cached_property
    def frontier(self) -> tuple[Record, ...]:
        """The best score for each size, smallest first."""
        return tuple(frontier(self.records, self.search.budget))

    @cached_property
    def equal(self) -> tuple[Record, ...]:
        """Other trials that the rows cannot tell from the best."""
        best = self.best
        return () if best is None else tuple(r for r in self.scored if r is not best and r.is_as_good_as(best))

    @property
    def seconds(self) -> float:
        """Of search: in which at least one trial ran."""
        return max((end for _, end in self.spans.values()), default=0.0)


def facts_of(
    run: RunFolder,
    search: SearchFacts,
    *,
    running: bool,
    baselines: tuple[Baseline, ...] = (),
    test: TestScores | None = None,
    analysis: ErrorAnalysis | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Facts:
    """Of a run whose study is read now, once.

    Args:
        running: whether a process searches there.
        progress: called now and then with (read, all) bytes of the journal.

    Raises:
        RunError: the folder holds no run, or its journal is damaged.
    """
    run.read_settings()
    trials = study_reader(run, progress=progress)()
    records = [record for record in map(record_of, trials) if record is not None]
    records = records if running else [left_behind(record) for record in records]
    scores = {record.number: record.score for record in records if qualifies(record, search.budget)}
    return Facts(
        search=search,
        records=tuple(records),
        spans=spans(records),
        importance=importance(trials, {number: score for number, score in scores.items() if score is not None}),
        searched=tuple(dict.fromkeys(name for trial in trials for name in trial.params)),
        running=running,
        baselines=baselines,
        test=test,
        analysis=analysis,
    )
