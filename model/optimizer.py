"""How weights are updated: Adam or AdamW by the schedule of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from captune.model.config import TrainConfig
from captune.model.keras_private import place_of


class Adam(keras.optimizers.Adam):
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980), with a rate of its own for the weights of a pretrained tower.

    Args:
        tower: its weights; none where all have one rate.
        tower_rate: what the rate is multiplied by for them.
        thawed_at: step, from 0, before which they stay as they are; their moments are taken from the start, so that the
            first steps are as long as any.
        in_one_kernel: whether one operation of TensorFlow's updates a weight and its moments, see
            `captune.model.on_tensorflow`; of no account on JAX.
    """

    def __init__(
        self,
        *arguments: Any,
        tower: Sequence[keras.Variable] = (),
        tower_rate: float = 1.0,
        thawed_at: int = 0,
        in_one_kernel: bool,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self._in_one_kernel = in_one_kernel
        self._of_tower = frozenset(map(id, tower))  # ids: Keras would take the weights themselves for the optimizer's
        self._tower_rate, self._thawed_at = tower_rate, thawed_at
        self._tower_places: frozenset[int] = frozenset()
        if tower:  # Keras's decay goes by the rate of all
            self.exclude_from_weight_decay(var_list=list(tower))

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the moments of all weights that train."""
        super().build(variables)
        self._tower_places = frozenset(place for place, one in enumerate(variables) if id(one) in self._of_tower)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight and its moments."""
        if self._tower_places and place_of(self, variable) in self._tower_places:
            thawed = ops.cast(self.iterations >= self._thawed_at, "float32")
            learning_rate = ops.cast(learning_rate, "float32") * self._tower_rate * thawed
            if self.weight_decay is not None:
                self.assign_sub(variable, variable * (self.weight_decay * learning_rate))
        if keras.backend.backend() != "tensorflow":
            super().update_step(gradient, variable, learning_rate)
            return
        from captune.model import on_tensorflow

        gradient = on_tensorflow.summed(gradient)
        if self._in_one_kernel:
            on_tensorflow.adam_in_one_kernel(self, gradient, variable, learning_rate)
        else:
            super().update_step(gradient, variable, learning_rate)


def make_optimizer(
    config: TrainConfig, *, steps: int, in_one_kernel: bool, tower: Sequence[keras.Variable] = ()
) -> keras.optimizers.Optimizer:
    """Adam or AdamW with the rate's schedule over `steps` steps, clipping and averaging.

    Args:
        in_one_kernel: see `Adam`.
        tower: weights for which `tower_rate` and `thaw` are meant.
    """
    warmup = round(config.warmup * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        decay_steps=max(1, steps - warmup),
        alpha=0.0 if config.schedule == "cosine" else 1.0,  # alpha 1: the rate never falls
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    return Adam(
        rate,
        tower=tower,
        tower_rate=config.tower_rate,
        thawed_at=round(config.thaw * steps),
        in_one_kernel=in_one_kernel,
        weight_decay=(config.weight_decay or None) if config.optimizer == "adamw" else None,
        global_clipnorm=config.clip_norm or None,
        use_ema=config.ema > 0,
        ema_momentum=config.ema or 0.99,
    )
