"""Options made of the settings' declarations: what a verb takes is written down nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

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
        class SettingsCommand(TyperCommand):
            _whole: Any = None

            @property
            def params(self) -> list[Any]:
                if self._whole is None:
                    app = typer.Typer(add_completion=False)
                    app.command()(_with_options(verb, only))
                    self._whole = typer.main.get_command(app)
                    self.callback = self._whole.callback
                return self._whole.params

            @params.setter
            def params(self, _none: list[Any]) -> None:
                """Those of `later`, below."""

        @app.command(verb.__name__, cls=SettingsCommand, help=inspect.getdoc(verb))
        def later() -> None:
            """What is called, and with what, is made when the verb is looked at."""

    return add


def _with_options(verb: Callable[..., None], only: Collection[str] | None) -> Callable[..., None]:
    """The verb with an option for each setting instead of `settings`."""
    from captune.tuner.space.config import search_settings

    settings = {setting.name.replace(".", "_"): setting for setting in search_settings().values() if setting.listed}
    settings = {key: setting for key, setting in settings.items() if only is None or setting.name in only}

    def call(**arguments: Any) -> None:
        values = {setting.name: arguments.pop(key) for key, setting in settings.items()}
        verb(**arguments, settings={name: value for name, value in values.items() if value is not None})

    own = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.name != "settings"]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own] + [_parameter(*item) for item in settings.items()]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameter(key: str, setting: Declaration) -> inspect.Parameter:
    kind = Literal[setting.choices] if setting.choices else str
    facts = [] if setting.choices else [setting.unit.form if setting.unit else setting.limits]
    facts.append("" if setting.default in (None, "none") else f"default {setting.default}")
    notes = "; ".join(fact for fact in facts if fact)
    shown = typer.Option(
        setting.flag,
        parser=None if setting.choices else _reader(setting.name),
        help=f"{setting.meaning} ({notes})" if notes else setting.meaning,
        metavar=setting.unit.metavar if setting.unit else None if setting.choices else "NUMBER",
        rich_help_panel=setting.group,
    )
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, shown]
    )


def _reader(name: str) -> Callable[[str], Any]:
    """Reads an option's text as its setting is declared; what is wrong is told before a command is sent anywhere."""
    from captune.tuner.space.config import SettingError, check_overrides

    def read(text: str) -> Any:
        try:
            return check_overrides({name: text})[name]
        except SettingError as error:
            raise typer.BadParameter(error.reason) from None

    return read
