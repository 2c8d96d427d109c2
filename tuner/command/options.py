"""Options made of the settings' declarations: what a verb takes is written down nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from captune.tuner.command.console import fail

if TYPE_CHECKING:
    from captune.tuner.space.declarations import Declaration


def settings_verb(app: typer.Typer, only: Collection[str] | None = None) -> Callable[[Callable[..., None]], None]:
    """Adds a verb whose parameter `settings` becomes an option for each setting of a search.

    The verb is called with the settings that were given, checked, by dotted name. The declarations are loaded when the
    verb is first looked at closely, so that `captune --help` does not wait for them.

    Args:
        only: names of the settings it takes; None for all that an option can give.
    """

    def add(verb: Callable[..., None]) -> None:
        own = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.name != "settings"]

        class SettingsCommand(TyperCommand):
            _complete: list[Any] | None = None

            @property
            def params(self) -> list[Any]:
                if self._complete is None:
                    whole = typer.main.get_command(_app(_with_options(verb, own, only)))
                    self._complete, self.callback = whole.params, whole.callback
                return self._complete

            @params.setter
            def params(self, _own: list[Any]) -> None:
                """What `search --help` shows is made later."""

        app.command(verb.__name__, cls=SettingsCommand, help=inspect.getdoc(verb))(_with_signature(verb, own))

    return add


def _with_options(
    verb: Callable[..., None], own: list[inspect.Parameter], only: Collection[str] | None
) -> Callable[..., None]:
    """The verb with an option for each setting instead of `settings`."""
    from captune.tuner.space.config import search_settings

    options = {option.name.replace(".", "_"): option for option in search_settings().values() if option.listed}
    chosen = {key: option for key, option in options.items() if only is None or option.name in only}

    def call(**values: Any) -> None:
        settings = checked({chosen[key].name: values.pop(key) for key in chosen})
        verb(**values, settings=settings)

    return _with_signature(call, [*own, *(_parameter(key, option) for key, option in chosen.items())])


def checked(texts: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, from the texts of their options. A wrong one ends the command."""
    from captune.tuner.space.config import SettingError, check_overrides

    try:
        return check_overrides(texts)
    except SettingError as error:
        fail(f"{_flag(error.setting)}: {error.reason}")


def _parameter(key: str, option: Declaration) -> inspect.Parameter:
    kind = Literal[option.choices] if option.choices else str
    facts = [] if option.choices else [option.unit.form if option.unit else option.limits]
    facts.append("" if option.default in (None, "none") else f"default {option.default}")
    notes = "; ".join(fact for fact in facts if fact)
    shown = typer.Option(
        _flag(option.name),
        help=f"{option.meaning} ({notes})" if notes else option.meaning,
        metavar=option.unit.metavar if option.unit else None if option.choices else "NUMBER",
        rich_help_panel=option.group,
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, shown]
    )


def _with_signature(function: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    def verb(**values: Any) -> None:
        function(**values)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return verb


def _app(function: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return app


def _flag(name: str) -> str:
    return "--" + name.replace(".", "-").replace("_", "-")
