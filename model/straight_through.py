"""Weights as int4 gives them back, within a training step."""

from __future__ import annotations

from typing import Any

from keras import ops

from captune.model.layout import GROUP, groups
from captune.model.storage import LARGEST_FLOAT16, LARGEST_INT4


def as_int4(values: Any) -> Any:
    """What captune.model.storage makes of a matrix that int4 packs, by operations of the framework.

    Args:
        values: float32 tensor whose shape is known.

    Returns:
        As many; storing them changes nothing, but for weights below a millionth.
    """
    count, channels = groups(values.shape)
    by_channel = ops.reshape(values, (-1, channels))
    rows = by_channel.shape[0]
    length = min(GROUP, rows)
    grouped = ops.reshape(ops.pad(by_channel, ((0, count * length - rows), (0, 0))), (count, length, channels))
    largest = ops.max(ops.abs(grouped), axis=1, keepdims=True)
    scale = ops.cast(ops.cast(ops.minimum(largest / LARGEST_INT4, LARGEST_FLOAT16), "float16"), "float32")
    integers = ops.clip(ops.round(grouped / ops.where(scale > 0, scale, 1.0)), -LARGEST_INT4, LARGEST_INT4)
    return ops.reshape(ops.reshape(integers * scale, (-1, channels))[:rows], values.shape)
