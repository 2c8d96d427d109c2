"""What a network is trained for: a loss, and the output that it is a loss of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from captune.model.alignment import Alignment
from captune.model.classifier import LOGITS, fused, with_own_logits
from captune.model.config import TrialConfig
from captune.model.losses import Loss, make_loss, with_last, with_own


def objective(
    network: keras.Model, config: TrialConfig, label_counts: Sequence[int], dynamic_weights: Any
) -> tuple[Loss, keras.KerasTensor]:
    """The loss of (targets, output), and the output, of `network`, or of it and layers that are for training alone.

    The first columns of the output are the logits, (batch, num_labels). dynamic_weights: see `make_loss`.
    """
    loss, output = make_loss(config.train, label_counts, dynamic_weights), network.get_layer(LOGITS).output
    if config.train.own_losses and config.model.has_parts:
        loss, output = with_own(loss, config.train.own_losses), with_own_logits(network)
    if config.train.alignment:
        tokens = next(x for x in network.inputs if x.name == "caption")
        contrast = Alignment()(*fused(network), tokens)
        output = layers.Concatenate(name="logits_and_contrast", dtype="float32")([output, contrast])
        loss = with_last(loss, config.train.alignment)
    return loss, output
