"""What is done otherwise where Keras computes with TensorFlow. The one file of the model that names a backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from captune.model.keras_private import moments

_AHEAD = 4  # batches


def summed(gradient: Any) -> tf.Tensor:
    """The gradient as a tensor, for Adam as its authors and Keras on JAX have it.

    TensorFlow gives that of an embedding as a slice for each token, and Keras 3.15 squares the slices one by one: a
    word that stands twice in a batch would have the sum of the squares as its second moment, not the square of the sum.
    """
    return tf.convert_to_tensor(gradient)


def adam_in_one_kernel(optimizer: keras.optimizers.Adam, gradient: tf.Tensor, variable: Any, rate: Any) -> None:
    """Adam's update of one weight and its moments by one operation, for one device without XLA.

    Keras's separate ones go through memory thirty times.
    """
    weight, first, second = (
        (v.value if isinstance(v, keras.Variable) else v).handle for v in (variable, *moments(optimizer, variable))
    )
    step = tf.cast(optimizer.iterations + 1, gradient.dtype)
    tf.raw_ops.ResourceApplyAdam(
        var=weight,
        m=first,
        v=second,
        beta1_power=tf.pow(optimizer.beta_1, step),
        beta2_power=tf.pow(optimizer.beta_2, step),
        lr=tf.cast(rate, gradient.dtype),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        grad=gradient,
    )


def with_constants(network: keras.Model) -> Callable[[Any], NDArray[np.float32]]:
    """A network as a function whose weights are constants, of which TensorFlow joins convolutions, normalisation and
    what follows on CPUs: EfficientNetLite2 takes 0.7 of the time."""
    variables = (network.trainable_variables, network.non_trainable_variables)
    weights = [[keras.ops.convert_to_numpy(variable.value) for variable in group] for group in variables]

    def answer(inputs: Any) -> tf.Tensor:
        constants = ([tf.constant(values) for values in group] for group in weights)
        values, _ = network.stateless_call(*constants, inputs, training=False)
        return values

    inputs = tf.nest.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), network.input)
    function = tf.function(answer, input_signature=[inputs])
    return lambda values: np.asarray(function(tf.nest.map_structure(tf.constant, values)))


def of_all_devices(values: tf.Tensor) -> tf.Tensor:
    """Rows that each of the devices that train together has of a batch, one's after the other's, on each of them."""
    device = tf.distribute.get_replica_context()  # None where the network is being built
    return values if device is None or device.num_replicas_in_sync == 1 else device.all_gather(values, axis=0)


def read_ahead(sequence: keras.utils.PyDataset) -> tf.data.Dataset:
    """The same batches, the next ones read while one trains.

    Keras would make such a data set by itself, one that tunes itself: by a thread that sleeps 10, 20, 40 ms and so on,
    for which the end of an epoch often waits, so that 0.7 s of training take 1.27 s (TensorFlow 2.21).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    signature = tf.nest.map_structure(
        lambda values: tf.TensorSpec((None, *values.shape[1:]), values.dtype), sequence[0]
    )
    batches = tf.data.Dataset.from_generator(
        lambda: (sequence[index] for index in range(len(sequence))), output_signature=signature
    )
    return batches.apply(tf.data.experimental.assert_cardinality(len(sequence))).prefetch(_AHEAD).with_options(options)
