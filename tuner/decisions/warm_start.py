"""What an earlier run has found out, told to the sampler of a new one.

A score says something of a new search where data, metric and objectives are the same and its space draws the very same
configuration. Of any run the best configurations are worth a trial, as near as the space comes to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import ValidationError

from captune.model.config import TrialConfig
from captune.model.effects import idle, key_of
from captune.model.flat import Flat, flatten, unflatten
from captune.results.attributes import SCORED, Fate, TrialAttributes
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.run_folder import RunFolder
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import FITTED

_REFUSED: tuple[Fate, ...] = ("over_budget", "diverged")
_MEANING = {"metric": "another metric", "objectives": "other objectives"}
_TRIED_AGAIN = 3
"""Best configurations of a run whose scores mean something else here."""


def differing(before: SearchConfig, config: SearchConfig, *, same_data: bool) -> tuple[str, ...]:
    """Why the scores of an earlier search mean something else in a new one, in words.

    Args:
        before: what it was asked to do.
        same_data: whether it was on the data of the new search.
    """
    others = tuple(words for name, words in _MEANING.items() if getattr(before, name) != getattr(config, name))
    return others if same_data else ("other data", *others)


@dataclass(frozen=True)
class Findings:
    """What a new search takes over.

    Args:
        old: the earlier run.
        evidence: its trials as the new space has them, each named in `void`.
        first: parameters to be run first, best ones first.
        as_they_were: whether the new space has all settings of these.
        finished: trials that came to a score.
        known: those of them that are in `evidence`.
        differing: why scores mean something else.
    """

    old: RunFolder
    evidence: tuple[FrozenTrial, ...]
    first: tuple[Flat, ...]
    as_they_were: bool
    finished: int
    known: int
    differing: tuple[str, ...]

    def __str__(self) -> str:
        if self.differing:
            why = f"as it had {' and '.join(self.differing)}"
        elif self.known < self.finished:
            why = "as the others have settings outside of this space"
        else:
            why = ""
        told = f"{self.known} of {self.finished} finished trials of {self.old} inform the sampler"
        several = len(self.first) > 1
        best = f"its {len(self.first)} best that fit come" if several else "its best that fits comes"
        how = "" if self.as_they_were else f", as near as this space comes to {'them' if several else 'it'}"
        return f"{told}{why and f', {why}'}" + (f"; {best} before what the sampler proposes{how}" if self.first else "")


def findings(old: RunFolder, feasible: FeasibleSpace, differing: Sequence[str] = ()) -> Findings:
    """Reads an earlier run for a new search.

    Args:
        feasible: the new space, on its data and under its limits: what was within the old ones may be over them.
        differing: see `differing`.

    Raises:
        RunError: `old` is gone.
    """
    old.read_settings()
    trials: list[FrozenTrial] = []
    if old.journal.is_file():
        trials = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(old)).get_trials(deepcopy=False)
    evidence, known, finished, complete = [], 0, 0, []
    for trial in trials:
        attributes = TrialAttributes.of(trial)
        if attributes.fate not in (*SCORED, *_REFUSED) or attributes.config is None or not trial.state.is_finished():
            continue
        finished += attributes.fate in SCORED
        try:
            config = unflatten(attributes.config)
        except ValidationError:  # of another version of captune, with settings that are no more
            continue
        if trial.state == TrialState.COMPLETE:
            complete.append((trial.values[0], trial.number, config))
        if differing or (drawn := _drawn(feasible, config)) is None:
            continue
        known += attributes.fate in SCORED
        evidence.append(_copy(trial, drawn, feasible, config, f"trial {trial.number} of {old}"))
    complete.sort(key=lambda found: (-found[0], found[1]))
    tried_again = _worth_a_trial(feasible, (config for _, _, config in complete))
    first = list(islice(tried_again, _TRIED_AGAIN if differing else 1))
    return Findings(
        old,
        tuple(evidence),
        tuple(values for values, _ in first),
        all(_as_it_was(feasible, values, config) for values, config in first),
        finished,
        known,
        tuple(differing),
    )


def _worth_a_trial(
    feasible: FeasibleSpace, configurations: Iterable[TrialConfig]
) -> Iterator[tuple[Flat, TrialConfig]]:
    """Those that the new space draws as networks of their own that fit, with their parameters; trial 0 runs anyway."""
    seen = {None if feasible.trial_0 is None else key_of(feasible.trial_0)}
    for config in configurations:
        values = feasible.space.parameters(config)
        drawn = feasible.configuration(values)
        if drawn is None or (key := key_of(drawn)) in seen:
            continue
        seen.add(key)
        if feasible.refusal(drawn) is None:
            yield values, config


def take_over(study: optuna.Study, found: Findings) -> None:
    """Adds what was found to a new study, as what is known and no trial of its own; nothing is added twice."""
    here = {TrialAttributes.of(trial).void for trial in study.get_trials(deepcopy=False)}
    if not any(TrialAttributes.of(trial).void in here for trial in found.evidence):
        for values in found.first:
            study.enqueue_trial(values, skip_if_exists=True)
    study.add_trials([trial for trial in found.evidence if TrialAttributes.of(trial).void not in here])


def _drawn(feasible: FeasibleSpace, config: TrialConfig) -> optuna.trial.FixedTrial | None:
    """The trial that draws a configuration, None where the space draws no such one."""
    asked = optuna.trial.FixedTrial(feasible.space.parameters(config))
    try:
        drawn = feasible.bind(feasible.space.suggest(cast(optuna.Trial, asked)))
    except ValueError:  # its values are impossible together
        return None
    return asked if key_of(drawn) == key_of(config) else None


def _as_it_was(feasible: FeasibleSpace, values: Flat, config: TrialConfig) -> bool:
    """Whether these values of the dimensions give a configuration as it was, but for what data and towers set."""
    try:
        here = flatten(feasible.space.at(values))
    except ValidationError:  # impossible together
        return False
    left_out = idle(config).union(FITTED)
    return all(here.get(name) == value for name, value in flatten(config).items() if name not in left_out)


def _copy(
    trial: FrozenTrial, drawn: optuna.trial.FixedTrial, feasible: FeasibleSpace, config: TrialConfig, name: str
) -> FrozenTrial:
    share = feasible.budget.bytes_of(feasible.size_of(config)) / feasible.budget.limit
    constraints = {**trial.constraints, "bytes": share - 1}
    constraints.pop("latency", None)
    if feasible.latency is not None:
        constraints["latency"] = feasible.latency.share(config.model) - 1
    return create_trial(
        state=trial.state,
        values=trial.values if trial.state == TrialState.COMPLETE else None,
        params=drawn.params,
        distributions=drawn.distributions,
        intermediate_values=trial.intermediate_values,
        user_attrs=TrialAttributes(void=name).values(),
        constraints=constraints,
    )
