"""What the study keeps of a trial besides its parameters: the one owner of the names of its user attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import StrictBool, StrictInt, TypeAdapter, ValidationError

from captune.errors import one_line
from captune.model.metrics import Epoch
from captune.results.run_folder import RunError

if TYPE_CHECKING:
    import optuna

Fate = Literal["complete", "stopped", "over_budget", "diverged", "failed", "lost"]
FATES: tuple[Fate, ...] = get_args(Fate)
SCORED: tuple[Fate, ...] = ("complete", "stopped")
"""Fates that leave a score which may win."""
COUNTED: tuple[Fate, ...] = (*SCORED, "diverged", "failed")
"""Fates of trials that were tried to an end: they count towards those that are wanted."""
HALVED = "halving"
"""With what the reason begins of a trial that halving stopped."""
BY_HAND = "by hand"
"""The reason of a trial that a person ended."""
NO_EPOCH = "before its first epoch"
"""With what the reason ends of a trial that had no time for one."""
LOST = "the search ended without it"
"""The reason of a trial that a killed search left running."""
_EPOCH = "epoch:"


@dataclass(frozen=True)
class TrialSize:
    """Bytes of a trial's weights and, at most, of its bundle. margin_bytes: left of the budget; below zero over it."""

    weights_bytes: StrictInt
    bundle_bytes: StrictInt
    margin_bytes: StrictInt


@dataclass(frozen=True)
class TrialAttributes:
    """The attributes of a trial by their names, None where one is not set.

    `of` reads them of a trial. `TrialAttributes(fate="lost", reason="its worker died").write(trial)` sets these two and
    leaves the others as they are; `.values()` are the same for `study.enqueue_trial(..., user_attrs=...)`. Each that is
    written costs the journal a line, in the order of the fields. Epochs are kept beside them: `epoch_attribute`.

    config: flat, by dotted names. seed: of the training; what has one was let through the gate. reason: of the fate, in
    one line. seconds: that it is known to have run, where its end was told later than it came. node, threads: of the
    worker. replaces: number of the first attempt, where this continues a lost trial.
    pinned: whether a person lets it train to its end, whatever halving says.
    request: of a person for this configuration, see `captune.tuner.run.requests`: each is granted once.
    tries: attempts so far, this one included. gpus: that it is to be given, where that is not what all are given.
    void: why the draw is no trial, such as one that repeats another, or whose values are impossible together.
    """

    config: dict[str, Any] | None = None
    size: TrialSize | None = None
    seed: StrictInt | None = None
    threads: StrictInt | None = None
    node: str | None = None
    replaces: StrictInt | None = None
    pinned: StrictBool | None = None
    request: str | None = None
    tries: StrictInt | None = None
    gpus: float | None = None
    reason: str | None = None
    seconds: float | None = None
    fate: Fate | None = None
    void: str | None = None

    @classmethod
    def of(cls, trial: optuna.trial.BaseTrial | optuna.trial.FrozenTrial) -> TrialAttributes:
        """Those of a trial; attributes that others gave it are left out.

        Raises:
            RunError: one is not of its type, so no search wrote it.
        """
        attributes = trial.user_attrs
        ours = {field.name: attributes[field.name] for field in fields(cls) if field.name in attributes}
        try:
            return _reader().validate_python(ours)
        except ValidationError as error:
            wrong = error.errors()[0]
            name = ".".join(map(str, wrong["loc"]))
            raise RunError(
                f"trial {trial.number} of the study has {name} {one_line(repr(wrong['input']), 60)}, "
                f"as no search writes it ({wrong['msg']}); take that line out of study.journal"
            ) from None

    def values(self) -> dict[str, Any]:
        """Those that are set, as JSON takes them."""
        shown = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: dict(vars(value)) if isinstance(value, TrialSize) else value
            for name, value in shown.items()
            if value is not None
        }

    def write(self, trial: optuna.Trial) -> None:
        """Sets those that are not None."""
        for name, value in self.values().items():
            trial.set_user_attr(name, value)


@cache
def _reader() -> TypeAdapter[TrialAttributes]:
    return TypeAdapter(TrialAttributes)


def origin_of(trial: optuna.trial.BaseTrial | optuna.trial.FrozenTrial) -> int:
    """Number of a trial's first attempt: its own, unless it continues a lost trial."""
    return int(trial.user_attrs.get("replaces", trial.number))


def epoch_attribute(epoch: Epoch, order: int) -> tuple[str, dict[str, Any]]:
    """Name and value under which an epoch is kept with its trial: one each, so that the journal only ever grows.

    Args:
        order: place of the report among all of the run: what halving decided can be decided again from it.
    """
    # NaN and infinity have no place in JSON; an absent value is read back as NaN, an absent rule as None.
    values = {name: value for name, value in asdict(epoch).items() if value not in (None, "mean_f1")}  # the default
    finite = {name: value for name, value in values.items() if isinstance(value, dict | str) or math.isfinite(value)}
    return f"{_EPOCH}{epoch.epoch}", finite | {"order": order}


def epochs_of(attributes: Mapping[str, Any]) -> dict[Epoch, int]:
    """The epochs among the attributes of a trial in their order, each with the place of its report in the run.

    Raises:
        RunError: one is no epoch, so no search wrote it.
    """
    reports: dict[Epoch, int] = {}
    for name, value in attributes.items():
        if name.startswith(_EPOCH):
            try:
                reports[Epoch.read(value)] = int(value.get("order", 0))
            except (AttributeError, TypeError, ValueError):
                raise RunError(
                    f"{name} of the study is {one_line(repr(value), 60)}, as no search writes it; "
                    "take that line out of study.journal"
                ) from None
    return dict(sorted(reports.items(), key=lambda report: report[0].epoch))


def is_followed(name: str) -> bool:
    """Whether something outside of the study follows from an attribute: a trial with a seed is handed out, after an
    epoch comes a checkpoint."""
    return name == "seed" or name.startswith(_EPOCH)
