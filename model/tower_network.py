"""The towers of captune.model.towers as networks of built-in layers."""

from __future__ import annotations

import keras
from keras import layers

from captune.model.towers import TOWERS, Block, Convolution, Cut


def build(name: str, cut: Cut, side: int) -> keras.Model:
    """From scaled pixels (batch, side, side, 3) to the map (batch, height, width, channels) at a cut."""
    pixels = x = keras.Input((side, side, 3), name="pixels")
    for block in TOWERS[name].before(cut):
        x = _block(x, block)
    return keras.Model(pixels, x, name=name.lower())


def _block(inputs: keras.KerasTensor, block: Block) -> keras.KerasTensor:
    x = inputs
    for convolution in block.convolutions:
        x = _convolution(x, convolution)
    if block.residual:
        x = layers.Add()([x, inputs])
    return layers.MaxPooling2D(3, strides=2)(x) if block.halved else x


def _convolution(x: keras.KerasTensor, shape: Convolution) -> keras.KerasTensor:
    if shape.zeros is not None:
        x = layers.ZeroPadding2D(shape.zeros)(x)
    settings = {
        "strides": shape.stride,
        "padding": "same" if shape.zeros is None else "valid",
        "use_bias": not shape.normalised,
        "name": f"{shape.name}_convolution",
    }
    if shape.depthwise:
        x = layers.DepthwiseConv2D(shape.kernel, **settings)(x)
    else:
        x = layers.Conv2D(shape.channels, shape.kernel, **settings)(x)
    if shape.normalised:
        x = layers.BatchNormalization(epsilon=1e-3, name=f"{shape.name}_norm")(x)
    match shape.activation:
        case "relu":
            return layers.ReLU()(x)
        case "relu6":
            return layers.ReLU(6.0)(x)
        case "linear":
            return x
