"""Losses on logits, and the weights that rare labels get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from captune.model.config import TrainConfig

Loss = Callable[[Any, Any], Any]
ASYMMETRIC_MARGIN = 0.05  # probability below which a negative label costs nothing (Ridnik et al., 2021)


def inverse_frequency(counts: Sequence[int]) -> NDArray[np.float32]:
    """A weight for each label, falling with its share among the training examples.

    Args:
        counts: examples that carry each label, shape (num_labels,); of training examples alone.

    Returns:
        float32 of shape (num_labels,), proportional to 1 / count, mean 1. A label never seen counts as seen once.
    """
    weights = 1 / np.maximum(np.asarray(counts, dtype=np.float64), 1)
    return (weights / weights.mean()).astype(np.float32)


def log_odds(counts: Sequence[int], examples: int) -> NDArray[np.float32]:
    """The logit of each label's share of the training examples, (num_labels,).

    Args:
        counts: see `inverse_frequency`. Each label counts as seen and as missed half a time more: none is infinite.
        examples: of training.
    """
    seen = np.asarray(counts, dtype=np.float64) + 0.5
    return np.log(seen / (examples + 1 - seen)).astype(np.float32)


def make_loss(config: TrainConfig, label_counts: Sequence[int], dynamic_weights: Any = None) -> Loss:
    """The loss that `config` names, as a function of (targets, logits), both (batch, num_labels), to (batch,).

    Args:
        dynamic_weights: of the labels, a variable (num_labels,) that is read at each step; None where they are not.
    """
    weights = inverse_frequency(label_counts) if config.class_weights == "inverse" else dynamic_weights

    def loss(targets: Any, logits: Any) -> Any:
        logits = ops.cast(logits, "float32")
        positive = ops.cast(targets, "float32")
        soft = positive * (1 - config.label_smoothing) + 0.5 * config.label_smoothing
        match config.loss:
            case "binary_crossentropy":
                values = _crossentropy(soft, logits)
            case "focal":  # Lin et al., 2017 (arXiv 1708.02002), without its alpha
                wrong = ops.abs(positive - ops.sigmoid(logits))
                values = _crossentropy(soft, logits) * ops.power(wrong, config.gamma)
            case "asymmetric":  # Ridnik et al., 2021 (arXiv 2009.14119), positives not focused
                probability = ops.sigmoid(logits)
                shifted = ops.maximum(probability - ASYMMETRIC_MARGIN, 0.0)
                on_negative = -ops.log(1 - shifted + 1e-8) * ops.power(shifted, config.gamma)
                values = soft * ops.softplus(-logits) + (1 - soft) * on_negative
        if weights is not None:
            values = values * ops.convert_to_tensor(weights)
        return ops.mean(values, axis=-1)

    return loss


def with_own(loss: Loss, share: float) -> Loss:
    """A loss of a network and of its parts, of what `captune.model.classifier.with_own_logits` gives.

    Args:
        loss: of each.
        share: what that of a part counts beside that of the whole.
    """

    def total(targets: Any, logits: Any) -> Any:
        whole, image, caption = ops.split(logits, 3, axis=-1)
        return loss(targets, whole) + share * (loss(targets, image) + loss(targets, caption))

    return total


def with_last(loss: Loss, share: float) -> Loss:
    """A loss of outputs whose last column is a loss by itself, and counts `share` beside that of those before."""

    def total(targets: Any, outputs: Any) -> Any:
        return loss(targets, outputs[:, :-1]) + share * outputs[:, -1]

    return total


def _crossentropy(targets: Any, logits: Any) -> Any:
    """Binary cross-entropy of each label; softplus keeps it exact for large logits."""
    return ops.softplus(logits) - targets * logits
