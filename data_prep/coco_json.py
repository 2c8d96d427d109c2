"""COCO annotations as they lie on disk: which files, which lists in them, and each entry by its name for messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.data_prep.records import DataError, shown
from captune.data_prep.source import Source, read_source
from captune.reading import TwiceError, each_once

_ENTRY = {"images": "image", "annotations": "annotation", "categories": "category"}


def coco_files(path: Path) -> tuple[Path, Path | None]:
    """The instances file and the captions file, where there is one, of path.

    A file is the instances, whatever it is called, and captionsX.json lies beside instancesX.json. A folder has one
    instances*.json, or only one JSON of another name, and at most one captions*.json. Raises DataError for others.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path")
    if not path.is_dir():
        beside = path.with_name("captions" + path.name.removeprefix("instances"))
        return path, beside if path.name.startswith("instances") and beside.is_file() else None
    captions = sorted(path.glob("captions*.json"))
    instances = sorted(path.glob("instances*.json")) or sorted({*path.glob("*.json")} - {*captions})
    if len(instances) != 1 or len(captions) > 1:
        raise DataError(
            f"{path} must hold one instances*.json, or one JSON of another name, and 0 or 1 captions*.json; it has"
            f" {len(instances)} instances and {len(captions)} captions: name the instances file"
        )
    return instances[0], captions[0] if captions else None


@dataclass(frozen=True)
class Document:
    """A JSON file that holds the lists that were asked for."""

    path: Path
    source: Source
    content: dict[str, list[Any]]

    @classmethod
    def read(cls, path: Path, *lists: str) -> Document:
        """Raises DataError: it cannot be read, is no JSON, or lacks one of the lists."""
        source = read_source(path)
        try:
            content = json.loads(source.text, object_pairs_hook=each_once)
        except TwiceError as error:
            raise DataError(f"{path}: {error}; keep one of both") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
        except ValueError:  # Python reads no number of more than 4,300 digits
            number = max(re.finditer(r"\d+", source.text), key=lambda match: len(match[0]))
            line = source.text.count("\n", 0, number.start()) + 1
            raise DataError(f"{path}, line {line}: a number of {len(number[0])} digits is no id and no size") from None
        except RecursionError:
            raise DataError(f"{path} is not COCO annotations: nested too deep") from None
        for name in lists:
            if not isinstance(content, dict) or not isinstance(content.get(name), list):
                raise DataError(f"{path} is not COCO annotations: it has no list {name!r}")
        return cls(path, source, content)

    def entries(self, name: str, *keys: str) -> Iterator[tuple[Any, ...]]:
        """Of each entry of a list what messages call it, and its values of the keys, None where there is none.

        Raises DataError for an entry that is no object.
        """
        for number, entry in enumerate(self.content[name], start=1):
            if not isinstance(entry, dict):
                raise DataError(f"{self.path}, {_ENTRY[name]} {number} is {shown(entry)}, not an object")
            yield f"{_ENTRY[name]} {number}", *map(entry.get, keys)
