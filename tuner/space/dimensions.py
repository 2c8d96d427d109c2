"""The search space: dimensions around a preset, some of them open only under a choice of another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from captune.data_prep.captions import FIRST_WORD
from captune.errors import among, in_words
from captune.model.config import (
    Flat,
    ImageConfig,
    Modality,
    ModelConfig,
    TextConfig,
    TrialConfig,
    complaint,
    flatten,
    replace,
    restrict,
    unflatten,
)
from captune.tuner.space.units import shortened

if TYPE_CHECKING:
    import optuna

    from captune.data_prep.manifest import Manifest
    from captune.model.text_towers import TowerOnData

Scalar = str | int | float | bool
OF_THE_DATA = ("image.side", "num_labels")


class SpaceError(ValueError):
    """A space that cannot be searched. `location`: the keys that lead to the fault in search.yaml."""

    def __init__(self, message: str, *location: str) -> None:
        super().__init__(message)
        self.location = location


@dataclass(frozen=True)
class Condition:
    """Open only while `name` has one of `values`."""

    name: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Choice:
    """One of `options`, at least one, none twice."""

    options: tuple[Scalar, ...]
    when: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if not self.options or len(set(map(repr, self.options))) != len(self.options):
            raise ValueError(f"choices must be one or more, none twice, got {shortened(list(self.options))}")
        for option in self.options:
            if not isinstance(option, str | int | float | bool):
                raise ValueError(f"a choice must be a text, a number or true/false, got {shortened(option)}")

    @property
    def countable(self) -> bool:
        """Whether its values can be gone through."""
        return True

    @property
    def words(self) -> str:
        """Its values as a message says them."""
        return f"one of {', '.join(map(str, self.options))}"

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draws a value."""
        return cast(Scalar, trial.suggest_categorical(name, self.options))

    def draw(self, random: Random) -> Scalar:
        """A value, each as likely as another."""
        return random.choice(self.options)

    def values(self) -> Iterator[Scalar]:
        """All options; numbers rising, after all others."""
        yield from sorted(
            self.options, key=lambda o: (isinstance(o, int | float), o if isinstance(o, int | float) else 0)
        )

    def holds(self, value: Any) -> bool:
        """Whether `value` can be drawn."""
        return value in self.options


@dataclass(frozen=True)
class Number:
    """From `low` to `high`, both included: whole numbers if both are whole, on a logarithmic scale if `log`."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    when: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        for bound in (self.low, self.high):
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
                raise ValueError(
                    f"low and high must be finite numbers, got {shortened(self.low)} and {shortened(self.high)}"
                )
        if not self.low <= self.high:
            raise ValueError(f"low must not be above high, got low {self.low} and high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, got low {self.low}")
        if self.step is not None and (self.log or self.step <= 0):
            raise ValueError(f"step must be above 0 and cannot go with log, got step {self.step}")
        if self.step is not None and not self.holds(self.high):
            raise ValueError(f"step must lead from low to high, got {self.low} to {self.high} by {self.step}")

    @property
    def countable(self) -> bool:
        """Whether its values can be gone through."""
        return self.whole or self.step is not None or self.low == self.high

    @property
    def words(self) -> str:
        """Its values as a message says them."""
        return f"from {self.low} to {self.high}" + (f" by {self.step}" if self.step else "")

    @property
    def whole(self) -> bool:
        """Whether values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and (self.step or 1) % 1 == 0

    def suggest(self, trial: optuna.Trial, name: str) -> Scalar:
        """Draws a value."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def draw(self, random: Random) -> Scalar:
        """A value from the distribution that `suggest` has before it has learned anything."""
        if self.log:
            widen = 0.5 if self.whole else 0.0  # so that both ends are as likely as what is between them
            value = math.exp(random.uniform(math.log(self.low - widen), math.log(self.high + widen)))
        elif self.whole or self.step is not None:
            step = self.step or 1
            value = self.low + step * random.randint(0, round((self.high - self.low) / step))
        else:
            value = random.uniform(self.low, self.high)
        # Sums and powers of fractions end a last bit outside.
        return min(max(round(value) if self.whole else value, self.low), self.high)

    def values(self) -> Iterator[Scalar]:
        """All values of a range of whole numbers or of steps, rising; of any other its ends."""
        if not self.whole and self.step is None:
            yield from {self.low: None, self.high: None}
            return
        step = self.step or 1
        for place in range(round((self.high - self.low) / step) + 1):
            value = self.low + step * place
            yield round(value) if self.whole else min(value, self.high)

    def holds(self, value: Any) -> bool:
        """Whether `value` can be drawn."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return not self.whole or value == int(value)
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9


