"""What is kept of trials: enough to go on with the unfinished ones, and the networks of the best.

RUN/checkpoints/N/last.safetensors   a running trial half-way: weights, optimizer, random states, epoch
RUN/checkpoints/N/best-E/            its network after its best epoch E as a bundle, without optimizer

N is the number of the trial's first attempt. Only the newest of each is kept. Once a trial has its fate the first is
removed, and the second too unless the trial is among the best.
"""

from __future__ import annotations

import math
import shutil
import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from captune.cluster.object_storage.addresses import StorageError, is_url
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.files import remove_leftovers, scratch
from captune.model.checkpoint import Checkpoint, CheckpointError
from captune.model.layout import MANIFEST
from captune.model.metrics import Epoch
from captune.results.attributes import SCORED
from captune.results.records import Record

LAST = "last.safetensors"
_BEST = "best-"


@dataclass(frozen=True)
class CheckpointPolicy:
    """When workers write, and where.

    folder: RUN/checkpoints as every node sees it, a path or an address. seconds, epochs: at most one checkpoint in so
    many, whichever is given. floor: bytes that stay free on the disk of a path; below it nothing is written, for the
    study needs the rest.
    """

    folder: str
    seconds: float | None
    epochs: int | None
    floor: int


class DiskStore:
    """The folder of checkpoints on a disk that all nodes see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def read(self, name: str) -> Iterator[Path]:
        """The file `name`, which need not be there."""
        yield self._folder / name

    def write(self, name: str, make: Callable[[Path], None]) -> None:
        """Has `make` write the file or folder `name`, which appears when it is whole. OSError where it cannot."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        remove_leftovers(path.parent)  # a trial has one worker
        make(path)

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it is there."""
        path = self._folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):
                path.unlink()

    def names(self, name: str) -> set[str]:
        """Of what a folder holds."""
        folder = self._folder / name
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def free(self) -> float:
        """Bytes of room."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._folder).free


class ObjectStore:
    """The same in object storage. Its methods raise StorageError where that fails."""

    def __init__(self, url: str) -> None:
        self._remote = RemoteFolder(url)

    @contextmanager
    def read(self, name: str) -> Iterator[Path]:
        """A copy of the file for the while."""
        with scratch() as folder:
            copy = folder / PurePosixPath(name).name
            if self._remote.exists(name):
                self._remote.download(name, copy)
            yield copy

    def write(self, name: str, make: Callable[[Path], None]) -> None:
        """Has `make` write the file or bundle `name` here, and uploads it; of a bundle last what makes it one."""
        with scratch() as folder:
            copy = folder / PurePosixPath(name).name
            make(copy)
            if copy.is_file():
                self._remote.upload(copy, name)
                return
            for path in sorted(copy.iterdir(), key=lambda path: path.name == MANIFEST):
                self._remote.upload(path, f"{name}/{path.name}")

    def remove(self, name: str) -> None:
        self._remote.remove(name)

    def names(self, name: str) -> set[str]:
        return {path[len(name) :].strip("/").partition("/")[0] for path in self._remote.list(name)}

    def free(self) -> float:
        """No limit that can be known."""
        return math.inf


def best_name(epoch: int) -> str:
    """Of the network after a trial's best epoch, in its folder."""
    return f"{_BEST}{epoch}"


def checkpoints_at(location: str) -> DiskStore | ObjectStore:
    """The checkpoints of a run at a path or an address."""
    return ObjectStore(location) if is_url(location) else DiskStore(Path(location))


