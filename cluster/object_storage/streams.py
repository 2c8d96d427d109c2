"""Files of storage and of this machine as streams, and whose fault it is where one fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.cluster.object_storage.addresses import StorageError

if TYPE_CHECKING:
    from pyarrow import fs

BLOCK = 8 << 20  # bytes


@contextmanager
def writing(files: fs.FileSystem, path: str) -> Iterator[Any]:
    """A file to write. Where that fails, it is removed: pyarrow can only close it, which makes the half an object."""
    stream = files.open_output_stream(path)
    try:
        yield stream
    except BaseException:
        with suppress(OSError):
            stream.close()
        with suppress(OSError):
            files.delete_file(path)
        raise
    stream.close()


def blocks_of(local: Path) -> Iterator[bytes]:
    """The content of a file of this machine."""
    with disk_faults(local, "read"):
        file = local.open("rb")
    with file:
        while True:
            with disk_faults(local, "read"):
                block = file.read(BLOCK)
            if not block:
                return
            yield block


@contextmanager
def disk_faults(path: Path, verb: str) -> Iterator[None]:
    """Tells a fault of the local disk from one of the storage."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be {verb}: {error.strerror or error}") from error
