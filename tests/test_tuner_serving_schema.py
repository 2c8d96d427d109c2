"""What the OpenAPI schema says is so: drawn requests that fit it and that do not, to the application itself."""

import base64
import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_tuner_predict import TINY, untrained

from captune.data_prep.store import PreparedData
from captune.model.flat import replace
from captune.model.presets import PRESETS

schemathesis = pytest.importorskip("schemathesis", reason="pip install 'captune[dev]'")
pytest.importorskip("fastapi", reason="pip install 'captune[serve]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def picture(seed: int) -> bytes:
    drawn, file = random.Random(seed), io.BytesIO()
    size = drawn.randint(1, 40), drawn.randint(1, 40)
    Image.new("RGB", size, (seed % 256, 0, 99)).save(file, drawn.choice(["PNG", "JPEG", "GIF", "BMP"]))
    return file.getvalue()


@pytest.fixture(scope="module")
def schema(data: PreparedData) -> Any:
    from captune.tuner.api.classifier import Classifier
    from captune.tuner.serving.app import application
    from captune.tuner.serving.limits import Limits
    from captune.tuner.serving.messages import MEDIA_TYPES, PICTURE

    pictures = st.integers(0, 2**32).map(picture)
    schemathesis.openapi.format(PICTURE, pictures.map(lambda each: base64.b64encode(each).decode()))
    for media_type in MEDIA_TYPES:
        schemathesis.openapi.media_type(media_type, pictures)
    either = replace(PRESETS["compact"], {**TINY, "fusion": "summed", "image.head": "positions"})
    app = application(Classifier(Path("bundle"), untrained(data, either)), Limits(), "testserver")
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("path", ["/predict", "/predict/form"])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_answers_are_what_the_schema_promises(schema: Any, mode: str, path: str) -> None:
    """A request that fits is answered, one that does not is refused; status, type and content are as described."""
    operation = schema[path]["POST"]
    # All that a form carries is text, so a number or a list drawn as a wrong caption arrives as a right one.
    untyped = [schemathesis.checks.CHECKS.get_one("negative_data_rejection")] if path == "/predict/form" else []

    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    @settings(max_examples=20, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(excluded_checks=untyped)

    check()


def test_empty_caption_is_one_in_json_and_none_in_a_form_and_the_schema_says_so(schema: Any) -> None:
    models = schema.raw_schema["components"]["schemas"]
    assert models["Form"]["properties"]["caption"]["minLength"] == 1
    assert "minLength" not in models["Example"]["properties"]["caption"]
    form, batch = (schema[path]["POST"] for path in ("/predict/form", "/predict"))
    assert form.Case(body={"caption": ""}, media_type="multipart/form-data").call().status_code == 422
    assert batch.Case(body={"examples": [{"caption": ""}]}, media_type="application/json").call().status_code == 200


def test_health_is_what_the_schema_promises(schema: Any) -> None:
    schema["/health"]["GET"].Case().call_and_validate()
