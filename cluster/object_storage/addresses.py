"""Addresses of object storage, s3:// and gs://: what they name, the connection behind one, and why it fails."""

from __future__ import annotations

import errno
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from captune.errors import WorkError, one_line

if TYPE_CHECKING:
    from pyarrow import fs

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OPTIONS = {
    "s3": {"region", "scheme", "endpoint_override", "tls_ca_file_path", "force_virtual_addressing"},
    "gs": {"scheme", "endpoint_override", "project_id", "retry_limit_seconds"},
    "file": set[str](),
}
_CONNECT_SECONDS, _ANSWER_SECONDS, _FIRST_ANSWER_SECONDS = 3, 10, 5
_LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR})
_FORBIDDEN = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE|SIGNATURE_DOES_NOT_MATCH|[A-Z_]*TOKEN)|"
    r"HTTP status 40[13]|OAuth2|PERMISSION_DENIED|UNAUTHENTICATED"
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|Bucket '.*' not found|bucket does not exist")
_NO_ANSWER = re.compile(r"NETWORK_CONNECTION|CURL error")
_DETAIL = re.compile(r"(?:curlCode: \d+, |CURL error \[\d+\]=)([\w ]+)")


class StorageError(WorkError):
    """Object storage could not be reached, refuses, or holds something else than it should."""


def is_url(text: str) -> bool:
    """Whether `text` is an address rather than a path: of storage (s3://, gs://, file://), or one `check` refuses."""
    return _ADDRESS.match(text) is not None


def join(url: str, *names: str) -> str:
    """The address of a file or folder below `url`, which keeps its query string. Names are given as they are."""
    parts = urlsplit(url)
    path = "/".join([parts.path.rstrip("/"), *(quote(name.strip("/")) for name in names)])
    return urlunsplit(parts._replace(path=path))


def check(url: str) -> None:
    """Raises StorageError for what is no address, or one with credentials in it or options that nothing reads."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise StorageError(f"{url!r} is no address: {error}") from None
    if not is_url(url) or parts.scheme not in _OPTIONS:
        raise StorageError(f"{url!r} is no address of storage: it begins with s3://, gs:// or file://")
    if parts.password is not None or (parts.scheme == "s3" and parts.username is not None):
        raise StorageError(f"{shown(url)} holds credentials: keep them in the environment, out of the address")
    if parts.scheme == "file" and (parts.netloc or parts.path in ("", "/")):
        raise StorageError(f"{shown(url)} names no folder: write file:///folder")
    if parts.scheme != "file" and not parts.hostname:
        raise StorageError(f"{shown(url)} names no bucket: write {parts.scheme}://bucket/folder")
    if parts.fragment or "//" in parts.path:
        raise StorageError(f"{shown(url)} is no address: write # as %23, and / once")
    options = _OPTIONS[parts.scheme]
    if foreign := {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - options:
        choices = f"those of {parts.scheme}:// are {', '.join(sorted(options))}" if options else "file:// has none"
        raise StorageError(f"{shown(url)} has an unknown option {min(foreign)!r}: {choices}")


def shown(url: str) -> str:
    """The address as messages have it: without options and credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def root(url: str) -> str:
    """The folder of the address as pyarrow names it."""
    parts = urlsplit(url)
    path = unquote(parts.path).rstrip("/")
    return path if parts.scheme == "file" else f"{parts.netloc.rpartition('@')[2]}{path}"


def _server(url: str) -> str:
    """What all folders of a bucket share: its address with the options."""
    parts = urlsplit(url)
    return url if parts.scheme == "file" else urlunsplit(parts._replace(path=""))


def connected(url: str) -> fs.FileSystem:
    """The files of a bucket, known to answer.

    Raises:
        StorageError: there is no such bucket, it cannot be reached, or it refuses.
    """
    return _connected(_server(url), os.getpid())


@lru_cache(maxsize=16)
def _connected(server: str, process: int) -> fs.FileSystem:
    """A connection that has been tried. A forked process needs its own: threads behind it are not inherited.

    pyarrow alone would try an address that does not answer for a minute, so an impatient connection puts the first
    question. For s3 from_uri takes no time limit.
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
            impatient = connected
        else:
            options = _s3_options(parts.netloc, dict(parse_qsl(parts.query)))
            impatient = fs.S3FileSystem(
                **options,
                request_timeout=_FIRST_ANSWER_SECONDS,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            )
            connected = fs.S3FileSystem(
                **options,
                request_timeout=_ANSWER_SECONDS,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
            )
        bucket = root(server)
        if impatient.get_file_info(bucket).type == fs.FileType.NotFound:
            raise StorageError(f"there is no bucket {bucket!r}: make it, or check the address")
    except (OSError, ValueError) as error:
        raise StorageError(reason(server, error)) from error
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


def passing(error: OSError) -> bool:
    """Whether the same may succeed a moment later."""
    if error.errno in _LASTING or isinstance(error, FileNotFoundError):
        return False
    return not (_FORBIDDEN.search(str(error)) or _NO_BUCKET.search(str(error)))


def reason(url: str, error: Exception) -> str:
    """One line for what pyarrow says in several."""
    parts, address, text = urlsplit(url), shown(url), one_line(error, 10_000)
    if _FORBIDDEN.search(text):
        way_out = {
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
            "file": "check its permissions",
        }[parts.scheme]
        return f"{address} refuses these credentials, or there are none: {way_out} ({text[:120]})"
    if _NO_BUCKET.search(text):
        return f"there is no bucket {root(_server(url))!r}: make it, or check the address"
    if _NO_ANSWER.search(text):
        detail = _DETAIL.search(text)
        endpoint = dict(parse_qsl(parts.query)).get("endpoint_override")
        return (
            f"{address} cannot be reached{f' at {endpoint}' if endpoint else ''}"
            f"{f' ({detail[1].lower().strip()})' if detail else ''}: check the address and the network"
        )
    return f"{address} failed: {text[:200]}"
