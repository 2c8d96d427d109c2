"""Values in the type that they are shipped in, and back. What goes through once is not changed by going again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Storage
from captune.model.layout import GROUP, SCALE, channel_axis, groups, is_grouped, is_matrix

Array = NDArray[Any]
_LARGEST_INT8, LARGEST_INT4 = 127, 7
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_SMALLEST_SCALE = 1e-30  # a channel whose values are all below 127 of it is stored as zeros
# 127 times a scale of this many significant bits is exact in float32, so storing restored values again finds the
# same scales and the same integers. So is 7 times a float16.
_SCALE_BITS = 16
_ZERO = 8  # what stands for 0 in half a byte


def store(name: str, values: Array, storage: Storage) -> dict[str, Array]:
    """One tensor as it is written: itself under `name`, int8 and int4 also its scales under `name` + ".scale".

    Args:
        name: of the tensor.
        values: of any shape. Matrices (captune.model.layout) are float32; others are kept as they are.
        storage: float16 rounds, finite values beyond its range to its largest number; int8 divides each channel by its
            scale, the channel's largest absolute value over 127, and rounds (symmetric, after Jacob et al., 2018,
            arXiv 1712.05877); int4 does so with each group of a channel, by a float16 scale, the largest value over 7.
            Two values of int4 lie in a byte, in their order, the first one in its lower half, 8 for zero. A channel or
            group with a value that is not finite gets such a scale.
    """
    values = np.ascontiguousarray(values) if values.ndim else values
    if storage == "float32" or not is_matrix(values.shape):
        return {name: values}
    if storage == "float16":
        within = np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16)
        return {name: np.where(np.isinf(values), values, within).astype(np.float16)}
    if storage == "int4" and is_grouped(values.shape):
        return _int4(name, values)
    axis = channel_axis(values.shape)
    others = tuple(place for place in range(values.ndim) if place != axis % values.ndim)
    scale = _rounded_up(np.abs(values).max(axis=others) / np.float32(_LARGEST_INT8))
    scale[scale < _SMALLEST_SCALE] = 1.0
    with np.errstate(invalid="ignore"):
        integers = np.rint(values / np.expand_dims(scale, others))
        return {name: np.nan_to_num(integers).astype(np.int8), name + SCALE: scale}


def restore(tensors: Mapping[str, Array], name: str, shape: Sequence[int]) -> Array:
    """The tensor `name` of what `store` wrote, kernels and embeddings as float32.

    Args:
        shape: that it had. Only int4 is not written in its own shape.

    Raises:
        KeyError: there is no such tensor.
        ValueError: it is int4, and not of a tensor of that shape.
    """
    values = tensors[name]
    if values.dtype == np.float16:
        return values.astype(np.float32)
    scale = tensors.get(name + SCALE)
    if values.dtype == np.uint8:
        return _from_int4(name, values, scale, shape)
    if scale is None:
        return values
    axis = channel_axis(values.shape) % values.ndim
    broadcast = [size if place == axis else 1 for place, size in enumerate(values.shape)]
    with np.errstate(invalid="ignore", over="ignore"):
        return values.astype(np.float32) * scale.reshape(broadcast)


def through(values: Array, storage: Storage) -> Array:
    """The values as they come back from `storage`."""
    return restore(store("", values, storage), "", values.shape)


def _int4(name: str, values: Array) -> dict[str, Array]:
    count, channels = groups(values.shape)
    by_channel = values.reshape(-1, channels)
    starts = np.arange(count) * GROUP
    scale = _rounded_down(np.maximum.reduceat(np.abs(by_channel), starts) / np.float32(LARGEST_INT4))
    with np.errstate(invalid="ignore"):
        integers = np.rint(by_channel / _each(np.where(scale == 0, 1, scale).astype(np.float32), by_channel))
        integers = np.clip(np.nan_to_num(integers), -LARGEST_INT4, LARGEST_INT4)
    halves = np.full(values.size + values.size % 2, _ZERO, np.uint8)
    halves[: values.size] = (integers.ravel() + _ZERO).astype(np.uint8)
    return {name: halves[::2] | halves[1::2] << 4, name + SCALE: scale}


def _from_int4(name: str, packed: Array, scale: Array | None, shape: Sequence[int]) -> Array:
    size = math.prod(shape)
    as_written = is_grouped(shape) and packed.shape == (-(-size // 2),)
    if not as_written or scale is None or scale.dtype != np.float16 or scale.shape != groups(shape):
        raise ValueError(f"{name} is no int4 tensor of {tuple(shape)}")
    integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[:size].astype(np.float32) - _ZERO
    by_channel = integers.reshape(-1, scale.shape[1])
    with np.errstate(invalid="ignore"):
        return (by_channel * _each(scale.astype(np.float32), by_channel)).reshape(shape)


def _each(of_groups: Array, by_channel: Array) -> Array:
    """The scale of each value (values a channel, channels), from those of its groups (groups, channels)."""
    return np.repeat(of_groups, GROUP, axis=0)[: len(by_channel)]


def _rounded_up(scale: Array) -> Array:
    """The next larger float32 of few significant bits."""
    with np.errstate(invalid="ignore", over="ignore"):
        mantissa, exponent = np.frexp(scale.astype(np.float32))
        steps = np.ceil(mantissa * 2**_SCALE_BITS)
        return np.ldexp(steps, exponent - _SCALE_BITS).astype(np.float32)


def _rounded_down(scale: Array) -> Array:
    """The next smaller float16, so that the largest value of a group always becomes the largest integer."""
    within = np.where(np.isinf(scale), scale, np.minimum(scale, LARGEST_FLOAT16))
    near = within.astype(np.float16)
    return np.where(near > within, np.nextafter(near, np.float16(0)), near)
