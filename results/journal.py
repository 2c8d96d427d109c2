"""`RUN/study.journal`: the Optuna study, append-only with one writer, the driver of the search.

Reading takes no lock and disturbs no one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial

from captune.errors import shell_word
from captune.reading import UnreadableError, regular
from captune.results.attributes import is_followed
from captune.results.optuna_private import Journal, Operation, quiet_optuna
from captune.results.run_folder import RunError, RunFolder

STUDY_NAME = "captune"
DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"mean_f1": "maximize", "bytes": "minimize"}
"""Of the objectives of a search."""
_SUM = b',"crc32":'
_CHAIN = "chain"  # in a line, the sum of the line before
_LINKED = re.compile(rb'"chain":"([0-9a-f]{16})","crc32":[0-9]+}\n')
_TAIL = 2**16  # bytes in which the last line is looked for first
_FULL_DISK_SECONDS = 2.0  # between two tries to write
_LINES = 1000  # between two times that is told how far reading has come


def open_storage(
    run: RunFolder,
    *,
    wait: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BaseStorage:
    """The journal of a run; made where it does not exist.

    Args:
        wait: for the one writer, which holds `RunFolder.writing`: told while the disk is full, every few seconds until
            there is room. A last line that was cut off is removed first, so that the next one is not glued to it.
        progress: called now and then with (read, all) bytes.

    Raises:
        RunError: a line is none that a search writes.
    """
    if wait is not None and run.journal.is_file():
        with run.journal.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    lines = _Lines(run, wait, progress)
    try:
        return Journal(lines)  # replays them all
    except UnreadableError as error:
        raise RunError(f"{error}; restore it") from None
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RecursionError):
        raise RunError(
            f"{run}/{run.journal.name} is damaged: line {lines.number + 1} is none that a search writes; take it out"
        ) from None


def study_reader(
    run: RunFolder, *, progress: Callable[[int, int], None] | None = None
) -> Callable[[], Sequence[FrozenTrial]]:
    """Reads the trials of a run's study, draws that are none included: what was added since is seen the next time.

    There are none before the search has made its study. Arguments and errors: see `open_storage`; and a RunError where
    there is no study and nobody searches, as in a copy of a run that lacks its journal.
    """
    studies: list[optuna.Study] = []

    def trials() -> Sequence[FrozenTrial]:
        with quiet_optuna():
            if not studies and os.path.lexists(run.journal):
                with suppress(KeyError):  # the study has no name yet
                    studies.append(
                        optuna.load_study(study_name=STUDY_NAME, storage=open_storage(run, progress=progress))
                    )
            if not studies and not run.is_written:
                raise RunError(
                    f"{run} lacks its trials (no study in {run.journal.name}): copy that there, too, or go on with "
                    f"`captune resume {shell_word(run)}` if none was begun"
                )
            return studies[0].get_trials(deepcopy=False) if studies else ()

    return trials


def logs(run: RunFolder) -> Iterator[dict[str, Any]]:
    """The lines of a run's journal in their order. Raises ValueError where one is none that a search writes."""
    with regular(run.journal) as file:
        yield from map(_log_of, (line for line in file if line.endswith(b"\n")))


def changed_line(run: RunFolder) -> int | None:
    """Number, from 1, of the first line that does not follow the one before: that one was changed, or one taken out.

    None where all follow; lines of before they were chained, and the last, follow whatever they hold.
    """
    with regular(run.journal) as file:
        before = b""
        for number, line in enumerate(file, 1):
            link = _LINKED.search(line)
            if link is not None and link[1].decode() != _sum_of(before):
                return number
            before = line
    return None


class _Lines(BaseJournalBackend):
    """One line an operation, as Optuna's own file of it, for one writer and for long searches.

    No lock: the run's own keeps other writers out, and a killed one leaves none behind to be waited for. Of the
    lines that were read only the end is remembered, and only what something outside of the file will follow from
    is forced onto the disk, with all lines before it. A full disk is waited out; no half of a line is left.
    """

    def __init__(
        self, run: RunFolder, wait: Callable[[str], None] | None, progress: Callable[[int, int], None] | None
    ) -> None:
        self._run = run
        self._progress = progress
        self._wait = wait
        self._read = (0, 0)  # lines, bytes
        self.number = 0  # of the line that is being read, from 0
        run.journal.touch()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Lines from a number on."""
        number, place = self._read if self._read[0] <= log_number_from else (0, 0)
        with regular(self._run.journal) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(place)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written, or cut off
                self.number = number
                log = _log_of(line)
                number, place = number + 1, place + len(line)
                self._read = (number, place)
                if self._progress is not None and number % _LINES == 0:
                    self._progress(place, size)
                if number > log_number_from:
                    yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes them as lines at the end."""
        path = self._run.journal
        last, lines = _last_line(path), b""
        for log in logs:
            last = _line_of(log | {_CHAIN: _sum_of(last)})
            lines += last
        while True:
            length = path.stat().st_size
            try:
                with path.open("ab") as file:
                    file.write(lines)
                    file.flush()
                    if any(map(_is_followed, logs)):
                        os.fsync(file.fileno())
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or self._wait is None:
                    raise
                os.truncate(path, length)
                self._wait(f"the disk of {self._run.path} is full: make room; nothing is lost, the search waits")
                time.sleep(_FULL_DISK_SECONDS)


def _sum_of(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def _last_line(path: Path) -> bytes:
    """The last whole line, nothing where there is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for length in (_TAIL, size):
            file.seek(max(0, size - length))
            content = file.read()
            content = content[: content.rfind(b"\n") + 1]
            begin = content.rfind(b"\n", 0, -1) + 1
            if begin or length >= size:
                return content[begin:]
    return b""


def _line_of(log: dict[str, Any]) -> bytes:
    """Ends with its own sum, which Optuna leaves alone: half of what can happen to a line leaves it readable."""
    text = json.dumps(log, separators=(",", ":")).encode()
    return b"%b%b%d}\n" % (text[:-1], _SUM, zlib.crc32(text))


def _log_of(line: bytes) -> dict[str, Any]:
    """Raises ValueError where it is no object of JSON, or not as it was written; of earlier lines only the first."""
    text, summed, number = line.rpartition(_SUM)
    if summed and zlib.crc32(text + b"}") != int(number.rstrip(b"}\n")):
        raise ValueError("not as it was written")
    log: dict[str, Any] = json.loads(line.decode(), object_pairs_hook=_shared, parse_float=_float, parse_int=_int)
    if b"\\ud" in line:
        json.dumps(log, ensure_ascii=False).encode()  # half of a character can never be shown
    return log


def _is_followed(log: dict[str, Any]) -> bool:
    """Whether something outside of the file follows: with an end checkpoints go, and a trial that is enqueued takes
    the place of one that has ended."""
    return (
        log["op_code"] == Operation.SET_TRIAL_STATE_VALUES
        or (log["op_code"] == Operation.CREATE_TRIAL and "state" in log)
        or any(map(is_followed, log.get("user_attr", {})))
    )


# What trials have in common is kept once, not once for each: names, and most values of a configuration.
_float, _int = lru_cache(maxsize=4096)(float), lru_cache(maxsize=4096)(int)


def _shared(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of names and texts that are kept once."""
    return {sys.intern(name): sys.intern(value) if isinstance(value, str) else value for name, value in pairs}
