"""Who may ask a server of a bundle, and how much: held before anything of a request is looked into."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?", re.ASCII)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Limits:
    """What one request may hold, and how many may be at work.

    picture_bytes: of a picture's file. pixels: of all pictures of a request. caption: characters. rows: examples of a
    request. at_once: requests; more get 503. connections: more are cut off, open files being few. seconds: in which
    the head of a request must have come in, then its body; and in which an answer must be taken.
    """

    picture_bytes: int = 16 * 2**20
    pixels: int = 256 * 2**20
    caption: int = 10_000
    rows: int = 64
    at_once: int = 8
    connections: int = 250
    seconds: float = 30.0

    @property
    def body_bytes(self) -> int:
        """Of a request: two of the largest pictures in base64, or many smaller ones, and text."""
        return 2 * self.picture_base64 + 2**20

    @property
    def picture_base64(self) -> int:
        """Characters of the largest picture in base64."""
        return -(-self.picture_bytes // 3) * 4


@dataclass(frozen=True)
class _Refused(Exception):  # noqa: N818 - an answer, no error of ours
    status: int
    reason: str


class Guard:
    """Around an ASGI application: refuses what is asked under a foreign name, by a page of others, or is too much.

    A name that somebody else has made lead here (DNS rebinding) is not the one that was bound. A browser that is told
    by a page of others to ask says so in Origin and Sec-Fetch-Site; nothing else sends these.

    Args:
        content_types: of what is posted, by path.
        host: that is bound. Beyond loopback, addresses and the names of this machine are accepted as well.
    """

    def __init__(self, app: App, limits: Limits, content_types: Mapping[str, str], host: str) -> None:
        self._app, self._limits, self._content_types = app, limits, content_types
        self._loopback = host in LOOPBACK
        own = () if self._loopback else (host, socket.gethostname(), socket.getfqdn())
        self._names = {*LOOPBACK, *map(str.lower, own)}
        self._at_work = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                already = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(each for each in more if each[0] not in already)]
            await send(message)

        if scope["type"] != "http":
            return
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_host(headers.get("host", ""))
            if scope["method"] != "POST":
                await self._app(scope, receive, with_headers)
                return
            self._check_origin(headers)
            self._check_content(scope["path"], headers)
            if self._at_work >= self._limits.at_once:
                raise _Refused(503, f"{self._limits.at_once} requests are at work, as many as may be; ask again")
            self._at_work += 1
            try:
                await self._app(scope, _replayed(await self._body(receive), receive), with_headers)
            finally:
                self._at_work -= 1
        except asyncio.CancelledError:  # the server ends, and has waited
            await refuse(with_headers, 503, "the server ends; ask again when it is back")
        except _Refused as refused:
            await refuse(with_headers, refused.status, refused.reason)

    def _check_host(self, host: str) -> None:
        name = match[1].strip("[]").lower() if (match := _HOST.fullmatch(host)) else ""
        try:
            if name in self._names or (not self._loopback and ipaddress.ip_address(name)):
                return
        except ValueError:  # neither a name of ours nor an address
            pass
        raise _Refused(403, "ask by the address that captune serve says")

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
        if foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise _Refused(403, "pages of other sites may not ask")

    def _check_content(self, path: str, headers: Mapping[str, str]) -> None:
        content_type = self._content_types.get(path)
        if content_type and headers.get("content-type", "").partition(";")[0].strip().lower() != content_type:
            raise _Refused(415, f"send {content_type}")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._limits.body_bytes:
            raise self._too_large()

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Refused(400, "the connection was closed")
                    body += message.get("body", b"")
                    if len(body) > self._limits.body_bytes:
                        raise self._too_large()
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            seconds = self._limits.seconds
            raise _Refused(408, f"a request must have come in within {seconds:g} seconds") from None

    def _too_large(self) -> _Refused:
        return _Refused(413, f"a request has at most {self._limits.body_bytes} bytes; send fewer or smaller pictures")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, and then what else comes."""
    first = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


async def refuse(send: Send, status: int, reason: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = json.dumps({"error": reason}).encode()
    closing = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    closing += [(b"retry-after", b"1")] if status == 503 else []
    # What was not read must not be taken for the next request.
    await send({"type": "http.response.start", "status": status, "headers": [*closing, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
