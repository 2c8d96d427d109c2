"""A run folder mirrored in object storage while it is searched, and brought back from there.

A mirrored run holds what the run folder holds, but for three names:

owner.json                       the driver that writes here: id, host, pid, time; a later one takes over
sign.json                        its last sign of life: id, time
study.journal/ID/00000001        the journal of owner ID in pieces of whole lines, as objects cannot be appended to
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from captune.cluster.object_storage.addresses import StorageError
from captune.cluster.object_storage.remote_folder import RemoteFolder, disk_faults
from captune.errors import one_line
from captune.files import written_aside
from captune.reading import parsed_object

PIECE_BYTES = 1 << 20  # of the journal: the piece that still grows is sent again with each change
SIGN_SECONDS, SILENT_SECONDS = 60.0, 300.0
"""Between two signs of life; and without one after which nobody writes any more, as clocks of machines may differ."""
_OWNER, _SIGN, _JOURNAL, _SETTINGS = "owner.json", "sign.json", "study.journal", "run.json"
_NOT_MIRRORED = frozenset({"checkpoints", "requests", "lock", _OWNER, _SIGN, _JOURNAL})


class Mirror:
    """Keeps a run folder mirrored at an address, from a thread of the driver that searches, until it is closed.

    Everything but checkpoints/, requests/, lock and *.tmp is mirrored, removals too; of the journal whole lines only.
    What fails does not end the search: it stands in `complaint` and is tried again.

    Args:
        run: the run folder.
        url: where to, see RemoteFolder; empty, or the mirror of this very run from before.
        interval: seconds from one look at the folder to the next.
        piece_bytes: at which a piece of the journal is complete.

    Raises:
        StorageError: as RemoteFolder does; or `url` holds other files, or trials that `run` lacks.
    """

    def __init__(self, run: Path, url: str, *, interval: float = 10.0, piece_bytes: int = PIECE_BYTES) -> None:
        self.url = url
        self.complaint: str | None = None
        """Why the last upload came to nothing; None while all is well."""
        self.usurped = False
        """Whether another driver has taken over the address; nothing is written there any more."""
        self._run, self._remote, self._interval = run, RemoteFolder(url), interval
        self._id = uuid.uuid4().hex
        self._signed = -SIGN_SECONDS  # second of the clock
        self._piece_bytes = piece_bytes
        self._sent: dict[str, tuple[int, int] | None] = {}  # by name: size and time; None for what was there before
        self._pieces = _Pieces(piece_bytes)
        self._closed = False
        self._ending = threading.Event()
        self._one_by_one = threading.Lock()
        self._take_over()
        self._upload()
        self._sign()
        self._thread = threading.Thread(target=self._watch, name="mirror", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError as complaint:
            if error is None:
                raise
            error.add_note(str(complaint))

    def flush(self) -> bool:
        """Uploads what has changed now; whether it is all there. Where the last upload failed none is tried."""
        if self.complaint is None:
            self._attempt()
        return self.complaint is None

    def close(self) -> None:
        """Uploads what has changed, and ends the thread.

        Raises:
            StorageError: that failed, or another driver has taken over.
        """
        if self._end():
            self._attempt()
            if self.complaint is not None:
                raise StorageError(self.complaint)

    def withdraw(self) -> None:
        """Removes what it made at the address, and ends the thread.

        Raises:
            StorageError: that failed.
        """
        if self._end() and not self._lost():
            for name in (*self._sent, _JOURNAL, _SIGN, _OWNER):
                self._remote.remove(name)

    def _end(self) -> bool:
        """Ends the thread; whether it was not ended before."""
        if self._closed:
            return False
        self._closed = True
        self._ending.set()
        self._thread.join()
        return True

    def _watch(self) -> None:
        while not self.usurped and not self._ending.wait(self._interval):
            self._attempt()

    def _attempt(self) -> None:
        with self._one_by_one:
            self._try()

    def _try(self) -> None:
        try:
            if self._lost():
                return
            self._upload()
            self._sign()
            self.complaint = None
        except StorageError as error:
            self.complaint = str(error)
        except Exception as error:  # whatever it is, the thread has to live on
            self.complaint = f"{self._run} was not mirrored at {self._remote}: {one_line(repr(error), 200)}"

    def _lost(self) -> bool:
        """Whether the address is another's now. One from which everything was removed is filled again."""
        if self.usurped:
            return True
        owner = _owner(self._remote)
        if owner is None:
            self._claim(None)
        elif owner["id"] != self._id:
            self.usurped = True
            self.complaint = (
                f"{self._remote} was taken over by process {owner.get('pid')} on {owner.get('host')}: "
                f"{self._run} is no longer mirrored; end one of the two searches"
            )
        return self.usurped

    def _take_over(self) -> None:
        owner = _owner(self._remote)
        if owner is None and self._remote.exists():
            raise StorageError(f"{self._remote} holds files that are no run: name an empty place")
        if owner is not None:
            self._check_ahead(owner["id"])
        self._claim(owner)

    def _check_ahead(self, owner: str) -> None:
        """Raises StorageError unless the local journal begins with the one at the address."""
        journal = self._run / _JOURNAL
        with journal.open("rb") if journal.is_file() else Path(os.devnull).open("rb") as file:
            for piece in _journal(self._remote, owner):
                if file.read(len(piece)) != piece:
                    raise StorageError(
                        f"{self._remote} holds trials that {self._run} lacks, or another run: move {self._run} away "
                        "and resume from the address, or name an empty place"
                    )

    def _claim(self, earlier: dict[str, Any] | None) -> None:
        """Writes the owner's mark, in place of an earlier one last: a reader must find a whole journal behind it."""
        self._pieces = _Pieces(self._piece_bytes)
        self._sent = dict.fromkeys(name for name in self._remote.list() if name.split("/")[0] not in _NOT_MIRRORED)
        mark = {"id": self._id, "host": platform.node(), "pid": os.getpid(), "time": datetime.now(UTC).isoformat()}
        if earlier is not None:
            self._upload_journal()
        self._remote.write(_OWNER, json.dumps(mark).encode())
        for generation in {name.split("/")[1] for name in self._remote.list(_JOURNAL)} - {self._id}:
            self._remote.remove(f"{_JOURNAL}/{generation}")

    def _sign(self) -> None:
        """Says now and then that the driver is there; in a file of its own: the owner's mark may be another's."""
        if time.monotonic() - self._signed >= SIGN_SECONDS:
            sign = {"id": self._id, "time": datetime.now(UTC).isoformat()}
            self._remote.write(_SIGN, json.dumps(sign).encode())
            self._signed = time.monotonic()

    def _upload(self) -> None:
        """The journal first: a summary must not know of trials that it lacks."""
        files = _mirrored(self._run)
        self._upload_journal()
        for name in sorted(files):
            if self._sent.get(name) != files[name]:
                with suppress(FileNotFoundError):
                    if files[name] == _state(self._run / name):
                        self._remote.upload(self._run / name, name)
                        self._sent[name] = files[name]
        for name in [name for name in self._sent if name not in files]:
            self._remote.remove(name)
            del self._sent[name]

    def _upload_journal(self) -> None:
        with suppress(FileNotFoundError), (self._run / _JOURNAL).open("rb") as file:
            file.seek(self._pieces.start)
            content = file.read()
            for number, piece in self._pieces.due(content[: content.rfind(b"\n") + 1]):
                self._remote.write(f"{_JOURNAL}/{self._id}/{number:08}", piece)


