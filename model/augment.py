"""Random affine changes of training pictures, in one pass on the device."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from captune.model.config import AugmentConfig


class RandomAffine(keras.layers.Layer):
    """Rotation, shift, shear, zoom and mirroring drawn for every picture and applied as one affine map.

    One bilinear sampling instead of five: cheaper, and the picture is blurred once. Distributions are those of the
    paper's generator: uniform on either side of no change; pixels from outside repeat the border. Not part of the
    shipped network.
    """

    def __init__(self, config: AugmentConfig, *, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config = config
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool = False) -> Any:
        """(batch, side, side, 3) of 0..255 to float32 of the same shape; unchanged values outside training."""
        if not training:
            return ops.cast(images, "float32")
        transforms = self._transforms(ops.shape(images)[0], images.shape[1])
        if _on_jax_gpu():
            return sampled(images, transforms)
        return ops.image.affine_transform(ops.cast(images, "float32"), transforms, fill_mode="nearest")

    def _transforms(self, batch: Any, side: int) -> Any:
        """(batch, 8): rows of the map from output to input coordinates about the picture's centre."""
        config = self.config

        def draw(limit: float) -> Any:
            return keras.random.uniform((batch,), -limit, limit, seed=self.generator)

        angle = draw(math.radians(config.rotation))
        shear = draw(math.radians(config.shear))
        zoom_x, zoom_y = 1 + draw(config.zoom), 1 + draw(config.zoom)
        shift_x, shift_y = draw(config.shift * side), draw(config.shift * side)
        mirror = ops.ones_like(angle)
        if config.flip:
            mirror = ops.where(keras.random.uniform((batch,), seed=self.generator) < 0.5, -1.0, 1.0)
        # output -> input: rotation @ shear @ zoom @ mirror
        a = ops.cos(angle) * zoom_x * mirror
        b = -ops.sin(angle + shear) * zoom_y
        c = ops.sin(angle) * zoom_x * mirror
        d = ops.cos(angle + shear) * zoom_y
        centre = (side - 1) / 2
        tx = centre - a * centre - b * centre + shift_x
        ty = centre - c * centre - d * centre + shift_y
        zero = ops.zeros_like(a)
        return ops.stack([a, b, tx, c, d, ty, zero, zero], axis=1)


def _on_jax_gpu() -> bool:
    if keras.backend.backend() != "jax":
        return False
    return any(name.startswith(("gpu", "cuda")) for name in keras.distribution.list_devices())


def sampled(images: Any, transforms: Any) -> Any:
    """Pictures under affine maps, bilinear, pixels outside repeating the border: for JAX on GPUs.

    Keras's affine_transform gathers eight times a value there, writes nine floats a pixel to memory on the way, and
    multiplies coordinates as TensorFloat-32, whose ten bits leave a picture of 224 pixels wrong by tenths of a pixel.

    Args:
        images: (batch, height, width, channels), height and width of 2 or more.
        transforms: (batch, 8), as of `keras.ops.image.affine_transform`.

    Returns:
        float32 of the shape of `images`.
    """
    height, width, channels = images.shape[1:]
    a, b, tx, c, d, ty = (transforms[:, place, None, None] for place in range(6))
    x = ops.arange(width, dtype="float32")[None, None, :]
    y = ops.arange(height, dtype="float32")[None, :, None]
    across = ops.clip(a * x + b * y + tx, 0, width - 1)
    down = ops.clip(c * x + d * y + ty, 0, height - 1)
    left = ops.minimum(ops.floor(across), width - 2)
    top = ops.minimum(ops.floor(down), height - 2)
    place = ops.reshape(ops.cast(top * width + left, "int32"), (-1, height * width, 1))
    pixels = ops.reshape(images, (-1, height * width, channels))

    def at(offset: int) -> Any:
        values = ops.take_along_axis(pixels, place + offset, axis=1)
        return ops.cast(ops.reshape(values, (-1, height, width, channels)), "float32")

    right, lower = (across - left)[..., None], (down - top)[..., None]
    above = at(0) * (1 - right) + at(1) * right
    below = at(width) * (1 - right) + at(width + 1) * right
    return above * (1 - lower) + below * lower
