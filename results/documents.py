"""The JSON documents of a run: frozen values, numbered by version, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from captune.errors import one_line
from captune.files import written_aside
from captune.model.config import Settings, complaint
from captune.reading import UnreadableError, json_object
from captune.results.run_folder import RunError


class Document(Settings):
    """What one file of a run says. A file without a version is of version 1.

    When the meaning of a field changes, or one is added without a default, VERSION goes up by one, and `parse` gets
    what makes the new of the old.
    """

    VERSION: ClassVar[int] = 1

    version: int = 1

    @classmethod
    def parse(cls, content: Mapping[str, Any], name: str) -> Self:
        """From the object of a file.

        Args:
            name: of the file, for messages.

        Raises:
            RunError: a field is missing, unknown or not of its type; or a newer captune wrote it.
        """
        version = content.get("version", 1)
        if isinstance(version, int) and version > cls.VERSION:
            raise RunError(f"{name} has version {version}, this captune reads {cls.VERSION}; use a newer one")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"]))
            raise RunError(f"{name} is not as captune wrote it: {one_line(f'{place}: {complaint(error)}')}") from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file.

        Raises:
            RunError: as `parse` does; or there is no readable file of JSON.
        """
        try:
            return cls.parse(json_object(path), str(path))
        except UnreadableError as error:
            raise RunError(f"{error}; restore it, or do again what wrote it") from None

    def to_json(self) -> str:
        """As the file holds it."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def write(self, path: Path) -> None:
        """Writes aside, then renames: a reader never meets half a file."""
        with written_aside(path) as aside:
            aside.write_text(self.to_json(), encoding="utf-8")
