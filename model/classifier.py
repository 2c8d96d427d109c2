"""The whole network: encoders, fusion, head."""

from __future__ import annotations

import keras
from keras import layers

from captune.model import image_encoder, text_encoder
from captune.model.config import ModelConfig


def build(config: ModelConfig, *, load_weights: bool = True) -> keras.Model:
    """The network that `config` describes, of built-in layers only.

    Args:
        config: encoders, fusion, number of labels.
        load_weights: whether pretrained weights are fetched; False leaves them to the caller.

    Returns:
        A model from a dict of inputs ("image": (batch, side, side, 3) uint8, "caption": (batch, max_tokens) int32,
        each only where it is read) to probabilities of shape (batch, num_labels). Its layer "logits" gives the
        values before the sigmoid.

    Raises:
        WeightsError: see there.
    """
    inputs: dict[str, keras.KerasTensor] = {}
    features: list[keras.KerasTensor] = []
    if config.image is not None:
        side = config.image.side
        inputs["image"] = keras.Input((side, side, 3), dtype="uint8", name="image")
        features.append(image_encoder.encode(inputs["image"], config.image, load_weights=load_weights))
    if config.text is not None:
        inputs["caption"] = keras.Input((config.text.max_tokens,), dtype="int32", name="caption")
        features.append(text_encoder.encode(inputs["caption"], config.text))
    x = features[0] if len(features) == 1 else _fuse(features, config)
    if config.head_units:
        x = layers.Dense(config.head_units, activation="relu", name="head_dense")(x)
    x = layers.Dropout(config.head_dropout, name="head_dropout")(x)
    logits = layers.Dense(config.num_labels, name="logits", dtype="float32")(x)
    return keras.Model(inputs, layers.Activation("sigmoid", name="probabilities")(logits), name="captune")


def _fuse(features: list[keras.KerasTensor], config: ModelConfig) -> keras.KerasTensor:
    """Concatenation, or that with every feature scaled by a gate (Miech et al., 2017, arXiv 1706.06905)."""
    both = layers.Concatenate(name="fusion_concatenation")(features)
    if config.fusion == "concatenation":
        return both
    gate = layers.Dense(both.shape[-1], activation="sigmoid", name="fusion_gate")(both)
    return layers.Multiply(name="fusion_gated")([both, gate])
