"""What each setting is, in words: for `captune explain`, and for the reference in README.md beside this file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from captune.errors import among
from captune.model.flat import flatten
from captune.model.presets import PRESETS
from captune.tuner.space.config import SearchConfig, search_settings, shipped_search
from captune.tuner.space.declarations import Declaration, configuration_settings, declared
from captune.tuner.space.dimensions import parse_dimension
from captune.tuner.space.space import OF_THE_DATA
from captune.tuner.space.yaml_file import ConfigError

README = Path(__file__).with_name("README.md")
_BEGIN, _END = "<!-- generated: make reference -->", "<!-- end of what is generated -->"
_OF_PRESETS = {"preset", "modality", "space", "fixed", "storage", "trials"}
"""What the space of a preset says itself."""
_PARTS = {"image": "Image encoder", "text": "Text encoder", "train.augment": "Augmentation", "train": "Training"}


def explanation(name: str) -> str:
    """One setting in a few lines.

    Args:
        name: dotted, of a search (`time_limit`, `halving.grace`) or of a configuration (`train.learning_rate`); or the
            end of one (`learning_rate`) that no other setting has; or the part (`text`) that several are of, which are
            listed.

    Raises:
        ConfigError: no such setting, or several; it names the closest ones.
    """
    search, configuration = search_settings(), configuration_settings()
    known = {**configuration, **search}
    ends = [] if name in known else [each for each in known if each.endswith(f".{name}")]
    name = ends[0] if len(ends) == 1 else name
    setting = configuration.get(name) or search.get(name)
    if setting is None:
        inside = [each for each in known.values() if each.name.startswith(f"{name.removesuffix('.')}.")]
        if inside:
            return _listed(inside)
        if ends:
            raise ConfigError(f"setting {name!r} may be {' or '.join(ends)}; write it whole")
        raise ConfigError(f"no setting {name!r}; {among(name, known)}; `captune explain` lists all")
    rows = [("values", values_of(setting)), ("default", setting.default)]
    if name in configuration:
        rows += [("presets", _presets(setting)), ("fixed", _fixed(setting))]
        rows += [("searched", _searched(name)), ("set by", _place(name))]
    if name in search:
        rows += [("presets", _search_presets(setting)), ("set by", _doors(setting))]
    return "\n".join([f"{name}: {setting.meaning}", *(f"  {head:8} {text}" for head, text in rows if text)])


def listing() -> str:
    """All settings, a line each, under the headings of their groups."""
    return "\n\n".join(f"{title}\n{_listed(settings)}" for title, settings in _sections())


def _listed(settings: Sequence[Declaration]) -> str:
    """A line each."""
    width = max(len(setting.name) for setting in settings)
    return "\n".join(f"  {setting.name:{width}}  {setting.meaning}" for setting in settings)


def reference() -> str:
    """The tables of README.md: every setting with its values, default and meaning."""
    parts = []
    for title, settings in _sections():
        rows = [
            f"| `{setting.name}` | {values_of(setting)} | {setting.default or ''} | {setting.meaning} |"
            for setting in settings
        ]
        parts.append("\n".join([f"### {title}", "", "| name | values | default | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts)


def with_reference(text: str) -> str:
    """README.md's text with its generated part as it is now."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{reference()}\n\n{_END}{after}"


def values_of(setting: Declaration) -> str:
    """Kind and range of a setting's values."""
    if setting.choices:
        return ", ".join(setting.choices)
    return f"{setting.kind}, {setting.limits}" if setting.limits else setting.kind


def _sections() -> Iterator[tuple[str, list[Declaration]]]:
    for group, settings in groupby(declared(SearchConfig).values(), key=lambda setting: setting.group):
        yield group, list(settings)
    configuration = configuration_settings().values()
    for part in ("image", "text", "", "train", "train.augment"):
        inside = [setting for setting in configuration if setting.name.rpartition(".")[0] == part]
        yield f"{_PARTS.get(part, 'Network')}, under `fixed` or `space`", inside


def _presets(setting: Declaration) -> str:
    presets = {name: flatten(preset) for name, preset in PRESETS.items()}
    values = {name: setting.show(flat[setting.name]) for name, flat in presets.items() if setting.name in flat}
    return ", ".join(f"{name} {value}" for name, value in values.items() if value != setting.default)


def _fixed(setting: Declaration) -> str:
    """What the spaces of presets fix it to."""
    fixed = {preset: shipped_search(preset).fixed for preset in PRESETS}
    values = ((preset, each[setting.name]) for preset, each in fixed.items() if setting.name in each)
    return ", ".join(f"{preset} {setting.show(value)}" for preset, value in values)


def _searched(name: str) -> str:
    """In which ranges the spaces of presets have it."""
    spaces = {preset: shipped_search(preset).space for preset in PRESETS}
    ranges = ((preset, parse_dimension(name, space[name]).words) for preset, space in spaces.items() if name in space)
    return "; ".join(f"{preset} {words}" for preset, words in ranges)


def _search_presets(setting: Declaration) -> str:
    if setting.name in _OF_PRESETS:
        return ""
    shipped = ((preset, shipped_search(preset)) for preset in PRESETS)
    values = ((preset, setting.show(attrgetter(setting.name)(search))) for preset, search in shipped)
    return ", ".join(f"{preset} {value}" for preset, value in values if value != setting.default)


def _place(name: str) -> str:
    if name in OF_THE_DATA:
        return "the prepared data; neither fixed nor searched"
    return "`fixed` in search.yaml for every trial, or `space` to search it"


def _doors(setting: Declaration) -> str:
    key = setting.name.replace(".", ": ")
    if not setting.listed:
        return f"`{key}` in search.yaml"
    if setting.name == "storage":
        return "--storage, for every trial"
    return f"`{key}` in search.yaml, or {setting.flag}; it is not searched"


if __name__ == "__main__":
    README.write_text(with_reference(README.read_text(encoding="utf-8")), encoding="utf-8")
