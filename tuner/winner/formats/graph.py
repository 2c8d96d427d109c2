"""A network as a graph of TensorFlow for inference alone: built-in operations, inputs and output by their names.

Only for a process of its own: the layers of the network are changed, and TensorFlow's settings too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from captune.model.keras_private import layers_within
from captune.tuner.winner.formats.declarations import PROBABILITIES


def function(network: keras.Model) -> Any:
    """A tf.function from the inputs, in the order of `signature`, to a dict of PROBABILITIES.

    Layers are made such that the converters know all their operations and find all constants in the graph.
    """
    for layer in layers_within(network):
        if isinstance(layer, keras.layers.Normalization):
            # As tensors they would become inputs of the graph.
            layer.finalize_state()
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
        if isinstance(layer, keras.layers.Resizing):
            _resize_by_matrices(layer)
    names = [x.name for x in network.inputs]

    def answer(*inputs: Any) -> dict[str, Any]:
        return {PROBABILITIES: network(dict(zip(names, inputs, strict=True)), training=False)}

    return tf.function(answer, autograph=False)


def signature(network: keras.Model, rows: int | None) -> list[tf.TensorSpec]:
    """Of `function`. rows: of every batch; None for any number."""
    return [tf.TensorSpec((rows, *x.shape[1:]), x.dtype, name=x.name) for x in network.inputs]


@contextmanager
def inlined() -> Iterator[None]:
    """Functions called while a graph is made become part of it: Keras has grouped convolutions in one."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def save(network: keras.Model, folder: str, rows: int | None) -> None:
    """Writes a SavedModel with every weight once, and nothing that training would need."""
    concrete = function(network).get_concrete_function(*signature(network, rows))
    module = tf.Module()
    module.weights = list(concrete.variables)
    tf.saved_model.save(module, folder, concrete, tf.saved_model.SaveOptions(experimental_custom_gradients=False))


def _resize_by_matrices(layer: keras.layers.Resizing) -> None:
    """Lets a layer reduce pictures by two products: it is linear along each axis, and few runtimes can do it."""
    axes: dict[int, Any] = {}

    def matrix(side: int, target: int) -> Any:
        """(target, side): what the layer makes of each row of pixels."""
        rows = tf.eye(side)[None, :, None, :]  # a picture of one column, with a channel for each row
        reduced = tf.image.resize(rows, (target, 1), method=layer.interpolation, antialias=layer.antialias)
        return reduced[0, :, 0, :].numpy()

    def call(pixels: Any, **_: Any) -> Any:
        _, height, width, _ = pixels.shape
        for side, target in ((height, layer.height), (width, layer.width)):
            if side not in axes:
                with tf.init_scope():
                    axes[side] = matrix(side, target)
        return ops.einsum("ij,njkc,lk->nilc", axes[height], pixels, axes[width])

    layer.call = call
