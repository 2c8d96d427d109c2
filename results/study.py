"""The Optuna study as the record of a run: file names inside a run folder, and trials as frozen records.

`RUN/study.journal` is append-only with one writer, the driver of the search; reading takes no lock and disturbs no one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from model.metrics import KINDS, Epoch

if TYPE_CHECKING:
    import optuna

STUDY_NAME = "captune"
Fate = Literal["complete", "stopped", "over_budget", "diverged", "failed", "lost"]
FATES: tuple[str, ...] = get_args(Fate)
SCORED: tuple[str, ...] = ("complete", "stopped")
"""Fates that leave a score which may win."""
HALVED = "halving"
"""With what the reason begins of a trial that halving stopped."""
VOID = "void"
"""Marks a draw of the sampler that is no trial: one that repeats another, or whose values are impossible together."""


class RunError(ValueError):
    """A run folder that is not one, exists already, or lacks what was asked of it."""


_FULL_DISK_SECONDS = 2.0  # between two tries to write


@dataclass(frozen=True)
class RunFolder:
    """The one owner of file names inside a run folder.

    address: where the run is at home, if that is not the folder itself: messages name it.
    """

    path: Path
    address: str | None = None

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
        """Held by the one process that searches."""
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
        """This process as the one that searches; released when it ends, in whatever way.

        Raises:
            RunError: another process searches here.
        """
        with self.lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self} is being searched by another process ({file.read().strip() or 'starting'}); "
                    "wait for it or end it"
                ) from None
            except OSError:
                pass  # a file system without locks: go on as if alone
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
            yield

    def read_settings(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            RunError: the folder holds no run.
        """
        try:
            settings: dict[str, Any] = json.loads(self.settings.read_text())
        except (OSError, ValueError):
            raise RunError(f"{self} holds no run (no readable run.json); name a folder that search made") from None
        return settings


@dataclass(frozen=True)
class Record:
    """One trial as a value. `mean_f1` is that of its best epoch, None before the first."""

    number: int
    fate: str  # one of FATES; "running" or "waiting" before it has one
    mean_f1: float | None
    best_epoch: int | None
    epochs: int
    weights_bytes: int  # 0, as the next two, while the trial waits to be drawn
    bundle_bytes: int  # at most
    margin_bytes: int  # what is left of the budget; below zero it is over
    seconds: float | None  # wall time from asking to telling
    node: str | None
    reason: str | None
    seed: int | None
    threads: int | None  # of its worker
    origin: int  # number of its first attempt: its own, unless it continues a lost trial
    config: dict[str, Any]  # flat, dotted names
    curve: tuple[Epoch, ...]
    order: Mapping[int, int]  # by epoch: the place of its report among all of the run

    @property
    def best(self) -> Epoch | None:
        """The report of the best epoch."""
        return None if self.best_epoch is None else next(e for e in self.curve if e.epoch == self.best_epoch)

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by kind, see model.metrics.KINDS."""
        return {kind: sum(epoch.seconds()[kind] for epoch in self.curve) for kind in KINDS}

    def row(self) -> dict[str, Any]:
        """The record as the table and JSON show it, scores of the best epoch beside each other."""
        best = self.best
        return {
            "number": self.number,
            "fate": self.fate,
            "mean_f1": self.mean_f1,
            "micro_f1": best.micro_f1 if best else None,
            "macro_f1": best.macro_f1 if best else None,
            "map": best.map if best else None,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "weights_bytes": self.weights_bytes or None,
            "bundle_bytes": self.bundle_bytes or None,
            "margin_bytes": self.margin_bytes if self.weights_bytes else None,
            "seconds": self.seconds,
            "node": self.node,
            "reason": self.reason,
            "config": self.config,
        }


def open_storage(run: RunFolder, *, wait: Callable[[str], None] | None = None) -> optuna.storages.BaseStorage:
    """The journal of a run; made where it does not exist.

    Args:
        wait: for the one writer, which holds `RunFolder.writing`: told while the disk is full, every few seconds until
            there is room. A last line that was cut off is removed first, so that the next one is not glued to it.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend, _storage
    from optuna.storages.journal._storage import JournalOperation

    # Optuna reads it anew for each parameter of each trial, and keeps it with the trial.
    _storage.json_to_distribution = _distribution  # type: ignore[attr-defined]

    class Journal(BaseJournalBackend):
        """One line an operation, as Optuna's own file of it, for one writer and for long searches.

        No lock: the run's own keeps other writers out, and a killed one leaves none behind to be waited for. Of the
        lines that were read only the end is remembered, and only what something outside of the file will follow from
        is forced onto the disk, with all lines before it. A full disk is waited out; no half of a line is left.
        """

        def __init__(self) -> None:
            run.journal.touch()
            self._read = (0, 0)  # lines, bytes

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            number, place = self._read if self._read[0] <= log_number_from else (0, 0)
            with run.journal.open("rb") as file:
                file.seek(place)
                wrong: ValueError | None = None
                for line in file:
                    if wrong is not None:
                        raise wrong
                    if not line.endswith(b"\n"):
                        return  # still being written, or cut off
                    try:
                        log = json.loads(line, object_pairs_hook=_shared, parse_float=_float, parse_int=_int)
                    except ValueError as error:
                        wrong = error  # only the last line may be
                        continue
                    number, place = number + 1, place + len(line)
                    self._read = (number, place)
                    if number > log_number_from:
                        yield log

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
            while True:
                length = run.journal.stat().st_size
                try:
                    with run.journal.open("ab") as file:
                        file.write(lines)
                        file.flush()
                        if any(map(followed, logs)):
                            os.fsync(file.fileno())
                    return
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or wait is None:
                        raise
                    os.truncate(run.journal, length)
                    wait(f"the disk of {run.path} is full: make room; nothing is lost, the search waits")
                    time.sleep(_FULL_DISK_SECONDS)

    def followed(log: dict[str, Any]) -> bool:
        """Whether something outside of the file follows.

        A trial with a seed is handed out, after an epoch comes a checkpoint, with an end checkpoints go, and one
        that is enqueued takes the place of one that has ended.
        """
        told, named = log["op_code"], log.get("user_attr", {})
        return (
            told == JournalOperation.SET_TRIAL_STATE_VALUES
            or (told == JournalOperation.CREATE_TRIAL and "state" in log)
            or any(name == "seed" or name.startswith("epoch:") for name in named)
        )

    if wait is not None and run.journal.is_file():
        with run.journal.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    return JournalStorage(Journal())


