"""A folder that is either finished or not there: built aside, renamed into place at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from captune.data_prep.records import DataError
from captune.errors import WorkError, is_of_the_machine
from captune.files import LockedError, flush, locked

LOCK = "prepare.lock"
JOURNAL = "prepare.journal"  # how far a file has come that a killed run leaves to go on with


@contextlib.contextmanager
def building(out: Path, own_files: frozenset[str], half_done: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Give a folder beside out to build in; it becomes out where the block ends without an error.

    own_files: the names that may stand in it. What a killed or interrupted run left is cleaned up, but for the names
    in half_done; a folder with any other file is never touched. The journal is not part of what was built. Two runs
    cannot build the same out at once. Raises DataError where out or the folder aside is taken, WorkError where the disk
    refuses.
    """
    aside = out.parent / f".{out.name}.partial"
    check_free(out)
    try:
        aside.mkdir(parents=True, exist_ok=True)
        if foreign := sorted({path.name for path in aside.iterdir()} - own_files - {LOCK, JOURNAL}):
            raise DataError(f"{aside} is needed to build {out} but holds {foreign[0]!r}: move that away")
        with locked(aside / LOCK):
            try:
                _empty(aside, half_done | {LOCK})
                yield aside
                for path in aside.iterdir():
                    flush(path)
                flush(aside)
                # Replaces an empty folder; fails where anything has come to stand there meanwhile.
                aside.rename(out)
            except (KeyboardInterrupt, RuntimeError):
                raise  # as if killed, or a lost cluster: the next run goes on with what is there
            except BaseException:
                with contextlib.suppress(OSError):
                    _empty(aside)
                    aside.rmdir()
                raise
            # Only now, in its new place: a lock taken away earlier would let a second run into the folder
            # aside.
            (out / JOURNAL).unlink(missing_ok=True)
            (out / LOCK).unlink()
            flush(out.parent)
    except LockedError:
        raise DataError(f"{out} is being prepared by another process: wait for it") from None
    except OSError as error:
        kind = WorkError if is_of_the_machine(error) else DataError
        raise kind(f"{out} cannot be written: {error.strerror or error}") from None


def check_free(out: Path) -> None:
    """Raise DataError unless out is missing or an empty folder, whose place a finished one can take."""
    if out.is_symlink() or out.is_mount():
        kind = "a link" if out.is_symlink() else "where a disk is mounted"
        raise DataError(f"{out} is {kind}, which no folder can replace: name a new folder in it as --out")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another --out")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} holds files that are not a prepared data set: choose another --out")


def _empty(folder: Path, names: frozenset[str] = frozenset()) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
