"""YAML as people write settings in it: plain values, and the line of every key. What is wrong is told with its line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UsageError

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

MOST_VALUES = 10_000  # an alias counts as all that it stands for
DEEPEST = 20
_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
_PLAIN = {f"{_YAML}{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "seq", "map")}
_OLD_TRUTHS = {"yes", "no", "on", "off"}

Keys = tuple[str, ...]


class ConfigError(UsageError):
    """A setting that a person has to mend; names the file, line and key where there are any."""


class YamlFile:
    """A file of keys with values.

    Args:
        text: YAML 1.2: 1e-3 is a number, yes and no are words.
        name: what messages call it.

    Raises:
        ConfigError: no YAML, a key that stands twice or is no name, a tag of a programming language, or so many aliases
            or levels that nobody can have meant it.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._lines: dict[Keys, int] = {}
        self._count = 0
        self.content: dict[str, Any] = self._read(text)

    @classmethod
    def open(cls, path: Path) -> YamlFile:
        """The file at `path`. Raises ConfigError where it cannot be read, too."""
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise ConfigError(f"cannot read {path}: {reason}") from None

    def error(self, message: str, *location: str) -> ConfigError:
        """An error at a key, or at the nearest key around it that stands in the file."""
        nearest = location
        while nearest and nearest not in self._lines:
            nearest = nearest[:-1]
        line = f" line {self._lines[nearest]}" if nearest else ""
        return ConfigError(": ".join((f"{self.name}{line}", *location, message)))

    def _read(self, text: str) -> dict[str, Any]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError

        self._yaml = YAML(typ="safe", pure=True)
        try:
            root = self._yaml.compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._not_yaml(error.problem or error.context, mark.line + 1 if mark else None) from None
        except (YAMLError, ValueError) as error:
            raise self._not_yaml(str(error)) from None
        except RecursionError:
            raise ConfigError(
                f"{self.name}: more than {DEEPEST} levels stand inside each other; write it flat"
            ) from None
        if root is None:
            return {}
        content = self._value(root, ())
        if content is not None and not isinstance(content, dict):
            raise ConfigError(f"{self.name} line 1: expected keys with values, got {type(content).__name__}")
        return content or {}

    def _value(self, node: Node, path: Keys, depth: int = 0) -> Any:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        self._count += 1
        if self._count > MOST_VALUES:
            raise self._at(node, f"more than {MOST_VALUES} values, each alias (*name) counted as all it stands for")
        if depth > DEEPEST:
            raise self._at(
                node, f"more than {DEEPEST} levels stand inside each other, or an alias inside its own anchor"
            )
        if node.tag not in _PLAIN:
            raise self._at(node, f"tag {str(node.tag).removeprefix(_YAML)} is not for settings; write the value alone")
        if isinstance(node, SequenceNode):
            return [self._value(item, path, depth + 1) for item in node.value]
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
                raise self._at(
                    key, f"a key must be a name, got {key.value if isinstance(key.value, str) else 'a list'}"
                )
            here = (*path, key.value)
            if key.value in content:  # YAML lets the last one win without a word
                raise self._at(key, f"key {'.'.join(here)} stands here a second time; keep one")
            self._lines[here] = key.start_mark.line + 1
            content[key.value] = self._value(value, here, depth + 1)
        return inherited | content

    def _scalar(self, node: Node) -> Any:
        if node.tag == f"{_YAML}timestamp":  # a word like any other
            return str(node.value)
        if getattr(node, "style", None) is None and str(node.value).lower() in _OLD_TRUTHS:
            raise self._at(node, f"write true or false, or quote the word, got {node.value}")
        try:
            return self._yaml.constructor.construct_object(node)
        except ValueError as error:
            raise self._at(node, f"not YAML: {str(error).partition(';')[0]}") from None

    def _at(self, node: Node, message: str) -> ConfigError:
        return ConfigError(f"{self.name} line {node.start_mark.line + 1}: {message}")

    def _not_yaml(self, problem: str, line: int | None = None) -> ConfigError:
        where = self.name if line is None else f"{self.name} line {line}"
        return ConfigError(f"{where}: not YAML: {' '.join(problem.split())[:200]}")
