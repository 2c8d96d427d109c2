"""What every error of captune's own has in common: one line for a person, and the exit status of the command."""

from __future__ import annotations

import re
from typing import ClassVar

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


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


def one_line(error: object, limit: int = 300) -> str:
    """What an error or a text says, in one line of `limit` characters at most, without a terminal's escape codes."""
    text = " ".join(_ESCAPES.sub("", str(error)).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
