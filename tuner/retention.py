"""What is kept on disk of trials: enough to go on with the unfinished ones, and the networks of the best.

RUN/checkpoints/N/last.safetensors   a running trial half-way: weights, optimizer, random states, epoch
RUN/checkpoints/N/best-E/            its network after its best epoch E as a bundle, without optimizer

N is the number of the trial's first attempt. Only the newest of each is kept. Once a trial has its fate the first is
removed, and the second too unless the trial is among the best.
"""

from __future__ import annotations

import shutil
import time
from bisect import insort
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import Checkpoint
from results.study import SCORED, Record

LAST = "last.safetensors"
_BEST = "best-"
_PART = ".tmp"


@dataclass(frozen=True)
class Policy:
    """When workers write, and where.

    folder: RUN/checkpoints as every node sees it. seconds, epochs: at most one checkpoint in so many, whichever is
    given. floor: bytes that stay free on its disk; below it nothing is written, for the study needs the rest.
    """

    folder: str
    seconds: float | None
    epochs: int | None
    floor: int


class Keeper:
    """Writes for one trial, in its worker. A disk that is full or slow to answer costs the trial nothing but time.

    Args:
        policy: when and where.
        origin: number of the trial's first attempt.
        identity: of the trial's configuration, seed and data.
    """

    def __init__(self, policy: Policy, origin: int, identity: str) -> None:
        self._policy = policy
        self._folder = Path(policy.folder) / str(origin)
        self._identity = identity
        self._written = (time.monotonic(), 0)
        self.complaint: str | None = None  # why the last write came to nothing
        self.leaving = False  # the next checkpoint is due whatever the policy says, and the last one here

    def resume(self) -> Checkpoint | None:
        """The newest checkpoint, if there is a whole one of this very trial."""
        found = Checkpoint.read(self._folder / LAST, self._identity)
        if found is not None:
            self._written = (time.monotonic(), found.epoch)
        return found

    def checkpoint(self, epoch: int, make: Callable[[int, str], Checkpoint]) -> None:
        """Writes the state after `epoch` if it is time to."""
        seconds, epochs = time.monotonic() - self._written[0], epoch - self._written[1]
        due = (
            self.leaving
            or (self._policy.seconds is not None and seconds >= self._policy.seconds)
            or (self._policy.epochs is not None and epochs >= self._policy.epochs)
        )
        if due and self._attempt(lambda: make(epoch, self._identity).write(self._folder / LAST)):
            self._written = (time.monotonic(), epoch)

    def best(self, epoch: int, save: Callable[[Path], None]) -> None:
        """Keeps the network after `epoch`, the best so far, in the place of the one before."""

        def write() -> None:
            target = self._folder / f"{_BEST}{epoch}"
            shutil.rmtree(target, ignore_errors=True)  # of an attempt that got as far
            save(target)
            for older in self._folder.glob(f"{_BEST}*"):
                if older != target:
                    shutil.rmtree(older, ignore_errors=True)

        self._attempt(write)

    def _attempt(self, write: Callable[[], None]) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
            if free < self._policy.floor:
                self.complaint = f"no checkpoint: {free} bytes free, {self._policy.floor} are to stay free"
                return False
            write()
        except OSError as error:
            self.complaint = f"no checkpoint: {error.strerror or error}"
            with suppress(OSError):
                for part in self._folder.glob(f"*{_PART}"):
                    shutil.rmtree(part)
            return False
        self.complaint = None
        return True


class Shelf:
    """Removes, on the driver, what no unfinished trial needs and what is not of the best.

    Args:
        folder: RUN/checkpoints.
        keep: how many of the best trials keep their network.
        records: of earlier searches of the run; what these left behind is removed at once.
    """

    def __init__(self, folder: Path, keep: int, records: Sequence[Record]) -> None:
        self._folder = folder
        self._keep = keep
        self._ranked: list[tuple[float, int]] = []  # of the trials that keep theirs: minus score, origin
        # A trial that was lost goes on in the attempt that came last.
        latest = {record.origin: record for record in records}
        for origin, record in latest.items():
            if record.fate not in ("running", "waiting", "lost"):
                self.settle(origin, record.mean_f1 if record.fate in SCORED else None)

    def settle(self, origin: int, score: float | None) -> None:
        """Takes note that a trial is finished; None where it came to no score that counts."""
        (self._folder / str(origin) / LAST).unlink(missing_ok=True)
        if score is None:
            self._remove(origin)
            return
        insort(self._ranked, (-score, origin))
        for _, loser in self._ranked[self._keep :]:
            self._remove(loser)
        del self._ranked[self._keep :]

    def _remove(self, origin: int) -> None:
        shutil.rmtree(self._folder / str(origin), ignore_errors=True)


def best_bundle(folder: Path, origin: int) -> Path | None:
    """The network kept of a trial; None where none is."""
    return next(iter(sorted((folder / str(origin)).glob(f"{_BEST}*[0-9]"))), None)
