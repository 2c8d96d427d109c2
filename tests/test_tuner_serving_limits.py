"""Who may ask a server of a bundle, and how much: a request is refused before anything of it is looked into."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.tuner.serving.limits import Guard, Limits

LIMITS = Limits(picture_bytes=300, at_once=2, seconds=0.3)
URL = "http://127.0.0.1:8000"
FORM = "application/x-www-form-urlencoded"


class Echo:
    """An application that answers with what it was sent; while `closed` it waits."""

    def __init__(self) -> None:
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        await self.open.wait()
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"referrer-policy", b"origin")]})
        await send({"type": "http.response.body", "body": body})


def client(app: Any, host: str = "127.0.0.1", limits: Limits = LIMITS) -> httpx.AsyncClient:
    guard = Guard(app, limits, {"/predict": "application/json"}, host)
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=URL)


def ask(
    headers: dict[str, str], *, method: str = "POST", host: str = "127.0.0.1", content: Any = b"{}"
) -> tuple[httpx.Response, int]:
    """The answer, and how often the application was asked."""

    async def once() -> tuple[httpx.Response, int]:
        app = Echo()
        async with client(app, host) as web:
            response = await web.request(
                method, "/predict", headers={"content-type": "application/json", **headers}, content=content
            )
            return response, app.asked

    return asyncio.run(once())


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "LOCALHOST"])
def test_own_name_is_answered(method: str, host: str) -> None:
    response, asked = ask({"host": host}, method=method)
    assert (response.status_code, asked) == (200, 1)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.7",
        "",
        "[",
        "[::1",
        "a@localhost.b",
        "a@localhost",
        "localhost/a",
        "localhost:a",
        "localhost?",
    ],
)
def test_name_that_leads_here_by_somebody_elses_doing_is_refused(method: str, host: str) -> None:
    response, asked = ask({"host": host}, method=method)
    assert (response.status_code, asked) == (403, 0)
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize("host", ["192.168.1.7:80", "[fe80::1]", socket.gethostname(), "box.example", "localhost"])
def test_bound_to_the_world_addresses_and_names_of_this_machine_are_answered_and_no_others(host: str) -> None:
    assert ask({"host": host}, host="Box.Example")[0].status_code == 200
    assert ask({"host": "evil.example"}, host="box.example")[0].status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1:8000.evil.example"},
        {"origin": "http://["},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_page_of_another_site_is_refused(headers: dict[str, str]) -> None:
    response, asked = ask(headers)
    assert (response.status_code, asked) == (403, 0)


def test_own_page_is_answered_and_nobody_is_told_that_others_may_read_it() -> None:
    response, asked = ask({"origin": URL, "sec-fetch-site": "same-origin"})
    assert (response.status_code, asked) == (200, 1)
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["x-content-type-options"] == "nosniff" and response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "origin", "what the application says itself stays"


@pytest.mark.parametrize("kind", ["text/plain", FORM, "multipart/form-data; boundary=x", "", "application/jsonp"])
def test_what_a_form_of_another_page_can_send_is_no_json(kind: str) -> None:
    response, asked = ask({"content-type": kind})
    assert (response.status_code, asked) == (415, 0)


def test_charset_and_capitals_of_a_content_type_change_nothing() -> None:
    assert ask({"content-type": "Application/JSON; charset=utf-8"})[0].status_code == 200


@given(st.integers(-3, 3), st.booleans())
def test_body_is_let_through_up_to_its_limit_to_the_byte(over: int, streamed: bool) -> None:
    body = b"x" * (LIMITS.body_bytes + over)

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    response, asked = ask({}, content=parts() if streamed else body)
    assert (response.status_code, asked) == ((413, 0) if over > 0 else (200, 1))
    assert over > 0 or response.content == body


@pytest.mark.parametrize("length", ["99999999999999999999999999999", "-1", "x"])
def test_length_that_is_said_is_not_believed_below_the_limit(length: str) -> None:
    response, _ = ask({"content-length": length})
    assert response.status_code == (413 if length.isdecimal() else 200)


def test_more_requests_than_may_be_are_told_to_ask_again_and_later_ones_are_answered() -> None:
    async def several() -> None:
        app = Echo()
        app.open.clear()
        async with client(app) as web:

            async def post() -> httpx.Response:
                return await web.post("/predict", content=b"{}", headers={"content-type": "application/json"})

            waiting = [asyncio.create_task(post()) for _ in range(2)]
            while app.asked < 2:
                await asyncio.sleep(0)
            refused = await post()
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            assert "ask again" in refused.json()["error"]
            app.open.set()
            assert [response.status_code for response in await asyncio.gather(*waiting)] == [200, 200]
            assert (await post()).status_code == 200

    asyncio.run(several())


def test_page_and_health_are_answered_while_all_places_are_taken() -> None:
    async def busy() -> None:
        app = Echo()
        async with client(app, limits=Limits(at_once=0)) as web:
            assert (await web.get("/health")).status_code == 200

    asyncio.run(busy())


def test_body_that_does_not_come_in_time_gives_its_place_back() -> None:
    async def slow() -> None:
        async def never() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(5)
            yield b"}"

        async with client(Echo(), limits=Limits(at_once=1, seconds=0.05)) as web:
            headers = {"content-type": "application/json"}
            assert (await web.post("/predict", content=never(), headers=headers)).status_code == 408
            assert (await web.post("/predict", content=b"{}", headers=headers)).status_code == 200

    asyncio.run(slow())


def test_place_of_a_request_that_fails_is_given_back() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("of the application")

    async def twice() -> None:
        async with client(failing, limits=Limits(at_once=1)) as web:
            for _ in range(2):
                with pytest.raises(RuntimeError):
                    await web.post("/predict", content=b"{}", headers={"content-type": "application/json"})

    asyncio.run(twice())


def test_every_refusal_is_json_of_one_sentence() -> None:
    for headers in ({"host": "x"}, {"origin": "x"}, {"content-type": "x"}):
        content = json.loads(ask(headers)[0].content)
        assert list(content) == ["error"] and "\n" not in content["error"]


def test_request_at_work_when_the_server_ends_is_told_to_ask_again() -> None:
    async def ended() -> httpx.Response:
        app = Echo()
        app.open.clear()
        async with client(app) as web:
            headers = {"content-type": "application/json"}
            waiting = asyncio.create_task(web.post("/predict", content=b"{}", headers=headers))
            while not app.asked:
                await asyncio.sleep(0)
            waiting.cancel()
            return await waiting

    response = asyncio.run(ended())
    assert response.status_code == 503 and "the server ends" in response.json()["error"]
