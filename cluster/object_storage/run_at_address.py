"""A run in object storage, read: one that a search keeps there, or a run folder that was copied there.

What a search keeps there is what its run folder holds, but for three names:

owner.json                       the driver that writes here: id, host, pid, time; a later one takes over
sign.json                        its last sign of life: id, time
study.journal/ID/00000001        the journal of owner ID in pieces of whole lines, as objects cannot be appended to
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from captune.cluster.object_storage.addresses import StorageError
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.cluster.object_storage.streams import disk_faults
from captune.files import written_aside
from captune.reading import parsed_object

SILENT_SECONDS = 300.0
"""Without a sign of life after which nobody writes any more, as clocks of machines may differ."""
OWNER, SIGN, JOURNAL, SETTINGS = "owner.json", "sign.json", "study.journal", "run.json"
NOT_MIRRORED = frozenset({"checkpoints", "requests", "lock", OWNER, SIGN, JOURNAL})


def is_written(url: str) -> bool:
    """Whether a driver writes to the run at `url`, by its last sign: for a while also one that has ended.

    Raises:
        StorageError: as RemoteFolder does.
    """
    remote = RemoteFolder(url)
    owner, text = owner_of(remote), remote.read(SIGN)
    try:
        sign = json.loads(text or b"{}")
        silence = (datetime.now(UTC) - datetime.fromisoformat(sign["time"])).total_seconds()
        return owner is not None and sign["id"] == owner["id"] and silence < SILENT_SECONDS
    except (ValueError, KeyError, TypeError):
        return False


def fetch_run(url: str, folder: Path, *, leave: frozenset[str] = frozenset()) -> None:
    """Brings a run that a Mirror keeps at `url`, perhaps at this moment, to a local folder, without checkpoints.

    Args:
        url: see RemoteFolder.
        folder: missing or empty; it appears when all of it is there.
        leave: further files and folders of the run, as paths in it, that are not brought.

    Raises:
        StorageError: as RemoteFolder does; there is no run; or `folder` holds anything.
    """
    remote, left = RemoteFolder(url), NOT_MIRRORED | leave | {SETTINGS}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is there already: name a folder that is not")
    with disk_faults(folder, "written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_faults(folder, "written"), written_aside(folder) as aside:
        aside.mkdir()
        if (settings := remote.read(SETTINGS)) is None:
            raise StorageError(f"{remote} holds no run (no {SETTINGS}); name the address of one")
        (aside / SETTINGS).write_bytes(settings)
        for name in remote.list():
            if left.isdisjoint(map(str, (PurePosixPath(name), *PurePosixPath(name).parents))):
                try:
                    remote.download(name, aside / name)
                except StorageError:
                    if remote.exists(name):  # else the search has removed it since
                        raise
        _fetch_journal(remote, aside / JOURNAL)


def owner_of(remote: RemoteFolder) -> dict[str, Any] | None:
    """The mark of the driver that writes to `place`; None where there is none."""
    text = remote.read(OWNER)
    if text is None:
        return None
    try:
        mark = parsed_object(text, OWNER)
        if PurePosixPath(mark["id"]).name != mark["id"]:
            raise ValueError("no id")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{remote}/{OWNER} is damaged ({error!r}): remove it") from None
    return mark


def journal_pieces(remote: RemoteFolder, owner: str) -> Iterator[bytes]:
    """The pieces of the owner's journal in their order. Raises StorageError where one is missing."""
    folder = f"{JOURNAL}/{owner}"
    for number, name in enumerate(sorted(remote.list(folder)), start=1):
        piece = remote.read(name) if name == f"{folder}/{number:08}" else None
        if piece is None:
            raise StorageError(f"{remote} lacks piece {number} of its {JOURNAL}: fetch again, or restore it")
        yield piece


def _fetch_journal(remote: RemoteFolder, target: Path) -> None:
    """Of a mirrored run or of a run folder that was copied there; no file where there is none.

    Raises:
        StorageError: files of a copy are missing, or it is of both kinds.
    """
    owner = owner_of(remote)
    if remote.is_file(JOURNAL):
        if owner is not None:
            raise StorageError(
                f"{remote} holds two journals, that of a search there and {JOURNAL} of a run folder that was copied "
                f"over it: remove the latter, or {OWNER} and all below {JOURNAL}/"
            )
        remote.download(JOURNAL, target)
    elif owner is not None:
        content = _read_journal(remote, owner["id"])
        if content:
            target.write_bytes(content)
        elif remote.list(JOURNAL):
            raise StorageError(f"{remote} lacks the {JOURNAL} that {OWNER} names: copy it again, both together")
    elif remote.list(JOURNAL):
        raise StorageError(f"{remote} lacks {OWNER}, which says whose {JOURNAL} counts: copy it, too")


def _read_journal(remote: RemoteFolder, owner: str) -> bytes:
    """Begun again where another driver takes over meanwhile, for it removes the pieces of the one before."""
    while True:
        trouble, content = None, b""
        try:
            content = b"".join(journal_pieces(remote, owner))
        except StorageError as error:
            trouble = error
        now = owner_of(remote)
        if now is None or now["id"] == owner:
            break
        owner = now["id"]
    if trouble is not None:
        raise trouble
    return content
