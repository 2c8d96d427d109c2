"""Keys of search.yaml that stand where their setting does not: where they go instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from captune.tuner.space.declarations import configuration_settings


def at_the_top(key: str, value: Any, of_search: Collection[str]) -> str | None:
    """What is said of a key at the top that means something elsewhere; None of any other.

    Args:
        of_search: dotted names of the search's own settings.
    """
    whole = key.removeprefix("fixed.").removeprefix("space.")
    if inside_group := [name for name in _meant(whole, of_search) if "." in name]:
        group, _, field = inside_group[0].partition(".")
        return f"write it inside {group}, as {group}: {{{field}: ...}}"
    settings = configuration_settings()
    for each in (f"{whole}.{inner}" for inner in _dotted(value)) if isinstance(value, dict) else (whole,):
        if names := " or ".join(_meant(each, settings)):
            return f"a setting of trials: write {names} under fixed, for all of them, or under space to search it"
    if example := next((name for name in settings if name.startswith(f"{whole}.")), ""):
        return f"settings of trials stand under fixed, or under space, by dotted names such as {example}"
    return None


def inside(key: str, value: Any, of_search: Collection[str]) -> str | None:
    """The same of a key under `fixed` or `space`."""
    settings = configuration_settings()
    if key in settings:
        return None
    if key in of_search:
        return f"a setting of the search: write {key} at the top of the file"
    nested = (f"{key}.{inner}" for inner in _dotted(value)) if isinstance(value, dict) else ()
    if (name := next((name for name in nested if name in settings), None)) is not None:
        return f"names are dotted here: write {name}"
    return None


def _meant(name: str, settings: Collection[str]) -> list[str]:
    """The setting of that name, or those that end with it."""
    return [name] if name in settings else [each for each in settings if each.endswith(f".{name}")]


def _dotted(values: Mapping[Any, Any]) -> list[str]:
    """Names of values inside each other."""
    return [
        f"{name}.{inner}" if inner else str(name)
        for name, value in values.items()
        for inner in (_dotted(value) if isinstance(value, dict) else [""])
    ]
