"""What is searched, said in Python: dimensions by dotted name around a preset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

from captune.tuner.api.caller import left_as_it_was
from captune.tuner.space.config import read_search, shipped_space
from captune.tuner.space.yaml_file import ConfigError, YamlFile

When = Mapping[str, Any]
"""Names to values, or lists of values, of other settings under which alone a dimension is drawn."""


@dataclass(frozen=True)
class Float:
    """A number from `low` to `high`, both included.

    Args:
        log: drawn evenly on a logarithmic scale; `low` is then above 0.
        step: between values, counted from `low`; not with `log`.
        when: see When.

    Example:
        >>> captune.Float(1e-3, 1e-2, log=True)
        Float(low=0.001, high=0.01, log=True, step=None, when=None)
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When | None = None

    def setting(self) -> dict[str, Any]:
        """As search.yaml has it."""
        ends = (self.low, self.high)
        low, high = (float(end) if isinstance(end, Integral) and abs(end) < 2**63 else end for end in ends)
        return _without_none(low=low, high=high, log=self.log, step=self.step, when=self.when)


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`, both included. See Float.

    Example:
        >>> captune.Int(1, 3, when={"text.encoder": "convolution"}).setting()
        {'low': 1, 'high': 3, 'when': {'text.encoder': 'convolution'}}
    """

    low: int
    high: int
    log: bool = False
    step: int | None = None
    when: When | None = None

    def setting(self) -> dict[str, Any]:
        """As search.yaml has it."""
        return _without_none(low=self.low, high=self.high, log=self.log, step=self.step, when=self.when)


@dataclass(frozen=True)
class Choice:
    """One of `options`: texts, numbers, True or False. See Float for `when`.

    Example:
        >>> captune.Choice(["average", "convolution"]).setting()
        {'choices': ['average', 'convolution']}
    """

    options: Sequence[str | int | float | bool]
    when: When | None = None

    def setting(self) -> dict[str, Any]:
        """As search.yaml has it."""
        return _without_none(choices=_as_list(self.options), when=self.when)


Dimension = Float | Int | Choice


@dataclass(frozen=True)
class SearchSpace:
    """What `captune.space` makes. `dimensions` and `fixed` are as search.yaml has them.

    Example:
        >>> captune.space("captions").dimensions["text.dense"]
        [0, 128, 256]
    """

    preset: str
    dimensions: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


@left_as_it_was()
def space(
    preset: str,
    dimensions: Mapping[str, Dimension | Sequence[Any]] | None = None,
    *,
    fixed: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """Settings that a search draws, around a preset, which is its trial 0, or what is nearest to it.

    Args:
        preset: paper, captions, compact, photos or full.
        dimensions: dotted names, as `captune.explain()` lists them, to Float, Int, Choice or a list of choices, and
            nothing else is searched: what is not named is as in the preset. None for the space that ships with it.
        fixed: dotted names to values that differ from the preset and are not searched; those that ship with the preset
            where neither is given.

    Raises:
        ConfigError: an unknown preset or name, or a value that its setting refuses; the name is in the message.

    Example:
        >>> captune.space("compact", {"train.learning_rate": captune.Float(1e-3, 1e-2, log=True)}).dimensions
        {'train.learning_rate': {'low': 0.001, 'high': 0.01, 'log': True}}
    """
    if dimensions is None and fixed is None:
        shipped = YamlFile(shipped_space(preset), f"the space of preset {preset}").content
        return SearchSpace(preset, shipped.get("space", {}), shipped.get("fixed", {}))
    for name, value in (dimensions or {}).items():
        if isinstance(value, tuple):
            raise ConfigError(f"space: {name}: a list is a choice, and Float or Int a range; got the tuple {value!r}")
    settings = {
        name: value.setting() if isinstance(value, Dimension) else _as_list(value)
        for name, value in (dimensions or {}).items()
    }
    made = SearchSpace(preset, settings, dict(fixed or {}))
    drawn = {"space": dict(made.dimensions), "fixed": dict(made.fixed), "trials": 1}
    read_search(None, preset=preset, default_preset=preset, overrides=drawn)  # refuses what no search could take
    return made


def search_yaml(preset: str = "compact") -> str:
    """A search.yaml to edit: what ships for a preset, as text. Raises ConfigError for an unknown preset.

    Example:
        >>> "preset: captions" in captune.search_yaml("captions")
        True
    """
    return shipped_space(preset)


@left_as_it_was()
def explain(name: str | None = None) -> str:
    """What a setting is: its unit, its range or choices, its default; or a list of all, a line each, for None.

    Raises:
        ConfigError: no such setting; the message names the closest ones.

    Example:
        >>> print(captune.explain("train.schedule"))
        train.schedule: cosine falls to zero at the last epoch
          values   constant, cosine
          default  constant
          presets  captions cosine, compact cosine, photos cosine, full cosine
          searched paper one of constant, cosine
          set by   `fixed` in search.yaml for every trial, or `space` to search it
    """
    from captune.tuner.space.explain import explanation, listing

    return listing() if name is None else explanation(name)


def _as_list(options: Any) -> Any:
    """Anything that holds options, an array too; what holds none stays as it is, to be refused by its name."""
    return options if isinstance(options, str | Mapping) or not isinstance(options, Iterable) else list(options)


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value is not False}
