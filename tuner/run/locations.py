"""Data sets and runs that people name, by a path or an address of object storage, as folders of this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captune.cluster.object_storage.addresses import StorageError, is_url, join
from captune.cluster.object_storage.data_cache import local_copy, upload_data
from captune.cluster.object_storage.mirror import Mirror
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.cluster.object_storage.run_at_address import fetch_run, is_written
from captune.data_prep.store import PreparedData
from captune.errors import shell_word
from captune.files import keep, scratch
from captune.model.size import parse_bytes
from captune.results.run_folder import RunError, RunFolder

CACHE, CACHE_SIZE = "CAPTUNE_CACHE", "CAPTUNE_CACHE_SIZE"
"""Variables of each node: where copies of data sets are kept, and bytes of all of them together."""
_CACHE_SIZE = "100GiB"


def absolute(location: str) -> str:
    """A path or an address as it can be named from anywhere."""
    return location if is_url(location) else str(Path(location).resolve())


def open_data(location: str, *, verify: bool) -> PreparedData:
    """A prepared data set; one at an address is brought to this machine's disk first, once for all its processes.

    Args:
        verify: whether all of it is read and held against its sums: for the process that begins the work, and once,
            not for its workers.

    Raises:
        DataError: no whole data set is there.
        StorageError: the address cannot be read, or the cache has no room.
    """
    if is_url(location):
        return PreparedData.open(local_copy(location, _cache(), _cache_size(), verify=verify))
    data = PreparedData.open(location)
    return data.verify() if verify else data


@contextmanager
def preparing(location: str) -> Iterator[Path]:
    """The folder to prepare a data set in, which is uploaded at the end if `location` is an address.

    It is the same each time for the same address: what was interrupted goes on.
    """
    if not is_url(location):
        yield Path(location)
        return
    RemoteFolder(location).exists()  # an address that cannot be reached is told before hours of decoding
    folder = _cache() / "prepare" / hashlib.sha256(location.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    yield folder
    upload_data(folder, location)
    shutil.rmtree(folder)


ALL_BUT_RECORDS = frozenset({"winner/bundle", "winner/bundle.portable", "tracebacks"})
"""What of a run is not needed to read its records and the proof of its winner."""


def is_run(location: str) -> bool:
    """Whether a search was begun there. Raises StorageError for an address that cannot be reached."""
    settings = RunFolder(Path(location)).settings
    return RemoteFolder(location).exists(settings.name) if is_url(location) else settings.exists()


@contextmanager
def reading(location: str, *, leave: frozenset[str] = frozenset({"winner", "tracebacks"})) -> Iterator[RunFolder]:
    """A run to be read: the folder itself, or a copy for the while.

    Args:
        leave: files and folders in it that are not needed.

    Raises:
        RunError, StorageError: there is none, or it cannot be reached.
    """
    address = _address(location)
    if address is None:
        yield RunFolder(Path(location))
        return
    with scratch() as aside:
        fetch_run(address, aside / "run", leave=leave)
        yield RunFolder(aside / "run", address, is_written(address))


@contextmanager
def refitting(location: str) -> Iterator[RunFolder]:
    """A run to be refitted: as `reading`, and the winner that is there at the end goes to the address, its proof last.

    Raises:
        RunError, StorageError: as `reading` does; or the winner cannot be uploaded: it is kept here.
    """
    with reading(location, leave=frozenset({"tracebacks"})) as run:
        refitted = run.proof.exists()
        if run.address is not None and not refitted:  # of a refit that was cut off while it uploaded
            shutil.rmtree(run.winner, ignore_errors=True)
        yield run
        if run.address is None or refitted:
            return
        try:
            remote = RemoteFolder(join(run.address, run.winner.name))
            if remote.exists(run.proof.name):
                raise StorageError(f"{run} got another winner meanwhile, which stays")
            remote.upload(run.bundle, run.bundle.name)
            for beside in (run.error_analysis, run.report, run.portable, run.model_card):
                if beside.exists():
                    remote.upload(beside, beside.name)
            remote.upload(run.proof, run.proof.name)
        except StorageError as error:
            folder = Path(tempfile.mkdtemp(prefix="captune-winner-")) / run.winner.name
            shutil.move(run.winner, folder)
            raise StorageError(f"{error}; the winner is in {folder}") from error


@contextmanager
def searching(location: str, *, new: bool = False) -> Iterator[tuple[RunFolder, Mirror | None]]:
    """A run to be searched in: the folder itself, or a twin on this machine and what keeps it mirrored at the address.

    Args:
        new: there must be no run yet. It is taken back where no settings are written.

    Raises:
        RunError, StorageError: there is a run or none, or the address cannot be reached; or what came
            last cannot be uploaded: the twin is kept.
    """
    address = _address(location)
    if address is None:
        yield _whole(RunFolder(Path(location))), None
        return
    with scratch() as aside:
        run = RunFolder(aside / "run", address)
        if not new:
            fetch_run(address, run.path)
            _whole(run)
        elif RemoteFolder(address).exists():
            raise RunError(
                f"{address} holds something; give another --run, or go on with `captune resume {shell_word(address)}`"
            )
        mirror = Mirror(run.path, address)
        try:
            with mirror:
                try:
                    yield run, mirror
                finally:
                    if not run.settings.exists():
                        with suppress(StorageError):  # what went wrong before counts
                            mirror.withdraw()
        except StorageError as error:
            if mirror.complaint is None:
                raise
            raise StorageError(f"{error}; the run as it is now is in {run.path}") from error
        finally:
            if mirror.complaint is not None:
                keep(aside)


def _address(location: str) -> str | None:
    """Of a run in object storage, or of the copy of one on a disk, which is of the same form; None for a run folder."""
    if is_url(location):
        return location
    run = RunFolder(Path(location).resolve())
    with suppress(OSError):  # for whoever reads it to tell
        return run.path.as_uri() if run.journal.is_dir() else None
    return None


def _whole(run: RunFolder) -> RunFolder:
    """Raises RunError for the copy of a run whose trials are missing: it would be begun anew."""
    if _holds(run.summary) and not _holds(run.journal):
        raise RunError(
            f"{run} lacks {run.journal.name}, which holds the trials that {run.summary.name} counts: copy it there, too"
        )
    return run


def _holds(file: Path) -> bool:
    with suppress(OSError):
        return file.stat().st_size > 0
    return False


def _cache() -> Path:
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "captune" / "data")


def _cache_size() -> int:
    text = os.environ.get(CACHE_SIZE, _CACHE_SIZE)
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise StorageError(f"{CACHE_SIZE}: {error}") from None
