"""What a space can reach under a budget: its smallest configuration, and the options that fit in none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from random import Random
from typing import Any

from pydantic import ValidationError

from captune.errors import UsageError
from captune.model.config import TrialConfig, complaint
from captune.model.effects import key_of
from captune.model.flat import Flat
from captune.model.latency import Latency
from captune.model.layout import LEAST_VALUES_A_CHANNEL
from captune.model.size import Budget, Contents, Size, refusal, size, would_fit
from captune.tuner.space.chosen import parameters_of
from captune.tuner.space.dimensions import Choice, Scalar, SpaceError
from captune.tuner.space.space import Space

MOST = 20_000  # configurations that are gone through, in about a second
MOST_VALUES = 20_000  # of one dimension that are looked at
SIDES = frozenset({"image.max_side", "image.min_side"})
"""Of which `bind` leaves one to say what both come to."""


class BudgetError(UsageError):
    """Nothing that can be drawn fits the budget."""


@dataclass(frozen=True)
class FeasibleSpace:
    """A space on one data set under a budget, and a limit of latency where there is one.

    Args:
        bind: fits a drawn configuration to the data.
    """

    space: Space
    bind: Callable[[TrialConfig], TrialConfig]
    budget: Budget
    contents: Contents
    latency: Latency | None = None

    def size_of(self, config: TrialConfig) -> Size:
        """Of a bound configuration."""
        return size(config.model, self.contents)

    def refusal(self, config: TrialConfig) -> str | None:
        """Why a bound configuration is over the budget, or far over the latency; None where it may be tried."""
        over = refusal(self.size_of(config), self.budget)
        return self.latency.refusal(config.model) if over is None and self.latency is not None else over

    def preset(self) -> Flat:
        """Parameters of trial 0: the base of the space, or what is nearest to it."""
        return self.space.parameters(self.space.base)

    @cached_property
    def trial_0(self) -> TrialConfig | None:
        """What they draw on the data."""
        return self.configuration(self.preset())

    def configuration(self, parameters: Flat) -> TrialConfig | None:
        """What parameters draw, on the data; None where they are impossible together."""
        return next(self._configs([parameters]), None)

    def chosen(self, configurations: Sequence[Mapping[str, Any]]) -> list[Flat]:
        """Parameters of configurations that people chose, see `parameters_of`.

        Raises:
            SpaceError: the first that is wrong or refused. Its location begins with the place of the configuration,
                from 1.
        """
        base = self.bind(self.space.base)
        chosen = []
        for place, values in enumerate(configurations, 1):
            try:
                chosen.append(parameters_of(self.space, values, base))
                config = self.bind(self.space.at(chosen[-1]))
            except SpaceError as error:
                raise SpaceError(str(error), str(place), *error.location) from None
            except ValidationError as error:  # on this data
                raise SpaceError(complaint(error), str(place)) from None
            if (why := self.refusal(config)) is not None:
                raise SpaceError(why, str(place))
        return chosen

    def new(self, configurations: Sequence[Mapping[str, Any]], known: Mapping[bytes, str]) -> list[Flat]:
        """The same of configurations of which each is to be a network of its own.

        Args:
            known: by `key_of`, in words, what needs no trial of its own beside the preset.

        Raises:
            SpaceError: as `chosen`, and for one that is there twice.
        """
        chosen, known = self.chosen(configurations), dict(known)
        if self.trial_0 is not None:
            known[key_of(self.trial_0)] = "trial 0"
        for place, values in enumerate(chosen, 1):
            if (key := key_of(self.bind(self.space.at(values)))) in known:
                raise SpaceError(f"it is the same as {known[key]}; leave it out", str(place))
            known[key] = f"configuration {place}"
        return chosen

    @cached_property
    def smallest(self) -> TrialConfig | None:
        """The smallest configuration; None where no values are possible together.

        Exact, but in a space so wide that more than MOST configurations can be the smallest, or a dimension has more
        than MOST_VALUES: there that of so many.
        """
        ways: Iterable[Flat] | None = self._ways()
        if ways is None:
            random = Random(0)
            ways = ({name: random.choice(some) for name, some in self._candidates.items()} for _ in range(MOST))
        sized = ((self._count(config), place, config) for place, config in enumerate(self._configs(ways)))
        return min(sized, default=(0, 0, None))[-1]

    def fitting(self) -> Iterator[tuple[Flat, TrialConfig]] | None:
        """All that fits, as values of the dimensions and bound; None where it cannot be gone through."""
        dimensions = self.space.dimensions
        if not all(dimension.countable for dimension in dimensions.values()):
            return None
        options = {name: list(islice(dimension.values(), MOST + 1)) for name, dimension in dimensions.items()}
        ways = list(islice(self.space.combinations(options), MOST + 1))
        if len(ways) > MOST:
            return None
        bound = ((way, config) for way in ways for config in self._configs([way]))
        return ((way, config) for way, config in bound if self.refusal(config) is None)

    def never(self) -> dict[str, list[Any]]:
        """Options of choices, by name, with which no configuration fits."""
        choices = {name: d.options for name, d in self.space.dimensions.items() if isinstance(d, Choice)}
        never = {name: [o for o in options if not self._may_fit(name, o)] for name, options in choices.items()}
        return {name: options for name, options in never.items() if options}

    def _may_fit(self, name: str, option: Scalar) -> bool:
        near = {} if self.smallest is None else self.space.parameters(self.smallest)
        # The smallest configuration with this option fits in most cases, and spares going through all.
        return any(
            self._one_fits(name, {**beside, name: [option]}) for beside in ({k: [v] for k, v in near.items()}, {})
        )

    def _one_fits(self, name: str, options: Mapping[str, Sequence[Scalar]]) -> bool:
        ways = self._ways(options)
        if ways is None:
            return True
        # Where the dimension is not open its option does not count.
        with_it = (way for way in ways if name in way)
        return any(self._count(config) <= self.budget.limit for config in self._configs(with_it))

    def _ways(self, options: Mapping[str, Sequence[Scalar]] | None = None) -> list[Flat] | None:
        """Values among which those of the smallest configuration with these options are; None for more than MOST."""
        ways = list(islice(self.space.combinations({**self._candidates, **(options or {})}), MOST + 1))
        return ways if len(ways) <= MOST else None

    def _configs(self, ways: Iterable[Flat]) -> Iterator[TrialConfig]:
        for way in ways:
            with suppress(ValidationError):  # values that are impossible together
                yield self.bind(self.space.at(way))

    @cached_property
    def _candidates(self) -> dict[str, list[Scalar]]:
        """Values of each dimension among which the smallest configuration has one, whatever the others are."""
        conditions = [condition for dimension in self.space.dimensions.values() for condition in dimension.when]
        candidates: dict[str, list[Scalar]] = {}
        for name, dimension in self.space.dimensions.items():
            values = dict.fromkeys(value for c in conditions if c.name == name for value in c.values)
            if name in SIDES:
                sides = list(map(int, islice(dimension.values(), MOST_VALUES)))
                # A transformer's places have bytes: the least that is possible beside its patches is the smallest.
                candidates[name] = [*(sides if self._may_have_a_transformer else self._least_sides(sides))]
                continue
            opening = [value for value in values if dimension.holds(value)]
            candidates[name] = opening + _least(
                name, (v for v in islice(dimension.values(), MOST_VALUES) if v not in opening)
            )
        return candidates

    def _least_sides(self, sides: Sequence[int]) -> list[int]:
        """Those with which a configuration can be told in the fewest letters.

        They are 0 and the nearest to that of the data, as nothing is resized by them, and the largest of each number of
        digits, as pictures as large as can be suit every backbone.
        """
        image = self.bind(self.space.base).model.image
        stored = 0 if image is None else image.side
        nearest = [*[s for s in sides if s <= stored][-1:], *[s for s in sides if s >= stored][:1]]
        of_digits = {len(str(side)): side for side in sides}.values()
        return list(dict.fromkeys([*({0} & {*sides}), *nearest, *of_digits]))

    @property
    def _may_have_a_transformer(self) -> bool:
        dimension, image = self.space.dimensions.get("image.backbone"), self.space.base.model.image
        drawn = () if dimension is None else dimension.values()
        return "transformer" in drawn or (image is not None and image.backbone == "transformer")

    def _count(self, config: TrialConfig) -> int:
        return self.budget.bytes_of(self.size_of(config))

    def complaint(self) -> str | None:
        """Why nothing fits, with the smallest size and what to change; None where something does or may."""
        least = self.smallest
        if least is None:
            return "no configuration of the space is possible; widen its choices"
        why = refusal(self.size_of(least), self.budget)
        if why is None or self._ways() is None:
            return None
        changes = would_fit(least.model, self.budget, self.contents)
        way_out = " or ".join(changes) if changes else "several smaller settings together"
        return f"nothing in the space fits: its smallest configuration {why}; allow {way_out}, or raise --budget"


def _least(name: str, values: Iterator[Scalar]) -> list[Scalar]:
    """Those of a dimension's values with which a network can be the smallest.

    It grows with each of its widths, once every matrix has the four values a channel from which on float16 and int8
    reduce it. Of what has no bytes the shortest text counts, as a bundle holds the configuration; of training, which it
    does not hold, what is off or zero, as nothing is impossible beside that.
    """
    if name.startswith("train.") or name.endswith("dropout"):
        shortest = min(values, key=lambda v: (name.startswith("train.") and bool(v), len(str(v))), default=None)
        return [] if shortest is None else [shortest]
    least: list[Scalar] = []
    for value in values:
        least.append(value)
        if not isinstance(value, bool | str) and value >= LEAST_VALUES_A_CHANNEL:
            break
    return least
