"""The network of an average: its members side by side, of built-in layers only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from captune.model.average import Average, Network
from captune.model.classifier import LOGITS, OF_CAPTION, OF_IMAGE, alone, build
from captune.model.config import TextConfig
from captune.model.image_encoder import normalisations

_MEMBER = "member_"
_UNKNOWN = 1  # token id of words that a network does not know


def build_shipped(config: Network) -> keras.Model:
    """The network of a bundle, its weights left to the caller: see `captune.model.classifier.build`."""
    if not isinstance(config, Average):
        return build(config, load_weights=False)
    return _averaged(config, [build(model, load_weights=False) for model in config.models], LOGITS)


def alone_of(network: keras.Model, config: Network, modality: Literal["image", "caption"]) -> keras.Model:
    """The part of a bundle's network that answers by picture or caption alone, see `captune.model.classifier.alone`."""
    if not isinstance(config, Average):
        return alone(network, modality)
    return _averaged(config, members_of(network), OF_IMAGE if modality == "image" else OF_CAPTION, {modality})


def members_of(network: keras.Model) -> list[keras.Model]:
    """The networks of an average; none of any other network."""
    return [x for x in network.layers if isinstance(x, keras.Model) and x.name.startswith(_MEMBER)]


def assembled(config: Network, weights: Sequence[Sequence[NDArray[Any]]]) -> keras.Model:
    """The network of a bundle with the weights of its members, or with those of the only network."""
    network = build_shipped(config)
    for member, values in zip(members_of(network) or [network], weights, strict=True):
        member.set_weights(list(values))
    for layer in normalisations(network):
        layer.finalize_state()
    return network


def _averaged(
    config: Average, networks: Sequence[keras.Model], layer: str, reads: Collection[str] = ("image", "caption")
) -> keras.Model:
    """The mean over networks of the calibrated sigmoid of what a layer of each gives.

    Args:
        networks: of the members, or their parts up to LOGITS.
        reads: inputs that the layer follows from.
    """
    text = config.text
    inputs = {x.name: x for x in networks[0].inputs if x.name in reads}
    shared = {name: keras.Input(x.shape[1:], dtype=x.dtype, name=name) for name, x in inputs.items()}
    if "caption" in shared and text is not None:
        shared["caption"] = keras.Input((text.max_tokens,), dtype="int32", name="caption")
    probabilities = []
    for place, (member, network) in enumerate(zip(config.members, networks, strict=True)):
        own = {x.name: x for x in network.inputs if x.name in reads}
        part = keras.Model(own, network.get_layer(layer).output, name=f"{_MEMBER}{place}")
        seen = dict(shared)
        if member.model.text is not None and text is not None and "caption" in seen:
            seen["caption"] = _as_read(seen["caption"], member.model.text, text)
        probabilities.append(ops.sigmoid(part(seen) * np.float32(member.scale) + np.float32(member.shift)))
    return keras.Model(shared, layers.Average(name="probabilities", dtype="float32")(probabilities), name="captune")


def _as_read(tokens: keras.KerasTensor, own: TextConfig, widest: TextConfig) -> keras.KerasTensor:
    """Token ids as a member reads them, of those that come in for all."""
    if own.max_tokens < widest.max_tokens:
        tokens = tokens[:, : own.max_tokens]
    if own.vocabulary_size < widest.vocabulary_size:
        tokens = ops.where(tokens < own.vocabulary_size, tokens, _UNKNOWN)
    return tokens
