"""What is declared of each setting: its meaning, unit, range, choices and default, read from pydantic's fields."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from captune.model.config import ModelConfig, TrainConfig
from captune.tuner.space.units import Unit, shortened

_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    dict: "names with values",
    list: "list of names with values",
}


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
        return self.kind not in (_KINDS[dict], _KINDS[list])

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace(".", "-").replace("_", "-")

    def read(self, value: Any) -> Any:
        """A value as its kind has it: 1e3, 8.0 and "8" are whole numbers where these belong, true is none of them.

        Raises:
            ValueError: it is of another kind. Its range and its choices are not looked at.
        """
        if self.kind == _KINDS[bool] and not isinstance(value, bool):
            raise ValueError(f"true or false is meant, got {shortened(value)}")
        if self.kind not in (_KINDS[int], _KINDS[float]):
            return value
        number = _number(value)
        if number is None:
            raise ValueError(f"a {self.kind} is meant, and a finite one, got {shortened(value)}")
        if self.kind == _KINDS[int] and number != int(number):
            raise ValueError(f"a whole number is meant, got {shortened(value)}")
        return int(number) if self.kind == _KINDS[int] else number

    def show(self, value: Any) -> str:
        """A value as people write it."""
        if value is None:
            return "none"
        if isinstance(value, bool):
            return str(value).lower()
        return self.unit.show(value) if self.unit else str(value)


def declared(model: type[BaseModel], prefix: str = "") -> dict[str, Declaration]:
    """All settings of a model and of the models in it, by dotted name."""
    settings: dict[str, Declaration] = {}
    for name, field in model.model_fields.items():
        kinds = (kind for kind in _kinds(field.annotation) if isinstance(kind, type))
        inner = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
        if inner is not None:
            settings |= declared(inner, f"{prefix}{name}.")
        else:
            settings[f"{prefix}{name}"] = _declaration(f"{prefix}{name}", field)
    return settings


@cache
def configuration_settings() -> dict[str, Declaration]:
    """What describes a network and its training, by the dotted names of `fixed` and `space`."""
    return {**declared(ModelConfig), **declared(TrainConfig, "train.")}


def _number(value: Any) -> int | float | None:
    """A number, quoted or not, of any type of number; None for anything else, infinity, and more than 64 bits."""
    for kind in (int, float) if isinstance(value, str) else ():
        with suppress(ValueError):
            value = kind(value)
            break
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    plain = int(value) if isinstance(value, Integral) else float(value)
    return plain if -(2**63) <= plain < 2**63 else None


def _declaration(name: str, field: FieldInfo) -> Declaration:
    marks = [*field.metadata, *_marks(field.annotation)]
    unit = next((mark for mark in marks if isinstance(mark, Unit)), None)
    group = next((mark.name for mark in marks if isinstance(mark, Group)), "")
    kinds = [kind for kind in _kinds(field.annotation) if kind is not type(None)]
    choices = tuple(get_args(kinds[0])) if get_origin(kinds[0]) is Literal else ()
    kind = unit.form if unit else "one of" if choices else _KINDS[get_origin(kinds[0]) or kinds[0]]
    limits = "" if choices or unit else _range(marks)
    declaration = Declaration(name, group, field.description or "", kind, limits, choices, None, unit)
    if field.default is PydanticUndefined:
        return declaration
    return replace(declaration, default=declaration.show(field.default))


def _range(marks: list[Any]) -> str:
    """Bounds in words: 'from 1 to 1000', 'from 0 below 1'."""
    words = {"gt": "above", "ge": "from", "le": "to", "lt": "below"}
    bounds = [(word, getattr(mark, kind)) for kind, word in words.items() for mark in marks if hasattr(mark, kind)]
    return " ".join(f"{word} {bound if isinstance(bound, int) else format(bound, 'g')}" for word, bound in bounds)


def _kinds(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without what is said about them."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    return [kind for part in _parts(annotation) for kind in _kinds(part)] or [annotation]


def _marks(annotation: Any) -> list[Any]:
    """What an annotation says about its types."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        return [*marks, *_marks(inner)]
    return [mark for part in _parts(annotation) for mark in _marks(part)]


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
