"""Pretrained text towers as figures: what a folder of one says of it. No framework is needed to read it.

A folder holds what the transformers library writes: config.json, model.safetensors, and a vocabulary of word pieces
(captune.data_prep.pieces). The layers are BERT's (Devlin et al., 2019, arXiv 1810.04805), or those of CLIP's text tower
(Radford et al., 2021, arXiv 2103.00020): they have the same variables, and compute otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from captune.model.backbones import WEIGHTS_FOLDER, WeightsError
from captune.model.config import TextConfig
from captune.reading import UnreadableError, json_object

CONFIG, WEIGHTS = "config.json", "model.safetensors"
Family = Literal["bert", "clip"]
EPSILONS: dict[Family, float] = {"bert": 1e-12, "clip": 1e-5}
"""Of their layer normalisations."""
Shape = tuple[int, ...]
_TYPES: dict[str, Family] = {"bert": "bert", "clip": "clip", "clip_text_model": "clip"}
"""By `model_type`."""
_FIXED: dict[Family, dict[str, Any]] = {  # that tell each from what is like it, also where a config.json leaves it out
    "bert": {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "layer_norm_eps": EPSILONS["bert"],
        "is_decoder": False,
    },
    "clip": {"hidden_act": "quick_gelu", "layer_norm_eps": EPSILONS["clip"]},
}
_NUMBERS = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "positions": "max_position_embeddings",
}
_LEFT_OUT: dict[Family, dict[str, int]] = {  # numbers that the transformers library does not write
    "bert": {},
    "clip": {"layers": 12, "width": 512, "heads": 8, "hidden": 2048, "positions": 77},
}


def weights_folder(name: str) -> Path:
    """A folder of a text tower by its path; one that is not there, by its name in the folder of CAPTUNE_WEIGHTS.

    Raises:
        WeightsError: it is in neither place.
    """
    places = [Path(name), *(Path(folder) / name for folder in [os.environ.get(WEIGHTS_FOLDER)] if folder)]
    for path in places:
        if path.is_dir():
            return path
    raise WeightsError(
        f"text.weights must be a folder with {CONFIG}, {WEIGHTS} and a vocabulary, but "
        f"{' or '.join(map(str, places))} is none; nothing is fetched: put one there, or into the folder that "
        f"{WEIGHTS_FOLDER} names"
    )


@dataclass(frozen=True)
class TransformerShape:
    """Of a whole tower. hidden: values between the two dense layers of each. positions: pieces it can read at most."""

    layers: int
    width: int
    heads: int
    hidden: int
    positions: int
    family: Family = "bert"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What the config.json of a folder says.

        Raises:
            WeightsError: there is none, or it is of another architecture.
        """
        try:
            content = json_object(folder / CONFIG)
        except UnreadableError as error:
            raise WeightsError(f"{folder} is no text tower: {error}; name the folder of a BERT or CLIP model") from None
        family = _TYPES.get(str(content.get("model_type")))
        if family is None:
            raise _other(folder, "model_type", content.get("model_type"), "BERT has 'bert' and CLIP 'clip'")
        if content["model_type"] == "clip":
            content = content.get("text_config") or {}
            if not isinstance(content, dict):
                raise WeightsError(f"{folder / CONFIG} has text_config {_shown(content)}, which is no object")
        for key, expected in _FIXED[family].items():
            if content.get(key, expected) != expected:
                raise _other(folder, key, content[key], f"{family.upper()} has {expected!r}")
        numbers = {name: content.get(key, _LEFT_OUT[family].get(name)) for name, key in _NUMBERS.items()}
        for name, value in numbers.items():
            if type(value) is not int or not 1 <= value <= 2**16:
                raise WeightsError(f"{folder / CONFIG} has {_NUMBERS[name]} {_shown(value)}, a number from 1 is needed")
        shape = cls(**numbers, family=family)  # type: ignore[arg-type]
        if shape.width % shape.heads:
            raise WeightsError(f"{folder / CONFIG} has {shape.heads} heads, which do not divide {shape.width} values")
        return shape


@dataclass(frozen=True)
class TowerOnData:
    """A tower on one data set. pieces: ids of its vocabulary there. longest: pieces of a training caption at most."""

    shape: TransformerShape
    pieces: int
    longest: int

    def bound(self, text: TextConfig) -> TextConfig:
        """The encoder with the widths of the tower, and no larger than tower and data allow."""
        shape = self.shape
        fitted = {
            "embedding": shape.width,
            "units": shape.hidden,
            "heads": shape.heads,
            "family": shape.family,
            "layers": min(text.layers, shape.layers),
            "vocabulary_size": min(text.vocabulary_size, self.pieces),
            "max_tokens": min(text.max_tokens, self.longest, shape.positions),
        }
        return TextConfig(**{**dict(text), **fitted})


def shaped(text: TextConfig) -> TextConfig:
    """A transformer with the widths of the folder that it names, without data. Raises WeightsError, see there."""
    shape = TransformerShape.read(weights_folder(text.weights))
    return TowerOnData(shape, text.vocabulary_size, text.max_tokens).bound(text)


def variables(config: TextConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of all variables of the tower that a configuration has."""
    width, hidden = config.embedding, config.units
    yield "text_embedding/embeddings", (config.vocabulary_size, width)
    yield "text_positions/embeddings", (config.max_tokens, width)
    yield from _norm("text_norm", width)
    for layer in range(1, config.layers + 1):
        name = f"text_{layer}"
        for part in ("query", "key", "value", "attended"):
            yield from _dense(f"{name}_{part}", width, width)
        yield from _norm(f"{name}_attention_norm", width)
        yield from _dense(f"{name}_inner", width, hidden)
        yield from _dense(f"{name}_outer", hidden, width)
        yield from _norm(f"{name}_norm", width)


def _dense(name: str, inputs: int, units: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}/kernel", (inputs, units)
    yield f"{name}/bias", (units,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}/gamma", (width,)
    yield f"{name}/beta", (width,)


def _other(folder: Path, key: str, value: Any, expected: str) -> WeightsError:
    return WeightsError(
        f"{folder / CONFIG} has {key} {_shown(value)}, where {expected}; other architectures are not read: name the "
        "folder of a BERT or CLIP model"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