Dimension = Choice | Number


def parse_dimension(name: str, value: Any) -> Dimension:
    """A dimension from YAML: `[a, b]`, `{choices: [a, b]}` or `{low: 1, high: 9, log: true, step: 2}`, with `when`.

    Raises:
        SpaceError: anything else.
    """
    if isinstance(value, list):
        value = {"choices": value}
    if not isinstance(value, dict):
        raise SpaceError(
            f"expected a list of choices or {{low, high}}, got {shortened(value)}; a value to keep belongs under fixed",
            "space",
            name,
        )
    keys = {"choices", "when"} if "choices" in value else {"low", "high", "log", "step", "when"}
    for key in value:
        if key not in keys:
            raise SpaceError(f"unknown key; {among(str(key), sorted(keys))}", "space", name, str(key))
    when = value.get("when") or {}
    if not isinstance(when, dict):
        raise SpaceError(f"expected name: value, got {shortened(when)}", "space", name, "when")
    if barren := [other for other, accepted in when.items() if accepted == []]:
        raise SpaceError("expected one value or more, got []", "space", name, "when", str(barren[0]))
    conditions = tuple(
        Condition(other, tuple(accepted) if isinstance(accepted, list) else (accepted,))
        for other, accepted in when.items()
    )
    try:
        if "choices" in value:
            if not isinstance(value["choices"], list):
                raise ValueError(f"choices must be a list, got {shortened(value['choices'])}")
            return Choice(tuple(map(_number, value["choices"])), conditions)
        for bound in ("low", "high"):
            if bound not in value:
                raise ValueError(f"a range needs low and high, got {shortened(value)}")
        step = value.get("step")
        if not isinstance(value.get("log", False), bool):
            raise ValueError(f"log must be true or false, got {shortened(value['log'])}")
        return Number(_number(value["low"]), _number(value["high"]), value.get("log", False), _number(step), conditions)
    except (ValueError, TypeError, OverflowError) as error:
        raise SpaceError(str(error), "space", name) from None


@dataclass(frozen=True)
class Space:
    """Dimensions by dotted name around the configuration `base`, which is trial 0."""

    base: TrialConfig
    dimensions: Mapping[str, Dimension] = field(default_factory=dict)

    @classmethod
    def around(
        cls,
        preset: TrialConfig,
        *,
        fixed: Mapping[str, Any],
        dimensions: Mapping[str, Dimension],
        modality: Modality,
    ) -> Space:
        """A checked space. Dimensions and fixed values of an encoder that `modality` leaves out are left out too.

        Raises:
            SpaceError: an unknown name, a value that its field refuses, a condition on something undrawn.
        """
        settings = flatten(preset)
        for group, names in (("fixed", fixed), ("space", dimensions)):
            for name in names:
                if name not in settings:
                    raise SpaceError(f"unknown name; {among(name, settings)}", group, name)
                if name in OF_THE_DATA:
                    raise SpaceError("it comes from the prepared data; leave it out", group, name)
        try:
            restricted = restrict(preset.model, modality)
        except ValueError as error:
            raise SpaceError(str(error), "modality") from None
        base = TrialConfig(model=restricted, train=preset.train)
        present = flatten(base)
        base = _replaced(base, {k: v for k, v in fixed.items() if k in present}, "fixed")
        space = cls(base, {name: d for name, d in dimensions.items() if name in present})
        space._check()
        return space

    def suggest(self, trial: optuna.Trial) -> TrialConfig:
        """The configuration that `trial` draws.

        Raises:
            pydantic.ValidationError: values that are each allowed but impossible together.
        """
        return self._build(lambda name, dimension: dimension.suggest(trial, name))

    def at(self, values: Mapping[str, Any]) -> TrialConfig:
        """The configuration with these values of the dimensions; those of closed dimensions do not count.

        Raises:
            KeyError: an open dimension has no value.
            pydantic.ValidationError: values that are each allowed but impossible together.
        """
        return self._build(lambda name, _: values[name])

    def draw(self, random: Random) -> TrialConfig:
        """A configuration drawn evenly, without a study. Raises pydantic.ValidationError as `at` does."""
        return self._build(lambda _, dimension: dimension.draw(random))

    def combinations(self, options: Mapping[str, Sequence[Scalar]]) -> Iterator[Flat]:
        """Every way to draw from these options of each dimension, as values of the dimensions that are then open."""

        def ways(names: list[str], values: Flat, way: Flat) -> Iterator[Flat]:
            if not names:
                yield way
                return
            name, *others = names
            if not is_open(self.dimensions[name], values):
                yield from ways(others, values, way)
                return
            for option in options[name]:
                yield from ways(others, {**values, name: option}, {**way, name: option})

        return ways(list(self.dimensions), self._values, {})

    def parameters(self, config: TrialConfig) -> Flat:
        """The inverse of `suggest`: the values a trial must be given to draw `config`.

        Values of `config` that the space cannot draw are left out, for the sampler to fill in.
        """
        values = flatten(config)
        return {
            name: values[name]
            for name, dimension in self.dimensions.items()
            if is_open(dimension, values) and dimension.holds(values[name])
        }

    @cached_property
    def _values(self) -> Flat:
        return flatten(self.base)

    def _build(self, value_of: Callable[[str, Dimension], Scalar]) -> TrialConfig:
        values = self._values.copy()
        for name, dimension in self.dimensions.items():
            if is_open(dimension, values):
                values[name] = value_of(name, dimension)
        return unflatten(values)

    def _check(self) -> None:
        values = flatten(self.base)
        seen: set[str] = set()
        for name, dimension in self.dimensions.items():
            for condition in dimension.when:
                if condition.name not in values:
                    reason = f"unknown name {condition.name}; {among(str(condition.name), values)}"
                    raise SpaceError(reason, "space", name, "when")
                if condition.name in self.dimensions and condition.name not in seen:
                    raise SpaceError(f"{condition.name} must stand before {name}", "space", name, "when")
            seen.add(name)
            ends = dimension.options if isinstance(dimension, Choice) else (dimension.low, dimension.high)
            for value in ends:
                check_value(self.base, name, value, "space", name)


