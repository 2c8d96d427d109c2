"""How weights are updated: Adam or AdamW by the schedule of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from captune.model.config import Storage, TrainConfig
from captune.model.keras_private import place_of
from captune.model.layout import is_grouped
from captune.model.straight_through import as_int4

_SHARE_AS_INT4 = 0.25  # of the steps


class Adam(keras.optimizers.Adam):
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980), with a rate of its own for the weights of a pretrained tower.

    Args:
        tower: its weights; none where all have one rate.
        tower_rate: what the rate is multiplied by for them.
        thawed_at: step, from 0, before which they stay as they are; their moments are taken from the start, so that the
            first steps are as long as any.
        int4_from: step, from 0, from which on matrices are in the network as int4 gives them back, and what they were
            made of is updated by their gradient, straight through (Bengio et al., 2013, arXiv 1308.3432; Jacob et al.,
            2018, arXiv 1712.05877); None: never.
        in_one_kernel: whether one operation of TensorFlow's updates a weight and its moments, see
            `captune.model.on_tensorflow`; of no account on JAX.
    """

    def __init__(
        self,
        *arguments: Any,
        tower: Sequence[keras.Variable] = (),
        tower_rate: float = 1.0,
        thawed_at: int = 0,
        int4_from: int | None = None,
        in_one_kernel: bool,
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self._in_one_kernel = in_one_kernel
        self._of_tower = frozenset(map(id, tower))  # ids: Keras would take the weights themselves for the optimizer's
        self._tower_rate, self._thawed_at, self._int4_from = tower_rate, thawed_at, int4_from
        self._tower_places: frozenset[int] = frozenset()
        self._floats: dict[int, keras.Variable] = {}  # by place: what matrices are that are int4 in the network

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the moments of all weights that train."""
        self._tower_places = frozenset(place for place, one in enumerate(variables) if id(one) in self._of_tower)
        packed = [] if self._int4_from is None else [p for p, one in enumerate(variables) if is_grouped(one.shape)]
        # Keras's decay goes by the rate of all, and would be of the weights as they are in the network.
        if apart := [variables[place] for place in {*self._tower_places, *packed}]:
            self.exclude_from_weight_decay(var_list=apart)
        super().build(variables)
        for place in packed:
            self._floats[place] = self.add_variable_from_reference(variables[place], "float")
            self._floats[place].assign(ops.copy(variables[place].value))  # JAX gives each array up once, in a step

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one weight and its moments."""
        place = place_of(self, variable) if self._tower_places or self._floats else -1
        floats = self._floats.get(place)
        if floats is not None:
            self.assign(variable, floats)
        if place in self._tower_places:
            thawed = ops.cast(self.iterations >= self._thawed_at, "float32")
            learning_rate = ops.cast(learning_rate, "float32") * self._tower_rate * thawed
        if self.weight_decay is not None and (floats is not None or place in self._tower_places):
            self.assign_sub(variable, variable * (self.weight_decay * learning_rate))
        self._adam(gradient, variable, learning_rate)
        if floats is not None:
            self.assign(floats, variable)
            value = ops.convert_to_tensor(variable)
            stored = ops.cond(self.iterations + 1 >= self._int4_from, lambda: as_int4(value), lambda: value)
            self.assign(variable, stored)

    def _adam(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
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
    config: TrainConfig,
    *,
    steps: int,
    in_one_kernel: bool,
    tower: Sequence[keras.Variable] = (),
    storage: Storage = "float32",
) -> keras.optimizers.Optimizer:
    """Adam or AdamW with the rate's schedule over `steps` steps, clipping and averaging.

    Args:
        in_one_kernel: see `Adam`.
        tower: weights for which `tower_rate` and `thaw` are meant.
        storage: what they are shipped as: int4 is trained for in the last steps.
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
        int4_from=round(steps * (1 - _SHARE_AS_INT4)) if storage == "int4" else None,
        in_one_kernel=in_one_kernel,
        weight_decay=(config.weight_decay or None) if config.optimizer == "adamw" else None,
        global_clipnorm=config.clip_norm or None,
        use_ema=config.ema > 0,
        ema_momentum=config.ema or 0.99,
    )
