"""A run folder mirrored in object storage while it is searched. What stands there: see `run_at_address`."""

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
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from captune.cluster.object_storage.addresses import StorageError
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.cluster.object_storage.run_at_address import JOURNAL, NOT_MIRRORED, OWNER, SIGN, journal_pieces, owner_of
from captune.errors import one_line

PIECE_BYTES = 1 << 20  # of the journal: the piece that still grows is sent again with each change
SIGN_SECONDS = 60.0  # between two signs of life


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
            for name in (*self._sent, JOURNAL, SIGN, OWNER):
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
        owner = owner_of(self._remote)
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
        owner = owner_of(self._remote)
        if owner is None and self._remote.is_file(JOURNAL):
            raise StorageError(
                f"{self._remote} is a copy of a run folder, which is read there and not gone on with: "
                "copy it to a disk and resume it there"
            )
        if owner is None and self._remote.exists():
            raise StorageError(f"{self._remote} holds files that are no run: name an empty place")
        if owner is not None:
            self._check_ahead(owner["id"])
        self._claim(owner)

    def _check_ahead(self, owner: str) -> None:
        """Raises StorageError unless the local journal begins with the one at the address."""
        journal = self._run / JOURNAL
        with journal.open("rb") if journal.is_file() else Path(os.devnull).open("rb") as file:
            for piece in journal_pieces(self._remote, owner):
                if file.read(len(piece)) != piece:
                    raise StorageError(
                        f"{self._remote} holds trials that {self._run} lacks, or another run: move {self._run} away "
                        "and resume from the address, or name an empty place"
                    )

    def _claim(self, earlier: dict[str, Any] | None) -> None:
        """Writes the owner's mark, in place of an earlier one last: a reader must find a whole journal behind it."""
        self._pieces = _Pieces(self._piece_bytes)
        self._sent = dict.fromkeys(name for name in self._remote.list() if name.split("/")[0] not in NOT_MIRRORED)
        mark = {"id": self._id, "host": platform.node(), "pid": os.getpid(), "time": datetime.now(UTC).isoformat()}
        if earlier is not None:
            self._upload_journal()
        self._remote.write(OWNER, json.dumps(mark).encode())
        for generation in {name.split("/")[1] for name in self._remote.list(JOURNAL)} - {self._id}:
            self._remote.remove(f"{JOURNAL}/{generation}")

    def _sign(self) -> None:
        """Says now and then that the driver is there; in a file of its own: the owner's mark may be another's."""
        if time.monotonic() - self._signed >= SIGN_SECONDS:
            sign = {"id": self._id, "time": datetime.now(UTC).isoformat()}
            self._remote.write(SIGN, json.dumps(sign).encode())
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
        with suppress(FileNotFoundError), (self._run / JOURNAL).open("rb") as file:
            file.seek(self._pieces.start)
            content = file.read()
            for number, piece in self._pieces.due(content[: content.rfind(b"\n") + 1]):
                self._remote.write(f"{JOURNAL}/{self._id}/{number:08}", piece)


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


def _mirrored(run: Path) -> dict[str, tuple[int, int]]:
    """By name, size and time of the files that are to be at the address."""
    states = {}
    for folder, folders, names in os.walk(run):
        inside = Path(folder).relative_to(run)
        top = inside == Path()
        folders[:] = [name for name in folders if not (name.endswith(".tmp") or (top and name in NOT_MIRRORED))]
        for name in names:
            if not (name.endswith(".tmp") or (top and name in NOT_MIRRORED)):
                with suppress(OSError):
                    states[(inside / name).as_posix()] = _state(Path(folder) / name)
    return states


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
