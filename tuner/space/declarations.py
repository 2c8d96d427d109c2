"""What is declared of each setting: its meaning, unit, range, choices and default, read from pydantic's fields."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from captune.tuner.space.units import Unit

_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "names with values"}


@dataclass(frozen=True)
class Group:
    """Under which heading a setting stands in help and reference."""

    name: str


@dataclass(frozen=True)
class Declaration:
    """One setting as it is declared.

    Args:
        name: dotted.
        group: its heading.
        meaning: what it is, in a line.
        kind: what a value is, in words.
        limits: the values allowed, in words; empty where all are.
        choices: all values, where they are texts that can be listed.
        default: as people write it; None where there is no default of its own.
        unit: how its values are written, where they have a unit.
    """

    name: str
    group: str
    meaning: str
    kind: str
    limits: str
    choices: tuple[str, ...]
    default: str | None
    unit: Unit | None

    @property
    def listed(self) -> bool:
        """Whether it is one value, which an option can give, not a table of names."""
        return self.kind != _KINDS[dict]

    def show(self, value: Any) -> str:
        """A value as people write it."""
        if value is None:
            return "none"
        if isinstance(value, bool):
            return str(value).lower()
        return self.unit.show(value) if self.unit else str(value)


def declared(model: type[BaseModel], prefix: str = "") -> dict[str, Declaration]:
    """All settings of a model and of the models in it, by dotted name."""
    found: dict[str, Declaration] = {}
    for name, field in model.model_fields.items():
        inner = next((kind for kind in _kinds(field.annotation) if isinstance(kind, type) and _is_model(kind)), None)
        if inner is not None:
            found |= declared(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = _declaration(f"{prefix}{name}", field)
    return found


def _declaration(name: str, field: FieldInfo) -> Declaration:
    marks = [*field.metadata, *_marks(field.annotation)]
    unit = next((mark for mark in marks if isinstance(mark, Unit)), None)
    group = next((mark.name for mark in marks if isinstance(mark, Group)), "")
    kinds = [kind for kind in _kinds(field.annotation) if kind is not type(None)]
    choices = tuple(get_args(kinds[0])) if get_origin(kinds[0]) is Literal else ()
    kind = unit.form if unit else "one of" if choices else _KINDS[get_origin(kinds[0]) or kinds[0]]
    limits = ", ".join(choices) or (unit.limits if unit else "") or _range(marks)
    declaration = Declaration(name, group, field.description or "", kind, limits, choices, None, unit)
    if field.default is PydanticUndefined:
        return declaration
    return replace(declaration, default=declaration.show(field.default))


def _range(marks: list[Any]) -> str:
    low = next((f"from {mark.ge:g}" for mark in marks if isinstance(mark, annotated_types.Ge)), None)
    low = next((f"above {mark.gt:g}" for mark in marks if isinstance(mark, annotated_types.Gt)), low)
    high = next((f"to {_plain(mark.le)}" for mark in marks if isinstance(mark, annotated_types.Le)), None)
    high = next((f"below {_plain(mark.lt)}" for mark in marks if isinstance(mark, annotated_types.Lt)), high)
    return " ".join(part for part in (low, high) if part)


def _plain(bound: Any) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without what is said about them."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def _marks(annotation: Any) -> list[Any]:
    """What an annotation says about its types."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return [*marks, *_marks(inner)]
    if get_origin(annotation) in (Union, UnionType):
        return [mark for part in get_args(annotation) for mark in _marks(part)]
    return []


def _is_model(kind: type) -> bool:
    return issubclass(kind, BaseModel)
