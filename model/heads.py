"""Features -> a logit for each label: of a whole, of the positions of a picture, of single words."""

from __future__ import annotations

import math

import keras
from keras import layers, ops

from captune.model.config import ImageConfig, TextConfig

_MULTIPLIER = 1021  # a prime below 2**31 / 2**20; the commonest words have the smallest ids: few of their pairs collide


def linear(
    x: keras.KerasTensor, labels: int, dropout: float, name: str, words: keras.KerasTensor | None = None
) -> keras.KerasTensor:
    """Logits of features.

    Args:
        x: of shape (batch, features).
        labels: how many.
        dropout: share of the features dropped in training.
        name: of the layer that gives the logits.
        words: logits (batch, labels) that are added.

    Returns:
        float32 of shape (batch, labels).
    """
    x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    logits = layers.Dense(labels, name=name if words is None else f"{name}_dense", dtype="float32")(x)
    return logits if words is None else layers.Add(name=name, dtype="float32")([logits, words])


def of_image(x: keras.KerasTensor, config: ImageConfig, labels: int, dropout: float, name: str) -> keras.KerasTensor:
    """Logits of what captune.model.image_encoder makes of pictures, by the head of `config`. The rest: see `linear`.

    Where something small may tell a label, a 1x1 convolution gives a logit for each label and position. `positions`
    takes the logarithm of the mean of their exponentials: between the mean and the maximum, so that one position can
    tell a label while all of them learn. `queries` takes their mean, weighted by how well each position answers the
    label's query (after Query2Label, Liu et al., 2021, arXiv 2107.10834, with one attention head).
    """
    if config.head == "pooled":
        return linear(x, labels, dropout, name)
    x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    logits = layers.Conv2D(labels, 1, name=f"{name}_map", dtype="float32")(x)
    if config.head == "positions":
        _, height, width, _ = logits.shape
        logits = ops.logsumexp(logits, axis=(1, 2)) - math.log(height * width)
    else:
        # The products of a query with all positions are a 1x1 convolution by it.
        products = layers.Conv2D(labels, 1, use_bias=False, name=f"{name}_queries", dtype="float32")(x)
        weights = layers.Softmax(axis=(1, 2), name=f"{name}_weights", dtype="float32")
        logits = ops.sum(weights(products / math.sqrt(x.shape[-1])) * logits, axis=(1, 2))
    return layers.Identity(name=name, dtype="float32")(logits)


def wide(tokens: keras.KerasTensor, config: TextConfig, labels: int) -> keras.KerasTensor:
    """What each word, and each pair of neighbours, adds to the logits by itself: nothing before training.

    Args:
        tokens: ids of shape (batch, max_tokens), int32; 0 is padding, at the end only.
        config: of the vocabulary and of the buckets for pairs.
        labels: how many.

    Returns:
        float32 of shape (batch, labels).
    """
    logits = _sum(tokens, tokens, config.vocabulary_size, labels, "logits_of_words")
    if not config.wide_buckets:
        return logits
    following = ops.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    # A remainder before the product keeps it within int32. Of one row Keras computes a sum by an operation for biases,
    # which LiteRT has for floats alone.
    pairs = ops.subtract(tokens % config.wide_buckets * _MULTIPLIER, -following) % config.wide_buckets
    return layers.Add(name="logits_of_words_and_pairs", dtype="float32")(
        [logits, _sum(pairs, following, config.wide_buckets, labels, "logits_of_pairs")]
    )


def _sum(ids: keras.KerasTensor, beside: keras.KerasTensor, rows: int, labels: int, name: str) -> keras.KerasTensor:
    """Sum over a caption of the rows of a table that `ids` name, without those where `beside` is padding."""
    values = layers.Embedding(rows, labels, embeddings_initializer="zeros", name=name, dtype="float32")(ids)
    return ops.sum(values * ops.expand_dims(ops.cast(ops.not_equal(beside, 0), "float32"), -1), axis=1)
