"""A run folder: the names of its files, the lock of the process that writes, and the settings it was made with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.errors import UsageError, one_line
from captune.files import LockedError, is_held, locked, remove_leftovers
from captune.reading import UnreadableError, json_object


class RunError(UsageError):
    """A run folder that is not one, exists already, or lacks what was asked of it."""


class BusyError(RunError):
    """A run folder in which another process works."""


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
    def baselines(self) -> Path:
        """Scores that no search is needed for."""
        return self.path / "baselines.json"

    @property
    def tracebacks(self) -> Path:
        """One text file for each failed trial."""
        return self.path / "tracebacks"

    @property
    def lock(self) -> Path:
        """Held by the one process that searches, or refits while none does."""
        return self.path / "lock"

    @property
    def refit_lock(self) -> Path:
        """Held by the one process that refits, be it beside a search."""
        return self.path / "refit.lock"

    @property
    def requests(self) -> Path:
        """What people asked of the search and the driver has not taken up."""
        return self.path / "requests"

    @property
    def checkpoints(self) -> Path:
        """A folder for each trial that is unfinished, or among the best, by the number of its first attempt."""
        return self.path / "checkpoints"

    @property
    def finalists(self) -> Path:
        """Validation probabilities of trials that a refit trained again to choose among them: (n, labels) a file."""
        return self.path / "finalists"

    @property
    def logs(self) -> Path:
        """What the search wrote for other tools: a folder or a file for each of them."""
        return self.path / "logs"

    @property
    def ablation(self) -> Path:
        """What the winner scores without each of its parts."""
        return self.path / "ablation.json"

    @property
    def winner(self) -> Path:
        """The refit winner."""
        return self.path / "winner"

    @property
    def proof(self) -> Path:
        """The winner's scores: in the search, on test, reloaded."""
        return self.winner / "proof.json"

    @property
    def error_analysis(self) -> Path:
        """What the winner gets right and wrong on test."""
        return self.winner / "error_analysis.json"

    @property
    def report(self) -> Path:
        """The run as a page, as of its refit."""
        return self.winner / "report.html"

    @property
    def bundle(self) -> Path:
        """What is shipped."""
        return self.winner / "bundle"

    @property
    def portable(self) -> Path:
        """What programs in other languages need beside the bundle."""
        return self.winner / "bundle.portable"

    @property
    def model_card(self) -> Path:
        """The winner in words, for whoever is given it."""
        return self.winner / "README.md"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """This process as the one that writes; released when it ends, in whatever way.

        Raises:
            BusyError: another process writes here.
        """
        with ExitStack() as locks:
            self._take(locks, self.lock, "written", "wait for it or end it")
            yield

    @contextmanager
    def refitting(self, *, anyway: bool = False) -> Iterator[None]:
        """This process as the one that refits. What a killed refit left is removed, where nobody else writes.

        Args:
            anyway: also while another process searches here.

        Raises:
            BusyError: another process refits here, or searches and `anyway` is False.
            RunError: the folder holds no run.
        """
        self.read_settings()
        with ExitStack() as locks:
            self._take(locks, self.refit_lock, "refitted", "wait for it or end it")
            try:
                self._take(locks, self.lock, "searched", "wait for it, as test is read once, or give --anyway")
                remove_leftovers(self.path)
            except BusyError:
                if not anyway:
                    raise
            yield

    def _take(self, locks: ExitStack, lock: Path, work: str, way_out: str) -> None:
        try:
            locks.enter_context(locked(lock))
        except LockedError as error:
            holder = error.holder or "starting"
            raise BusyError(f"{self} is being {work} by another process ({holder}); {way_out}") from None
        except OSError as error:
            raise RunError(f"{lock} cannot be held ({error.strerror or error}); {self} must be writable") from None

    @property
    def is_written(self) -> bool:
        """Whether a process searches here, or refits while none does."""
        return is_held(self.lock) if self.written is None else self.written

    def read_settings(self) -> dict[str, Any]:
        """The content of run.json, which makes a folder a run.

        Raises:
            RunError: the folder holds no run.
        """
        try:
            return json_object(self.settings)
        except UnreadableError as error:
            raise RunError(f"{self} holds no run ({one_line(error)}); name a folder that search made") from None
