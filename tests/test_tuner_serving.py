"""A bundle asked over HTTP: the answers that it gives by itself, and every refusal in one sentence."""

import asyncio
import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from test_tuner_predict import TINY, untrained

from captune.data_prep.store import PreparedData
from captune.model.config import restrict
from captune.model.flat import replace
from captune.model.presets import PRESETS

pytest.importorskip("fastapi", reason="pip install 'captune[serve]'")
pytest.importorskip("python_multipart", reason="pip install 'captune[serve]'")
pytestmark = pytest.mark.slow

NAMES = ("red", "blue", "green", "traffic light", "<b>star</b>", "box")
Ask = Callable[..., httpx.Response]


def classifier_of(bundle: Any) -> Any:
    from captune.tuner.api.classifier import Classifier

    return Classifier(Path("a & b/bundle"), changed(bundle, label_names=NAMES))


@pytest.fixture(scope="module")
def classifiers(data: PreparedData, captions_data: PreparedData, pictures_data: PreparedData) -> dict[str, Any]:
    """By what they read; "either" answers by captions or pictures alone as well."""
    of_both = replace(PRESETS["compact"], TINY)
    pictures = of_both.model_copy(update={"model": restrict(of_both.model, "image")})
    either = {**TINY, "fusion": "summed", "image.head": "positions"}
    return {
        "both": classifier_of(untrained(data, of_both)),
        "either": classifier_of(untrained(data, replace(PRESETS["compact"], either))),
        "captions": classifier_of(untrained(captions_data, PRESETS["captions"])),
        "pictures": classifier_of(untrained(pictures_data, pictures)),
    }


@pytest.fixture
def asked(classifiers: dict[str, Any]) -> Ask:
    """One request to the application of a classifier."""
    from captune.tuner.serving.app import application
    from captune.tuner.serving.limits import Limits

    def ask(which: str, path: str, *, limits: Any = None, method: str = "POST", **options: Any) -> httpx.Response:
        app = application(classifiers[which], limits or Limits(), "127.0.0.1")

        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
                return await web.request(method, path, **options)

        return asyncio.run(once())

    return ask


@pytest.fixture
def pictures(drawn: Path) -> list[Path]:
    return sorted((drawn / "images").iterdir())[:3]


def in_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def same(answer: list[dict[str, Any]], expected: Any) -> bool:
    """The same labels in the same order, their probabilities as near as batches of other sizes are."""
    pairs = list(zip(answer, expected, strict=True))
    return all(a["id"] == e.id and a["name"] == e.name and a["decided"] == e.decided for a, e in pairs) and [
        a["probability"] for a in answer
    ] == pytest.approx([e.probability for e in expected], abs=1e-5)


CAPTIONS = ["a red box", "", "two \u661f stars \u0000\u202e"]


def test_batch_gets_the_answers_that_the_bundle_gives(
    asked: Ask, classifiers: dict[str, Any], pictures: list[Path]
) -> None:
    examples = [{"caption": c, "image": in_base64(p)} for c, p in zip(CAPTIONS, pictures, strict=True)]
    for top in (None, 6):
        body = {"examples": examples} if top is None else {"examples": examples, "top": top}
        response = asked("both", "/predict", json=body)
        assert response.status_code == 200, response.text
        expected = classifiers["both"].answers(CAPTIONS, pictures, top=top)
        for answer, of_bundle in zip(response.json()["answers"], expected, strict=True):
            assert same(answer, of_bundle)


def test_examples_with_either_part_are_answered_in_their_order(
    asked: Ask, classifiers: dict[str, Any], pictures: list[Path]
) -> None:
    picture = in_base64(pictures[0])
    examples = [{"image": picture}, {"caption": "a box"}, {"image": picture, "caption": "a box"}, {"caption": ""}]
    answers = asked("either", "/predict", json={"examples": examples, "top": 6}).json()["answers"]
    either = classifiers["either"]
    assert same(answers[0], either.answers(images=pictures[:1], top=6)[0])
    assert same(answers[1], either.answers(captions=["a box"], top=6)[0])
    assert same(answers[2], either.answers(["a box"], pictures[:1], top=6)[0])
    assert same(answers[3], either.answers(captions=[""], top=6)[0])


