"""What every error of captune's own has in common: one line for a person, and the exit status of the command."""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

# What the system says of a name under which there is nothing of the kind. All else is the machine's: permission, room,
# memory, open files, a disk that fails.
_OF_THE_NAME = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENXIO,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EILSEQ,
}
_OF_PYDANTIC = {
    "Input should be a valid integer": "must be a whole number",
    "Unable to parse input string as an integer": "must be a whole number of fewer digits",
    "Input should be a valid number": "must be a number",
    "Input should be a valid string": "must be a text",
    "Input should be a valid boolean": "must be true or false",
    "Input should be a valid dictionary": "must be an object",
    "Field required": "is missing",
    "Extra inputs are not permitted": "is not known",
    "Expected UploadFile": "must be a file",
}
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# What a terminal obeys (controls but tab and line feed), what reorders or ends a line, and halves of characters, which
# stand for bytes of a path that are no UTF-8.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Error(Exception):
    """Something that a person is told in one line: the rule, the value, the way out. Anything else is a bug.

    exit_status: of the command that ends with it: 2 for what a person has to mend, 1 for work that failed.
    """

    exit_status: ClassVar[int] = 1


class UsageError(Error, ValueError):
    """An input, a name or an option that a person has to mend."""

    exit_status = 2


class ArgumentError(UsageError):
    """A value that a function of captune was called with, or an option of the command, by its name.

    argument: its name in Python. reason: what is wrong with it.
    """

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(argument, reason)
        self.argument, self.reason = argument, reason

    def __str__(self) -> str:
        return f"{self.argument}: {self.reason}"


class WorkError(Error, RuntimeError):
    """Work that was asked for rightly and failed."""


def is_of_the_machine(error: BaseException) -> bool:
    """Whether the system or its memory refused what was asked of it, so that a file may be sound and its name right."""
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_THE_NAME
    return isinstance(error, MemoryError)


def one_line(error: object, limit: int = 300) -> str:
    """What an error or a text says, in one line of `limit` characters at most, without a terminal's escape codes."""
    text = " ".join(without_colours(str(error)).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def in_words(complaint: str) -> str:
    """What pydantic says is wrong with a value, without what only Python knows."""
    complaint = complaint.removeprefix("Value error, ")
    words = (words for start, words in _OF_PYDANTIC.items() if complaint.startswith(start))
    return next(words, complaint.replace("Input should be", "must be"))


def among(name: str, names: Iterable[str]) -> str:
    """What a person may have meant by an unknown name: the closest names, and all where these are not too many."""
    names, name = list(names), name[:80]
    short_for = [long for long in names if _abbreviates(name, long)][:3]
    close = list(dict.fromkeys([*short_for, *get_close_matches(name, names, n=3, cutoff=0.5)]))
    near, everything = f"closest: {', '.join(close)}", f"there are: {', '.join(names)}"
    if len(everything) > 500:
        return near if close else one_line(everything, 500)
    return f"{near}; {everything}" if close else everything


def _abbreviates(short: str, long: str) -> bool:
    letters = iter(long)
    return len(short) > 1 and all(letter in letters for letter in short)


def visible(text: str) -> str:
    """A text for a terminal: what would be obeyed instead of shown is spelled out, as \\x1b or \\u202e."""
    return _OBEYED.sub(_spelled, text)


def without_colours(text: str) -> str:
    """A text without a terminal's escape codes."""
    return _ESCAPES.sub("", text)


def shell_word(text: object) -> str:
    """A path or a name as it is pasted into a shell, in one line."""
    word = str(text)
    if visible(word) == word and "\n" not in word:
        return shlex.quote(word)
    escaped = visible(word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n"))
    return f"$'{escaped}'"


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte of a path
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
