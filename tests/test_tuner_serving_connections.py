"""Connections to a server of a bundle: none stands open for nothing, and what is no HTTP is told as all else is."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from captune.tuner.serving.limits import Guard, Limits

uvicorn = pytest.importorskip("uvicorn", reason="pip install 'captune[serve]'")
LIMITS = Limits(seconds=0.4, connections=3, at_once=2)
HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
GET = HEAD + b"\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Of a megabyte at /large, late at /late."""
    path = scope["path"]
    if path == "/late":
        await asyncio.sleep(4 * LIMITS.seconds)
    body = b"x" * (2**20 if path == "/large" else 2)
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


Connect = Callable[[], socket.socket]


@contextmanager
def listening(limits: Limits = LIMITS) -> Iterator[tuple[Connect, Guard]]:
    """A server in a thread."""
    from captune.tuner.serving.connections import connections

    listener, guard = socket.create_server(("127.0.0.1", 0)), Guard(answer, limits, {}, "127.0.0.1")
    config = uvicorn.Config(guard, http=connections(limits), lifespan="off", ws="none", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    address = listener.getsockname()
    thread.start()
    try:
        yield lambda: socket.create_connection(address, timeout=20 * limits.seconds), guard
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@pytest.fixture
def connect() -> Iterator[Connect]:
    with listening() as (connect, _):
        yield connect


def received(connection: socket.socket) -> bytes:
    """All until it is closed; what was not read by the other side may cut it off."""
    content = b""
    try:
        while some := connection.recv(2**16):
            content += some
    except ConnectionError:
        pass
    return content


@pytest.mark.parametrize("before", [b"", GET], ids=["the first", "the second"])
@pytest.mark.parametrize("start", [b"", HEAD], ids=["nothing", "a part"])
@pytest.mark.parametrize("more", [b"", b"X: y\r\n"], ids=["silent", "line by line"])
def test_head_that_does_not_come_in_time_ends_its_connection(
    connect: Connect, before: bytes, start: bytes, more: bytes
) -> None:
    with connect() as connection:
        connection.sendall(before + start)
        begun = time.monotonic()
        connection.settimeout(0.05)
        content = b""
        with pytest.raises(ConnectionError):
            while time.monotonic() < begun + 20:
                try:
                    connection.sendall(more)
                    some = connection.recv(2**16)
                    content += some
                    if not some:
                        raise ConnectionError
                except TimeoutError:
                    pass
        assert time.monotonic() - begun >= 0.9 * LIMITS.seconds
        assert content.count(b"200 OK") == bool(before)


def test_body_without_end_that_nobody_reads_ends_its_connection(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < begun + 20:
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.05)


def test_request_that_takes_longer_than_a_head_may_is_answered(connect: Connect) -> None:
    with connect() as connection:
        connection.sendall(GET.replace(b"/ ", b"/late ", 1) + GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert received(connection).count(b"200 OK") == 2


def test_answers_that_are_not_taken_give_their_places_back() -> None:
    with listening() as (connect, guard):
        connections = [connect() for _ in range(LIMITS.at_once)]
        for connection in connections:
            connection.sendall(POST.replace(b"/ ", b"/large ", 1) * 20)
        begun = time.monotonic()
        while guard._at_work < LIMITS.at_once and time.monotonic() < begun + 20:
            time.sleep(0.01)
        assert guard._at_work == LIMITS.at_once
        while guard._at_work and time.monotonic() < begun + 20:
            time.sleep(0.01)
        assert guard._at_work == 0
        with connect() as another:
            another.sendall(POST.replace(b"Host", b"Connection: close\r\nHost"))
            assert b"200 OK" in received(another)
        for connection in connections:
            connection.close()


def test_one_connection_too_many_is_cut_off_and_a_later_one_is_answered(connect: Connect) -> None:
    others = [connect() for _ in range(LIMITS.connections)]
    time.sleep(0.1)
    with connect() as refused:
        assert received(refused) == b""
    for other in others:
        other.close()
    time.sleep(0.1)
    with connect() as later:
        later.sendall(GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert b"200 OK" in received(later)


@pytest.mark.parametrize(
    "request_", [b"garbage\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http_is_told_as_json(connect: Connect, request_: bytes) -> None:
    with connect() as connection:
        connection.sendall(request_)
        head, _, body = received(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and list(json.loads(body)) == ["error"]


def test_what_is_no_http_behind_an_answer_ends_the_connection_without_a_word(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "asyncio")
    with connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        assert b"200 OK" in connection.recv(2**16)
        connection.sendall(b"no chunk\r\n\r\n")
        assert received(connection) in (b"", b"xx")
    assert not [record for record in caplog.records if record.name == "asyncio"]
