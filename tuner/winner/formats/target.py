"""Where an export goes: refused before seconds go into it, where nothing can be made there."""

from __future__ import annotations

import os
from pathlib import Path

from captune.errors import UsageError, WorkError, is_of_the_machine
from captune.results.run_folder import RunError
from captune.tuner.winner.formats.declarations import Kind, check_name


def portable_path(shipped: Path) -> Path:
    """Where that lies which other languages need, for a bundle or a file at `shipped`."""
    return shipped.with_name(f"{shipped.name}.portable")


def check_target(kind: Kind, target: Path) -> None:
    """Raises UsageError or WorkError where something is at `target` or beside it, or nothing can be made there."""
    if target.name in ("", ".."):
        raise RunError(f"{target} exists; name another --to")
    check_name(kind, target.name)
    try:
        for path in (target, portable_path(target)):
            if _is_there(path):
                raise RunError(f"{path} exists; name another --to")
        parent = next(folder for folder in target.absolute().parents if _is_there(folder))
    except OSError as error:
        raise not_written(target, error) from None
    if not parent.is_dir():
        raise RunError(f"{parent} is not a folder; name another --to")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise RunError(f"{parent} may not be written to; name another --to")


def not_written(target: Path, error: OSError) -> UsageError | WorkError:
    """What the system says of a target, in one line."""
    kind = WorkError if is_of_the_machine(error) else UsageError
    return kind(f"{error.filename or target} cannot be written: {error.strerror or error}; nothing is left of {target}")


def _is_there(path: Path) -> bool:
    """Also a link that leads nowhere."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
