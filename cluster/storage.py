"""Object storage: folders at s3:// and gs:// addresses."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from pyarrow import fs

_SCHEMES = ("s3", "gs", "file")
_OPTIONS = {
    "s3": {"region", "scheme", "endpoint_override", "tls_ca_file_path", "force_virtual_addressing"},
    "gs": {"scheme", "endpoint_override", "project_id", "retry_limit_seconds"},
    "file": set[str](),
}
ASIDE = ".aside"  # ending of a file or folder that is not yet whole
_BLOCK = 8 << 20
_WAITS = (0.3, 1.0)  # seconds before the second and third try
_CONNECT_SECONDS, _ANSWER_SECONDS, _FIRST_ANSWER_SECONDS = 3, 10, 5
_LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR})
_FORBIDDEN = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE|SIGNATURE_DOES_NOT_MATCH|[A-Z_]*TOKEN)|"
    r"HTTP status 40[13]|OAuth2|PERMISSION_DENIED|UNAUTHENTICATED"
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|Bucket '.*' not found|bucket does not exist")
_NO_ANSWER = re.compile(r"NETWORK_CONNECTION|CURL error")
_DETAIL = re.compile(r"(?:curlCode: \d+, |CURL error \[\d+\]=)([\w ]+)")

_T = TypeVar("_T")


class StorageError(RuntimeError):
    """Object storage could not be reached, refuses, or holds something else than it should."""


def is_url(text: str) -> bool:
    """Whether `text` is an address of storage (s3://, gs:// or file://) rather than a path."""
    return text.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def join(url: str, *names: str) -> str:
    """The address of a file or folder below `url`, which keeps its query string. Names are given as they are."""
    parts = urlsplit(url)
    path = "/".join([parts.path.rstrip("/"), *(quote(name.strip("/")) for name in names)])
    return urlunsplit(parts._replace(path=path))


@dataclass(frozen=True)
class Place:
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
        _check(self.url)

    def __str__(self) -> str:
        return _shown(self.url)

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
            raise StorageError(f"{_shown(join(self.url, name))} is not there: name one that is")
        aside = local.with_name(f".{local.name}.{uuid.uuid4().hex[:8]}{ASIDE}")
        with disk_faults(local, "written"), cleared(aside):
            local.parent.mkdir(parents=True, exist_ok=True)
            if kind == fs.FileType.File:
                self._fetch(name, aside)
            else:
                aside.mkdir()
                for found in self.list(name):
                    target = aside / PurePosixPath(found).relative_to(name)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._fetch(found, target)
            aside.replace(local)

    def remove(self, name: str) -> None:
        """Removes a file, or a folder with all in it; nothing happens where there is none."""
        from pyarrow import fs

        path = self._path(name)

        def gone() -> None:
            kind = self._files.get_file_info(path).type
            with suppress(FileNotFoundError):
                if kind == fs.FileType.File:
                    self._files.delete_file(path)
                elif kind == fs.FileType.Directory:
                    self._files.delete_dir(path)

        self._again(gone)

    def list(self, name: str = "") -> dict[str, int]:
        """The files in the folder `name` and below, by their names in this place: bytes. Empty where there is none."""
        return {found: size for found, size in self._found(name, deep=True).items() if size is not None}

    def exists(self, name: str = "") -> bool:
        """Whether there is a file `name`, or a folder `name` that is not empty."""
        from pyarrow import fs

        kind = self._again(lambda: self._files.get_file_info(self._path(name))).type
        return bool(kind == fs.FileType.File or (kind == fs.FileType.Directory and self._found(name, deep=False)))

    @property
    def _files(self) -> fs.FileSystem:
        return _connected(_server(self.url), os.getpid())

    def _path(self, name: str) -> str:
        """Raises StorageError for a name that would lead out of the folder; such names can stand in a bucket, too."""
        parts = name.split("/") if name else []
        if any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"{name!r} is no name within {self}: names are relative, without . and ..")
        return "/".join([_root(self.url), *parts])

    def _found(self, name: str, *, deep: bool) -> dict[str, int | None]:
        """What a folder holds, by its names in this place: bytes, None for folders."""
        from pyarrow import fs

        path, root = self._path(name), _root(self.url)
        selector = fs.FileSelector(path, recursive=deep, allow_not_found=True)
        found = {
            info.path[len(root) :].strip("/"): info.size if info.type == fs.FileType.File else None
            for info in self._again(lambda: self._files.get_file_info(selector))
        }
        return {name: size for name, size in sorted(found.items()) if not name.endswith(ASIDE)}

    def _store(self, name: str, fill: Callable[[Any], object]) -> None:
        """Only where files are files is one written aside: an object appears when its stream is closed."""
        path, aside = self._path(name), ""
        if urlsplit(self.url).scheme == "file":
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
            aside = f"{path}.{uuid.uuid4().hex[:8]}{ASIDE}"
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
                out.flush()
                os.fsync(out.fileno())

        def whole() -> None:
            with disk_faults(target, "written"):
                blocks()

        self._steadily(path, whole)

    def _steadily(self, path: str, action: Callable[[], _T]) -> _T:
        """What `action` makes of a file, made again where it was replaced meanwhile: half of each is nothing."""

        def once() -> _T:
            before = self._files.get_file_info(path)
            result = action()
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
                if wait is None or not _passing(error):
                    raise StorageError(_reason(self.url, error)) from error
            time.sleep(wait)


