"""Weights of a backbone from a file, by the names of its layers: safetensors, npz, or what Keras 3 saves.

In safetensors and npz a tensor is named LAYER/VARIABLE, as stem_convolution/kernel. Nothing in any of them is executed.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from captune.errors import one_line
from captune.model.backbones import WeightsError
from captune.model.keras_private import layers_within

Array = NDArray[Any]
Layers = Mapping[str, Mapping[str, Array]]
"""Values by layer, and within it by variable or by its place."""
SUFFIXES = (".safetensors", ".npz", ".weights.h5", ".keras")
"""Of files that are read by names."""
_MOST = 3  # names in a message
# Keras numbers layers that have no name of their own, from process to process otherwise.
_AUTOMATIC = re.compile(r"((?:layer_)?normalization)_\d+")


def load_weights(network: keras.Model, path: Path) -> None:
    """Fills all weights of a network; what the file holds beyond them is left aside.

    Raises:
        WeightsError: it cannot be read, a weight is missing, or one is of another shape or no number.
    """
    try:
        stored = read_layers(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"weights {path} cannot be loaded as {' or '.join(SUFFIXES)} of layers by their names "
            f"({one_line(error, 200)}); save the backbone without its top again, or make a file by "
            "`captune weights convert`"
        ) from error
    missing, wrong, values = [], [], []
    for layer, name, place, variable in _variables(network):
        within = stored.get(layer, {})
        value = within.get(name, within.get(str(place)))
        shape = tuple(variable.shape)
        if value is None:
            missing.append(f"{layer}/{name}")
        elif value.shape != shape:
            wrong.append(f"{layer}/{name} is {value.shape}, not {shape}")
        elif not np.isfinite(value).all():
            wrong.append(f"{layer}/{name} holds what is no number")
        else:
            values.append((variable, value))
    if missing or wrong:
        reasons = [f"missing: {_some(missing)}"] * bool(missing) + [_some(wrong, "; ")] * bool(wrong)
        raise WeightsError(
            f"weights {path} cannot be loaded into {network.name}: {'; '.join(reasons)}; name a file of this backbone, "
            "saved by Keras 3 without its top or made by `captune weights convert`"
        )
    for variable, value in values:
        variable.assign(value.astype(variable.dtype))


def read_layers(path: Path) -> Layers:
    """All that a file holds. Raises ValueError, KeyError, OSError and the like for what is no such file."""
    name = path.name.lower()
    if name.endswith(".safetensors"):
        return _by_layer(load_file(path).items())
    if name.endswith(".npz"):
        with np.load(path, allow_pickle=False) as arrays:
            return _by_layer((tensor, arrays[tensor]) for tensor in arrays.files)
    if name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            return _of_hdf5(BytesIO(archive.read("model.weights.h5")))
    return _of_hdf5(path)


def _by_layer(tensors: Iterable[tuple[str, Array]]) -> Layers:
    layers: dict[str, dict[str, Array]] = {}
    for name, values in tensors:
        layer, _, variable = name.rpartition("/")
        layers.setdefault(_plain(layer), {})[variable] = values
    return layers


def _of_hdf5(source: Path | BytesIO) -> Layers:
    """Of Keras 3's: a group `vars` for each layer, its name beside it, its variables by their places."""
    layers: dict[str, dict[str, Array]] = {}

    def visit(path: str, group: Any) -> None:
        if path.rpartition("/")[2] == "vars" and "name" in group.attrs:
            layers[_plain(str(group.attrs["name"]))] = {place: _array(group, place) for place in group}

    with h5py.File(source, "r") as file:
        file.visititems(visit)
    if not layers:
        raise ValueError("it names no layers")
    return layers


def _array(group: Any, place: str) -> Array:
    """Values that stand in the file itself: links, and data kept elsewhere, could lead to any other."""
    if isinstance(group.get(place, getlink=True), h5py.HardLink):
        data = group[place]
        if isinstance(data, h5py.Dataset) and not data.external and not data.is_virtual:
            return np.asarray(data)
    raise ValueError("it points out of itself")


def _variables(network: keras.Model) -> Iterator[tuple[str, str, int, keras.Variable]]:
    """Layer, name, place in the layer, and the variable itself."""
    for layer in layers_within(network):
        if not isinstance(layer, keras.Model):
            for place, variable in enumerate(layer.weights):
                yield _plain(layer.name), variable.name, place, variable


def _plain(layer: str) -> str:
    return _AUTOMATIC.sub(r"\1", layer)


def _some(texts: list[str], joint: str = ", ") -> str:
    more = len(texts) - _MOST
    return joint.join(texts[:_MOST]) + (f" and {more} more" if more > 0 else "")
