"""The check before a trial exists: asks Optuna, counts bytes, refuses what is over the budget and tells the sampler.

So it does with what is predicted to be far over the latency, where there is a limit. A refusal is told as infeasible
and pruned, so that TPE learns to stay away (told as failed it would not). It is a record of the study, never a trial of
Ray's. One network is admitted once, and refused on record once, however often it is drawn. Ray is not met here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from random import Random

import optuna
from optuna.trial import TrialState
from pydantic import ValidationError

from captune.model.config import TrialConfig, complaint
from captune.model.effects import key_of
from captune.model.flat import Flat, flatten, unflatten
from captune.model.size import Size, show_bytes
from captune.results.attributes import Fate, TrialAttributes, TrialSize, origin_of
from captune.tuner.decisions.sampler import Sampler, tpe
from captune.tuner.space.feasibility import BudgetError, FeasibleSpace

STARTUP = 6  # admitted configurations that are drawn evenly before the sampler takes over; refused ones do not count
MAX_REFUSALS = 1000  # in a row; a space that lets nothing through in so many asks lets nothing through at all
_REPEATS = 20  # in a row, until what is left is handed out, or this ask is drawn evenly
_TRIAL_SEED_STRIDE = 1_000_003
_IMPOSSIBLE = "impossible: "
MAX_REPEATS = 150  # in a row, until a space that cannot be gone through counts as used up


class UsedUp(Exception):  # noqa: N818 - no error: the search has seen everything there is
    """Every configuration of the space that fits was admitted before."""


@dataclass(frozen=True)
class Admitted:
    """A configuration inside the budget, with its trial in the study.

    origin: number of its first attempt: its own, unless it continues a lost trial. seed: of its training, from the
    search's and the origin.
    """

    trial: optuna.Trial
    config: TrialConfig
    size: Size
    origin: int
    seed: int


class Gate:
    """Configurations that fit, from a study.

    Args:
        study: where trials are asked for; its sampler is set here.
        feasible: space, data and budget.
        seed: of the samplers and, with their numbers, of the trials. A continued study draws on from where it stands,
            not the same again.
        sampler: proposes what is not drawn evenly.
        startup: admitted configurations that are drawn evenly first.
    """

    def __init__(
        self,
        study: optuna.Study,
        feasible: FeasibleSpace,
        *,
        seed: int,
        sampler: Sampler = tpe,
        startup: int = STARTUP,
    ) -> None:
        self._study = study
        self._feasible = feasible
        self._seed = seed
        trials = study.get_trials(deepcopy=False)
        self._evenly = optuna.samplers.RandomSampler(seed=seed + len(trials))
        self._learned = sampler(seed + len(trials))
        attributes = [TrialAttributes.of(trial) for trial in trials]
        # What has a seed was admitted; a draw that was cut off before it had one is to be drawn again.
        self._admitted = {
            key_of(unflatten(a.config)) for a in attributes if a.config and a.seed is not None and a.void is None
        }
        self._refused = {key_of(unflatten(a.config)) for a in attributes if a.config and a.fate == "over_budget"}
        # What an earlier run found out spares the even draws.
        scored = (t.state == TrialState.COMPLETE or bool(t.intermediate_values) for t in trials)
        warm = sum(a.void is not None and has_score for a, has_score in zip(attributes, scored, strict=True))
        self._evenly_left = startup - len(self._admitted) - warm
        self.used_up = False
        self.fates: Counter[str] = Counter(a.fate for a in attributes if a.fate is not None)
        self.impossible = sum(a.void is not None and a.void.startswith(_IMPOSSIBLE) for a in attributes)  # draws

    def admit(self) -> Admitted:
        """Asks until a configuration fits.

        Raises:
            BudgetError: none did, in very many asks.
            UsedUp: all that fit were admitted before.
        """
        if self.used_up and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            raise UsedUp
        refusals = repeats = 0
        while refusals < MAX_REFUSALS and repeats < MAX_REPEATS:
            if repeats == _REPEATS and (remaining := self._remaining()) is not None:
                if not remaining:
                    break
                self._study.enqueue_trial(Random(self._seed + len(remaining)).choice(remaining))
            evenly = self._evenly_left > 0 or repeats >= _REPEATS
            self._study.sampler = self._evenly if evenly else self._learned
            trial = self._study.ask()
            try:
                config = self._feasible.bind(self._feasible.space.suggest(trial))
            except ValidationError as error:
                # Each value is allowed, together they are not: nothing to run, and the sampler is to stay away.
                refusals += 1
                self.impossible += 1
                trial.set_constraint("impossible", 1.0)
                self.set_aside(trial, f"{_IMPOSSIBLE}{complaint(error)}", TrialState.PRUNED)
                continue
            size, key = self._describe(trial, config), key_of(config)
            why = self._feasible.refusal(config)
            if why is not None and key in self._refused:
                repeats += 1
                self.set_aside(trial, "repeats an earlier refusal", TrialState.PRUNED)  # and teaches the sampler again
                continue
            if why is not None:
                refusals += 1
                self._refused.add(key)
                self.tell(trial, "over_budget", reason=why)
                continue
            origin = origin_of(trial)
            if key in self._admitted and origin == trial.number:
                repeats += 1
                self.set_aside(trial, "repeats an earlier trial")
                continue
            self._admitted.add(key)
            self._evenly_left -= 1
            seed = (self._seed * _TRIAL_SEED_STRIDE + origin) % 2**31
            TrialAttributes(seed=seed).write(trial)  # last: what has a seed was admitted
            return Admitted(trial, config, size, origin, seed)
        if repeats and self._admitted:  # something does fit, and it is known
            self.used_up = True
            raise UsedUp
        fits, ways_out, latency = show_bytes(self._feasible.budget.limit), "raise --budget", self._feasible.latency
        if latency is not None:
            fits, ways_out = f"{fits} and {latency}", f"{ways_out} or --latency"
        raise BudgetError(
            self._feasible.complaint()
            or f"none of {MAX_REFUSALS} configurations in a row fits {fits}; "
            f"narrow the space to smaller models or {ways_out}"
        )

    @cached_property
    def _reachable(self) -> dict[bytes, Flat] | None:
        """Values of the dimensions for each network that fits; None where the space cannot be gone through."""
        fitting = self._feasible.fitting()
        return None if fitting is None else {key_of(config): values for values, config in fitting}

    def _remaining(self) -> list[Flat] | None:
        """Of these, the ones that were not admitted yet."""
        if self._reachable is None:
            return None
        return [values for key, values in self._reachable.items() if key not in self._admitted]

    def tell(self, trial: optuna.Trial, fate: Fate, *, best: float | None = None, reason: str | None = None) -> None:
        """Gives a trial its fate, in the record and in Optuna's own words.

        Args:
            best: its best score; needed for `complete`.
            reason: one line, None where the fate says all.
        """
        TrialAttributes(reason=reason, fate=fate).write(trial)
        self.fates[fate] += 1
        self.finish(trial, fate, best=best)

    def finish(self, trial: optuna.Trial, fate: Fate, *, best: float | None) -> None:
        """The second half of `tell`, where a search was ended between the two."""
        if fate == "diverged" and "diverged" not in trial.constraints:
            # Optuna ranks what was pruned by how far it came: it would take a late divergence for a good sign.
            trial.set_constraint("diverged", 1.0)
        if fate == "complete":
            size = TrialAttributes.of(trial).size
            assert best is not None and size is not None
            count = self._feasible.budget.limit - size.margin_bytes
            self._study.tell(trial, [best, count][: len(self._study.directions)])
        elif fate in ("failed", "lost") or (fate == "stopped" and best is None):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            # Pruned trials still teach the sampler: stopped ones by their last value, the others by having none.
            self._study.tell(trial, state=TrialState.PRUNED)

    def _describe(self, trial: optuna.Trial, config: TrialConfig) -> Size:
        size, budget = self._feasible.size_of(config), self._feasible.budget
        count = budget.bytes_of(size)
        sizes = TrialSize(size.weights_bytes, size.bundle_bytes, budget.limit - count)
        TrialAttributes(config=flatten(config), size=sizes).write(trial)
        # Relative, so that the sampler ranks refusals by how far they are over.
        trial.set_constraint("bytes", count / budget.limit - 1)
        if self._feasible.latency is not None:
            # Of the limit itself: what is a little over it is tried, as a prediction may be wrong, and not sought.
            trial.set_constraint("latency", self._feasible.latency.share(config.model) - 1)
        return size

    def set_aside(self, trial: optuna.Trial, reason: str, state: TrialState = TrialState.FAIL) -> None:
        """Ends a draw that is no configuration to run, and so no trial in any table."""
        TrialAttributes(void=reason).write(trial)
        self._study.tell(trial, state=state)
