"""The trials of a run as frozen records, read from its study."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from captune.model.config import Metric
from captune.model.metrics import KINDS, METRICS, Epoch
from captune.model.size import Budget
from captune.results.attributes import LOST, TrialAttributes, TrialSize, epochs_of, origin_of
from captune.results.run_folder import RunFolder

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Record:
    """One trial as a value. `mean_f1` is that of its best epoch, None before the first; it is judged by `score`."""

    number: int
    fate: str  # one of FATES; "running" or "waiting" before it has one, see `left_behind`
    mean_f1: float | None
    best_epoch: int | None
    epochs: int
    weights_bytes: int  # 0, as the next two, while the trial waits to be drawn
    bundle_bytes: int  # at most
    margin_bytes: int  # what is left of the budget; below zero it is over
    seconds: float | None  # wall time from asking to telling; of a killed search's trials that of the epochs reported
    node: str | None
    reason: str | None
    seed: int | None
    threads: int | None  # of its worker
    origin: int  # number of its first attempt: its own, unless it continues a lost trial
    config: dict[str, Any]  # flat, dotted names
    curve: tuple[Epoch, ...]
    order: Mapping[int, int]  # by epoch: the place of its report among all of the run
    began: float = 0.0  # second since 1970 at which it was asked for; 0 while it waits

    @property
    def best(self) -> Epoch | None:
        """The report of the best epoch."""
        return None if self.best_epoch is None else next(e for e in self.curve if e.epoch == self.best_epoch)

    @property
    def metric(self) -> Metric:
        """What it is judged by."""
        return self.curve[0].metric if self.curve else "mean_f1"

    @property
    def score(self) -> float | None:
        """Of the best epoch, by the metric of the search; None before the first."""
        return None if self.best is None else self.best.score

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by kind, see captune.model.metrics.KINDS."""
        return {kind: sum(epoch.seconds()[kind] for epoch in self.curve) for kind in KINDS}

    def is_as_good_as(self, best: Record) -> bool:
        """Whether its score is within one standard error of the best: the rows cannot tell the two apart."""
        if self.score is None or best.best is None:
            return False
        return self.score >= best.best.score - best.best.standard_error

    def too_slow(self, budget: Budget) -> bool:
        """Whether it was refused for its latency, not for its bytes."""
        return self.fate == "over_budget" and budget.holds(self)

    def row(self) -> dict[str, Any]:
        """The record as the table and JSON show it, scores of the best epoch beside each other."""
        return {
            "number": self.number,
            "fate": self.fate,
            **(self.best.metrics() if self.best else dict.fromkeys(METRICS)),
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "weights_bytes": self.weights_bytes or None,
            "bundle_bytes": self.bundle_bytes or None,
            "margin_bytes": self.margin_bytes if self.weights_bytes else None,
            "seconds": self.seconds,
            "node": self.node,
            "reason": self.reason,
            "config": self.config,
        }


def load_records(run: RunFolder, *, progress: Callable[[int, int], None] | None = None) -> list[Record]:
    """All trials of a run in the order of their numbers, also while the search writes on.

    Args:
        progress: called now and then with (read, all) bytes of the journal.

    Raises:
        RunError: the folder holds no run, or its journal is damaged.
    """
    from captune.results.journal import study_reader

    run.read_settings()
    return _records(study_reader(run, progress=progress)())


def records_of(study: optuna.Study) -> list[Record]:
    """All trials of a run's study, in the order of their numbers."""
    return _records(study.get_trials(deepcopy=False))


def _records(trials: Iterable[optuna.trial.FrozenTrial]) -> list[Record]:
    return [record for record in map(record_of, trials) if record is not None]


def left_behind(record: Record) -> Record:
    """A record of a search that no process runs any more: what it left running is lost, or waits to be handed out."""
    if record.fate != "running":
        return record
    return replace(record, fate="waiting") if record.seed is None else replace(record, fate="lost", reason=LOST)


def record_of(trial: optuna.trial.FrozenTrial) -> Record | None:
    """One trial of a run's study; None for a draw that is no trial."""
    attributes = TrialAttributes.of(trial)
    if attributes.void is not None:
        return None
    reports = epochs_of(trial.user_attrs)
    size = attributes.size or TrialSize(0, 0, 0)
    finite = [epoch for epoch in reports if math.isfinite(epoch.score)]
    best = max(finite, key=lambda epoch: epoch.score, default=None)
    seconds = attributes.seconds
    if seconds is None and trial.duration is not None:
        seconds = trial.duration.total_seconds()
    return Record(
        number=trial.number,
        fate=attributes.fate or ("waiting" if trial.state.name == "WAITING" else "running"),
        mean_f1=best.mean_f1 if best else None,
        best_epoch=best.epoch if best else None,
        epochs=len(reports),
        weights_bytes=size.weights_bytes,
        bundle_bytes=size.bundle_bytes,
        margin_bytes=size.margin_bytes,
        seconds=seconds,
        node=attributes.node,
        reason=attributes.reason,
        seed=attributes.seed,
        threads=attributes.threads,
        origin=origin_of(trial),
        config=attributes.config or {},
        curve=tuple(reports),
        order={epoch.epoch: order for epoch, order in reports.items()},
        began=trial.datetime_start.timestamp() if trial.datetime_start is not None else 0.0,
    )
