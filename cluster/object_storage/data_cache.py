"""Prepared data sets in object storage, and their copies on a node's own disk.

CACHE/FINGERPRINT/        a data set, whole
CACHE/FINGERPRINT.lock    shared by each process that uses it; its time is that of the last use
CACHE/download.lock       held by the one process that downloads or removes
CACHE/.captune-*.tmp      what a killed process left; the next one to download removes it
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from captune.cluster.object_storage.addresses import StorageError
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.files import LockedError, locked, remove_leftovers, written_aside

if TYPE_CHECKING:
    from captune.data_prep.manifest import Manifest

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")

_locks: dict[Path, ExitStack] = {}  # of the copies that this process uses, until it ends in whatever way


def local_copy(url: str, cache: Path, max_bytes: int, *, verify: bool = False) -> Path:
    """A prepared data set on this machine's disk, downloaded unless it is there. Any number of processes may call.

    The copy stays while the process lives; after that it may make room for another. What was used longest ago and is in
    use no more is removed first.

    Args:
        url: of the folder, see RemoteFolder.
        cache: a folder of this machine, on a disk with file locks, for such copies only.
        max_bytes: of all copies together.
        verify: whether a copy that is there already is read and held against its sums; a new one always is. One that is
            not as it was is downloaded again.

    Returns:
        A folder that PreparedData.open takes.

    Raises:
        StorageError: as RemoteFolder does; there is no whole data set; or it has no room in `max_bytes` or on the disk.
    """
    remote = RemoteFolder(url)
    manifest, text = _read_manifest(remote)
    target = cache / manifest.fingerprint
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock:
            # From before the look on: whoever wants to remove the set needs this lock alone.
            lock.enter_context(locked(_lock_of(target), shared=True, wait=True))
            if not _whole(target, verify):
                # A lock of its own, as those who use the set never give theirs back.
                with locked(cache / "download.lock", wait=True):
                    if not _whole(target, verify):
                        _make_room(target, sum(manifest.files.values()) + len(text), max_bytes)
                        _download(remote, manifest, text, target)
            os.utime(_lock_of(target))
            if target not in _locks:
                _locks[target] = lock.pop_all()
    except OSError as error:
        raise StorageError(f"{cache} cannot hold {remote}: {error.strerror or error}") from error
    return target


def upload_data(folder: Path, url: str) -> None:
    """Copies a prepared data set to `url`, its manifest last; returns at once where the same set is there already.

    Raises:
        StorageError: as RemoteFolder does; `folder` is no whole data set; or another set is there.
    """
    from captune.data_prep.manifest import MANIFEST
    from captune.data_prep.records import DataError
    from captune.data_prep.store import PreparedData

    remote = RemoteFolder(url)
    try:
        manifest = PreparedData.open(folder).manifest
    except DataError as error:
        raise StorageError(f"nothing was copied to {remote}: {error}") from None
    if remote.exists(MANIFEST):
        present = _read_manifest(remote)[0].fingerprint
        if present != manifest.fingerprint:
            raise StorageError(
                f"{remote} holds another data set ({present[:8]}, not {manifest.fingerprint[:8]}): name another"
            )
        return
    for name in sorted(manifest.files):
        remote.upload(folder / name, name)
    remote.upload(folder / MANIFEST, MANIFEST)


def fingerprint_at(url: str) -> str:
    """Of the prepared data set at an address. Raises StorageError as `local_copy` does."""
    return _read_manifest(RemoteFolder(url))[0].fingerprint


@dataclass(frozen=True)
class _Copy:
    """A data set of the cache. last_used: seconds of the file system's clock."""

    path: Path
    size: int
    last_used: float


def _read_manifest(remote: RemoteFolder) -> tuple[Manifest, bytes]:
    """Of a data set in storage, with its text. Names in it become paths, so that none but the known ones may stand."""
    from captune.data_prep.manifest import MANIFEST, Manifest
    from captune.data_prep.records import DataError

    text = remote.read(MANIFEST)
    if text is None:
        raise StorageError(f"{remote} is not a prepared data set (no {MANIFEST}): make one with captune prepare --out")
    try:
        return Manifest.from_json(text, f"{remote}/{MANIFEST}"), text
    except DataError as error:
        raise StorageError(str(error)) from None


def _whole(folder: Path, verify: bool) -> bool:
    from captune.data_prep.records import DataError
    from captune.data_prep.store import PreparedData

    try:
        data = PreparedData.open(folder)
        if verify:
            data.verify()
    except DataError:
        return False
    return data.manifest.fingerprint == folder.name


def _download(remote: RemoteFolder, manifest: Manifest, text: bytes, target: Path) -> None:
    """Whole, or not at all: it appears when it has been opened."""
    from captune.data_prep.manifest import MANIFEST
    from captune.data_prep.records import DataError
    from captune.data_prep.store import PreparedData

    try:
        with written_aside(target) as aside:
            aside.mkdir()
            for name in sorted(manifest.files):
                remote.download(name, aside / name)
            (aside / MANIFEST).write_bytes(text)
            PreparedData.open(aside).verify()
            _remove(target)  # one that is there is not whole
    except DataError as error:
        raise StorageError(f"{remote} is damaged: {error}") from None


def _make_room(target: Path, size: int, max_bytes: int) -> None:
    """Removes other copies until `size` bytes fit, or none if they never would. For who holds the download lock.

    Raises:
        StorageError: they do not fit.
    """
    cache = target.parent
    remove_leftovers(cache)
    others = [copy for copy in _copies(cache) if copy.path != target]
    used, free = sum(copy.size for copy in others), shutil.disk_usage(cache).free
    with ExitStack() as locks:
        leaving = []
        for copy in sorted(others, key=lambda copy: copy.last_used):
            if used + size <= max_bytes and size <= free:
                break
            with suppress(LockedError):  # it is in use
                locks.enter_context(locked(_lock_of(copy.path)))
                os.utime(_lock_of(copy.path), (copy.last_used, copy.last_used))  # locking is no use
                leaving.append(copy.path)
                used, free = used - copy.size, free + copy.size
        if used + size > max_bytes:
            raise StorageError(
                f"a data set of {size:,} bytes does not fit into {cache}, which may hold {max_bytes:,} and holds "
                f"{used:,} in use: let it hold more"
            )
        if size > free:
            raise StorageError(
                f"a data set of {size:,} bytes does not fit on the disk of {cache}, which has {free:,} free: make room"
            )
        for path in leaving:
            _remove(path)


def _copies(cache: Path) -> list[_Copy]:
    return [
        _Copy(
            path,
            sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),  # features that trials made, too
            _lock_of(path).stat().st_mtime if _lock_of(path).is_file() else 0.0,
        )
        for path in cache.iterdir()
        if _FINGERPRINT.fullmatch(path.name)
    ]


def _remove(folder: Path) -> None:
    """The manifest first: half of a data set must not pass for a whole one. Readers that have it mapped keep it."""
    from captune.data_prep.manifest import MANIFEST

    if folder.exists():
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def _lock_of(copy: Path) -> Path:
    # Beside the folder, and never removed: a lock on a file that is no longer there would lock out no one.
    return copy.with_name(f"{copy.name}.lock")
