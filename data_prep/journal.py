"""The pixel file while it grows: appended batch by batch, with a journal by which a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.data_prep.images import Pixels

if TYPE_CHECKING:
    import pyarrow as pa

# An Arrow stream, not an Arrow file: what has no footer can be cut anywhere between two batches and go on there.
END = b"\xff\xff\xff\xff\0\0\0\0"
CHECK_BYTES = 9  # a line of the journal begins with its CRC-32 in hex and a space


def pixel_schema(side: int) -> pa.Schema:
    """One column "pixels": lists of side * side * 3 uint8."""
    import pyarrow as pa

    return pa.schema([("pixels", pa.list_(pa.uint8(), side * side * 3))])


@dataclass(frozen=True)
class PixelSums:
    """SHA-256 in hex. content: of all pictures, whatever holds them. file: of the file that does."""

    content: str
    file: str


class GrowingPixels:
    """A pixel file that is being written, and its journal.

    The journal has a line of JSON that says what the file is made from, then one for each record batch, written
    when the batch is on the disk. Opened again with the same made_from, what the journal tells of is kept as far as
    its SHA-256 holds, and the rest is cut off; with another made_from all of it is.

    done: pictures of the source dealt with. faults: (place, reason) of those among them that are not in the file.
    """

    def __init__(self, path: Path, journal: Path, side: int, made_from: Mapping[str, str]) -> None:
        self.done = 0
        self.faults: list[tuple[int, str]] = []
        self._content, self._whole = hashlib.sha256(), hashlib.sha256()  # of the pictures, of the file
        self._schema = pixel_schema(side)
        self._file = path.open("a+b")
        self._journal = journal.open("a+b")
        start, head = self._schema.serialize().to_pybytes(), _line(made_from)
        end, length = self._recover(start, head)
        for file, size in ((self._file, end), (self._journal, length)):
            file.truncate(size)
            file.seek(size)
        if not length:
            self._write(start)
            self._journal.write(head)

    def append(self, pixels: Pixels, done: int, faults: list[tuple[int, str]]) -> None:
        """Write pixels (n, side, side, 3), n from 0; with them done pictures of the source are dealt with."""
        self._write(self._message(pixels.reshape(-1)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._content.update(pixels.data)
        self.done = done
        self.faults += faults
        entry = {"done": done, "end": self._file.tell(), "sha256": self._content.hexdigest(), "faults": faults}
        self._journal.write(_line(entry))
        self._journal.flush()

    def finish(self) -> PixelSums:
        """End the file."""
        self._write(END)
        self._file.flush()
        return PixelSums(self._content.hexdigest(), self._whole.hexdigest())

    def close(self) -> None:
        self._file.close()
        self._journal.close()

    def _write(self, content: bytes | pa.Buffer) -> None:
        self._file.write(content)
        self._whole.update(content)

    def _recover(self, start: bytes, head: bytes) -> tuple[int, int]:
        """Bytes of the file and of the journal to keep; (0, 0) where nothing can be."""
        self._journal.seek(0)
        lines = self._journal.read().splitlines(keepends=True)
        self._file.seek(0)
        if not lines or lines[0] != head or self._file.read(len(start)) != start:
            return 0, 0
        self._whole.update(start)
        end, length = len(start), len(head)
        for line in lines[1:]:
            entry = self._entry(line, end)
            if entry is None:
                break
            self.done, end, length = entry["done"], entry["end"], length + len(line)
            self.faults += [(place, reason) for place, reason in entry["faults"]]
        return end, length

    def _entry(self, line: bytes, start: int) -> dict[str, Any] | None:
        """What line tells of the batch at byte start, None unless both are whole."""
        import pyarrow as pa

        try:
            entry: dict[str, Any] = json.loads(line[CHECK_BYTES:])
            if line != _line(entry):
                return None
            message = pa.py_buffer(self._file.read(entry["end"] - start))
            batch = pa.ipc.read_record_batch(message, self._schema)
            batch.validate()
            pixels = batch.column(0).values.to_numpy()
        except (OSError, EOFError, ValueError, LookupError, TypeError, RecursionError, pa.ArrowException):
            return None
        content = self._content.copy()
        content.update(pixels)
        if content.hexdigest() != entry["sha256"] or not message.equals(self._message(pixels)):
            return None
        self._content = content
        self._whole.update(message)
        return entry

    def _message(self, pixels: Pixels) -> pa.Buffer:
        """A record batch of pixels (n * side * side * 3,) as it stands in the file."""
        import pyarrow as pa

        column = pa.FixedSizeListArray.from_arrays(pa.array(pixels), self._schema[0].type.list_size)
        return pa.record_batch([column], schema=self._schema).serialize()


def _line(content: object) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)
