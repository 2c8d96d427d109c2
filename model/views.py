"""Views of a network for its training: other inputs, other outputs, the same weights."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from captune.model.augment import RandomAffine
from captune.model.classifier import build
from captune.model.config import ModelConfig, TrialConfig
from captune.model.image_encoder import DROPOUT
from captune.model.text_encoder import DROPOUT as CAPTION_DROPOUT
from captune.model.text_encoder import Cut

FEATURES = "features"
"""Name of the input that holds features of pictures, (batch, .., channels) float32, instead of "image"."""
CAPTION_FEATURES = "caption_features"
"""Name of the input that holds those of captions, (batch, features) float32, beside "caption"."""


def twin_of(config: ModelConfig, *, bfloat16: bool, pieces: Sequence[int] | None) -> keras.Model:
    """Another network of `config` with float32 weights, which may compute in bfloat16. pieces: see `build`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if bfloat16 else before)
    try:
        return build(config, pieces=pieces)
    finally:
        keras.config.set_dtype_policy(before)


def pretrained_weights(network: keras.Model, config: ModelConfig) -> list[keras.Variable]:
    """Weights of towers, of pictures and of captions, that were loaded and are trained on."""
    image, text = config.image, config.text
    towers = []
    if image is not None and not image.frozen and image.weights != "none":
        towers.append(("image", DROPOUT))
    if text is not None and text.begins_with_weights and not text.frozen:
        towers.append(("caption", CAPTION_DROPOUT))
    inputs = {x.name: x for x in network.inputs}
    parts = [keras.Model(inputs[name], network.get_layer(layer).input) for name, layer in towers]
    return [weight for part in parts for weight in part.trainable_variables]


def after_towers(network: keras.Model, output: keras.KerasTensor, config: ModelConfig) -> keras.Model:
    """The part of a network that reads what frozen towers give instead of what they read, with its weights.

    Ids of captions are read beside: they tell where there is none, and the linear branch adds up words.
    """
    inputs = {x.name: x for x in network.inputs}
    if inputs.pop("image", None) is not None:
        inputs[FEATURES] = network.get_layer(DROPOUT).input
    if config.text is not None and config.text.keeps_tower:
        inputs[CAPTION_FEATURES] = network.get_layer(CAPTION_DROPOUT).input
    after = keras.Model(list(inputs.values()), output)
    anew = {name: keras.Input(x.shape[1:], dtype=x.dtype, name=name) for name, x in inputs.items()}
    return keras.Model(anew, after(list(anew.values())))


def with_augmentation(network: keras.Model, output: keras.KerasTensor, config: TrialConfig, seed: int) -> keras.Model:
    """The network up to what is made of it, pictures changed at random first; weights are shared with `network`."""
    learner = keras.Model({x.name: x for x in network.inputs}, output)
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
