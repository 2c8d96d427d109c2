"""A contrastive loss between the pictures and the captions of a batch, in training alone.

As CLIP learns (Radford et al., 2021, arXiv 2103.00020): features of both are projected to vectors of length 1, and each
picture has to find its caption among all of the batch, each caption its picture.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops

WIDTH = 128
"""Values of a projected picture or caption."""
_FIRST_SCALE, _LARGEST_SCALE = 1 / 0.07, 100.0  # of cosines, CLIP's
_LEFT_OUT = -1e9  # of a logit: nothing is left of it


def contrast(image: Any, caption: Any, present: Any, scale: Any) -> Any:
    """Each example's loss, (batch,): the mean of two cross-entropies, its caption's and its picture's.

    Args:
        image, caption: (batch, WIDTH), of length 1.
        present: 1 where there is a caption, 0 where there is none, (batch,): such an example has no loss and is in
            nobody's choice.
        scale: what cosines are multiplied by.
    """
    images, captions, others = (_of_all_devices(values) for values in (image, caption, present))
    left_out = (1.0 - others) * _LEFT_OUT
    own = scale * ops.sum(image * caption, axis=-1)
    by_image = ops.logsumexp(scale * ops.matmul(image, ops.transpose(captions)) + left_out, axis=-1)
    by_caption = ops.logsumexp(scale * ops.matmul(caption, ops.transpose(images)) + left_out, axis=-1)
    return present * (0.5 * (by_image + by_caption) - own)


class Alignment(layers.Layer):
    """The loss of features (batch, ..) of pictures and of captions with their ids (batch, tokens): (batch, 1) float32.

    Its weights are the projections and the logarithm of the scale, which the cosines start with as CLIP's do.
    """

    def __init__(self) -> None:
        super().__init__(name="alignment", dtype="float32")
        self._of_image = layers.Dense(WIDTH, use_bias=False, dtype="float32", name="alignment_of_image")
        self._of_caption = layers.Dense(WIDTH, use_bias=False, dtype="float32", name="alignment_of_caption")

    def build(self, image_shape: Any, caption_shape: Any, tokens_shape: Any) -> None:
        """Makes the weights."""
        self._of_image.build(image_shape)
        self._of_caption.build(caption_shape)
        first = keras.initializers.Constant(math.log(_FIRST_SCALE))
        self._log_scale = self.add_weight(shape=(), initializer=first, name="log_scale")

    def call(self, image: Any, caption: Any, tokens: Any) -> Any:
        """The loss of each example among those of its batch, on whatever devices they are."""
        image, caption = _of_length_1(self._of_image(image)), _of_length_1(self._of_caption(caption))
        present = ops.cast(ops.any(ops.not_equal(tokens, 0), axis=1), "float32")
        scale = ops.exp(ops.minimum(self._log_scale, math.log(_LARGEST_SCALE)))
        return ops.expand_dims(contrast(image, caption, present, scale), -1)

    def compute_output_spec(self, image: keras.KerasTensor, *_: keras.KerasTensor) -> keras.KerasTensor:
        """One value an example."""
        return keras.KerasTensor((image.shape[0], 1), dtype="float32")


def _of_length_1(vectors: Any) -> Any:
    """Of an empty caption nothing stays nothing, where the gradient of Keras's `normalize` is no number on JAX."""
    return vectors * ops.rsqrt(ops.maximum(ops.sum(vectors * vectors, axis=-1, keepdims=True), 1e-12))


def _of_all_devices(values: Any) -> Any:
    """Rows of all devices that share a batch; JAX's arrays have them already."""
    if keras.backend.backend() != "tensorflow":
        return values
    from captune.model.on_tensorflow import of_all_devices

    return of_all_devices(values)
