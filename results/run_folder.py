"""A run folder: the names of its files, the lock of the process that writes, and the settings it was made with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.errors import UsageError
from captune.files import LockedError, is_held, locked


class RunError(UsageError):
    """A run folder that is not one, exists already, or lacks what was asked of it."""


@dataclass(frozen=True)
class RunFolder:
    """The one owner of file names inside a run folder.

    address: where the run is at home, if that is not the folder itself: messages name it. written: of a copy, whether
    a process writes there.
    """

    path: Path
    address: str | None = None
    written: bool | None = None

    def __str__(self) -> str:
        return self.address or str(self.path)

    @property
    def journal(self) -> Path:
        """The study: every trial."""
        return self.path / "study.journal"

    @property
    def settings(self) -> Path:
        """How the search was asked for, on which data, with which versions."""
        return self.path / "run.json"

    @property
    def summary(self) -> Path:
        """What the search came to."""
        return self.path / "summary.json"

    @property
    def tracebacks(self) -> Path:
        """One text file for each failed trial."""
        return self.path / "tracebacks"

    @property
    def lock(self) -> Path:
        """Held by the one process that searches or refits."""
        return self.path / "lock"

    @property
    def checkpoints(self) -> Path:
        """A folder for each trial that is unfinished, or among the best, by the number of its first attempt."""
        return self.path / "checkpoints"

    @property
    def winner(self) -> Path:
        """The refit winner."""
        return self.path / "winner"

    @property
    def proof(self) -> Path:
        """The winner's scores: in the search, on test, reloaded."""
        return self.winner / "proof.json"

    @property
    def bundle(self) -> Path:
        """What is shipped."""
        return self.winner / "bundle"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """This process as the one that writes, a search or a refit; released when it ends, in whatever way.

        Raises:
            RunError: another process writes here.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.lock))
            except LockedError as error:
                raise RunError(
                    f"{self} is being written by another process ({error.holder or 'starting'}); wait for it or end it"
                ) from None
            yield

    @property
    def is_written(self) -> bool:
        """Whether a process searches or refits here."""
        return is_held(self.lock) if self.written is None else self.written

    def read_settings(self) -> dict[str, Any]:
        """The content of run.json, which makes a folder a run.

        Raises:
            RunError: the folder holds no run.
        """
        try:
            return json_object(self.settings)
        except RunError:
            raise RunError(f"{self} holds no run (no readable run.json); name a folder that search made") from None


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        RunError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else None  # a pipe would be waited for
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RunError(f"{path} is missing or damaged: it holds no JSON object")
    return content
