"""How weights are updated: Adam or AdamW by the schedule of a configuration."""

from __future__ import annotations

from typing import Any

import keras

from model.config import TrainConfig


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
        import tensorflow as tf

        gradient = tf.convert_to_tensor(gradient)
        if not self._in_one_kernel:
            super().update_step(gradient, variable, learning_rate)
            return
        place = self._get_variable_index(variable)
        weight, first, second = (
            (v.value if isinstance(v, keras.Variable) else v).handle
            for v in (variable, self._momentums[place], self._velocities[place])
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


def make_optimizer(config: TrainConfig, *, steps: int, in_one_kernel: bool) -> keras.optimizers.Optimizer:
    """Adam or AdamW with the rate's schedule over `steps` steps, clipping and averaging.

    Args:
        in_one_kernel: see `Adam`; of no account on JAX.
    """
    warmup = round(config.warmup * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        decay_steps=max(1, steps - warmup),
        alpha=0.0 if config.schedule == "cosine" else 1.0,  # alpha 1: the rate never falls
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    settings: dict[str, Any] = {
        "weight_decay": (config.weight_decay or None) if config.optimizer == "adamw" else None,
        "global_clipnorm": config.clip_norm or None,
        "use_ema": config.ema > 0,
        "ema_momentum": config.ema or 0.99,
    }
    if keras.backend.backend() == "tensorflow":
        return Adam(rate, in_one_kernel=in_one_kernel, **settings)
    return keras.optimizers.Adam(rate, **settings)
