"""What a search is up against, found out in seconds before anything starts."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from captune.cluster.object_storage.addresses import is_url
from captune.model.config import TrialConfig
from captune.model.flat import Flat
from captune.model.frozen_features import FrozenFeatures, needed
from captune.model.latency import Latency
from captune.model.size import Budget, Size, show_bytes
from captune.tuner.decisions.notes import notes
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.yaml_file import ConfigError

if TYPE_CHECKING:
    import optuna

DRAWS = 2000
FIRST = 3
_SPREAD_OF_F1 = 0.25  # over examples (standard deviation): 0.16 to 0.26 on captions, photographs and drawn scenes


@dataclass(frozen=True)
class Foretold:
    """A configuration that would run. parameters: what it draws; `config` is what that is on the data."""

    parameters: Flat
    config: TrialConfig
    size: Size


@dataclass(frozen=True)
class Preflight:
    """A search before it starts. Sizes are the bytes that count for the budget.

    preset: its name. searched: how many settings. latency: the limit, where there is one. share: of drawn
    configurations that fit. sizes: of all drawn, rising. least: the smallest configuration that the space reaches.
    constant: bytes of the parts that no dimension changes. never: options of choices that fit in nothing. features:
    bytes of all features of frozen towers that may be computed once. counts: examples of each split. passes: over those
    of train in an epoch, at least and at most. notes: what of the space is of no use, a line each. first: the
    configurations that would run first, with what is refused between them left out. checkpoint: bytes of the largest
    checkpoint seen among what fits, with the best network that a running trial keeps beside it. network: of the largest
    such network.
    keep: of how many trials one is kept.
    """

    preset: str
    searched: int
    budget: Budget
    latency: Latency | None
    possible: int
    share: float
    sizes: tuple[int, ...]
    least: Size
    constant: dict[str, int]
    never: dict[str, list[Any]]
    features: int
    counts: Mapping[str, int]
    passes: tuple[int, int]
    notes: tuple[str, ...]
    first: tuple[Foretold, ...]
    refusal_of_trial_0: str | None
    checkpoint: int
    network: int
    keep: int


def inspect(
    config: SearchConfig,
    feasible: FeasibleSpace,
    pictures: int,
    counts: Mapping[str, int],
    learn: Callable[[optuna.Study], None] = lambda _: None,
) -> Preflight:
    """Draws from the space and asks the gate, in memory, for its first configurations.

    Args:
        pictures: of the data set. counts: rows of each split.
        learn: adds what is known from an earlier run.

    Raises:
        BudgetError: nothing in the space fits.
        ConfigError: features of frozen towers would take more than `cache_limit`.
    """
    first = tuple(_first(config, feasible, learn))
    random = Random(config.seed)
    draws: list[tuple[TrialConfig, TrialConfig]] = []  # as drawn, and on the data
    for _ in range(DRAWS):
        with suppress(ValidationError):  # values that are impossible together
            draw = feasible.space.draw(random)
            draws.append((draw, feasible.bind(draw)))
    drawn = [feasible.size_of(bound) for _, bound in draws]
    least = feasible.smallest
    assert least is not None  # checked before
    smallest = feasible.size_of(least)
    everywhere = [*drawn, smallest, *(one.size for one in first)]
    fitting = [size for size in everywhere if feasible.budget.holds(size)]
    network = max(size.bundle_bytes for size in fitting)
    configs = [*(bound for _, bound in draws), least, *(one.config for one in first)]
    features = _features_bytes(configs, pictures, sum(counts.values()), config.cache_limit)
    passes = {each.train.passes(counts["train"]) for each in configs}
    return Preflight(
        preset=config.preset,
        searched=len(feasible.space.dimensions),
        budget=feasible.budget,
        latency=feasible.latency,
        possible=len(drawn),
        share=sum(feasible.refusal(bound) is None for _, bound in draws) / DRAWS,
        sizes=tuple(sorted(map(feasible.budget.bytes_of, everywhere))),
        least=smallest,
        constant={
            part: count
            for part, count in smallest.parts.items()
            if all(size.parts.get(part) == count for size in everywhere)
        },
        never=feasible.never(),
        features=features,
        counts=counts,
        passes=(min(passes), max(passes)),
        notes=tuple(notes(config, feasible, draws)),
        first=first,
        refusal_of_trial_0=None if feasible.trial_0 is None else feasible.refusal(feasible.trial_0),
        checkpoint=network + max(map(_checkpoint_bytes, fitting)),
        network=network,
        keep=config.keep,
    )


def _first(config: SearchConfig, feasible: FeasibleSpace, learn: Callable[[optuna.Study], None]) -> list[Foretold]:
    import optuna

    from captune.results.journal import DIRECTIONS
    from captune.results.optuna_private import quiet_optuna
    from captune.tuner.decisions.gate import Gate, UsedUp
    from captune.tuner.decisions.sampler import SAMPLERS

    first: list[Foretold] = []
    with quiet_optuna(), suppress(UsedUp):
        study = optuna.create_study(directions=[DIRECTIONS[objective] for objective in config.objectives])
        for parameters in (feasible.preset(), *feasible.chosen(config.first)):
            study.enqueue_trial(parameters)
        learn(study)
        gate = Gate(study, feasible, seed=config.seed, sampler=SAMPLERS[config.sampler])
        while len(first) < min(FIRST, config.trials or FIRST):
            admitted = gate.admit()
            first.append(Foretold(admitted.trial.params, admitted.config, admitted.size))
    return first


def _features_bytes(configs: list[TrialConfig], pictures: int, rows: int, limit: int) -> int:
    """Bytes of all features that these configurations have computed. Raises ConfigError where they are over a limit."""
    several = {features for config in configs for features in needed(config)}
    total = sum(one.bytes_of(pictures if isinstance(one, FrozenFeatures) else rows) for one in several)
    if total > limit:
        what = f"{pictures} pictures" if pictures else f"{rows} captions"
        raise ConfigError(
            f"features of frozen towers would take {show_bytes(total)} beside the data, {len(several)} of "
            f"{what} each, and cache_limit is {show_bytes(limit)}; raise --cache-limit, search fewer "
            "backbones, sides and cuts, or set train.cached_features: false"
        )
    return total


def _checkpoint_bytes(size: Size) -> int:
    """Float32 weights, and what the optimizer and averaging keep of each that is trained: three more, for int4 four."""
    return 4 * (size.parameters + (4 if size.storage == "int4" else 3) * size.trainable)


def lines(preflight: Preflight, run: str) -> list[str]:
    """The same for people. run: path or address where it would be written."""
    constant = ", ".join(f"{part} {show_bytes(count)}" for part, count in preflight.constant.items())
    train, validation = (preflight.counts[split] for split in ("train", "validation"))
    chance = _SPREAD_OF_F1 / math.sqrt(validation)
    report = [
        f"budget     {preflight.budget}",
        f"space      preset {preflight.preset}, {preflight.searched} of its settings searched",
        *_latency_lines(preflight.latency),
        f"fits       {preflight.share:.1%} of {DRAWS} draws"
        + (f"; {DRAWS - preflight.possible} of them are impossible together" if preflight.possible < DRAWS else ""),
        f"sizes      smallest {show_bytes(preflight.budget.bytes_of(preflight.least))}, "
        f"median {show_bytes(int(statistics.median(preflight.sizes)))}, largest {show_bytes(preflight.sizes[-1])}",
    ]
    if constant:
        report.append(f"constant   {constant}")
    report.append(
        f"rows       {train:,} to train on, {validation:,} to score on; by chance mean F1 is some {chance:.1g} off"
    )
    if preflight.features:
        report.append(f"features   {show_bytes(preflight.features)} of frozen towers beside the data, computed once")
    least, most = preflight.passes
    if most > 1:
        times = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        report.append(f"epochs     {times} passes each over {train:,} examples, by train.epoch_examples")
    report += [f"never fits {name}: {', '.join(map(str, options))}" for name, options in preflight.never.items()]
    report += [f"note       {note}" for note in preflight.notes]
    if preflight.refusal_of_trial_0 is not None:
        report.append(f"trial 0    is refused: {preflight.refusal_of_trial_0}")
    room = "" if is_url(run) else f"; {show_bytes(shutil.disk_usage(_existing(Path(run))).free)} free"
    report.append(
        f"disk       at most {show_bytes(preflight.checkpoint)} for each trial that runs "
        f"and {show_bytes(preflight.network)} for each of the {preflight.keep} best{room}"
    )
    for place, one in enumerate(preflight.first, 1):
        values = ", ".join(f"{name} {_short(value)}" for name, value in one.parameters.items())
        report.append(
            f"{f'runs {place}.':10} {show_bytes(preflight.budget.bytes_of(one.size))}: {values or 'the preset'}"
        )
    return report


def _latency_lines(latency: Latency | None) -> list[str]:
    if latency is None:
        return []
    speed = latency.speed
    return [
        f"latency    {latency} on one thread as {speed.runtime}, predicted within a factor of {speed.error:.2f} in the "
        f"median for {speed.machine}"
    ]


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return folder if folder.exists() else _existing(folder.parent)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