def test_form_with_a_file_gets_the_answer_of_the_batch(asked: Ask, pictures: list[Path]) -> None:
    batch = asked("both", "/predict", json={"examples": [{"caption": "a box", "image": in_base64(pictures[0])}]})
    with pictures[0].open("rb") as file:
        form = asked("both", "/predict/form", data={"caption": "a box"}, files={"image": ("x.jpg", file)})
    assert form.status_code == 200 and form.json() == batch.json()


def test_field_of_a_form_that_is_given_twice_is_refused(asked: Ask) -> None:
    response = asked("captions", "/predict/form", files=[("caption", (None, "a")), ("caption", (None, "b"))])
    assert response.status_code == 422 and "caption is given 2 times" in response.json()["error"]


def test_form_of_captions_alone_is_taken(asked: Ask) -> None:
    response = asked("captions", "/predict/form", files={"caption": (None, "a box"), "top": (None, "2")})
    assert response.status_code == 200 and len(response.json()["answers"][0]) == 2


@pytest.mark.parametrize(
    ("which", "body", "status", "words"),
    [
        ("captions", '{"examples": [', 400, "not JSON"),
        ("captions", "[" * 100_000, 400, "body"),
        ("captions", "", 422, "the body: is missing"),
        ("captions", "null", 422, "the body: must be an object"),
        ("captions", '{"examples": [5]}', 422, "examples[0]: must be an object"),
        ("captions", '{"examples": [{"caption": "a"}], "\u202e": 1}', 422, "\\u202e: "),
        ("captions", '{"examples": []}', 422, "examples"),
        ("captions", '{"examples": [{"caption": 5}]}', 422, "examples[0].caption"),
        ("captions", '{"examples": [{"caption": null}]}', 422, "examples[0].caption"),
        ("captions", '{"examples": [{"caption": "\\ud800"}]}', 422, "examples[0].caption"),
        ("captions", '{"examples": [{"caption": "a"}], "top": 7}', 422, "top"),
        ("captions", '{"examples": [{"caption": "a"}], "top": "1"}', 422, "top"),
        ("captions", '{"examples": [{"caption": "a"}], "top": null}', 422, "top"),
        ("captions", '{"examples": [{"caption": "a"}], "topp": 1}', 422, "topp"),
        ("captions", '{"examples": [{"caption": "a", "image": "aaaa"}]}', 422, "examples[0].image"),
        ("captions", '{"examples": [{"caption": "a", "caption": "b"}]}', 422, "key 'caption' stands twice; give it"),
        ("captions", '{"examples": [{"caption": "a"}], "top": 1, "top": 1}', 422, "key 'top' stands twice"),
        ("captions", '{"x": {"\u202e": 1, "\\u202e": 2}}', 422, "key '\\u202e' stands twice"),
        ("captions", '{"examples": [{"caption": "' + 10_001 * "a" + '"}]}', 422, "10000 characters"),
        ("captions", json.dumps({"examples": [{"caption": "a"}] * 65}), 422, "64 items"),
        ("pictures", '{"examples": [{"caption": "a"}]}', 422, "examples[0]"),
        ("both", '{"examples": [{"caption": "a"}]}', 422, "examples[0].image"),
        ("either", '{"examples": [{}]}', 422, "give caption, image, or both"),
        ("pictures", '{"examples": [{"image": "%%%"}]}', 422, "not base64"),
        ("pictures", '{"examples": [{"image": "\u00e9"}]}', 422, "not base64"),
        ("pictures", '{"examples": [{"image": ""}]}', 422, "examples[0].image"),
        ("pictures", '{"examples": [{"image": "aaaa"}]}', 422, "JPEG"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_request_that_cannot_be_answered_is_told_in_one_sentence(
    asked: Ask, which: str, body: str, status: int, words: str
) -> None:
    response = asked(which, "/predict", content=body.encode(), headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert words in error and "\n" not in error and len(error) <= 300, error


def test_picture_of_many_pixels_in_few_bytes_is_refused(asked: Ask, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("L", (60_000, 2_000)).save(file, "PNG")
    response = asked("pictures", "/predict/form", files={"image": ("bomb.png", file.getvalue())})
    assert response.status_code == 422 and "pixels" in response.json()["error"]


def test_pictures_of_more_pixels_together_than_may_be_are_refused(asked: Ask, pictures: list[Path]) -> None:
    from captune.tuner.serving.limits import Limits

    with Image.open(pictures[0]) as image:
        pixels = image.width * image.height
    examples = [{"image": in_base64(pictures[0])}] * 3
    for limit, status in ((3 * pixels, 200), (3 * pixels - 1, 422)):
        response = asked("pictures", "/predict", limits=Limits(pixels=limit), json={"examples": examples})
        assert response.status_code == status, response.text


def test_text_in_the_place_of_a_file_is_told_so(asked: Ask) -> None:
    response = asked("pictures", "/predict/form", files={"image": (None, "a text")})
    assert response.status_code == 422 and response.json() == {"error": "image: must be a file"}


def test_picture_of_more_bytes_than_may_be_is_refused_by_either_way(asked: Ask, pictures: list[Path]) -> None:
    from captune.tuner.serving.limits import Limits

    size = pictures[0].stat().st_size
    for limit, status in ((size, 200), (size - 1, 422)):
        limits = Limits(picture_bytes=limit)
        form = asked("pictures", "/predict/form", limits=limits, files={"image": ("x.jpg", pictures[0].read_bytes())})
        batch = asked("pictures", "/predict", limits=limits, json={"examples": [{"image": in_base64(pictures[0])}]})
        assert (form.status_code, batch.status_code) == (status, status)


def test_damaged_picture_is_told_with_its_place_and_the_server_goes_on(asked: Ask, pictures: list[Path]) -> None:
    whole = in_base64(pictures[0])
    cut = base64.b64encode(pictures[1].read_bytes()[:700]).decode()
    response = asked("pictures", "/predict", json={"examples": [{"image": whole}, {"image": cut}]})
    assert response.status_code == 422 and "examples[1].image" in response.json()["error"]
    assert asked("pictures", "/predict", json={"examples": [{"image": whole}]}).status_code == 200


def test_health_says_what_is_read(asked: Ask) -> None:
    response = asked("both", "/health", method="GET")
    assert response.json() == {"status": "ok", "reads": ["captions", "images"], "labels": 6}


def test_path_and_method_that_are_not_there_are_told_as_json(asked: Ask) -> None:
    nowhere, other = asked("both", "/docs", method="GET"), asked("both", "/predict", method="GET")
    assert (nowhere.status_code, other.status_code, other.headers["allow"]) == (404, 405, "POST")
    assert set(nowhere.json()) == set(other.json()) == {"error"}


def test_fault_of_the_server_says_nothing_of_itself_to_who_asks(
    asked: Ask, classifiers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret \x1b[31m")

    monkeypatch.setattr("captune.tuner.api.classifier.Classifier.answers", fail)
    response = asked("captions", "/predict", json={"examples": [{"caption": "a"}]})
    assert response.status_code == 500 and "secret" not in response.text
    told = capsys.readouterr().err
    assert "secret" in told and "\x1b" not in told


def test_requests_at_the_same_time_get_their_own_answers(classifiers: dict[str, Any]) -> None:
    from captune.tuner.serving.app import application
    from captune.tuner.serving.limits import Limits

    captions = [f"{colour} {shape}" for colour in ("red", "blue", "green") for shape in ("box", "star", "ball")]
    expected = classifiers["captions"].answers(captions, top=6)

    async def together() -> list[httpx.Response]:
        app = application(classifiers["captions"], Limits(at_once=len(captions)), "127.0.0.1")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as web:
            return await asyncio.gather(
                *(web.post("/predict", json={"examples": [{"caption": c}] * 3, "top": 6}) for c in captions)
            )

    for response, answer in zip(asyncio.run(together()), expected, strict=True):
        assert all(same(each, answer) for each in response.json()["answers"])


def test_page_shows_names_as_text_and_asks_for_nothing_from_elsewhere(asked: Ask) -> None:
    response = asked("both", "/", method="GET")
    assert "a &amp; b/bundle" in response.text and "a & b" not in response.text
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src 'self'" in policy
    assert "http" not in response.text.replace("http-equiv", "")


def test_page_has_the_fields_of_what_is_read(asked: Ask) -> None:
    for which, fields in (("captions", {"caption"}), ("pictures", {"image"}), ("both", {"caption", "image"})):
        text = asked(which, "/", method="GET").text
        assert {name for name in ("caption", "image") if f'id="{name}"' in text} == fields
