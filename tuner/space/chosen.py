"""Configurations that people choose themselves, held against the space that they are to be tried in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from captune.errors import among
from captune.model.config import TrialConfig, complaint
from captune.model.flat import Flat, flatten, unflatten
from captune.tuner.space.declarations import configuration_settings
from captune.tuner.space.dimensions import SpaceError, is_open
from captune.tuner.space.space import Space
from captune.tuner.space.units import shortened


def parameters_of(space: Space, values: Mapping[str, Any], bound: TrialConfig | None = None) -> Flat:
    """The values a trial must be given to draw a configuration; what it does not name is as in the base of the space,
    or what the space has nearest to it.

    Args:
        values: by dotted name. A setting that is not searched may be named with the value that every trial has.
        bound: the base on the data of the search, whose values are such, too.

    Raises:
        SpaceError: an unknown name, a value outside of the space, one of a dimension that the others close, or values
            that are impossible together. Its location is the name, where it is about one.
    """
    base = flatten(space.base)
    every = [base] if bound is None else [base, flatten(bound)]
    drawn = {name: value for name, value in values.items() if _can_be_drawn(space, name, value)}
    parameters = space.nearest({**base, **drawn})
    configuration = {**base, **parameters, **values}
    for name, value in values.items():
        encoder, _, inner = name.partition(".")
        if inner and encoder in base and name in configuration_settings():
            configuration.pop(name)  # the search leaves the encoder out
            continue
        if name not in base:
            raise SpaceError(f"unknown name; {among(name, base)}", name)
        dimension, is_of_base = space.dimensions.get(name), value in [settings.get(name) for settings in every]
        if dimension is None and not is_of_base:
            raise SpaceError(
                f"it is not searched and {shortened(every[-1][name])} in every trial, got {shortened(value)}; "
                "leave it out, or give it choices under space",
                name,
            )
        if dimension is None or (is_of_base and not is_open(dimension, configuration)):
            continue
        if not dimension.holds(value):
            raise SpaceError(f"the space has {dimension.words}, got {shortened(value)}", name)
        if not is_open(dimension, configuration):
            needs = "; ".join(f"{c.name} is {' or '.join(map(str, c.values))}" for c in dimension.when)
            raise SpaceError(f"it counts only where {needs}; leave it out", name)
    try:
        unflatten(configuration)
    except ValidationError as error:
        raise SpaceError(complaint(error)) from None
    return parameters


def _can_be_drawn(space: Space, name: str, value: Any) -> bool:
    dimension = space.dimensions.get(name)
    return dimension is not None and dimension.holds(value)
