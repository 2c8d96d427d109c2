"""`RUN/study.journal`: the Optuna study, append-only with one writer, the driver of the search.

Reading takes no lock and disturbs no one.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from captune.results.run_folder import RunFolder

if TYPE_CHECKING:
    import optuna

STUDY_NAME = "captune"
_FULL_DISK_SECONDS = 2.0  # between two tries to write


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
