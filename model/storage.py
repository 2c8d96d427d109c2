"""Values in the type that they are shipped in, and back. What goes through once is not changed by going again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Storage
from captune.model.layout import SCALE, channel_axis, is_matrix

Array = NDArray[Any]
_LARGEST_INT8 = 127
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_SMALLEST_SCALE = 1e-30  # a channel whose values are all below 127 of it is stored as zeros
# 127 times a scale of this many significant bits is exact in float32, so storing restored values again finds the
# same scales and the same integers.
_SCALE_BITS = 16


def store(name: str, values: Array, storage: Storage) -> dict[str, Array]:
    """One tensor as it is written: itself under `name`, int8 also its scales under `name` + ".scale".

    Args:
        name: of the tensor.
        values: of any shape. Matrices (captune.model.layout) are float32; others are kept as they are.
        storage: float16 rounds, finite values beyond its range to its largest number; int8 divides each channel by its
            scale, the channel's largest absolute value over 127, and rounds (symmetric, after Jacob et al., 2018,
            arXiv 1712.05877). A channel with a value that is not finite gets such a scale.
    """
    values = np.ascontiguousarray(values) if values.ndim else values
    if storage == "float32" or not is_matrix(values.shape):
        return {name: values}
    if storage == "float16":
        within = np.clip(values, -_LARGEST_FLOAT16, _LARGEST_FLOAT16)
        return {name: np.where(np.isinf(values), values, within).astype(np.float16)}
    axis = channel_axis(values.shape)
    others = tuple(place for place in range(values.ndim) if place != axis % values.ndim)
    scale = _rounded_up(np.abs(values).max(axis=others) / np.float32(_LARGEST_INT8))
    scale[scale < _SMALLEST_SCALE] = 1.0
    with np.errstate(invalid="ignore"):
        integers = np.rint(values / np.expand_dims(scale, others))
        return {name: np.nan_to_num(integers).astype(np.int8), name + SCALE: scale}


def restore(tensors: Mapping[str, Array], name: str) -> Array:
    """The tensor `name` of what `store` wrote, kernels and embeddings as float32."""
    values = tensors[name]
    if values.dtype == np.float16:
        return values.astype(np.float32)
    scale = tensors.get(name + SCALE)
    if scale is None:
        return values
    axis = channel_axis(values.shape) % values.ndim
    shape = [size if place == axis else 1 for place, size in enumerate(values.shape)]
    with np.errstate(invalid="ignore", over="ignore"):
        return values.astype(np.float32) * scale.reshape(shape)


def through(values: Array, storage: Storage) -> Array:
    """The values as they come back from `storage`."""
    return restore(store("", values, storage), "")


def _rounded_up(scale: Array) -> Array:
    """The next larger float32 of few significant bits."""
    with np.errstate(invalid="ignore", over="ignore"):
        mantissa, exponent = np.frexp(scale.astype(np.float32))
        steps = np.ceil(mantissa * 2**_SCALE_BITS)
        return np.ldexp(steps, exponent - _SCALE_BITS).astype(np.float32)