class CheckpointWriter:
    """Writes for one trial, in its worker. Storage that is full, away or slow costs the trial nothing but time.

    Args:
        policy: when and where.
        origin: number of the trial's first attempt.
        identity: of the trial's configuration, seed and data.
    """

    def __init__(self, policy: CheckpointPolicy, origin: int, identity: str) -> None:
        self._policy = policy
        self._store = checkpoints_at(policy.folder)
        self._own = str(origin)
        self._identity = identity
        self._written = (time.monotonic(), 0)
        self._reports: list[Epoch] = []
        self._restarted: str | None = None  # why the trial began anew although it had got further
        self.complaint: str | None = None  # that, or why the last write came to nothing
        self.leaving = False  # the next checkpoint is due whatever the policy says, and the last one here

    def resume(self) -> Checkpoint | None:
        """The newest checkpoint, if there is a whole one of this very trial that can be read; `complaint` tells of one
        that is damaged or out of reach."""
        try:
            with self._store.read(f"{self._own}/{LAST}") as path:
                checkpoint = Checkpoint.read(path, self._identity)
        except (StorageError, CheckpointError) as error:
            self.complaint = self._restarted = f"from its first epoch on: {error}"
            return None
        if checkpoint is not None:
            self._written = (time.monotonic(), checkpoint.epoch)
            self._reports = list(checkpoint.reports)
        return checkpoint

    def checkpoint(self, epoch: Epoch, make: Callable[[int, str], Checkpoint]) -> None:
        """Takes note of the report of an epoch, and writes the state after it if it is time to."""
        self._reports.append(epoch)
        seconds, epochs = time.monotonic() - self._written[0], epoch.epoch - self._written[1]
        due = (
            self.leaving
            or (self._policy.seconds is not None and seconds >= self._policy.seconds)
            or (self._policy.epochs is not None and epochs >= self._policy.epochs)
        )

        def write(path: Path) -> None:
            replace(make(epoch.epoch, self._identity), reports=tuple(self._reports)).write(path)

        if due and self._attempt(LAST, write):
            self._written = (time.monotonic(), epoch.epoch)

    def best(self, epoch: int, save: Callable[[Path], None]) -> None:
        """Keeps the network after `epoch`, the best so far, in the place of the one before."""
        name = best_name(epoch)
        if self._attempt(name, save):
            with suppress(OSError, StorageError):
                for older in self._store.names(self._own) - {name}:
                    if older.startswith(_BEST):
                        self._store.remove(f"{self._own}/{older}")

    def _attempt(self, name: str, write: Callable[[Path], None]) -> bool:
        try:
            free = self._store.free()
            if free < self._policy.floor:
                self.complaint = f"no checkpoint: {free} bytes free, {self._policy.floor} are to stay free"
                return False
            self._store.write(f"{self._own}/{name}", write)
        except (OSError, StorageError) as error:
            self.complaint = f"no checkpoint: {getattr(error, 'strerror', None) or error}"
            return False
        self.complaint = self._restarted
        return True


class CheckpointCleaner:
    """Removes, on the driver, what no unfinished trial needs and what is not of the best.

    Args:
        store: the checkpoints of the run.
        keep: how many of the best trials keep their network.
        records: of earlier searches of the run; what these left behind is removed at once.
        recorded: asked before anything is removed, whether the end of its trial is on record for good.
    """

    def __init__(
        self,
        store: DiskStore | ObjectStore,
        keep: int,
        records: Sequence[Record],
        recorded: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._recorded = recorded
        self._removals: list[str] = []
        self._keep = keep
        self._ranked: list[tuple[float, int]] = []  # of the trials that keep theirs: minus score, origin
        latest = {record.origin: record for record in records}  # a lost trial goes on in the attempt that came last
        for origin, record in latest.items():
            if record.fate not in ("running", "waiting", "lost"):
                self.settle(origin, record.score if record.fate in SCORED else None)

    def settle(self, origin: int, score: float | None) -> None:
        """Takes note that a trial is finished; None where it came to no score that counts."""
        if score is None:
            self._removals.append(f"{origin}")
        else:
            self._removals.append(f"{origin}/{LAST}")
            insort(self._ranked, (-score, origin))
            self._removals += [f"{loser}" for _, loser in self._ranked[self._keep :]]
            del self._ranked[self._keep :]
        if not self._recorded():
            return  # with the next
        with suppress(StorageError):  # what stays costs room, no result
            while self._removals:
                self._store.remove(self._removals[0])
                del self._removals[0]