def bind(config: TrialConfig, manifest: Manifest, tower: Callable[[str], TowerOnData] | None = None) -> TrialConfig:
    """The configuration on one prepared data set: its labels, its side, no token beyond its vocabulary.

    Args:
        tower: what `text.weights` names on the data.

    Raises:
        SpaceError: it reads pictures or captions that the data does not have, or a tower without weights.
    """
    image, text = config.model.image, config.model.text
    if image is not None:
        if manifest.side is None:
            raise SpaceError("the data has no pictures; search it with --modality caption or --preset captions")
        # With pictures no larger than that it is the same network as without.
        max_side = image.max_side if image.max_side < manifest.side else 0
        image = ImageConfig(**{**dict(image), "side": manifest.side, "max_side": max_side})
    if text is not None:
        if manifest.vocabulary_size is None or manifest.max_tokens is None:
            raise SpaceError("the data has no captions; search it with --modality image")
        words, tokens = manifest.vocabulary_size, manifest.max_tokens
        if words == FIRST_WORD:
            raise SpaceError("no caption of the data has a word that was kept; search it with --modality image")
        if text.encoder == "transformer":
            if tower is None or text.weights == "none":
                raise SpaceError("text.encoder transformer needs text.weights: a folder of a pretrained tower")
            text = tower(text.weights).bound(text)
        else:
            sizes = {"vocabulary_size": min(text.vocabulary_size, words), "max_tokens": min(text.max_tokens, tokens)}
            text = TextConfig(**{**dict(text), **sizes})
    # Part by part: thousands of drawn configurations are bound before a search.
    model = ModelConfig(**{**dict(config.model), "image": image, "text": text, "num_labels": len(manifest.label_ids)})
    return TrialConfig(model=model, train=config.train)


def is_open(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    """Whether all conditions of a dimension hold with these values of a configuration."""
    return all(values[condition.name] in condition.values for condition in dimension.when)


def _number(value: Any) -> Any:
    """Texts like 1e-4 are meant as numbers: a quoted one, and those in run.json of a reader of YAML 1.1."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _replaced(base: TrialConfig, changes: Mapping[str, Any], group: str) -> TrialConfig:
    for name, value in changes.items():
        check_value(base, name, value, group, name)
    try:
        return replace(base, changes)
    except ValidationError as error:
        raise SpaceError(complaint(error), group) from None


def check_value(base: TrialConfig, name: str, value: Any, *location: str) -> None:
    """Refuses a value that its own field refuses; what is impossible only together shows when it is drawn."""
    try:
        replace(base, {name: value})
    except ValidationError as error:
        path = tuple(name.split("."))
        for detail in error.errors():
            if tuple(str(step) for step in detail["loc"])[-len(path) :] == path:
                message = in_words(detail["msg"])
                raise SpaceError(f"{message}, got {shortened(value)}", *location) from None
