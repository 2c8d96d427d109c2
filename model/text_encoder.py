"""Token ids -> one feature vector a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from captune.model import text_tower
from captune.model.config import TextConfig

DROPOUT = "text_dropout"
"""The first layer after what a frozen tower computes once."""


def encode(
    tokens: keras.KerasTensor, config: TextConfig, *, load_weights: bool = True, pieces: Sequence[int] | None = None
) -> keras.KerasTensor:
    """Features of captions.

    Args:
        tokens: ids of shape (batch, max_tokens), int32; 0 is padding, at the end only.
        config: which encoder, and its widths.
        load_weights, pieces: of a transformer, see captune.model.text_tower.

    Returns:
        float32 of shape (batch, features): `dense` features, or the encoder's own where `dense` is 0.

    Raises:
        WeightsError: the weights that `config` names cannot be loaded.
    """
    if config.encoder == "transformer":
        x = text_tower.features(tokens, config, load_weights=load_weights, pieces=pieces)
    else:
        x = _encoded(tokens, config)
    x = layers.Dropout(config.dropout, name=DROPOUT)(x)
    return layers.Dense(config.dense, activation="relu", name="text_dense")(x) if config.dense else x


def _encoded(tokens: keras.KerasTensor, config: TextConfig) -> keras.KerasTensor:
    recurrent = config.encoder in ("bilstm", "lstm", "gru")
    x = layers.Embedding(config.vocabulary_size, config.embedding, mask_zero=recurrent, name="text_embedding")(tokens)
    x = layers.Dropout(config.embedding_dropout, name="text_embedding_dropout")(x)
    # Recurrent layers skip padding by their mask; the others are kept from it here.
    present = ops.expand_dims(ops.cast(ops.not_equal(tokens, 0), "float32"), -1)
    match config.encoder:
        case "bilstm":
            x = layers.Bidirectional(layers.LSTM(config.units, name="lstm"), name="text_bilstm")(x)
        case "lstm":
            x = layers.LSTM(config.units, name="text_lstm")(x)
        case "gru":
            x = layers.GRU(config.units, name="text_gru")(x)
        case "convolution":  # after Kim, 2014 (arXiv 1408.5882)
            convolution = layers.Conv1D(
                config.units, config.kernel, padding="same", activation="relu", name="text_convolution"
            )
            # After the ReLU no feature is below zero, so a padded position never is the maximum.
            x = layers.GlobalMaxPooling1D(name="text_pooling")(convolution(x * present) * present)
        case "average":
            # An empty caption has no token: its mean is zero, not zero divided by zero.
            x = ops.sum(x * present, axis=1) / ops.maximum(ops.sum(present, axis=1), 1.0)
    return x


class Cut(layers.Layer):
    """Captions (batch, max_tokens) cut to the longest of their batch, one token at least.

    What is cut is padding, from which every encoder is kept: its features are the same, and cost less. Only where
    shapes may vary from batch to batch.
    """

    def call(self, tokens: Any) -> Any:
        lengths = ops.sum(ops.cast(ops.not_equal(tokens, 0), "int32"), axis=1)
        return tokens[:, : ops.maximum(ops.max(lengths), 1)]

    def compute_output_spec(self, tokens: keras.KerasTensor) -> keras.KerasTensor:
        """As wide as it comes out."""
        return keras.KerasTensor((tokens.shape[0], None), dtype=tokens.dtype)