# What trials have in common is kept once, not once for each: names, most values of a configuration, distributions.
_float, _int = lru_cache(maxsize=4096)(float), lru_cache(maxsize=4096)(int)


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of names and texts that are kept once."""
    return {sys.intern(name): sys.intern(value) if isinstance(value, str) else value for name, value in pairs}


@lru_cache(maxsize=4096)
def _distribution(text: str) -> optuna.distributions.BaseDistribution:
    """As Optuna reads one from JSON."""
    from optuna.distributions import json_to_distribution

    return json_to_distribution(text)


def load_records(run: RunFolder) -> list[Record]:
    """All trials of a run in the order of their numbers, also while the search writes on.

    Raises:
        RunError: the folder holds no run, or its journal is damaged.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run.read_settings()
    if not run.journal.is_file():
        return []  # the search has not yet made its study
    try:
        study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(run))
    except KeyError:
        return []
    except ValueError as error:
        raise RunError(f"{run.journal} is damaged, a line of it is not JSON ({error}); take that line out") from None
    return records_of(study)


def records_of(study: optuna.Study) -> list[Record]:
    """All trials of a run's study, in the order of their numbers."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False) if VOID not in trial.user_attrs]


def epoch_attribute(epoch: Epoch, order: int) -> tuple[str, dict[str, Any]]:
    """Name and value under which an epoch is kept with its trial: one each, so that the journal only ever grows.

    Args:
        order: place of the report among all of the run: what halving decided can be decided again from it.
    """
    return f"epoch:{epoch.epoch}", {k: v for k, v in asdict(epoch).items() if not _non_finite(v)} | {"order": order}


def _record(trial: optuna.trial.FrozenTrial) -> Record:
    attributes = trial.user_attrs
    size = attributes.get("size", {})
    curve = tuple(sorted(_curve(attributes), key=lambda epoch: epoch.epoch))
    finite = [epoch for epoch in curve if math.isfinite(epoch.mean_f1)]
    best = max(finite, key=lambda epoch: epoch.mean_f1, default=None)
    return Record(
        number=trial.number,
        fate=attributes.get("fate", "waiting" if trial.state.name == "WAITING" else "running"),
        mean_f1=best.mean_f1 if best else None,
        best_epoch=best.epoch if best else None,
        epochs=len(curve),
        weights_bytes=size.get("weights_bytes", 0),
        bundle_bytes=size.get("bundle_bytes", 0),
        margin_bytes=size.get("margin_bytes", 0),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        node=attributes.get("node"),
        reason=attributes.get("reason"),
        seed=attributes.get("seed"),
        threads=attributes.get("threads"),
        origin=attributes.get("replaces", trial.number),
        config=attributes.get("config", {}),
        curve=curve,
        order={epoch.epoch: attributes[f"epoch:{epoch.epoch}"].get("order", 0) for epoch in curve},
    )


def _curve(attributes: Mapping[str, Any]) -> list[Epoch]:
    names = Epoch.__dataclass_fields__
    return [
        # What was not finite was left out; what earlier versions did not keep has a default.
        Epoch(
            **{n: value.get(n, math.nan if field.default is MISSING else field.default) for n, field in names.items()}
        )
        for key, value in attributes.items()
        if key.startswith("epoch:")
    ]


def _non_finite(value: float) -> bool:
    """NaN and infinity have no place in JSON; an absent value is read back as NaN."""
    return not math.isfinite(value)
