"""A transformer of built-in layers, in BERT's shape or CLIP's: from ids of word pieces to features of a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import layers, ops

from captune.model.config import TextConfig
from captune.model.text_towers import EPSILONS, weights_folder
from captune.model.text_weights import read_tower

_MASKED = -1e9  # of a score of attention: nothing is left of it
_END = 3  # the id behind the last piece of a caption, captune.data_prep.pieces.END


def features(
    tokens: keras.KerasTensor, config: TextConfig, *, load_weights: bool, pieces: Sequence[int] | None
) -> keras.KerasTensor:
    """Features of captions, pooled over their pieces.

    Args:
        tokens: an input, ids of shape (batch, max_tokens), int32; 0 is padding, at the end only.
        config: the shape of the tower, where its weights come from, the pooling.
        load_weights: False where the caller fills all weights in afterwards.
        pieces: of each id its place in the vocabulary of the weights; may be None where none are loaded.

    Returns:
        float32 of shape (batch, embedding), twice as many where `pooling` is both. A caption of padding alone is zero.

    Raises:
        WeightsError: the weights cannot be loaded.
    """
    present = ops.cast(ops.not_equal(tokens, 0), "float32")
    x = _by_piece(tokens, present, config)
    if config.pooling == "end":
        present = ops.cast(ops.equal(tokens, _END), "float32")
    tower = keras.Model(tokens, x)
    if load_weights and config.weights != "none":
        assert pieces is not None, "weights are loaded by the places of the pieces"
        values = read_tower(weights_folder(config.weights), config, pieces)
        for variable in tower.weights:
            variable.assign(values[variable.path])
    for layer in tower.layers:
        layer.trainable = not config.frozen
    return _pooled(x, ops.expand_dims(present, -1), config)


def _by_piece(tokens: keras.KerasTensor, present: keras.KerasTensor, config: TextConfig) -> keras.KerasTensor:
    """(batch, max_tokens, embedding)."""
    # Told by the tokens themselves, as captions may come cut.
    places = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    x = layers.Embedding(config.vocabulary_size, config.embedding, name="text_embedding")(tokens)
    x = x + layers.Embedding(config.max_tokens, config.embedding, name="text_positions")(places)
    if config.family == "bert":
        x = _normalised(x, config, "text_norm")
    if not config.frozen:  # what is left as it is gives the same features at each step
        x = layers.Dropout(config.embedding_dropout, name="text_embedding_dropout")(x)
    masked = ops.expand_dims(ops.expand_dims((1.0 - present) * _MASKED, 1), 1)  # (batch, 1, 1, max_tokens)
    if config.family == "clip":  # a piece takes nothing from those behind it
        later = ops.less(ops.expand_dims(places, 2), ops.expand_dims(places, 1))
        masked = masked + ops.expand_dims(ops.cast(later, "float32") * _MASKED, 1)
    for number in range(1, config.layers + 1):
        x = (_of_bert if config.family == "bert" else _of_clip)(x, masked, config, f"text_{number}")
    if config.family == "clip":
        x = _normalised(x, config, "text_norm")
    return ops.cast(x, "float32")


def _of_bert(x: keras.KerasTensor, masked: keras.KerasTensor, config: TextConfig, name: str) -> keras.KerasTensor:
    """A layer that normalises what it gives."""
    x = _normalised(x + _attention(x, masked, config, name), config, f"{name}_attention_norm")
    inner = layers.Dense(config.units, activation="gelu", name=f"{name}_inner")(x)
    return _normalised(x + layers.Dense(config.embedding, name=f"{name}_outer")(inner), config, f"{name}_norm")


def _of_clip(x: keras.KerasTensor, masked: keras.KerasTensor, config: TextConfig, name: str) -> keras.KerasTensor:
    """A layer that normalises what it reads."""
    x = x + _attention(_normalised(x, config, f"{name}_attention_norm"), masked, config, name)
    inner = layers.Dense(config.units, name=f"{name}_inner")(_normalised(x, config, f"{name}_norm"))
    # GELU as its authors come near it by a sigmoid (Hendrycks and Gimpel, 2016, arXiv 1606.08415).
    return x + layers.Dense(config.embedding, name=f"{name}_outer")(inner * ops.sigmoid(1.702 * inner))


def _normalised(x: keras.KerasTensor, config: TextConfig, name: str) -> keras.KerasTensor:
    return layers.LayerNormalization(epsilon=EPSILONS[config.family], name=name)(x)


def _attention(x: keras.KerasTensor, masked: keras.KerasTensor, config: TextConfig, name: str) -> keras.KerasTensor:
    """What each piece takes from the others. Dense layers, not Keras's own attention: int8 has a scale a column."""
    width, heads = config.embedding, config.heads

    def by_head(part: str) -> keras.KerasTensor:
        """(batch, heads, max_tokens, width / heads)."""
        values = layers.Dense(width, name=f"{name}_{part}")(x)
        return ops.stack(ops.split(values, heads, axis=-1), axis=1)

    query, key, value = (by_head(part) for part in ("query", "key", "value"))
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / math.sqrt(width // heads)
    weights = ops.softmax(ops.cast(scores, "float32") + masked, axis=-1)
    mixed = ops.matmul(ops.cast(weights, value.dtype), value)
    joined = ops.concatenate(ops.unstack(mixed, heads, axis=1), axis=-1)
    return layers.Dense(width, name=f"{name}_attended")(joined)


def _pooled(x: keras.KerasTensor, present: keras.KerasTensor, config: TextConfig) -> keras.KerasTensor:
    count = ops.sum(present, axis=1)
    average = ops.sum(x * present, axis=1) / ops.maximum(count, 1.0)
    if config.pooling in ("average", "end"):
        return average
    # Padding is lowered below all that is there, and a caption of padding alone is zero.
    highest = ops.max(x + (1.0 - present) * _MASKED, axis=1) * ops.minimum(count, 1.0)
    return highest if config.pooling == "max" else ops.concatenate([average, highest], axis=-1)
