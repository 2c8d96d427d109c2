"""Addresses of object storage, s3://, gs:// and abfss://: what they name, what answers there, and why it fails."""

from __future__ import annotations

import errno
import os
import re
from base64 import b64decode
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from captune.errors import WorkError, one_line

if TYPE_CHECKING:
    from pyarrow import fs

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_OPTIONS = {
    "s3": {"region", "scheme", "endpoint_override", "tls_ca_file_path", "force_virtual_addressing"},
    "gs": {"scheme", "endpoint_override", "project_id", "retry_limit_seconds"},
    "abfss": {"scheme", "endpoint_override"},
    "file": set[str](),
}
_CONNECT_SECONDS, _ANSWER_SECONDS, _FIRST_ANSWER_SECONDS = 3, 10, 5
_LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR})
_FORBIDDEN = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_SIGNATURE|SIGNATURE_DOES_NOT_MATCH|[A-Z_]*TOKEN)|"
    r"HTTP status 40[13]|OAuth2|PERMISSION_DENIED|UNAUTHENTICATED|Azure Error: \[(Auth|InvalidAuth|NoAuth|\] 40[13])"
)
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|Bucket '.*' not found|bucket does not exist|ContainerNotFound")
_NO_ANSWER = re.compile(r"NETWORK_CONNECTION|CURL error|Fail to get a new connection|urlopen error|timed out")
_DETAIL = re.compile(
    r"(?:curlCode: \d+, |CURL error \[\d+\]=|new connection for: \S+ |urlopen error (?:\[Errno -?\d+\] )?)([\w ]+)"
)
_QUERY = re.compile(r"(?<=\S)\?[^\s']+")
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS",
    "abfss": "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN",
    "file": "check its permissions",
}


class StorageError(WorkError):
    """Object storage could not be reached, refuses, or holds something else than it should."""


def is_url(text: str) -> bool:
    """Whether `text` is an address rather than a path: of storage (s3:// and its like), or one `check` refuses."""
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
        raise StorageError(f"{url!r} is no address of storage: it begins with s3://, gs://, abfss:// or file://")
    if parts.password is not None or (parts.scheme == "s3" and parts.username is not None):
        raise StorageError(f"{shown(url)} holds credentials: keep them in the environment, out of the address")
    if parts.scheme == "file" and (parts.netloc or parts.path in ("", "/")):
        raise StorageError(f"{shown(url)} names no folder: write file:///folder")
    if parts.scheme == "abfss" and not (parts.username and "." in (parts.hostname or "")):
        raise StorageError(
            f"{shown(url)} names no container: write abfss://container@account.dfs.core.windows.net/folder"
        )
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
    before, _, host = parts.netloc.rpartition("@")
    container = f"{before.partition(':')[0]}@" if parts.scheme == "abfss" and before else ""
    return urlunsplit((parts.scheme, container + host, parts.path, "", ""))


def root(url: str) -> str:
    """The folder of the address as pyarrow names it."""
    parts = urlsplit(url)
    path = unquote(parts.path).rstrip("/")
    if parts.scheme == "file":
        return path
    before, _, host = parts.netloc.rpartition("@")
    return f"{before if parts.scheme == 'abfss' else host}{path}"


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
        elif parts.scheme == "abfss":
            connected = impatient = _azure(parts, dict(parse_qsl(parts.query)))
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
        if impatient.get_file_info(root(server)).type == fs.FileType.NotFound:
            raise StorageError(_no_bucket(server))
    except (OSError, ValueError, ImportError) as error:  # the last: a pyarrow that was built without
        raise StorageError(reason(server, error)) from error
    return connected


def _azure(parts: SplitResult, query: dict[str, str]) -> fs.FileSystem:
    """A storage account, which has answered something: pyarrow waits for an answer without an end.

    The other credentials of Azure are not taken: looking for them ends the whole process where there are none.
    """
    from urllib.error import HTTPError
    from urllib.request import urlopen

    from pyarrow import fs

    key, token = os.environ.get("AZURE_STORAGE_KEY"), os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    if not (key or token):
        raise StorageError(f"{shown(urlunsplit(parts))} needs credentials: {_CREDENTIALS['abfss']}")
    try:
        b64decode(key or "", validate=True)
    except ValueError:  # the library behind pyarrow ends the process for it
        raise StorageError("AZURE_STORAGE_KEY is not Base64, as keys of a storage account are: copy it again") from None
    account, _, domain = (parts.hostname or "").partition(".")
    scheme, host = query.get("scheme", "https"), query.get("endpoint_override")
    blobs = host or f"{account}.{domain.replace('dfs.', 'blob.', 1)}"
    with suppress(HTTPError):
        urlopen(f"{scheme}://{blobs}/", timeout=_FIRST_ANSWER_SECONDS).close()
    return fs.AzureFileSystem(
        account,
        account_key=key,
        sas_token=None if key else token,
        blob_storage_authority=host or f".{domain.replace('dfs.', 'blob.', 1)}",
        dfs_storage_authority=host or f".{domain}",
        blob_storage_scheme=scheme,
        dfs_storage_scheme=scheme,
    )


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
    parts, address = urlsplit(url), shown(url)
    text = _QUERY.sub("", one_line(error, 10_000))  # of Azure's addresses it is the token
    if _FORBIDDEN.search(text):
        return f"{address} refuses these credentials, or there are none: {_CREDENTIALS[parts.scheme]} ({text[:120]})"
    if _NO_BUCKET.search(text):
        return _no_bucket(url)
    if _NO_ANSWER.search(text):
        detail = _DETAIL.search(text)
        endpoint = dict(parse_qsl(parts.query)).get("endpoint_override")
        return (
            f"{address} cannot be reached{f' at {endpoint}' if endpoint else ''}"
            f"{f' ({detail[1].lower().strip()})' if detail else ''}: check the address and the network"
        )
    return f"{address} failed: {text[:200]}"


def _no_bucket(url: str) -> str:
    kind = "container" if urlsplit(url).scheme == "abfss" else "bucket"
    return f"there is no {kind} {root(_server(url))!r}: make it, or check the address"
