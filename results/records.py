"""The trials of a run as frozen records, read from its study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from captune.model.metrics import KINDS, Epoch
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.run_folder import RunError, RunFolder

if TYPE_CHECKING:
    import optuna

Fate = Literal["complete", "stopped", "over_budget", "diverged", "failed", "lost"]
FATES: tuple[str, ...] = get_args(Fate)
SCORED: tuple[str, ...] = ("complete", "stopped")
"""Fates that leave a score which may win."""
HALVED = "halving"
"""With what the reason begins of a trial that halving stopped."""
VOID = "void"
"""Marks a draw of the sampler that is no trial: one that repeats another, or whose values are impossible together."""


@dataclass(frozen=True)
class Record:
    """One trial as a value. `mean_f1` is that of its best epoch, None before the first."""

    number: int
    fate: str  # one of FATES; "running" or "waiting" before it has one
    mean_f1: float | None
    best_epoch: int | None
    epochs: int
    weights_bytes: int  # 0, as the next two, while the trial waits to be drawn
    bundle_bytes: int  # at most
    margin_bytes: int  # what is left of the budget; below zero it is over
    seconds: float | None  # wall time from asking to telling
    node: str | None
    reason: str | None
    seed: int | None
    threads: int | None  # of its worker
    origin: int  # number of its first attempt: its own, unless it continues a lost trial
    config: dict[str, Any]  # flat, dotted names
    curve: tuple[Epoch, ...]
    order: Mapping[int, int]  # by epoch: the place of its report among all of the run

    @property
    def best(self) -> Epoch | None:
        """The report of the best epoch."""
        return None if self.best_epoch is None else next(e for e in self.curve if e.epoch == self.best_epoch)

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by kind, see captune.model.metrics.KINDS."""
        return {kind: sum(epoch.seconds()[kind] for epoch in self.curve) for kind in KINDS}

    def row(self) -> dict[str, Any]:
        """The record as the table and JSON show it, scores of the best epoch beside each other."""
        best = self.best
        return {
            "number": self.number,
            "fate": self.fate,
            "mean_f1": self.mean_f1,
            "micro_f1": best.micro_f1 if best else None,
            "macro_f1": best.macro_f1 if best else None,
            "map": best.map if best else None,
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


def load_records(run: RunFolder) -> list[Record]:
    """All trials of a run in the order of their numbers, also while the search writes on.

    Raises:
        RunError: the folder holds no run, or its journal is damaged.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run.read_settings()
    if not run.journal.is_file():
        return []  # the search has not yet made its study
    try:
        study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(run))
    except KeyError:
        return []
    except ValueError as error:
        raise RunError(f"{run.journal} is damaged, a line of it is not JSON ({error}); take that line out") from None
    return records_of(study)


def records_of(study: optuna.Study) -> list[Record]:
    """All trials of a run's study, in the order of their numbers."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False) if VOID not in trial.user_attrs]


def epoch_attribute(epoch: Epoch, order: int) -> tuple[str, dict[str, Any]]:
    """Name and value under which an epoch is kept with its trial: one each, so that the journal only ever grows.

    Args:
        order: place of the report among all of the run: what halving decided can be decided again from it.
    """
    return f"epoch:{epoch.epoch}", {k: v for k, v in asdict(epoch).items() if not _non_finite(v)} | {"order": order}


def _record(trial: optuna.trial.FrozenTrial) -> Record:
    attributes = trial.user_attrs
    size = attributes.get("size", {})
    curve = tuple(sorted(_curve(attributes), key=lambda epoch: epoch.epoch))
    finite = [epoch for epoch in curve if math.isfinite(epoch.mean_f1)]
    best = max(finite, key=lambda epoch: epoch.mean_f1, default=None)
    return Record(
        number=trial.number,
        fate=attributes.get("fate", "waiting" if trial.state.name == "WAITING" else "running"),
        mean_f1=best.mean_f1 if best else None,
        best_epoch=best.epoch if best else None,
        epochs=len(curve),
        weights_bytes=size.get("weights_bytes", 0),
        bundle_bytes=size.get("bundle_bytes", 0),
        margin_bytes=size.get("margin_bytes", 0),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        node=attributes.get("node"),
        reason=attributes.get("reason"),
        seed=attributes.get("seed"),
        threads=attributes.get("threads"),
        origin=attributes.get("replaces", trial.number),
        config=attributes.get("config", {}),
        curve=curve,
        order={epoch.epoch: attributes[f"epoch:{epoch.epoch}"].get("order", 0) for epoch in curve},
    )


def _curve(attributes: Mapping[str, Any]) -> list[Epoch]:
    names = Epoch.__dataclass_fields__
    return [
        # What was not finite was left out; what earlier versions did not keep has a default.
        Epoch(
            **{n: value.get(n, math.nan if field.default is MISSING else field.default) for n, field in names.items()}
        )
        for key, value in attributes.items()
        if key.startswith("epoch:")
    ]


def _non_finite(value: float) -> bool:
    """NaN and infinity have no place in JSON; an absent value is read back as NaN."""
    return not math.isfinite(value)
