"""The application of `captune serve`: one bundle, a page for people, and JSON with an OpenAPI schema for programs.

Annotations are values here, of which FastAPI makes the schema.
"""

import base64
import binascii
import hashlib
import json
import re
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from threading import Lock
from typing import Annotated, Any

import jinja2
from fastapi import Body, Depends, FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from captune.data_prep.containers import size_of
from captune.data_prep.images import ImageError, Pixels, decode
from captune.errors import UsageError, WorkError, in_words, one_line, visible
from captune.reading import TwiceError, each_once
from captune.tuner.api.classifier import Classifier
from captune.tuner.api.progress import say
from captune.tuner.serving.limits import Guard, Limits
from captune.tuner.serving.messages import MEDIA_TYPES, Answers, Failure, Health, request_models
from captune.tuner.winner.answers import Answer

BATCH, FORM = "/predict", "/predict/form"
_FAILURES = {
    400: "no JSON, or no form",
    403: "asked under a foreign name, or by a page of another site",
    408: "not sent in time",
    413: "too large",
    415: "of another content type",
    422: "not as the schema says, or a picture that cannot be used",
    500: "a fault of the server",
    503: "too many requests at once",
}
_ENCODED = {
    "requestBody": {
        "content": {"multipart/form-data": {"encoding": {"image": {"contentType": ", ".join(MEDIA_TYPES)}}}}
    }
}
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def application(classifier: Classifier, limits: Limits, host: str) -> Guard:
    """The ASGI application of a classifier.

    Args:
        host: that it is bound to, by which it may be asked.
    """
    app = FastAPI(
        title="captune",
        version=version("captune"),
        description=f"Labels from {' and '.join(classifier.reads)}",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": Failure, "description": what} for status, what in _FAILURES.items()},
    )
    batch, form = request_models(classifier.bundle, limits)
    network, page = _Network(classifier, limits), _page(classifier, limits)

    @app.get("/", include_in_schema=False)
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"content-security-policy": _policy(page)})

    @app.get("/health")
    def health() -> Health:
        return Health(status="ok", reads=classifier.reads, labels=len(classifier.labels))

    @app.post(BATCH, dependencies=[Depends(_keys_once)])
    def predict(request: Annotated[batch, Body()]) -> Answers:  # type: ignore[valid-type]
        """Labels of several examples."""
        captions = [getattr(example, "caption", None) for example in request.examples]  # type: ignore[attr-defined]
        pictures = [
            _from_base64(getattr(example, "image", None), f"examples[{place}].image")
            for place, example in enumerate(request.examples)  # type: ignore[attr-defined]
        ]
        return Answers(answers=network.answers(captions, pictures, request.top))  # type: ignore[attr-defined]

    @app.post(FORM, openapi_extra=_ENCODED, dependencies=[Depends(_fields_once)])
    def predict_form(form: Annotated[form, Form(media_type="multipart/form-data")]) -> Answers:  # type: ignore[valid-type]
        """Labels of one example, with its picture as a file."""
        upload = getattr(form, "image", None)
        picture = None if upload is None else ("image", upload.file.read(limits.picture_bytes + 1))
        return Answers(answers=network.answers([getattr(form, "caption", None)], [picture], form.top))  # type: ignore[attr-defined]

    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(UsageError)(lambda _, error: _failure(422, str(error)))
    app.exception_handler(WorkError)(lambda _, error: _failure(503, str(error)))
    app.exception_handler(Exception)(_fault)
    return Guard(app, limits, {BATCH: "application/json", FORM: "multipart/form-data"}, host)


async def _keys_once(request: Request) -> None:
    """Raises UsageError where an object of a body that is JSON has a key twice, of which one would be lost."""
    try:
        json.loads(await request.body() or "null", object_pairs_hook=each_once)
    except TwiceError as error:
        raise UsageError(f"{error}; give it once") from None


async def _fields_once(request: Request) -> None:
    """Raises UsageError where a field of a form is given twice, of which one would be lost."""
    names = [name for name, _ in (await request.form()).multi_items()]
    for name in set(names):
        if names.count(name) > 1:
            raise UsageError(f"{name} is given {names.count(name)} times")


class _Network:
    """One request at a time goes through the network; pictures are decoded beside it."""

    def __init__(self, classifier: Classifier, limits: Limits) -> None:
        self._classifier, self._limits = classifier, limits
        image = classifier.bundle.config.image
        self._side = None if image is None else image.side
        self._lock = Lock()

    def answers(
        self, captions: Sequence[str | None], pictures: Sequence[tuple[str, bytes] | None], top: int | None
    ) -> list[tuple[Answer, ...]]:
        """Of examples that have a caption, a picture with its name for messages, or both."""
        sizes = [size_of(picture[1]) for picture in pictures if picture is not None]
        if sum(width * height for width, height in sizes) > self._limits.pixels:
            raise ImageError(f"the pictures have more than {self._limits.pixels} pixels together; send fewer at a time")
        pixels = [None if picture is None else self._decoded(*picture) for picture in pictures]
        answers: list[tuple[Answer, ...]] = [()] * len(captions)
        kinds = [(caption is not None, picture is not None) for caption, picture in zip(captions, pixels, strict=True)]
        with self._lock:
            for kind in sorted(set(kinds)):  # those that have the same parts go through together
                places = [place for place, other in enumerate(kinds) if other == kind]
                some = self._classifier.answers(
                    [captions[place] or "" for place in places] if kind[0] else None,
                    [pixels[place] for place in places] if kind[1] else None,  # type: ignore[misc]
                    top=top,
                )
                for place, answer in zip(places, some, strict=True):
                    answers[place] = answer
        return answers

    def _decoded(self, name: str, data: bytes) -> Pixels:
        assert self._side is not None
        if len(data) > self._limits.picture_bytes:
            raise ImageError(f"picture {name} has more than {self._limits.picture_bytes} bytes; scale it down")
        return decode(data, self._side, name=name)


def _from_base64(text: str | None, name: str) -> tuple[str, bytes] | None:
    try:
        return None if text is None else (name, base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise ImageError(f"{name} is not base64") from None


def _page(classifier: Classifier, limits: Limits) -> str:
    loader = jinja2.PackageLoader("captune.tuner.serving", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("page.html").render(
        name=visible(str(classifier.path)),
        reads=classifier.reads,
        either=classifier.bundle.config.has_parts,
        top=min(10, len(classifier.labels)),
        limits=limits,
    )


def _policy(page: str) -> str:
    """Nothing runs, and nothing is drawn by, but what stands in the page; it asks its own server alone."""
    hashes = {
        kind: f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
        for kind, content in _INLINE.findall(page)
    }
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


def _failure(status: int, reason: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": one_line(visible(reason))}, status, headers=headers)


def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _failure(error.status_code, f"{error.detail.lower().rstrip('.')}: see /openapi.json", error.headers)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong, with its place."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _failure(400, f"the body is not JSON: {first['ctx']['error']}")
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][1:]).lstrip(".")
    return _failure(422, f"{place or 'the body'}: {in_words(first['msg'])}")


def _fault(_: Request, error: Exception) -> JSONResponse:
    say("".join(traceback.format_exception(error)))
    return _failure(500, "a fault of the server; it has written what went wrong")
