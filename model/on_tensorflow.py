"""What is done otherwise where Keras computes with TensorFlow. The one file of the model that names a backend."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from captune.model.keras_private import moments

_AHEAD = 4  # batches


class Adam(keras.optimizers.Adam):
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980) as TensorFlow computes it, for networks with embeddings.

    TensorFlow gives the gradient of an embedding as a slice for each token, and Keras 3.15 squares the slices one by
    one: a word that stands twice in a batch has the sum of the squares as its second moment, where Adam, and Keras on
    JAX, have the square of the sum.

    Args:
        in_one_kernel: whether one operation updates a weight and its moments; for one device without XLA. Keras's
            separate ones go through memory thirty times.
    """

    def __init__(self, *arguments: Any, in_one_kernel: bool, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._in_one_kernel = in_one_kernel

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable and its moments."""
        gradient = tf.convert_to_tensor(gradient)
        if not self._in_one_kernel:
            super().update_step(gradient, variable, learning_rate)
            return
        weight, first, second = (
            (v.value if isinstance(v, keras.Variable) else v).handle for v in (variable, *moments(self, variable))
        )
        step = tf.cast(self.iterations + 1, gradient.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=weight,
            m=first,
            v=second,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, gradient.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


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
