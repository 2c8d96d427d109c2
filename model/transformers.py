"""Pretrained transformers as figures: what a folder of one says of it. No framework is needed to read it.

A folder holds what the transformers library writes, config.json and model.safetensors. The layers are BERT's (Devlin et
al., 2019, arXiv 1810.04805), or those of CLIP's two towers (Radford et al., 2021, arXiv 2103.00020): they have the same
variables, and compute otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from captune.model.backbones import WEIGHTS_FOLDER, WeightsError, weights_places
from captune.reading import UnreadableError, json_object

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Family = Literal["bert", "clip"]
Part = Literal["text", "vision"]
EPSILONS: dict[Family, float] = {"bert": 1e-12, "clip": 1e-5}
"""Of their layer normalisations."""
Shape = tuple[int, ...]
_NEEDED: dict[Part, str] = {"text": "a BERT or CLIP model", "vision": "a CLIP model"}
_FAMILIES: dict[Part, dict[str, Family]] = {  # by `model_type`
    "text": {"bert": "bert", "clip": "clip", "clip_text_model": "clip"},
    "vision": {"clip": "clip", "clip_vision_model": "clip"},
}
_FIXED: dict[Family, dict[str, Any]] = {  # that tell each from what is like it, also where a config.json leaves it out
    "bert": {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "layer_norm_eps": EPSILONS["bert"],
        "is_decoder": False,
    },
    "clip": {"hidden_act": "quick_gelu", "layer_norm_eps": EPSILONS["clip"]},
}


def weights_folder(name: str, part: Part) -> Path:
    """A folder of a tower by its path; one that is not there, by its name in the folder of CAPTUNE_WEIGHTS.

    Raises:
        WeightsError: it is in neither place.
    """
    places = weights_places(name)
    for path in places:
        if path.is_dir():
            return path
    setting, contents = ("text.weights", f"{CONFIG}, {WEIGHTS} and a vocabulary")
    if part == "vision":
        setting, contents = ("image.weights", f"{CONFIG} and {WEIGHTS}")
    raise WeightsError(
        f"{setting} of a transformer must be a folder with {contents}, but {' or '.join(map(str, places))} is none; "
        f"nothing is fetched: put one there, or into the folder that {WEIGHTS_FOLDER} names"
    )


def read_config(
    folder: Path, part: Part, names: Mapping[str, tuple[str, int, int]], left_out: Mapping[Family, Mapping[str, int]]
) -> tuple[Family, dict[str, int]]:
    """What the config.json of a folder says of one of its towers.

    Args:
        names: of the numbers, by captune's own, their keys, the least and the most that are read; `heads` must divide
            `width`.
        left_out: by family, the numbers that the transformers library does not write.

    Raises:
        WeightsError: there is none, or it is of another architecture.
    """
    try:
        content = json_object(folder / CONFIG)
    except UnreadableError as error:
        raise WeightsError(f"{folder} is no {part} tower: {error}; name the folder of {_NEEDED[part]}") from None
    family = _FAMILIES[part].get(str(content.get("model_type")))
    if family is None:
        expected = "BERT has 'bert' and CLIP 'clip'" if part == "text" else "CLIP has 'clip'"
        raise _other(folder, part, "model_type", content.get("model_type"), expected)
    if content["model_type"] == "clip":
        content = content.get(f"{part}_config") or {}
        if not isinstance(content, dict):
            raise WeightsError(f"{folder / CONFIG} has {part}_config {_shown(content)}, which is no object")
    for key, expected in _FIXED[family].items():
        if content.get(key, expected) != expected:
            raise _other(folder, part, key, content[key], f"{family.upper()} has {expected!r}")
    numbers = dict[str, int]()
    for name, (key, least, most) in names.items():
        value = content.get(key, left_out[family].get(name))
        if type(value) is not int or not least <= value <= most:
            raise WeightsError(
                f"{folder / CONFIG} has {key} {_shown(value)}, a number from {least} to {most} is needed"
            )
        numbers[name] = value
    if numbers["width"] % numbers["heads"]:
        heads, width = numbers["heads"], numbers["width"]
        raise WeightsError(f"{folder / CONFIG} has {heads} heads, which do not divide {width} values")
    return family, numbers


def layer_variables(name: str, width: int, hidden: int) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the variables of one layer. hidden: values between its two dense layers."""
    for part in ("query", "key", "value", "attended"):
        yield from _dense(f"{name}_{part}", width, width)
    yield from norm_variables(f"{name}_attention_norm", width)
    yield from _dense(f"{name}_inner", width, hidden)
    yield from _dense(f"{name}_outer", hidden, width)
    yield from norm_variables(f"{name}_norm", width)


def norm_variables(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    """The same of a layer normalisation."""
    yield f"{name}/gamma", (width,)
    yield f"{name}/beta", (width,)


def _dense(name: str, inputs: int, units: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}/kernel", (inputs, units)
    yield f"{name}/bias", (units,)


def _other(folder: Path, part: Part, key: str, value: Any, expected: str) -> WeightsError:
    return WeightsError(
        f"{folder / CONFIG} has {key} {_shown(value)}, where {expected}; other architectures are not read: name the "
        f"folder of {_NEEDED[part]}"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
