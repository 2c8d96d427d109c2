"""Folders in object storage."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from captune.cluster.object_storage.addresses import StorageError, check, connected, join, passing, reason, root, shown
from captune.files import written_aside

if TYPE_CHECKING:
    from pyarrow import fs

_ASIDE = ".aside"  # ending of a file in the storage that is not yet whole
_BLOCK = 8 << 20
_WAITS = (0.3, 1.0)  # seconds before the second and third try
_T = TypeVar("_T")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at an address. It pickles to the address: each process connects by itself, with its own environment.

    Names are relative, with slashes. Every method raises StorageError, within ten seconds, where the storage cannot be
    reached, and where it refuses; what may pass is tried three times.

    Args:
        url: s3://bucket/folder, gs://bucket/folder or file:///folder, percent-encoded.
            Options follow as a query: endpoint_override, scheme, region, tls_ca_file_path, force_virtual_addressing
            (s3); endpoint_override, scheme, project_id, retry_limit_seconds (gs). From the environment: credentials,
            and AWS_ENDPOINT_URL in the place of the first two.

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
        """Makes a file of `data`, in the place of one before; readers see either whole."""
        self._again(lambda: self._store(name, lambda stream: stream.write(data)))

    def upload(self, local: Path, name: str) -> None:
        """Copies a local file, or a folder with all in it, to `name`. Files are replaced one by one.

        Raises:
            StorageError: as ever, and where `local` is neither or cannot be read.
        """
        if local.is_dir():
            for path in sorted(path for path in local.rglob("*") if path.is_file()):
                self.upload(path, "/".join(part for part in (name, path.relative_to(local).as_posix()) if part))
        elif local.is_file():
            self._again(lambda: self._store(name, lambda stream: _copy(local, stream)))
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

    def _store(self, name: str, fill: Callable[[Any], object]) -> None:
        """Only where files are files is one written aside: an object appears when its stream is closed."""
        path, aside = self._path(name), ""
        if urlsplit(self.url).scheme == "file":
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
            aside = f"{path}.{uuid.uuid4().hex[:8]}{_ASIDE}"
        with _stream(self._files, aside or path) as stream:
            fill(stream)
        if aside:
            self._files.move(aside, path)

    def _fetch(self, name: str, target: Path) -> None:
        """In blocks, each tried by itself: a large file does not start again for one of them."""
        path = self._path(name)

        def blocks() -> None:
            with self._again(lambda: self._files.open_input_file(path)) as source, target.open("wb") as out:
                while block := self._again(lambda: source.read_at(_BLOCK, out.tell())):
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


@contextmanager
def _stream(files: fs.FileSystem, path: str) -> Iterator[Any]:
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


def _copy(local: Path, stream: Any) -> None:
    with disk_faults(local, "read"):
        file = local.open("rb")
    with file:
        while True:
            with disk_faults(local, "read"):
                block = file.read(_BLOCK)
            if not block:
                return
            stream.write(block)


@contextmanager
def disk_faults(path: Path, verb: str) -> Iterator[None]:
    """Tells a fault of the local disk from one of the storage."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be {verb}: {error.strerror or error}") from error
