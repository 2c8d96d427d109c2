"""A transformer of built-in layers, in BERT's shape or CLIP's: from ids of word pieces to features of a caption."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers, ops

from captune.model.config import TextConfig
from captune.model.transformer_layers import MASKED, LayerShape, load, normalised, of_bert, of_clip
from captune.model.transformer_weights import read_text_tower
from captune.model.transformers import weights_folder

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
    if load_weights and config.begins_with_weights:
        assert pieces is not None, "weights are loaded by the places of the pieces"
        load(tower, read_text_tower(weights_folder(config.weights, "text"), config, pieces))
    for layer in tower.layers:
        layer.trainable = not config.frozen
    return _pooled(x, ops.expand_dims(present, -1), config)


def _by_piece(tokens: keras.KerasTensor, present: keras.KerasTensor, config: TextConfig) -> keras.KerasTensor:
    """(batch, max_tokens, embedding)."""
    # Told by the tokens themselves, as captions may come cut.
    places = ops.cumsum(ops.ones_like(tokens), axis=1) - 1
    x = layers.Embedding(config.vocabulary_size, config.embedding, name="text_embedding")(tokens)
    x = x + layers.Embedding(config.max_tokens, config.embedding, name="text_positions")(places)
    shape = LayerShape(config.embedding, config.heads, config.units, config.family)
    if config.family == "bert":
        x = normalised(x, config.family, "text_norm")
    if not config.frozen:  # what is left as it is gives the same features at each step
        x = layers.Dropout(config.embedding_dropout, name="text_embedding_dropout")(x)
    masked = ops.expand_dims(ops.expand_dims((1.0 - present) * MASKED, 1), 1)  # (batch, 1, 1, max_tokens)
    if config.family == "clip":  # a piece takes nothing from those behind it
        later = ops.less(ops.expand_dims(places, 2), ops.expand_dims(places, 1))
        masked = masked + ops.expand_dims(ops.cast(later, "float32") * MASKED, 1)
    for number in range(1, config.layers + 1):
        x = (of_bert if config.family == "bert" else of_clip)(x, shape, f"text_{number}", masked)
    if config.family == "clip":
        x = normalised(x, config.family, "text_norm")
    return ops.cast(x, "float32")


def _pooled(x: keras.KerasTensor, present: keras.KerasTensor, config: TextConfig) -> keras.KerasTensor:
    count = ops.sum(present, axis=1)
    average = ops.sum(x * present, axis=1) / ops.maximum(count, 1.0)
    if config.pooling in ("average", "end"):
        return average
    # Padding is lowered below all that is there, and a caption of padding alone is zero.
    highest = ops.max(x + (1.0 - present) * MASKED, axis=1) * ops.minimum(count, 1.0)
    return highest if config.pooling == "max" else ops.concatenate([average, highest], axis=-1)
