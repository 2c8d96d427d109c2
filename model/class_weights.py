"""What each label weighs in the loss by how well it was told in the epoch before."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.5, 2.0
"""Between these weights are held before their mean is made 1."""


class DynamicWeights(keras.metrics.Metric):
    """The weights of one epoch, and the counts from which those of the next are made.

    A label's F1 is that of the training examples of one epoch as they went by, dropout and all, decided at probability
    0.5. A metric, since its variables are part of what a training step reads and writes on every backend.

    Attributes:
        values: weights of the epoch that trains, (num_labels,) float32 with mean 1; all 1 in the first.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(name="label_f1")
        self.hits = self.add_variable((num_labels,), "zeros", name="hits")
        self.sizes = self.add_variable((num_labels,), "zeros", name="sizes")
        self.values = keras.Variable(np.ones(num_labels, np.float32), trainable=False, name="label_weights")

    def update_state(self, targets: Any, logits: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            targets: 0 or 1, (batch, num_labels).
            logits: above zero where a label is given; the same shape, or more columns with those of parts behind.
            sample_weight: 0 for an example that is not counted, (batch,); None where all are.
        """
        truth, labels = ops.cast(targets, "float32"), ops.cast(logits[:, : targets.shape[-1]] > 0, "float32")
        if sample_weight is not None:
            counted = ops.cast(ops.expand_dims(sample_weight, -1) > 0, "float32")
            truth, labels = truth * counted, labels * counted
        self.hits.assign_add(ops.sum(truth * labels, axis=0))
        self.sizes.assign_add(ops.sum(truth + labels, axis=0))

    def result(self) -> Any:
        """Mean F1 of the labels."""
        return ops.mean(2 * self.hits / ops.maximum(self.sizes, 1.0))

    def reset_state(self) -> None:
        """Forgets the counts, as Keras does before each epoch; the weights stay."""
        for counts in (self.hits, self.sizes):
            counts.assign(ops.zeros(counts.shape))

    def take_up(self) -> None:
        """Makes the weights of the next epoch from the counts of the one that ended."""
        hits, sizes = (ops.convert_to_numpy(counts) for counts in (self.hits, self.sizes))
        self.values.assign(by_errors(2 * hits / np.maximum(sizes, 1)))


def by_errors(f1: NDArray[np.floating]) -> NDArray[np.float32]:
    """Weights that rise with what is wrong of each label.

    Args:
        f1: of each label, (num_labels,) from 0 to 1.

    Returns:
        1 - F1 relative to its mean over the labels, held between LOWEST and HIGHEST, its mean made 1: (num_labels,)
        float32. All 1 where nothing is wrong.
    """
    errors = 1 - f1.astype(np.float64)
    if not errors.any():
        return np.ones(len(errors), np.float32)
    weights = np.clip(errors / errors.mean(), LOWEST, HIGHEST)
    return (weights / weights.mean()).astype(np.float32)
