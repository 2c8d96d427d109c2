"""A configuration as dotted names and values, as searches, records and options write it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from captune.model.config import TrialConfig

Flat = dict[str, Any]


def flatten(config: TrialConfig) -> Flat:
    """Dotted names to values; the model's own names stand at the top. An absent encoder is one key with None."""
    return {**_dotted(config.model.model_dump(), ""), **_dotted(config.train.model_dump(), "train.")}


def unflatten(flat: Mapping[str, Any]) -> TrialConfig:
    """The configuration that `flatten` turned into `flat`; missing names take their defaults."""
    nested: dict[str, Any] = {"model": {}, "train": {}}
    for name, value in flat.items():
        path = _path(name)
        node: Any = nested
        for step in path[:-1]:
            node = node.setdefault(step, {}) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[path[-1]] = value
        else:  # a setting of an encoder that is absent is an unknown name
            nested["model"][name] = value
    return TrialConfig.model_validate(nested)


@lru_cache(maxsize=1024)
def _path(name: str) -> tuple[str, ...]:
    return tuple(name.split(".")) if name.startswith("train.") else ("model", *name.split("."))


def replace(config: TrialConfig, changes: Mapping[str, Any]) -> TrialConfig:
    """A copy with dotted names changed, checked as a whole."""
    return unflatten({**flatten(config), **changes})


def _dotted(values: Mapping[str, Any], prefix: str) -> Flat:
    flat: Flat = {}
    for name, value in values.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
