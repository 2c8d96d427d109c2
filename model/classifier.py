"""The whole network: encoders, fusion, heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from captune.model import heads, image_encoder, text_encoder
from captune.model.config import ModelConfig
from captune.model.stack import Stack

LOGITS = "logits"
"""Layer that gives the values before the sigmoid."""
OF_IMAGE, OF_CAPTION, _OF_BOTH = "logits_of_image", "logits_of_caption", "logits_of_both"
"""Layers whose values it adds where fusion is summed."""
_STACK = "stacking"
_JOINED = "fusion_concatenation"
_DROPPED = ("fusion_dropout_0", "fusion_dropout_1")  # before it, where there is modality dropout


def build(config: ModelConfig, *, load_weights: bool = True, pieces: Sequence[int] | None = None) -> keras.Model:
    """The network that `config` describes, of built-in layers only.

    Args:
        config: encoders, fusion, number of labels.
        load_weights: whether pretrained weights are fetched; False leaves them to the caller.
        pieces: of a pretrained text tower, see captune.model.text_tower.

    Returns:
        A model from a dict of inputs ("image": (batch, side, side, 3) uint8, "caption": (batch, max_tokens) int32,
        each only where it is read) to probabilities of shape (batch, num_labels). Its layer LOGITS gives the
        values before the sigmoid.

    Raises:
        WeightsError: see there.
    """
    labels, dropout = config.num_labels, config.head_dropout
    inputs: dict[str, keras.KerasTensor] = {}
    image = text = words = None
    if config.image is not None:
        side = config.image.side
        inputs["image"] = keras.Input((side, side, 3), dtype="uint8", name="image")
        image = image_encoder.encode(inputs["image"], config.image, load_weights=load_weights)
    if config.text is not None:
        inputs["caption"] = keras.Input((config.text.max_tokens,), dtype="int32", name="caption")
        text = text_encoder.encode(inputs["caption"], config.text, load_weights=load_weights, pieces=pieces)
        words = heads.wide(inputs["caption"], config.text, labels) if config.text.wide else None
    if config.image is not None and config.has_parts:
        present = ops.any(ops.not_equal(inputs["caption"], 0), axis=1, keepdims=True)
        of_image = heads.of_image(image, config.image, labels, dropout, OF_IMAGE)
        of_caption = heads.linear(text, labels, dropout, OF_CAPTION, words)
        of_both = heads.linear(_joined(image, text, config), labels, dropout, _OF_BOTH)
        logits = _stacked(of_image, of_caption, of_both, present)
    elif config.text is None and config.image is not None and config.image.head != "pooled":
        logits = heads.of_image(image, config.image, labels, dropout, LOGITS)
    else:
        logits = heads.linear(_joined(image, text, config), labels, dropout, LOGITS, words)
    return keras.Model(inputs, layers.Activation("sigmoid", name="probabilities")(logits), name="captune")


def with_own_logits(network: keras.Model) -> keras.KerasTensor:
    """Logits of the whole, of the picture and of the caption, (batch, 3 * num_labels), where fusion is summed."""
    parts = [network.get_layer(name).output for name in (LOGITS, OF_IMAGE, OF_CAPTION)]
    return layers.Concatenate(name="own_logits", dtype="float32")(parts)


def fused(network: keras.Model) -> list[keras.KerasTensor]:
    """Features of pictures and of captions, (batch, ..) each, that fusion joins; as they are before it drops any."""
    dropouts = [layer for layer in network.layers if layer.name in _DROPPED]
    if dropouts:
        return [network.get_layer(name).input for name in _DROPPED]
    return list(network.get_layer(_JOINED).input)


def alone(network: keras.Model, modality: Literal["image", "caption"]) -> keras.Model:
    """The part of a network that answers by picture or caption alone, where fusion is summed.

    Returns:
        A model from a dict of this one input to probabilities of shape (batch, num_labels).
    """
    logits = network.get_layer(OF_IMAGE if modality == "image" else OF_CAPTION).output
    inputs = {x.name: x for x in network.inputs if x.name == modality}
    return keras.Model(inputs, layers.Activation("sigmoid")(logits))


def start_at(network: keras.Model, log_odds: NDArray[np.floating]) -> None:
    """Lets the logits start at (num_labels,) values, give or take what random kernels add.

    Picture and caption start at them each, and both together at their negative: by Bayes' rule, what two independent
    witnesses say is added, and what was known before counts once.
    """
    for layer in network.layers:
        if layer.name.startswith(LOGITS) and getattr(layer, "bias", None) is not None:
            layer.bias.assign(-log_odds if layer.name.startswith(_OF_BOTH) else log_odds)


def _stacked(
    of_image: keras.KerasTensor, of_caption: keras.KerasTensor, of_both: keras.KerasTensor, present: keras.KerasTensor
) -> keras.KerasTensor:
    """The weighted sum of logits (batch, num_labels); the picture's own where no caption is `present` (batch, 1)."""
    there = ops.cast(present, "float32")
    parts = ops.stack([of_image, of_caption * there, of_both * there], axis=1)
    stacked = layers.EinsumDense(
        "bpl,p->bl",
        output_shape=of_image.shape[-1],
        bias_axes="l",
        kernel_initializer="ones",
        trainable=False,  # beside kernels of their own a weight a part would only change their rate
        name=_STACK,
        dtype="float32",
    )
    return layers.Identity(name=LOGITS, dtype="float32")(ops.where(present, stacked(parts), of_image))


def parts_of(network: keras.Model) -> keras.KerasTensor:
    """Logits of picture, caption and both, (batch, 3, num_labels), where fusion is summed."""
    return network.get_layer(_STACK).input


def set_stack(network: keras.Model, stack: Stack | None) -> None:
    """Lets logits be added as the stack has it; None: as they are, which is how they are trained."""
    layer = network.get_layer(_STACK)
    layer.kernel.assign(np.ones(layer.kernel.shape) if stack is None else stack.weights)
    layer.bias.assign(np.zeros(layer.bias.shape) if stack is None else stack.shifts)


def _joined(image: keras.KerasTensor | None, text: keras.KerasTensor | None, config: ModelConfig) -> keras.KerasTensor:
    """Features (batch, width) of all that is read, through the dense layer before the outputs."""
    features = []
    if config.image is not None:
        features.append(image_encoder.whole(image, config.image))
    if config.text is not None:
        features.append(text)
    x = features[0] if len(features) == 1 else _fuse(features, config)
    return layers.Dense(config.head_units, activation="relu", name="head_dense")(x) if config.head_units else x


def _fuse(features: list[keras.KerasTensor], config: ModelConfig) -> keras.KerasTensor:
    """Concatenation, or that with every feature scaled by a gate (Miech et al., 2017, arXiv 1706.06905)."""
    if config.modality_dropout:
        # All features of an example or none: what is there is scaled up, as by any dropout.
        each = {"rate": config.modality_dropout, "noise_shape": (None, 1)}
        features = [layers.Dropout(**each, name=name)(x) for name, x in zip(_DROPPED, features, strict=True)]
    both = layers.Concatenate(name=_JOINED)(features)
    if config.fusion != "gated":
        return both
    gate = layers.Dense(both.shape[-1], activation="sigmoid", name="fusion_gate")(both)
    return layers.Multiply(name="fusion_gated")([both, gate])
