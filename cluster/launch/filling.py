"""Fills the template files beside this one. Whatever a value holds, it stays one word or one value.

A template names values as `<name>`. In a text each is quoted for the shell, a tuple of words as so many words. In YAML
a text that is a name alone becomes the value itself, of whatever type; the file is filled as YAML has read it, and
written by YAML, so that nothing in a value is taken for syntax.

What needs a value that is None is left out: a line of a text, a key or an element of YAML, whatever is empty without
them, and a mapping whose `when` is None.
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from captune.cluster.launch.options import Options

_NAME = re.compile(r"<(\w+)>")
_LIKE_OTHERS = re.compile(r"[-+.\d]|[yYnN]$")
Values = dict[str, Any]


def script(template: str, options: Options, values: Values) -> str:
    """A filled script."""
    return _text(_read(template), values | _about(options))


def document(template: str, options: Options, values: Values) -> str:
    """A filled YAML file, below the comments that it begins with."""
    import yaml

    text = _read(template)
    comments = re.match(r"(#.*\n)*", text)
    assert comments is not None

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # values stand in several places, each written out
            return True

    def quoted(dumper: Dumper, value: str) -> yaml.ScalarNode:
        # Others than PyYAML take more texts for numbers and truth values, such as 1e3 and y.
        style = "|" if "\n" in value else "'" if _LIKE_OTHERS.match(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, quoted)
    filled = _filled(yaml.safe_load(text), values)
    content = yaml.dump(filled, Dumper=Dumper, sort_keys=False, width=1_000_000, allow_unicode=True)
    return _text(comments[0], values | _about(options)) + content


def part(template: str, values: Values) -> dict[str, Any]:
    """The filled values of a file that is part of another."""
    import yaml

    return _filled(yaml.safe_load(_read(template)), values)


def _filled(node: Any, values: Values) -> Any:
    if isinstance(node, str):
        alone = _NAME.fullmatch(node)
        return values[alone[1]] if alone else _text(node, values) or None
    if isinstance(node, dict):
        if "when" in node and _filled(node["when"], values) is None:
            return None
        pairs = {key: _filled(value, values) for key, value in node.items() if key != "when"}
        return {key: value for key, value in pairs.items() if value is not None} or (None if node else {})
    if isinstance(node, list):
        return [value for each in node if (value := _filled(each, values)) is not None] or (None if node else [])
    return node


def _text(text: str, values: Values) -> str:
    """Lines without those of which a value is None."""
    lines = text.splitlines(keepends=True)
    return "".join(
        _NAME.sub(lambda name: _quoted(values[name[1]]), line)
        for line in lines
        if all(values[name] is not None for name in _NAME.findall(line))
    )


def _quoted(value: object) -> str:
    return shlex.join(value) if isinstance(value, tuple) else shlex.quote(str(value))


def _about(options: Options) -> dict[str, Any]:
    return {"version": version("captune"), "command": tuple(options.command())}


def _read(template: str) -> str:
    return (Path(__file__).parent / template).read_text(encoding="utf-8")
