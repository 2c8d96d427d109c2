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
        images = ops.cast(images, "float32")
        if not training:
            return images
        return ops.image.affine_transform(
            images, self._transforms(ops.shape(images)[0], images.shape[1]), fill_mode="nearest"
        )

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
