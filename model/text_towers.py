"""Pretrained text towers as figures, see captune.model.transformers; their folders hold a vocabulary of word pieces,
too (captune.data_prep.pieces)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from captune.model.config import LEAST_PIECES, TextConfig, most_of
from captune.model.transformers import Family, Shape, layer_variables, norm_variables, read_config, weights_folder

_NUMBERS = {
    "layers": ("num_hidden_layers", 1, most_of(TextConfig, "layers")),
    "width": ("hidden_size", 1, most_of(TextConfig, "embedding")),
    "heads": ("num_attention_heads", 1, most_of(TextConfig, "heads")),
    "hidden": ("intermediate_size", 1, most_of(TextConfig, "units")),
    "positions": ("max_position_embeddings", LEAST_PIECES, 2**16),
}
_LEFT_OUT: dict[Family, dict[str, int]] = {
    "bert": {},
    "clip": {"layers": 12, "width": 512, "heads": 8, "hidden": 2048, "positions": 77},
}


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
        """What the config.json of a folder says. Raises WeightsError, see captune.model.transformers.read_config."""
        family, numbers = read_config(folder, "text", _NUMBERS, _LEFT_OUT)
        return cls(**numbers, family=family)


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
    shape = TransformerShape.read(weights_folder(text.weights, "text"))
    return TowerOnData(shape, text.vocabulary_size, text.max_tokens).bound(text)


def variables(config: TextConfig) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of all variables of the tower that a configuration has."""
    yield "text_embedding/embeddings", (config.vocabulary_size, config.embedding)
    yield "text_positions/embeddings", (config.max_tokens, config.embedding)
    yield from norm_variables("text_norm", config.embedding)
    for layer in range(1, config.layers + 1):
        yield from layer_variables(f"text_{layer}", config.embedding, config.units)
