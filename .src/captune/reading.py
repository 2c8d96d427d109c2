"""Files that captune wrote, read again: what was expected, or an error of one line that names the file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from captune.errors import UsageError, WorkError, is_of_the_machine, one_line


class UnreadableError(UsageError):
    """What should be a file of captune's is missing, is no regular file, or holds something else."""


class MissingError(UnreadableError):
    """There is no such file."""


class NotReadError(WorkError):
    """The machine does not let a file be read, which may be sound: it is never called damaged."""


@contextmanager
def machine_faults(path: Path, unknown: type[Exception] | None = None) -> Iterator[None]:
    """What the machine refuses while a file is read, by whatever library, as a NotReadError; all else as it is.

    Args:
        unknown: what the library raises, of this very type, where it does not know what went wrong: of the file it
            would.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not unknown and not is_of_the_machine(error):
            raise
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else one_line(error, 100)
        reason = "memory ran out" if isinstance(error, MemoryError) else reason
        raise NotReadError(f"{path} cannot be read ({reason}): mend that, then do the same again") from None


@contextmanager
def regular(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open to be read. A pipe or a device in its place is refused, not waited for.

    Raises:
        UnreadableError: it is none.
        NotReadError: the machine does not let it be read.
    """
    try:
        with (
            machine_faults(path),
            open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file,
        ):
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableError(f"{path} is no regular file")
            yield file
    except OSError as error:
        kind = MissingError if isinstance(error, FileNotFoundError | NotADirectoryError) else UnreadableError
        raise kind(f"{path} cannot be read ({error.strerror or error})") from None


def sha256(path: Path) -> str:
    """Of a regular file, in hex. Raises what `regular` does."""
    with regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_lines(path: Path) -> list[str]:
    """The lines of a regular file of UTF-8, at \\n, \\r\\n or \\r: Unicode's other ends of lines are text here.

    A mark of the order of bytes before the first is left out.
    Raises what `regular` does, and UnicodeDecodeError.
    """
    with regular(path) as file:
        text = file.read().decode("utf-8-sig")
    return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a regular file holds. Raises what `regular` and `parsed_object` do."""
    with regular(path) as file:
        return parsed_object(file.read(), path)


def parsed_object(content: bytes, name: object) -> dict[str, Any]:
    """The JSON object in the content of a file.

    Args:
        name: of the file, for the message.

    Raises:
        UnreadableError: it is no UTF-8 or no JSON, nested too deeply, no object, or holds half of a character or a key
            twice.
    """
    try:
        value = json.loads(content.decode(), object_pairs_hook=each_once)
        json.dumps(value, ensure_ascii=False).encode()  # half of a character can be escaped, and never be shown
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{name} holds no JSON object ({one_line(error, 100)})") from None
    if not isinstance(value, dict):
        raise UnreadableError(f"{name} holds no JSON object")
    return value


class TwiceError(ValueError):
    """A key that an object of JSON has twice, of which Python would take the last without a word."""


def each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON by its pairs, as json.loads takes it for `object_pairs_hook`. Raises TwiceError."""
    content = dict(pairs)
    if len(content) < len(pairs):
        key = Counter(name for name, _ in pairs).most_common(1)[0][0]
        where = f" in the object with id {_short(content['id'])}" if "id" in content else ""
        raise TwiceError(f"key {_short(key)} stands twice{where}")
    return content


def _short(value: Any) -> str:
    return one_line(repr(value), 40)
