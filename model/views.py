"""Views of a network for its training: other inputs, other outputs, the same weights."""

from __future__ import annotations

import keras

from captune.model.augment import RandomAffine
from captune.model.classifier import build
from captune.model.config import ImageConfig, ModelConfig, TrialConfig
from captune.model.image_encoder import DROPOUT
from captune.model.text_encoder import Cut

FEATURES = "features"
"""Name of the input that holds features of pictures, (batch, .., channels) float32, instead of "image"."""


def twin_of(config: ModelConfig, *, bfloat16: bool) -> keras.Model:
    """Another network of `config` with float32 weights, which may compute in bfloat16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else before)
    try:
        return build(config)
    finally:
        keras.config.set_dtype_policy(before)


def pretrained_weights(network: keras.Model, image: ImageConfig | None) -> list[keras.Variable]:
    """Weights of the image backbone that were loaded and are trained on."""
    if image is None or image.frozen or image.weights == "none":
        return []
    pixels = next(x for x in network.inputs if x.name == "image")
    return list(keras.Model(pixels, network.get_layer(DROPOUT).input).trainable_variables)


def after_backbone(network: keras.Model, output: keras.KerasTensor) -> keras.Model:
    """The part of a network that reads features of pictures instead of pictures, with its weights."""
    inputs = {FEATURES: network.get_layer(DROPOUT).input} | {x.name: x for x in network.inputs if x.name != "image"}
    after = keras.Model(list(inputs.values()), output)
    anew = {name: keras.Input(x.shape[1:], dtype=x.dtype, name=name) for name, x in inputs.items()}
    return keras.Model(anew, after(list(anew.values())))


def with_augmentation(network: keras.Model, logits: keras.KerasTensor, config: TrialConfig, seed: int) -> keras.Model:
    """The network up to logits of its own, pictures changed at random first; weights are shared with `network`."""
    learner = keras.Model({x.name: x for x in network.inputs}, logits)
    if config.model.image is None or not config.train.augment.active:
        return learner
    inputs = {x.name: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name) for x in network.inputs}
    changed = RandomAffine(config.train.augment, seed=seed)(inputs["image"])
    return keras.Model(inputs, learner({**inputs, "image": changed}))


def as_it_is(network: keras.Model) -> keras.Model:
    return network


def with_captions_cut(network: keras.Model) -> keras.Model:
    """The same network with captions cut to the longest of their batch first."""
    inputs = {x.name: keras.Input(x.shape[1:], dtype=x.dtype, name=x.name) for x in network.inputs}
    return keras.Model(inputs, network({**inputs, "caption": Cut()(inputs["caption"])}))
