"""CLIP's tower of pictures, of built-in layers: from scaled pixels to features of each patch and of the whole."""

from __future__ import annotations

import keras
from keras import layers, ops

from captune.model.config import ImageConfig
from captune.model.transformer_layers import LayerShape, load, normalised, of_clip
from captune.model.transformer_weights import read_vision_tower
from captune.model.transformers import Family, weights_folder

_FAMILY: Family = "clip"


def encode(pixels: keras.KerasTensor, config: ImageConfig, *, load_weights: bool) -> keras.KerasTensor:
    """Features of the class token, then of each patch in rows.

    Args:
        pixels: as the tower expects them, (batch, side, side, 3) float32; what is no whole patch is not seen.
        config: the shape of the tower, where its weights come from.
        load_weights: False where the caller fills all weights in afterwards.

    Returns:
        float32 of shape (batch, 1 + patches, channels), normalised as CLIP does the class token alone.

    Raises:
        WeightsError: the weights cannot be loaded.
    """
    width, patches = config.channels, config.patches**2
    by_patch = layers.Conv2D(width, config.patch, strides=config.patch, use_bias=False, name="image_patches")(pixels)
    by_patch = layers.Reshape((patches, width), name="image_rows")(by_patch)
    # Ids told by the tensor, as no input holds them: zeros, and the number of each place.
    whole = ops.cast(ops.zeros_like(by_patch[:, :1, 0]), "int32")
    token = layers.Embedding(1, width, name="image_class")(whole)
    x = ops.concatenate([token, by_patch], axis=1)
    places = ops.cumsum(ops.ones_like(x[:, :, 0], dtype="int32"), axis=1) - 1
    x = x + layers.Embedding(1 + patches, width, name="image_places")(places)
    x = normalised(x, _FAMILY, "image_norm_before")
    shape = LayerShape(width, config.heads, config.hidden, _FAMILY)
    for number in range(1, config.layers + 1):
        x = of_clip(x, shape, f"image_{number}")
    x = ops.cast(normalised(x, _FAMILY, "image_norm"), "float32")
    tower = keras.Model(pixels, x)
    if load_weights and config.weights != "none":
        load(tower, read_vision_tower(weights_folder(config.weights, "vision"), config))
    for layer in tower.layers:
        layer.trainable = not config.frozen
    return x
