"""What of a space is of no use: allowed, and hardly meant. Told before anything starts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from captune.model.config import TrialConfig
from captune.model.effects import idle, key_of
from captune.model.flat import flatten
from captune.model.presets import PRESETS
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.declarations import configuration_settings
from captune.tuner.space.feasibility import SIDES, FeasibleSpace

LOOKED_AT = 500  # draws


def notes(
    config: SearchConfig, feasible: FeasibleSpace, draws: Sequence[tuple[TrialConfig, TrialConfig]]
) -> Iterator[str]:
    """One line each.

    Args:
        draws: configurations as they were drawn, and the same on the data.
    """
    yield from _of_trial_0(config, feasible)
    yield from _of_first(config)
    draws = draws[:LOOKED_AT]
    yield from _enlarged([*([] if feasible.trial_0 is None else [feasible.trial_0]), *(bound for _, bound in draws)])
    bounds = [feasible.bind(feasible.space.base), *(bound for _, bound in draws)]
    of_use = [flatten(bound).keys() - idle(bound) for bound in bounds]  # none of an encoder that is not there
    usual = flatten(PRESETS[config.preset])
    for name, value in config.fixed.items():
        said = name not in feasible.space.dimensions and value != usual.get(name)
        if said and not any(name in names for names in of_use):
            yield f"{name} is fixed and changes nothing ({configuration_settings()[name].meaning})"
    if not feasible.space.dimensions and config.trials != 1:
        preset = config.preset
        yield f"nothing is searched, as there is no space; `captune space --preset {preset}` prints one to copy"
        return
    yield from _without_effect(feasible, draws)
    drawn = {key_of(bound) for _, bound in draws if feasible.budget.holds(feasible.size_of(bound))}
    if config.trials is not None and len(drawn) < config.trials and (fitting := feasible.fitting()) is not None:
        networks = {key_of(bound) for _, bound in fitting}
        if len(networks) < config.trials:
            yield f"only {len(networks)} of {config.trials} trials can run: the space holds no other network that fits"


def _of_trial_0(config: SearchConfig, feasible: FeasibleSpace) -> Iterator[str]:
    preset, trial_0 = feasible.bind(feasible.space.base), feasible.trial_0
    if trial_0 is None:
        yield "what the space has nearest to the preset is impossible together: there is no trial 0"
        trial_0 = preset
    usual, on_data, begins, useless = flatten(feasible.space.base), flatten(preset), flatten(trial_0), idle(trial_0)
    drawn = feasible.preset()
    for name, dimension in feasible.space.dimensions.items():
        if name in config.fixed and (begins[name] == on_data[name] or name in useless):
            closed = ", and wherever it is not drawn" if dimension.when else ""
            yield f"{name} is fixed and searched: {config.fixed[name]} is what trial 0 has{closed}"
        elif begins[name] != on_data[name] and name not in useless:
            has = drawn.get(name, begins[name])
            yield f"{name} is searched as {dimension.words}, without {usual[name]}: trial 0 has {has}"


def _enlarged(configs: Iterable[TrialConfig]) -> Iterator[str]:
    images = (config.model.image for config in configs)
    stored, seen = max(((image.side, image.seen_side) for image in images if image is not None), default=(0, 0))
    if stored and seen >= 2 * stored:
        yield (
            f"pictures of {stored} pixels a side are enlarged to {seen}, and have no more to see by it: prepare them "
            "again with a larger --side, or set image.min_side: 0"
        )


def _of_first(config: SearchConfig) -> Iterator[str]:
    own = 1 + len(config.first)
    if config.first and config.trials is not None and own > config.trials:
        yield (
            f"trial 0 and first are {own} configurations for {config.trials} trials: the last ones wait for "
            f"`captune resume RUN --trials {own}`"
        )


def _without_effect(feasible: FeasibleSpace, draws: Sequence[tuple[TrialConfig, TrialConfig]]) -> Iterator[str]:
    opened, useless = Counter[str](), Counter[str]()
    drawn_as: dict[tuple[str, Any], set[Any]] = defaultdict(set)  # values, by what each is on the data
    for drawn, bound in draws:
        without, values = idle(bound), flatten(bound)
        for name, value in feasible.space.parameters(drawn).items():
            opened[name] += 1
            useless[name] += name in without
            if name not in SIDES:
                drawn_as[name, values[name]].add(value)
            elif bound.model.image is not None and not SIDES - {name} & feasible.space.dimensions.keys():
                drawn_as[name, bound.model.image.seen_side].add(value)
    for name, count in useless.items():
        meaning = configuration_settings()[name].meaning
        if count == opened[name]:
            yield f"{name} is searched and changes nothing ({meaning})"
        elif count:
            yield f"{name} changes nothing in {count / opened[name]:.0%} of its draws ({meaning}); `when` spares them"
    for (name, value), several in drawn_as.items():
        if len(several) > 1:
            some = ", ".join(map(str, sorted(several)[:5])) + (", ..." if len(several) > 5 else "")
            what = f"{name} shows pictures at {value} pixels" if name in SIDES else f"{name} is {value}"
            yield f"{what} on this data, whichever of these is drawn: {some}"
