"""Keys of search.yaml that stand where their setting does not: where they go instead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from captune.tuner.space.declarations import configuration_settings
from captune.tuner.space.dimensions import SpaceError


def at_the_top(key: str, value: Any, of_search: Collection[str]) -> str | None:
    """What is said of a key at the top that means something elsewhere; None of any other.

    Args:
        of_search: dotted names of the search's own settings.
    """
    whole = key.removeprefix("fixed.").removeprefix("space.")
    if (name := _of_search(whole, of_search)) is not None:
        return f"write it by itself, as {name}"
    settings = configuration_settings()
    for each in _names(whole, value):
        if names := " or ".join(_meant(each, settings)):
            return f"a setting of trials: write {names} under fixed, for all of them, or under space to search it"
    if example := next((name for name in settings if name.startswith(f"{whole}.")), ""):
        return f"settings of trials stand under fixed, or under space, by dotted names such as {example}"
    return None


def check_inside(groups: Mapping[str, Mapping[str, Any]], of_search: Collection[str]) -> None:
    """Raises SpaceError for the first key under `fixed` or `space` that belongs elsewhere. groups: both, by name."""
    for group, values in groups.items():
        for key, value in values.items():
            if (advice := _inside(key, value, of_search)) is not None:
                raise SpaceError(advice, group, key)


def _inside(key: str, value: Any, of_search: Collection[str]) -> str | None:
    """What is said of such a key; None of any other."""
    settings = configuration_settings()
    if key in settings:
        return None
    for each in _names(key, value):
        if (name := _of_search(each, of_search)) is not None:
            return f"a setting of the search: write {name} at the top of the file"
        if names := " or ".join(_meant(each, settings)):
            return f"names are dotted here: write {names}"
    return None


def _of_search(name: str, of_search: Collection[str]) -> str | None:
    """How a setting of the search is written at the top, by its name or the end of it."""
    meant = next(iter(_meant(name, of_search)), None)
    if meant is None:
        return None
    group, _, field = meant.rpartition(".")
    return f"{group}: {{{field}: ...}}" if group else f"{field}: ..."


def _meant(name: str, settings: Collection[str]) -> list[str]:
    """The setting of that name, or those that end with it."""
    return [name] if name in settings else [each for each in settings if each.endswith(f".{name}")]


def _names(key: str, value: Any) -> Iterator[str]:
    """Dotted names of a key and of all that stands inside it, from the outside in."""
    yield key
    if isinstance(value, dict):
        for inner, content in value.items():
            yield from _names(f"{key}.{inner}", content)
