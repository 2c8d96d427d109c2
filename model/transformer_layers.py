"""Layers of transformers, of built-in ones: of text towers and of CLIP's towers of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from captune.model.transformers import EPSILONS, Family

MASKED = -1e9
"""Added to a score of attention of which nothing is to be left."""


@dataclass(frozen=True)
class LayerShape:
    """width: values of a place. hidden: values between the two dense layers."""

    width: int
    heads: int
    hidden: int
    family: Family


def of_bert(x: keras.KerasTensor, shape: LayerShape, name: str, masked: keras.KerasTensor) -> keras.KerasTensor:
    """A layer that normalises what it gives.

    Args:
        x: (batch, places, width).
        masked: added to the scores of attention, (batch, 1, 1 or places, places).
    """
    x = normalised(x + _attention(x, shape, name, masked), shape.family, f"{name}_attention_norm")
    inner = layers.Dense(shape.hidden, activation="gelu", name=f"{name}_inner")(x)
    return normalised(x + layers.Dense(shape.width, name=f"{name}_outer")(inner), shape.family, f"{name}_norm")


def of_clip(
    x: keras.KerasTensor, shape: LayerShape, name: str, masked: keras.KerasTensor | None = None
) -> keras.KerasTensor:
    """A layer that normalises what it reads. masked: None where each place takes from all others."""
    x = x + _attention(normalised(x, shape.family, f"{name}_attention_norm"), shape, name, masked)
    inner = layers.Dense(shape.hidden, name=f"{name}_inner")(normalised(x, shape.family, f"{name}_norm"))
    # GELU as its authors come near it by a sigmoid (Hendrycks and Gimpel, 2016, arXiv 1606.08415).
    return x + layers.Dense(shape.width, name=f"{name}_outer")(inner * ops.sigmoid(1.702 * inner))


def normalised(x: keras.KerasTensor, family: Family, name: str) -> keras.KerasTensor:
    """Layer normalisation over the values of each place."""
    return layers.LayerNormalization(epsilon=EPSILONS[family], name=name)(x)


def load(tower: keras.Model, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Gives each variable its value, by its path."""
    for variable in tower.weights:
        variable.assign(values[variable.path])


def _attention(
    x: keras.KerasTensor, shape: LayerShape, name: str, masked: keras.KerasTensor | None
) -> keras.KerasTensor:
    """What each place takes from the others. Dense layers, not Keras's own attention: int8 has a scale a column."""
    width, heads = shape.width, shape.heads

    def by_head(part: str) -> keras.KerasTensor:
        """(batch, heads, places, width / heads)."""
        values = layers.Dense(width, name=f"{name}_{part}")(x)
        return ops.stack(ops.split(values, heads, axis=-1), axis=1)

    query, key, value = (by_head(part) for part in ("query", "key", "value"))
    scores = ops.cast(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / math.sqrt(width // heads), "float32")
    weights = ops.softmax(scores if masked is None else scores + masked, axis=-1)
    mixed = ops.matmul(ops.cast(weights, value.dtype), value)
    # By slices: an unstacked axis beside a concatenation is taken for a reshape by the converter to LiteRT.
    joined = ops.concatenate([mixed[:, head] for head in range(heads)], axis=-1)
    return layers.Dense(width, name=f"{name}_attended")(joined)
