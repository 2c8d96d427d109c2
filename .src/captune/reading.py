"""Files that captune wrote, read again: what was expected, or an error of one line that names the file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from captune.errors import UsageError, one_line


class UnreadableError(UsageError):
    """What should be a file of captune's is missing, is no regular file, cannot be read, or holds something else."""


@contextmanager
def regular(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open to be read. A pipe or a device in its place is refused, not waited for.

    Raises:
        UnreadableError: it is none, or cannot be read.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableError(f"{path} is no regular file")
            yield file
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror or error})") from None


def sha256(path: Path) -> str:
    """Of a regular file, in hex. Raises UnreadableError."""
    with regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a regular file holds. Raises UnreadableError."""
    with regular(path) as file:
        return parsed_object(file.read(), path)


def parsed_object(content: bytes, name: object) -> dict[str, Any]:
    """The JSON object in the content of a file.

    Args:
        name: of the file, for the message.

    Raises:
        UnreadableError: it is no UTF-8 or no JSON, nested too deeply, no object, or holds half of a character.
    """
    try:
        value = json.loads(content.decode())
        json.dumps(value, ensure_ascii=False).encode()  # half of a character can be escaped, and never be shown
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{name} holds no JSON object ({one_line(error, 100)})") from None
    if not isinstance(value, dict):
        raise UnreadableError(f"{name} holds no JSON object")
    return value
