"""What is written under `fixed` and `space`, taken as it is meant; refused where it can mean nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from captune.model.flat import flatten
from captune.tuner.space.declarations import configuration_settings
from captune.tuner.space.dimensions import Condition, Dimension, Scalar, SpaceError
from captune.tuner.space.space import OF_THE_DATA, Space, check_value
from captune.tuner.space.units import shortened

MOST = 20_000  # ways to draw that are gone through
_PLACES = {"image.weights", "text.weights", "train.teacher"}  # settings that name a file or a folder
_NO_PLACES = {"none", "imagenet"}


def as_declared(fixed: Mapping[str, Any], space: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both with every value as its setting has it: 1e3 and 128.0 are whole numbers where these belong.

    Raises:
        SpaceError: a value of another kind. Unknown names and wrong forms are left to what builds the space.
    """
    dimensions = {}
    for name, dimension in space.items():
        if isinstance(dimension, list):
            dimension = _read(name, dimension, "space", name)
        elif isinstance(dimension, dict):
            dimension = dict(dimension)
            for key in ("choices", "low", "high", "step"):
                if dimension.get(key) is not None:
                    dimension[key] = _read(name, dimension[key], "space", name, key)
            if isinstance(when := dimension.get("when"), dict):
                dimension["when"] = {n: _read(n, value, "space", name, "when", n) for n, value in when.items()}
        dimensions[name] = dimension
    return {name: _read(name, value, "fixed", name) for name, value in fixed.items()}, dimensions


def chosen_as_declared(configurations: Sequence[Mapping[str, Any]], *location: str) -> list[dict[str, Any]]:
    """Configurations that people chose, with every value as its setting has it. Raises SpaceError as `as_declared`."""
    return [
        {name: _read(name, value, *location, str(place), name) for name, value in values.items()}
        for place, values in enumerate(configurations, 1)
    ]


def _read(name: str, value: Any, *location: str) -> Any:
    """A value of a setting, or a list of them."""
    if isinstance(value, list):
        return [_read(name, item, *location) for item in value]
    setting = configuration_settings().get(name)
    if setting is None:
        return value
    try:
        value = setting.read(value)
    except (ValueError, OverflowError) as error:
        raise SpaceError(str(error), *location) from None
    if name in _PLACES and value not in _NO_PLACES and Path(value).exists():
        return str(Path(value).resolve())  # workers, and a resume, are in other folders
    return value


def check(space: Space, fixed: Mapping[str, Any], *, overridden: Collection[str] = ()) -> None:
    """Refuses conditions that no draw can meet, and fixed values that none can have.

    Args:
        fixed: as the search has it.
        overridden: names whose values were given from outside: conditions on them are the file's own affair.

    Raises:
        SpaceError: it says which, with the values that can be.
    """
    for name, dimension in space.dimensions.items():
        for condition in dimension.when:
            if condition.name in OF_THE_DATA:
                raise SpaceError(f"{condition.name} comes from the prepared data", "space", name, "when")
            for value in condition.values:
                check_value(space.base, condition.name, value, "space", name, "when", condition.name)
        kept = replace(dimension, when=tuple(c for c in dimension.when if c.name not in overridden))
        if not _opens(space, name, kept):
            least = next((c for c in kept.when if not _opens(space, name, replace(kept, when=(c,)))), None)
            why = "its conditions never hold together" if least is None else _never(space, least)
            raise SpaceError(f"{why}, so {name} is never drawn", "space", name, "when")
        if name in fixed and not dimension.when and not dimension.holds(fixed[name]):
            raise SpaceError(f"it is searched, and {shortened(fixed[name])} is none of its values", "fixed", name)


def _opens(space: Space, name: str, dimension: Dimension) -> bool:
    """Whether some draw meets all conditions of a dimension."""
    involved = {name: dimension}
    for other in reversed(list(space.dimensions)):  # what a condition names stands before it
        if any(condition.name == other for one in involved.values() for condition in one.when):
            involved[other] = space.dimensions[other]
    ordered = {n: involved[n] for n in space.dimensions if n in involved}
    options = {n: _telling(n, d, [c for one in ordered.values() for c in one.when]) for n, d in ordered.items()}
    ways = list(islice(Space(space.base, ordered).combinations(options), MOST))
    return len(ways) == MOST or any(name in way for way in ways)


def _telling(name: str, dimension: Dimension, conditions: list[Condition]) -> list[Scalar]:
    """Values of a dimension by which all conditions on it are told apart: those they name, and one that none does."""
    named = dict.fromkeys(value for c in conditions if c.name == name for value in c.values)
    met = [value for value in named if dimension.countable and dimension.holds(value)]
    return [*met, *islice((value for value in dimension.values() if value not in named), 1)]


def _never(space: Space, condition: Condition) -> str:
    dimension = space.dimensions.get(condition.name)
    if dimension is None:
        values = f"{flatten(space.base)[condition.name]} in every trial"
    else:
        values = f"{dimension.words}{'' if dimension.countable else ' without steps'}"
    return f"{condition.name} is {values}, never {' or '.join(map(str, condition.values))}"
