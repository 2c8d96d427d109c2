"""What a server of a bundle is asked and answers, as pydantic models: the OpenAPI schema is made of them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import UploadFile
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from captune.data_prep.images import FORMATS
from captune.model.bundle import Bundle
from captune.tuner.serving.limits import Limits
from captune.tuner.winner.answers import Answer

PICTURE = "picture"
"""`format` of a text that is a picture's file in base64."""
MEDIA_TYPES = tuple(f"image/{name.lower()}" for name in FORMATS)


class Failure(BaseModel):
    """error: one sentence."""

    error: str


class Health(BaseModel):
    """reads: of "captions" and "images" what the classifier needs. labels: how many it knows."""

    status: str
    reads: tuple[str, ...]
    labels: int


class Answers(BaseModel):
    """The labels of each example in their order, the likeliest first."""

    answers: list[tuple[Answer, ...]]


def _without_defaults(schema: dict[str, Any]) -> None:
    """What may be left out may not be null."""
    for field in schema["properties"].values():
        field.pop("default", None)


def _with_one(schema: dict[str, Any]) -> None:
    _without_defaults(schema)
    schema["anyOf"] = [{"required": ["caption"]}, {"required": ["image"]}]


class _Known(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_defaults)


class _Either(_Known):
    """Of a classifier whose captions and pictures answer alone, too."""

    model_config = ConfigDict(json_schema_extra=_with_one)

    @model_validator(mode="after")
    def _has_one(self) -> _Either:
        if not self.model_fields_set & {"caption", "image"}:
            raise ValueError("give caption, image, or both")
        return self


class _Typed(_Known):
    """Of JSON, where a number is no text, and a text no number."""

    model_config = ConfigDict(strict=True)


def request_models(bundle: Bundle, limits: Limits) -> tuple[type[BaseModel], type[BaseModel]]:
    """Of a batch as JSON, and of one example as a form; they have what the bundle reads and nothing else.

    examples, of a batch: caption, and image in base64. A form has these itself, image as a file. top: how many of the
    likeliest labels, None for those that the rule gives.
    """
    base: type[_Known] = _Either if bundle.config.has_parts else _Known
    caption = Annotated[str, Field(max_length=limits.caption)]
    image = Annotated[
        str,
        Field(
            min_length=1,
            max_length=limits.picture_base64,
            description=f"a JPEG, PNG, WebP, BMP or GIF of at most {limits.picture_bytes} bytes, in base64",
            json_schema_extra={"format": PICTURE, "contentEncoding": "base64"},
        ),
    ]
    top = Annotated[
        int,
        Field(
            ge=1,
            le=len(bundle.label_ids),
            description="so many of the likeliest labels, instead of those that the rule gives",
        ),
        BeforeValidator(_whole),
    ]
    example = create_model("Example", __base__=base, **_read(bundle, caption, image))
    examples = Annotated[list[example], Field(min_length=1, max_length=limits.rows)]
    batch = create_model("Batch", __base__=_Typed, examples=(examples, ...), top=(top, None))
    written = Annotated[str, Field(min_length=1, max_length=limits.caption)]  # an empty field of a form counts as none
    form = create_model("Form", __base__=base, top=(top, None), **_read(bundle, written, UploadFile))
    return batch, form


def _whole(value: Any) -> Any:
    """5.0 as 5: numbers of JSON that JSON Schema calls integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read(bundle: Bundle, caption: Any, image: Any) -> dict[str, Any]:
    """Fields of what a bundle reads: needed, unless either answers alone."""
    default = None if bundle.config.has_parts else ...
    parts = {"caption": (caption, bundle.config.text), "image": (image, bundle.config.image)}
    return {name: (kind, default) for name, (kind, part) in parts.items() if part is not None}
