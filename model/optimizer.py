"""How weights are updated: Adam or AdamW by the schedule of a configuration."""

from __future__ import annotations

from typing import Any

import keras

from captune.model.config import TrainConfig


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
        from captune.model.on_tensorflow import Adam

        return Adam(rate, in_one_kernel=in_one_kernel, **settings)
    return keras.optimizers.Adam(rate, **settings)
