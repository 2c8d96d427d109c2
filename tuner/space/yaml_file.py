"""YAML as people write settings in it: plain values, and the line of every key. What is wrong is told with its line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UsageError, one_line

if TYPE_CHECKING:
    from ruamel.yaml.events import Event
    from ruamel.yaml.nodes import Node

MOST_BYTES = 2**20
MOST_VALUES = 10_000  # an alias counts as all that it stands for
DEEPEST = 20
_LARGEST = 2**63
_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
_VALUES = {f"{_YAML}{kind}" for kind in ("null", "bool", "int", "float", "str")}
_OLD_TRUTHS = {"yes", "no", "on", "off"}

Keys = tuple[str, ...]


class ConfigError(UsageError):
    """A setting that a person has to mend; names the file, line and key where there are any."""


class YamlFile:
    """A file of keys with values.

    Args:
        text: YAML 1.2: 1e-3 is a number, yes and no are words.
        name: what messages call it.
        several: it may be a list of such, and its content has them by their places, "1" on, also where it is one.

    Raises:
        ConfigError: no YAML, a key that stands twice or is no name, a tag, a number of more than 64 bits, or so many
            aliases or levels that nobody can have meant it.
    """

    def __init__(self, text: str, name: str, *, several: bool = False) -> None:
        self.name = name
        self._several = several
        self._is_one = False  # of what may be several: its place is not told
        self._lines: dict[Keys, int] = {}
        self._count = 0
        self.content: dict[str, Any] = self._read(text)

    @classmethod
    def open(cls, path: Path, *, several: bool = False) -> YamlFile:
        """The file at `path`. Raises ConfigError where it cannot be read, too."""
        try:
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            text = content.decode()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"cannot read {path}: {reason}") from None
        if len(content) > MOST_BYTES:
            raise ConfigError(f"{path} is larger than {MOST_BYTES // 2**20} MiB, as no settings are")
        return cls(text, str(path), several=several)

    def error(self, message: str, *location: str) -> ConfigError:
        """An error at a key, or at the nearest key around it that stands in the file."""
        nearest = location
        while nearest and nearest not in self._lines:
            nearest = nearest[:-1]
        line = f" line {self._lines[nearest]}" if nearest else ""
        named = location[1:] if self._is_one else location
        return ConfigError(": ".join((f"{self.name}{line}", *(one_line(key, 80) for key in named), message)))

    def _read(self, text: str) -> dict[str, Any]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
        from ruamel.yaml.nodes import SequenceNode

        self._yaml = YAML(typ="safe", pure=True)
        try:
            self._check_events(self._yaml.parse(text))
            root = self._yaml.compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._not_yaml(error.problem or error.context, mark.line + 1 if mark else None) from None
        except ConfigError:
            raise
        except (YAMLError, ValueError) as error:
            raise self._not_yaml(str(error)) from None
        if root is None:
            return {}
        if not self._several:
            return self._keys(root, ()) or {}
        self._is_one = not isinstance(root, SequenceNode)
        roots = [root] if self._is_one else root.value
        return {str(place): self._keys(item, (str(place),)) for place, item in enumerate(roots, 1)}

    def _keys(self, node: Node, path: Keys) -> dict[str, Any] | None:
        content = self._item(node, path, 0)
        if isinstance(content, dict) or (content is None and not self._several):
            return content
        raise self._at(node, f"expected keys with values, got {type(content).__name__}")

    def _check_events(self, events: Iterable[Event]) -> None:
        """Refuses, before anything is built of it, what has too many levels or values, tags, or is another YAML."""
        from ruamel.yaml.events import (
            CollectionEndEvent,
            CollectionStartEvent,
            DocumentStartEvent,
            NodeEvent,
            ScalarEvent,
        )

        depth = count = 0
        anchors: set[str] = set()
        for event in events:
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            count += isinstance(event, NodeEvent)
            if depth > DEEPEST:
                raise self._at(event, f"more than {DEEPEST} levels stand inside each other; write it flat")
            if count > MOST_VALUES:
                raise self._at(event, f"more than {MOST_VALUES} values")
            if isinstance(event, CollectionStartEvent | ScalarEvent):
                if event.tag is not None:
                    tag = one_line(str(event.tag).removeprefix(_YAML), 80)
                    raise self._at(event, f"tag {tag} is not for settings; write the value alone")
                if event.anchor in anchors:
                    raise self._at(event, f"anchor &{one_line(event.anchor, 80)} stands here a second time")
                anchors |= {event.anchor} - {None}
            if isinstance(event, DocumentStartEvent) and event.version not in (None, (1, 2)):
                raise self._at(event, "settings are YAML 1.2; leave the %YAML line out")

    def _value(self, node: Node, path: Keys, depth: int = 0) -> Any:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        self._count += 1
        if self._count > MOST_VALUES:
            raise self._at(node, f"more than {MOST_VALUES} values, each alias (*name) counted as all it stands for")
        if depth > DEEPEST:
            raise self._at(
                node, f"more than {DEEPEST} levels stand inside each other, or an alias inside its own anchor"
            )
        if isinstance(node, SequenceNode):
            return [self._item(item, (*path, str(place)), depth + 1) for place, item in enumerate(node.value, 1)]
        if not isinstance(node, MappingNode):
            return self._scalar(node)
        content: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for merged in value.value if isinstance(value, SequenceNode) else [value]:
                    if not isinstance(merged, MappingNode):
                        raise self._at(merged, "<< takes keys with values")
                    inherited = self._value(merged, path, depth + 1) | inherited
                continue
            if key.tag != f"{_YAML}str":
                got = one_line(key.value, 80) if isinstance(key.value, str) else "a list or keys with values"
                raise self._at(key, f"a key must be a name, got {got}")
            here = (*path, key.value)
            if key.value in content:  # YAML lets the last one win without a word
                raise self._at(key, f"key {one_line('.'.join(here), 80)} stands here a second time; keep one")
            self._lines[here] = key.start_mark.line + 1
            content[key.value] = self._value(value, here, depth + 1)
        return inherited | content

    def _item(self, node: Node, path: Keys, depth: int) -> Any:
        """A value of a list, whose place counts from 1 and is a key like any other."""
        self._lines[path] = node.start_mark.line + 1
        return self._value(node, path, depth)

    def _scalar(self, node: Node) -> Any:
        if node.tag not in _VALUES:  # 2001-01-01, = and << are words like any other
            return str(node.value)
        if getattr(node, "style", None) is None and str(node.value).lower() in _OLD_TRUTHS:
            raise self._at(node, f"write true or false, or quote the word, got {node.value}")
        try:
            value = self._yaml.constructor.construct_object(node)
        except ValueError as error:
            raise self._at(node, f"not YAML: {str(error).partition(';')[0]}") from None
        if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
            raise self._at(node, f"a number of more than 64 bits: {one_line(node.value, 60)}")
        return value

    def _at(self, place: Node | Event, message: str) -> ConfigError:
        return ConfigError(f"{self.name} line {place.start_mark.line + 1}: {message}")

    def _not_yaml(self, problem: str, line: int | None = None) -> ConfigError:
        where = self.name if line is None else f"{self.name} line {line}"
        return ConfigError(f"{where}: not YAML: {' '.join(problem.split())[:200]}")
