"""Pixels -> one feature vector a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from captune.errors import one_line
from captune.model import tower_network, vision_tower
from captune.model.backbones import WeightsError, weights_path
from captune.model.config import ImageConfig
from captune.model.keras_private import layers_within
from captune.model.towers import TOWERS
from captune.model.weights_file import SUFFIXES
from captune.model.weights_file import load_weights as load_weights_file

IMAGENET_BGR_MEANS = (103.939, 116.779, 123.68)
IMAGENET_RGB_MEANS = (0.485, 0.456, 0.406)
IMAGENET_RGB_DEVIATIONS = (0.229, 0.224, 0.225)
CLIP_RGB_MEANS = (0.48145466, 0.4578275, 0.40821073)
CLIP_RGB_DEVIATIONS = (0.26862954, 0.26130258, 0.27577711)


DROPOUT = "image_dropout"
"""The first layer after what a frozen backbone computes once."""


def encode(pixels: keras.KerasTensor, config: ImageConfig, *, load_weights: bool) -> keras.KerasTensor:
    """Features of pictures: those of the backbone, then dropout and the dense layer. See `maps` for the rest.

    Returns:
        float32 of shape (batch, features): `units` features, or the pooled channels where `units` is 0. Where `head`
        reads positions (batch, height, width, channels): `position_units` channels, or the backbone's where it is 0.
    """
    x = layers.Dropout(config.dropout, name=DROPOUT)(features(pixels, config, load_weights=load_weights))
    if config.head == "pooled":
        return _dense(x, config)
    if config.position_units:
        x = layers.Conv2D(config.position_units, 1, activation="relu", name="image_positions")(x)
    return x


def whole(x: keras.KerasTensor, config: ImageConfig) -> keras.KerasTensor:
    """Features (batch, features) of the whole picture, of what `encode` gives."""
    return x if config.head == "pooled" else _dense(_pooled(x, config), config)


def features(pixels: keras.KerasTensor, config: ImageConfig, *, load_weights: bool) -> keras.KerasTensor:
    """All before the layer DROPOUT: what is computed once where the backbone is frozen. See `maps`.

    Returns:
        float32 of shape (batch, channels), twice the channels where `pooling` is both; the maps where `head` reads
        positions.
    """
    if config.pooling == "class_token":
        return _transformed(pixels, config, load_weights=load_weights)[:, 0]
    x = maps(pixels, config, load_weights=load_weights)
    return _pooled(x, config) if config.head == "pooled" else x


def _pooled(x: keras.KerasTensor, config: ImageConfig) -> keras.KerasTensor:
    match config.pooling:
        case "average":
            return layers.GlobalAveragePooling2D(name="image_pooling")(x)
        case "max":
            return layers.GlobalMaxPooling2D(name="image_pooling")(x)
        case "both":
            average = layers.GlobalAveragePooling2D(name="image_average")(x)
            return ops.concatenate([average, layers.GlobalMaxPooling2D(name="image_max")(x)], axis=-1)


def _dense(x: keras.KerasTensor, config: ImageConfig) -> keras.KerasTensor:
    return layers.Dense(config.units, activation="relu", name="image_dense")(x) if config.units else x


def maps(pixels: keras.KerasTensor, config: ImageConfig, *, load_weights: bool) -> keras.KerasTensor:
    """What the backbone makes of pictures, position by position.

    Args:
        pixels: RGB of shape (batch, side, side, 3), 0..255.
        config: which backbone, where its weights come from, and the layers after it.
        load_weights: False where the caller fills all weights in afterwards (a bundle being loaded).

    Returns:
        float32 of shape (batch, height, width, channels).

    Raises:
        WeightsError: the weights that `config` names cannot be loaded.
    """
    if config.backbone == "transformer":
        side = config.patches
        by_place = _transformed(pixels, config, load_weights=load_weights)[:, 1:]
        return layers.Reshape((side, side, config.channels), name="image_map")(by_place)
    pixels = _resized(pixels, config)
    if config.backbone == "compact":
        if load_weights and config.weights != "none":
            raise WeightsError(f"compact has no pretrained weights, got {config.weights}; use weights: none")
        return _compact(_rescaling(1 / 255)(pixels), config)
    backbone = _named(config, load_weights=load_weights)
    backbone.trainable = not config.frozen
    # A frozen backbone also keeps its batch-norm statistics: Keras runs it in inference mode.
    return backbone(_scaled(pixels, config))


def _transformed(pixels: keras.KerasTensor, config: ImageConfig, *, load_weights: bool) -> keras.KerasTensor:
    """(batch, 1 + patches, channels) of a transformer, the class token first."""
    return vision_tower.encode(_scaled(_resized(pixels, config), config), config, load_weights=load_weights)


def _resized(pixels: keras.KerasTensor, config: ImageConfig) -> keras.KerasTensor:
    """Pictures of the side that the backbone sees."""
    side = config.seen_side
    if side == config.side:
        return pixels
    resizing = layers.Resizing(side, side, antialias=side < config.side, name="image_resizing", dtype="float32")
    return resizing(ops.cast(pixels, "float32"))


def _compact(x: keras.KerasTensor, config: ImageConfig) -> keras.KerasTensor:
    """A small network for CPUs: a convolution of stride 2, then stages of convolutions, each halved by maxima.

    What is small in a picture is lost to the stride, unless a convolution of a few channels comes before.
    """
    if config.stem:
        x = _convolution(x, config.stem, "compact_pixels")
    x = _convolution(x, config.width, "compact_stem", strides=2)
    for stage in range(1, config.stages + 1):
        for block in range(config.blocks):
            x = _convolution(x, config.width * 2**stage, f"compact_{stage}_{block}")
        if stage < config.stages or config.last_halving:
            x = layers.MaxPooling2D(2, padding="same", name=f"compact_{stage}_halving")(x)
    return x


def _convolution(x: keras.KerasTensor, channels: int, name: str, *, strides: int = 1) -> keras.KerasTensor:
    x = layers.Conv2D(channels, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_convolution")(x)
    # Keras's default of 0.99 needs more steps than short trials have.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def _scaled(pixels: keras.KerasTensor, config: ImageConfig) -> keras.KerasTensor:
    """Pixels as the backbone wants them, by built-in layers and operations only: a .keras file needs none of ours."""
    scaling = config.scaling_of_backbone
    if config.scaling == "unit":
        # Networks that scale by themselves expect 0..255; for them 1/255 would be applied twice.
        return ops.cast(pixels, "float32") if scaling == "included" else _rescaling(1 / 255)(pixels)
    match scaling:
        case "included":
            return ops.cast(pixels, "float32")
        case "caffe":
            bgr = ops.flip(ops.cast(pixels, "float32"), axis=-1)
            return _rescaling(1.0, [-mean for mean in IMAGENET_BGR_MEANS])(bgr)
        case "torch":
            return _standardised(pixels, IMAGENET_RGB_MEANS, IMAGENET_RGB_DEVIATIONS)
        case "clip":
            return _standardised(pixels, CLIP_RGB_MEANS, CLIP_RGB_DEVIATIONS)
        case "lite":
            return _rescaling(1 / 128, -127 / 128)(pixels)


def _standardised(pixels: keras.KerasTensor, means: Sequence[float], deviations: Sequence[float]) -> keras.KerasTensor:
    scale = [1 / (255 * deviation) for deviation in deviations]
    return _rescaling(scale, [-mean / deviation for mean, deviation in zip(means, deviations, strict=True)])(pixels)


def _rescaling(scale: float | list[float], offset: list[float] | float = 0.0) -> layers.Rescaling:
    """In float32 whatever the network computes in: bfloat16 has eight significant bits, as many as a pixel."""
    return layers.Rescaling(scale, offset=offset, name="image_scaling", dtype="float32")


def _named(config: ImageConfig, *, load_weights: bool) -> keras.Model:
    """A backbone without its top as far as its cut, its weights loaded."""
    weights = config.weights if load_weights and config.weights != "none" else None
    if weights not in (None, "imagenet"):
        weights = str(weights_path(weights))
    if config.backbone in TOWERS:
        network = tower_network.build(config.backbone, config.cut, config.seen_side)
        if weights is not None:
            load_weights_file(network, Path(weights))
        return network
    return _until(_of_keras(config, weights), config)


def _until(network: keras.Model, config: ImageConfig) -> keras.Model:
    """A network of keras.applications without what is behind the cut."""
    if config.cut == "final":
        return network
    last = next(layer for layer in reversed(network.layers) if isinstance(layer, layers.Conv2D))
    return keras.Model(network.input, last.input, name=network.name)


def _of_keras(config: ImageConfig, weights: str | None) -> keras.Model:
    """A network of keras.applications without its top. weights: imagenet, a file, or None for random ones."""
    build = partial(
        getattr(keras.applications, config.backbone),
        include_top=False,
        input_shape=(config.seen_side, config.seen_side, 3),
    )
    if weights is None:
        return build(weights=None)
    if weights.lower().endswith(SUFFIXES):
        network = build(weights=None)
        load_weights_file(network, Path(weights))
    else:
        try:
            network = build(weights=weights)
        except Exception as error:  # Keras raises plain Exception for a failed download, others for a bad file
            way_out = (
                "fetch the no-top weights file where there is a network and pass it as image.weights: FILE, "
                "or choose image.weights: none"
                if weights == "imagenet"
                else "pass a Keras weights file of this backbone saved without its top"
            )
            reason = one_line(error, 200)
            raise WeightsError(
                f"weights {weights} of {config.backbone} cannot be loaded; {way_out} ({reason})"
            ) from error
    return _mend_normalisation(network, build) if config.backbone == "EfficientNetB0" else network


def _mend_normalisation(network: keras.Model, build: Callable[..., keras.Model]) -> keras.Model:
    """EfficientNetB0 with the right numbers in its normalisation, of the same layers whatever its weights are.

    The published weights hold deviations where variances belong. Keras makes up for it by one layer more, but only
    with weights="imagenet"; a bundle, built without, would then scale its pictures differently.
    """
    plain = build(weights=None)
    plain.set_weights(network.get_weights())
    for layer in normalisations(plain):
        mean, variance, count = layer.get_weights()
        if np.allclose(variance, IMAGENET_RGB_DEVIATIONS, atol=1e-3):
            layer.set_weights([mean, np.square(variance), count])
        layer.finalize_state()
    return plain


def normalisations(network: keras.Model) -> list[keras.layers.Normalization]:
    """Layers that compute from their weights when told to (`finalize_state`), not whenever these are assigned."""
    return [
        layer
        for layer in layers_within(network)
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None
    ]
