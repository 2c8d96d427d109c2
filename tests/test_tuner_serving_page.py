"""The page of a server in Chromium, where there is one: a picture dropped, a caption typed, labels read out."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import CHROMIUM, Tab, tab
from test_tuner_predict import TINY, untrained

from captune.data_prep.store import PreparedData
from captune.model.flat import replace
from captune.model.presets import PRESETS

pytest.importorskip("fastapi", reason="pip install 'captune[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="pip install 'captune[serve]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install Debian's package chromium"),
]
NAMES = ("red", "blue", "green", "traffic light", "<img src=x>", "box")


@pytest.fixture(scope="module")
def url(data: PreparedData) -> Iterator[str]:
    """A server in this process, of a classifier that reads captions, pictures, or both."""
    from dataclasses import replace as changed

    from captune.tuner.api.classifier import Classifier
    from captune.tuner.serving.app import application
    from captune.tuner.serving.limits import Limits

    either = replace(PRESETS["compact"], {**TINY, "fusion": "summed", "image.head": "positions"})
    bundle = changed(untrained(data, either), label_names=NAMES)
    app: Any = application(Classifier(Path("my <b>bundle"), bundle), Limits(picture_bytes=20_000), "127.0.0.1")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def page(browser: Tab, url: str) -> Tab:
    browser.logged.clear()
    browser.requests.clear()
    browser.open(url)
    return browser


@pytest.fixture
def picture(drawn: Path) -> Path:
    return min((drawn / "images").iterdir())


ANSWERED = (
    "!document.getElementById('answer').hidden && [...document.querySelectorAll('tbody tr')].map(r => r.innerText)"
)
FAILED = "document.getElementById('error').textContent"


def test_picture_that_is_dropped_with_a_caption_gets_its_labels(page: Tab, url: str, picture: Path) -> None:
    page.drop("#drop", picture)
    page.wait("!document.getElementById('preview').hidden && document.getElementById('preview').naturalWidth")
    page.js("document.getElementById('caption').focus()")
    page.call("Input.insertText", text="a red box")
    page.js("document.querySelector('button').click()")
    rows = page.wait(ANSWERED)
    assert len(rows) == 6 and all("%" in row for row in rows)
    assert any(row.startswith("<img src=x>") for row in rows), "a name is text"
    assert page.wait("document.getElementById('status').textContent").startswith("Given: ")
    assert page.logged == []
    assert {request for request in page.requests if not request.startswith(("blob:", "data:"))} <= {
        url,
        f"{url}predict/form",
        f"{url}favicon.ico",
    }


def test_keyboard_alone_is_enough(page: Tab) -> None:
    """Tab goes to the picture, then to the caption, whose Ctrl+Enter asks."""
    places = []
    for _ in range(3):
        page.key("Tab", 9)
        places.append(page.js("document.activeElement.id || document.activeElement.tagName"))
    assert places == ["image", "caption", "BUTTON"]
    page.js("document.getElementById('caption').focus()")
    page.call("Input.insertText", text="two stars")
    page.key("Enter", 13, control=True)
    assert len(page.wait(ANSWERED)) == 6


def test_picture_alone_and_caption_alone_are_answered_where_either_is_enough(page: Tab, picture: Path) -> None:
    page.choose("#image", picture)
    page.js("document.querySelector('button').click()")
    of_picture = page.wait(ANSWERED)
    page.js("document.getElementById('form').reset()")
    page.js("document.getElementById('caption').value = 'a red box'; document.querySelector('button').click()")
    page.wait("document.getElementById('answer').hidden || true")
    page.wait("document.getElementById('status').textContent.startsWith('Given')")
    assert page.wait(ANSWERED) != of_picture


def test_what_cannot_be_answered_is_said_aloud_and_the_next_is_answered(
    page: Tab, picture: Path, tmp_path: Path
) -> None:
    large, damaged = tmp_path / "large.jpg", tmp_path / "damaged.jpg"
    large.write_bytes(picture.read_bytes() + bytes(20_000))
    damaged.write_bytes(picture.read_bytes()[:700])
    for file, words in ((large, "20000 bytes"), (damaged, "damaged")):
        page.choose("#image", file)
        page.js("document.querySelector('button').click()")
        page.wait(f"{FAILED}.includes({words!r})")
        assert page.js("document.getElementById('answer').hidden")
    page.js("document.getElementById('form').reset(); document.querySelector('button').click()")
    page.wait(f"{FAILED}.includes('give caption, image, or both')")
    page.choose("#image", picture)
    page.js("document.querySelector('button').click()")
    assert page.wait(ANSWERED) and page.js(FAILED) == ""


def test_screen_reader_is_told_what_everything_is(page: Tab) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    of_role = {}
    for node in nodes:
        of_role.setdefault(node.get("role", {}).get("value"), []).append(node.get("name", {}).get("value", ""))
    assert of_role["heading"] == ["my <b>bundle"]
    assert of_role["textbox"] == ["Caption"]
    assert sorted(of_role["button"]) == ["Ask for labels", "Picture drop, paste or choose one"]
    assert "alert" in of_role and "status" in of_role and "main" in of_role
    assert page.js("document.documentElement.lang") == "en"


def test_dark_is_dark_and_light_is_light(page: Tab) -> None:
    grounds = {}
    for scheme in ("dark", "light"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        style = "getComputedStyle(document.body)"
        for what in ("backgroundColor", "color"):
            rgb = page.js(f"{style}.{what}.match(/[0-9]+/g).slice(0, 3).map(Number)")
            grounds[scheme, what] = sum(rgb) / 3
    assert grounds["dark", "backgroundColor"] < 60 < 180 < grounds["dark", "color"]
    assert grounds["light", "color"] < 60 < 200 < grounds["light", "backgroundColor"]


def test_narrow_screen_needs_no_scrolling_sideways(page: Tab) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=320, height=600, deviceScaleFactor=1, mobile=True)
    assert page.js("document.documentElement.scrollWidth") <= 320
    page.call("Emulation.clearDeviceMetricsOverride")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_form_of_another_site_changes_nothing_and_learns_nothing(
    browser: Tab, url: str, tmp_path: Path, kind: str
) -> None:
    """A page of a file is of no site; its form may be sent, and is refused."""
    foreign = tmp_path / "foreign.html"
    foreign.write_text(
        f'<form action="{url}predict/form" method="post" enctype="{kind}"><input name="caption" value="a box"></form>'
        "<script>const body = new FormData(document.forms[0]);"
        f"fetch('{url}predict/form', {{method: 'POST', mode: 'no-cors', body}})"
        f".then(r => document.title = 'opaque ' + r.status, e => document.title = 'failed')</script>"
    )
    browser.open(foreign.as_uri())
    assert browser.wait("document.title") in ("opaque 0", "failed")
    browser.js("document.forms[0].submit()")
    assert "may not ask" in browser.wait(f"location.href.startsWith({url!r}) && document.body.innerText"), (
        "the form of another site was answered"
    )