def is_written(url: str) -> bool:
    """Whether a driver writes to the run at `url`, by its last sign: for a while also one that has ended.

    Raises:
        StorageError: as RemoteFolder does.
    """
    remote = RemoteFolder(url)
    owner, text = _owner(remote), remote.read(_SIGN)
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
    remote, left = RemoteFolder(url), _NOT_MIRRORED | leave | {_SETTINGS}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} is there already: name a folder that is not")
    with disk_faults(folder, "written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_faults(folder, "written"), written_aside(folder) as aside:
        aside.mkdir()
        owner = _owner(remote)
        if owner is None or (settings := remote.read(_SETTINGS)) is None:
            raise StorageError(f"{remote} holds no run (no {_SETTINGS}); name the address of one")
        (aside / _SETTINGS).write_bytes(settings)
        for name in remote.list():
            if left.isdisjoint(map(str, (PurePosixPath(name), *PurePosixPath(name).parents))):
                try:
                    remote.download(name, aside / name)
                except StorageError:
                    if remote.exists(name):  # else the search has removed it since
                        raise
        _fetch_journal(remote, owner["id"], aside / _JOURNAL)


@dataclass
class _Pieces:
    """Where a growing journal is cut. Pure.

    Every piece is of whole lines. One of `piece_bytes` or more is complete; the last is sent again until it is.
    """

    piece_bytes: int
    number: int = 1
    start: int = 0  # of the last piece within the journal
    sent: int = 0  # bytes of it

    def due(self, tail: bytes) -> Iterator[tuple[int, bytes]]:
        """Number and content of the pieces to send. Each counts as sent when the next is asked for.

        Args:
            tail: the whole lines of the journal from `start` on.
        """
        while len(tail) > self.sent:
            cut = tail.find(b"\n", self.piece_bytes - 1) + 1 or len(tail)
            yield self.number, tail[:cut]
            self.sent = cut
            if cut >= self.piece_bytes:
                self.number, self.start, self.sent = self.number + 1, self.start + cut, 0
                tail = tail[cut:]


def _owner(remote: RemoteFolder) -> dict[str, Any] | None:
    """The mark of the driver that writes to `place`; None where there is none."""
    text = remote.read(_OWNER)
    if text is None:
        return None
    try:
        mark = parsed_object(text, _OWNER)
        if PurePosixPath(mark["id"]).name != mark["id"]:
            raise ValueError("no id")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{remote}/{_OWNER} is damaged ({error!r}): remove it") from None
    return mark


def _journal(remote: RemoteFolder, owner: str) -> Iterator[bytes]:
    """The pieces of the owner's journal in their order. Raises StorageError where one is missing."""
    folder = f"{_JOURNAL}/{owner}"
    for number, name in enumerate(sorted(remote.list(folder)), start=1):
        piece = remote.read(name) if name == f"{folder}/{number:08}" else None
        if piece is None:
            raise StorageError(f"{remote} lacks piece {number} of its {_JOURNAL}: fetch again, or restore it")
        yield piece


def _fetch_journal(remote: RemoteFolder, owner: str, target: Path) -> None:
    """Begun again where another driver takes over meanwhile, for it removes the pieces of the one before."""
    while True:
        trouble, content = None, b""
        try:
            content = b"".join(_journal(remote, owner))
        except StorageError as error:
            trouble = error
        now = _owner(remote)
        if now is None or now["id"] == owner:
            break
        owner = now["id"]
    if trouble is not None:
        raise trouble
    if content:
        target.write_bytes(content)


def _mirrored(run: Path) -> dict[str, tuple[int, int]]:
    """By name, size and time of the files that are to be at the address."""
    states = {}
    for folder, folders, names in os.walk(run):
        inside = Path(folder).relative_to(run)
        top = inside == Path()
        folders[:] = [name for name in folders if not (name.endswith(".tmp") or (top and name in _NOT_MIRRORED))]
        for name in names:
            if not (name.endswith(".tmp") or (top and name in _NOT_MIRRORED)):
                with suppress(OSError):
                    states[(inside / name).as_posix()] = _state(Path(folder) / name)
    return states


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
