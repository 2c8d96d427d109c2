"""Folders in object storage."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from captune.cluster.object_storage.addresses import StorageError, check, connected, join, passing, reason, root, shown
from captune.cluster.object_storage.streams import BLOCK, blocks_of, disk_faults, writing
from captune.files import written_aside

if TYPE_CHECKING:
    from pyarrow import fs

_ASIDE = ".aside"  # ending of a file in the storage that is not yet whole
_PROOF = 4096  # bytes of an object that are read back once it is written
_FRAME = re.compile(rb"[0-9a-fA-F]+(;[^\r\n]*)?\r\n")  # before the first bytes of what came aws-chunked
_WAITS = (0.3, 1.0)  # seconds before the second and third try
_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at an address. It pickles to the address: each process connects by itself, with its own environment.

    Names are relative, with slashes. Every method raises StorageError, within ten seconds, where the storage cannot be
    reached, and where it refuses; what may pass is tried three times.

    Args:
        url: s3://bucket/folder, gs://bucket/folder, abfss://container@account.dfs.core.windows.net/folder or
            file:///folder, percent-encoded. Options follow as a query: endpoint_override, scheme, region,
            tls_ca_file_path, force_virtual_addressing (s3); endpoint_override, scheme, project_id,
            retry_limit_seconds (gs); endpoint_override, scheme (abfss). From the environment: credentials, and
            AWS_ENDPOINT_URL in the place of the first two.

    Raises:
        StorageError: `url` is none of these. Nothing is connected yet.
    """

    url: str

    def __post_init__(self) -> None:
        check(self.url)

    def __str__(self) -> str:
        return shown(self.url)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""

        path = self._path(name)

        def content() -> bytes | None:
            try:
                with self._files.open_input_file(path) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

        return self._steadily(path, content)

    def write(self, name: str, data: bytes) -> None:
        """Makes a file of `data`, in the place of one before; readers see either whole.

        Raises:
            StorageError: as ever, and where the storage has made something else of it.
        """
        self._store(name, lambda: iter([data]))

    def upload(self, local: Path, name: str) -> None:
        """Copies a local file, or a folder with all in it, to `name`. Files are replaced one by one.

        Raises:
            StorageError: as `write` does, and where `local` is neither or cannot be read.
        """
        if local.is_dir():
            for path in sorted(path for path in local.rglob("*") if path.is_file()):
                self.upload(path, "/".join(part for part in (name, path.relative_to(local).as_posix()) if part))
        elif local.is_file():
            self._store(name, lambda: blocks_of(local))
        else:
            raise StorageError(f"{local} is not there: it was to be copied to {self}")

    def download(self, name: str, local: Path) -> None:
        """Copies a file, or a folder with all in it, to the path `local`, which appears when all of it is there.

        A file at `local` is replaced; a folder must be missing or empty.

        Raises:
            StorageError: as ever, and where there is no `name`, or the disk refuses.
        """
        from pyarrow import fs

        kind = self._again(lambda: self._files.get_file_info(self._path(name))).type
        if kind == fs.FileType.NotFound:
            raise StorageError(f"{shown(join(self.url, name))} is not there: name one that is")
        with disk_faults(local, "written"):
            local.parent.mkdir(parents=True, exist_ok=True)
        with disk_faults(local, "written"), written_aside(local) as aside:
            if kind == fs.FileType.File:
                self._fetch(name, aside)
            else:
                aside.mkdir()
                for path in self.list(name):
                    target = aside / PurePosixPath(path).relative_to(name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._fetch(path, target)

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all in it; nothing happens where there is none."""
        from pyarrow import fs

        path = self._path(name)

        def delete() -> None:
            kind = self._files.get_file_info(path).type
            with suppress(FileNotFoundError):
                if kind == fs.FileType.File:
                    self._files.delete_file(path)
                elif kind == fs.FileType.Directory:
                    self._files.delete_dir(path)

        self._again(delete)

    def list(self, name: str = "") -> dict[str, int]:
        """The files in the folder `name` and below, by their names in this place: bytes. Empty where there is none."""
        return {path: size for path, size in self._entries(name, deep=True).items() if size is not None}

    def is_file(self, name: str) -> bool:
        """Whether there is a file `name`."""
        from pyarrow import fs

        return bool(self._again(lambda: self._files.get_file_info(self._path(name))).type == fs.FileType.File)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file `name`, or a folder `name` that is not empty."""
        from pyarrow import fs

        kind = self._again(lambda: self._files.get_file_info(self._path(name))).type
        if kind != fs.FileType.Directory:
            return bool(kind == fs.FileType.File)
        # gs has no folders: what is not searched through shows the files that stand in it alone.
        return any(self._entries(name, deep=deep) for deep in (False, True))

    @property
    def _files(self) -> fs.FileSystem:
        return connected(self.url)

    def _path(self, name: str) -> str:
        """Raises StorageError for a name that would lead out of the folder; such names can stand in a bucket, too."""
        parts = name.split("/") if name else []
        if any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"{name!r} is no name within {self}: names are relative, without . and ..")
        return "/".join([root(self.url), *parts])

    def _entries(self, name: str, *, deep: bool) -> dict[str, int | None]:
        """What a folder holds, by its names in this place: bytes, None for folders."""
        from pyarrow import fs

        path, prefix = self._path(name), len(root(self.url))
        selector = fs.FileSelector(path, recursive=deep, allow_not_found=True)
        entries = {
            info.path[prefix:].strip("/"): info.size if info.type == fs.FileType.File else None
            for info in self._again(lambda: self._files.get_file_info(selector))
        }
        return {name: size for name, size in sorted(entries.items()) if not name.endswith(_ASIDE)}

    def _store(self, name: str, blocks: Callable[[], Iterator[bytes]]) -> None:
        """Makes a file of what `blocks` yields each time that it is tried."""
        written = self._again(lambda: self._write(name, blocks()))
        if urlsplit(self.url).scheme != "file":
            self._prove(name, *written)

    def _write(self, name: str, blocks: Iterator[bytes]) -> tuple[int, bytes]:
        """Size and beginning of the file, which is written aside where it would be seen before its stream is closed."""
        path, scheme = self._path(name), urlsplit(self.url).scheme
        target = f"{path}.{uuid.uuid4().hex[:8]}{_ASIDE}" if scheme in ("file", "abfss") else path
        if scheme == "file":
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
        size, beginning = 0, b""
        with writing(self._files, target) as stream:
            for block in blocks:
                stream.write(block)
                size, beginning = size + len(block), beginning or block[:_PROOF]
        if scheme == "file":
            self._files.move(target, path)
        elif target != path:  # without folders of its own a container has no move
            self._files.copy_file(target, path)
            self._files.delete_file(target)
        return size, beginning

    def _prove(self, name: str, size: int, beginning: bytes) -> None:
        """Reads the size and the beginning of an object that was just written, which some servers store as they were
        sent: framed in lengths and checksums (aws-chunked). Such an object does not stay.
        """
        path = self._path(name)

        def stored() -> tuple[int, bytes] | None:
            try:
                with self._files.open_input_file(path) as file:
                    return file.size(), file.read_at(_PROOF, 0)
            except (FileNotFoundError, ValueError):  # see _steadily
                return None  # another process has removed it since

        found = self._again(stored)
        if found is None:
            return
        stored_size, start = found
        if (stored_size, start[: len(beginning)]) == (size, beginning):
            return
        where = shown(join(self.url, name))
        if _FRAME.match(start):
            self.remove(name)
            raise StorageError(
                f"{where} came out {stored_size:,} bytes long instead of {size:,}, as its server stores checksums with "
                "the content: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required, on every node"
            )
        raise StorageError(
            f"{where} is not what was written there a moment ago ({stored_size:,} bytes instead of {size:,}): end what "
            "else writes there, or use storage that returns what it is given"
        )

    def _fetch(self, name: str, target: Path) -> None:
        """In blocks, each tried by itself: a large file does not start again for one of them."""
        path = self._path(name)

        def blocks() -> None:
            with self._again(lambda: self._files.open_input_file(path)) as source, target.open("wb") as out:
                while block := self._again(lambda: source.read_at(BLOCK, out.tell())):
                    out.write(block)

        def whole() -> None:
            with disk_faults(target, "written"):
                blocks()

        self._steadily(path, whole)

    def _steadily(self, path: str, action: Callable[[], _T]) -> _T:
        """What `action` makes of a file, made again where it was replaced meanwhile: half of each is nothing."""

        def once() -> _T:
            before = self._files.get_file_info(path)
            try:
                result = action()
            except ValueError as error:  # pyarrow calls a file of gs closed that went after it was opened
                raise OSError(f"{path} went while it was read ({error})") from error
            after = self._files.get_file_info(path)
            if (before.size, before.mtime_ns) != (after.size, after.mtime_ns):
                raise OSError(f"{path} was replaced while it was read")
            return result

        return self._again(once)

    def _again(self, action: Callable[[], _T]) -> _T:
        """What `action` returns, tried again where it failed of something that may pass. Raises StorageError."""
        waits = iter(_WAITS)
        while True:
            try:
                return action()
            except OSError as error:
                wait = next(waits, None)
                if wait is None or not passing(error):
                    raise StorageError(reason(self.url, error)) from error
            time.sleep(wait)
