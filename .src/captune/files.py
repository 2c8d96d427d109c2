"""Files and folders that appear whole or not at all, folders for a while, and locks between processes: the one way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_SCRATCH = re.compile(r"\.captune-[0-9a-f]{8}\.tmp")
_HELD = ".held"  # the lock in a folder that `scratch` made
_READER_SECONDS = 0.05  # after which a reader that looked at a lock has let go of it


class LockedError(OSError):
    """Another process holds the lock. holder: what it wrote, "process 12 on node"; empty where it came just now."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(f"{path} is held by {holder or 'another process'}")
        self.holder = holder


@contextlib.contextmanager
def written_aside(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """A place to make a file or a folder, which becomes `path` where the block ends without an error.

    It lies in a new folder of our own beside `path`, under the same name: nothing that was there before is touched,
    and no link is followed. What was made is on the disk before it gets its name. After an error nothing is left; what
    a killed process leaves is known by `is_leftover`.

    Args:
        path: of a file or a folder, in a folder that exists.
        replace: whether a file that stands at `path` gives way. A folder never does, unless it is empty.

    Raises:
        FileExistsError: something stands at `path`, and `replace` is False.
        OSError: no room, no permission; or a folder with something in it stands at `path`.
    """
    scratch = path.parent / f".captune-{secrets.token_hex(4)}.tmp"
    try:  # from before it exists on: a signal may end the process between any two lines
        scratch.mkdir()
        aside = scratch / path.name
        yield aside
        for made in [*aside.rglob("*"), aside]:
            flush(made)
        if replace:
            aside.replace(path)
        elif os.path.lexists(path):
            raise FileExistsError(f"{path} exists")
        elif aside.is_dir():
            aside.rename(path)  # fails on a folder with something in it
        else:
            _name_anew(aside, path)
        flush(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Whether `written_aside` made this folder. Where nobody can be writing, it is left of a killed process."""
    return _SCRATCH.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left in a folder. Only for whoever keeps all others from writing there."""
    for path in folder.iterdir():
        if is_leftover(path):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Holds the kernel's lock on a file, which is made where there is none; a process that ends gives it back.

    The file stays: a lock on a file that is no longer there would lock out no one. A file system without locks is as if
    this process were alone.

    Args:
        wait: until another process gives it back.
        shared: with all who share it, against those who do not.

    Raises:
        LockedError: another process holds it, and `wait` is False.
        OSError: the file cannot be made, or is a link or a pipe.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+") as file:
        if not _lock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)):
            raise LockedError(path, file.read().strip())
        if not shared:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
        yield


def _lock(file: IO[str], kind: int) -> bool:
    """Whether the kernel gives the lock; it does where the file system has none."""
    for seconds in (_READER_SECONDS, 0.0):
        try:
            fcntl.flock(file, kind)
        except BlockingIOError:
            time.sleep(seconds)
        except OSError:
            return True
        else:
            return True
    return False


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on a file, which may be missing; also where that cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A new folder, removed at the end; and with it those that killed processes have left beside it.

    Not before: what such a process had started may outlive it for some seconds, and make its folder anew. A folder that
    was made here is known by the lock in it, which the kernel gives back when its process ends.

    Args:
        parent: where; the temporary directory if None.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    name = f"captune-{secrets.token_hex(8)}"
    aside, folder = parent / f".{name}", parent / name
    try:
        aside.mkdir(mode=0o700)
        with locked(aside / _HELD):  # under a name that nobody looks for
            aside.rename(folder)
            yield folder
    finally:
        if (folder / _HELD).exists():
            _clear(folder)
        _clear(aside)
        for other in parent.glob("captune-*"):
            with contextlib.suppress(OSError):
                ours = other.stat(follow_symlinks=False).st_uid == os.getuid() and (other / _HELD).is_file()
                if ours and not is_held(other / _HELD):
                    _clear(other)


def _clear(folder: Path) -> None:
    """Removes a folder of `scratch`, last of all what it is known by: what others still write is left to the next."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != _HELD:
                path.unlink()
        shutil.rmtree(folder)


def keep(folder: Path) -> None:
    """Has a folder that `scratch` made stay for good."""
    (folder / _HELD).unlink()


def flush(path: Path) -> None:
    """Forces a file or the names in a folder onto the disk. OSError where a file's content has no room there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems do not know it of a folder.
        with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_anew(aside: Path, path: Path) -> None:
    """Renames a file to a name that nothing may have, which `rename` alone does not ask."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        aside.rename(path)