def _check(url: str) -> None:
    if not is_url(url):
        raise StorageError(f"{url!r} is no address of storage: it begins with s3://, gs:// or file://")
    parts = urlsplit(url)
    if parts.password is not None or (parts.scheme == "s3" and parts.username is not None):
        raise StorageError(f"{_shown(url)} is given with credentials: keep them in the environment, out of the address")
    if parts.scheme == "file" and (parts.netloc or parts.path in ("", "/")):
        raise StorageError(f"{_shown(url)} names no folder: write file:///folder")
    if parts.scheme != "file" and not parts.hostname:
        raise StorageError(f"{_shown(url)} names no bucket: write {parts.scheme}://bucket/folder")
    if parts.fragment or "//" in parts.path:
        raise StorageError(f"{_shown(url)} is no address: write # as %23, and / once")
    known = _OPTIONS[parts.scheme]
    if unknown := {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - known:
        told = f"those of {parts.scheme}:// are {', '.join(sorted(known))}" if known else "file:// has none"
        raise StorageError(f"{_shown(url)} has an unknown option {min(unknown)!r}: {told}")


def _shown(url: str) -> str:
    """The address as messages have it: without options and credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _root(url: str) -> str:
    """The folder of the address as pyarrow names it."""
    parts = urlsplit(url)
    path = unquote(parts.path).rstrip("/")
    return path if parts.scheme == "file" else f"{parts.netloc.rpartition('@')[2]}{path}"


def _server(url: str) -> str:
    """What all folders of a bucket share: its address with the options."""
    parts = urlsplit(url)
    return url if parts.scheme == "file" else urlunsplit(parts._replace(path=""))


@lru_cache(maxsize=16)
def _connected(server: str, process: int) -> fs.FileSystem:
    """The files of a bucket, known to answer. A forked process needs its own: threads behind it are not inherited.

    pyarrow alone would try an address that does not answer for a minute, so the first question is asked by an
    impatient connection. For s3 its from_uri cannot be told how long to wait.
    """
    from pyarrow import fs

    parts = urlsplit(server)
    try:
        if parts.scheme == "file":
            return fs.LocalFileSystem()
        if parts.scheme == "gs":
            # retry_limit_seconds: the default is a quarter of an hour.
            query = {"retry_limit_seconds": "2"} | dict(parse_qsl(parts.query))
            connected = fs.FileSystem.from_uri(urlunsplit(parts._replace(query=urlencode(query))))[0]
            asked = connected
        else:
            options = _s3_options(parts.netloc, dict(parse_qsl(parts.query)))
            asked = fs.S3FileSystem(
                **options,
                request_timeout=_FIRST_ANSWER_SECONDS,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            )
            connected = fs.S3FileSystem(
                **options,
                request_timeout=_ANSWER_SECONDS,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
            )
        bucket = _root(server)
        if asked.get_file_info(bucket).type == fs.FileType.NotFound:
            raise StorageError(f"there is no bucket {bucket!r}: make it, or check the address")
    except (OSError, ValueError) as error:
        raise StorageError(_reason(server, error)) from error
    return connected


def _s3_options(bucket: str, query: dict[str, str]) -> dict[str, Any]:
    from pyarrow import fs

    options: dict[str, Any] = dict(query)
    if "force_virtual_addressing" in options:
        options["force_virtual_addressing"] = options["force_virtual_addressing"] in ("true", "1")
    # Read here although pyarrow does so too: without an endpoint the region would be asked of AWS itself.
    service = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if service and "endpoint_override" not in options:
        options |= {"endpoint_override": urlsplit(service).netloc, "scheme": urlsplit(service).scheme}
    if not {"region", "endpoint_override"} & options.keys():
        options["region"] = fs.resolve_s3_region(bucket)
    return options | {"connect_timeout": _CONNECT_SECONDS}


def _passing(error: OSError) -> bool:
    """Whether the same may succeed a moment later."""
    if error.errno in _LASTING or isinstance(error, FileNotFoundError):
        return False
    return not (_FORBIDDEN.search(str(error)) or _NO_BUCKET.search(str(error)))


def _reason(url: str, error: Exception) -> str:
    """One line for what pyarrow says in several."""
    parts, shown, text = urlsplit(url), _shown(url), " ".join(str(error).split())
    if _FORBIDDEN.search(text):
        way_out = {
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
            "file": "check its permissions",
        }[parts.scheme]
        return f"{shown} refuses these credentials, or there are none: {way_out} ({text[:120]})"
    if _NO_BUCKET.search(text):
        return f"there is no bucket {_root(_server(url))!r}: make it, or check the address"
    if _NO_ANSWER.search(text):
        detail = _DETAIL.search(text)
        endpoint = dict(parse_qsl(parts.query)).get("endpoint_override")
        return (
            f"{shown} cannot be reached{f' at {endpoint}' if endpoint else ''}"
            f"{f' ({detail[1].lower().strip()})' if detail else ''}: check the address and the network"
        )
    return f"{shown} failed: {text[:200]}"


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
def disk_faults(path: Path, done: str) -> Iterator[None]:
    """Tells a fault of the local disk from one of the storage."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} cannot be {done}: {error.strerror or error}") from error


@contextmanager
def cleared(aside: Path) -> Iterator[None]:
    """Removes at the end what did not become whole and stands aside still."""
    try:
        yield
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
