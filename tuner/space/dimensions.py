"""The dimensions of a search space, some of them open only under a choice of another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, cast

from captune.errors import among
from captune.tuner.space.units import shortened

if TYPE_CHECKING:
    import optuna

Scalar = str | int | float | bool


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

    def nearest(self, value: Any) -> Scalar:
        """The value itself where it can be drawn; of numbers the one least far from it, of anything else the first."""
        if self.holds(value):
            return cast(Scalar, value)
        numbers = [option for option in self.options if _is_number(option)]
        if not _is_number(value) or not numbers:
            return self.options[0]
        return min(numbers, key=lambda option: abs(cast(float, option) - value))


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
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        if self.step is None:
            return not self.whole or value == int(value)
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9

    def nearest(self, value: Any) -> Scalar:
        """The value itself where it can be drawn, else the one least far from it; `low` for what is no number."""
        if self.holds(value):
            return cast(Scalar, value)
        if not _is_number(value):
            return self.low
        inside = min(max(value, self.low), self.high)
        if not self.whole and self.step is None:
            return cast(Scalar, inside)
        step = self.step or 1
        near = self.low + step * round((inside - self.low) / step)
        return round(near) if self.whole else min(near, self.high)


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


def is_open(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    """Whether all conditions of a dimension hold with these values of a configuration."""
    return all(values[condition.name] in condition.values for condition in dimension.when)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> Any:
    """Texts like 1e-4 are meant as numbers: a quoted one, and those in run.json of a reader of YAML 1.1."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
