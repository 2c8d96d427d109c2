"""Weights of a backbone from a file, by the names of its layers: safetensors, npz, or what Keras 3 saves.

In safetensors and npz a tensor is named LAYER/VARIABLE, as stem_convolution/kernel. Nothing in any of them is executed.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from captune.errors import one_line
from captune.model.backbones import WeightsError
from captune.model.towers import Cut, Tower

if TYPE_CHECKING:
    import keras

Array = NDArray[Any]
Layers = Mapping[str, Mapping[str, Array]]
"""Values by layer, and within it by variable or by its place."""
SUFFIXES = (".safetensors", ".npz", ".weights.h5", ".keras")
"""Of files that are read by names."""
_MOST = 3  # names in a message
# Keras numbers layers that have no name of their own, from process to process otherwise.
_AUTOMATIC = re.compile(r"((?:layer_)?normalization)_\d+")


@dataclass(frozen=True)
class Weight:
    """One that a network has. place: among those of its layer."""

    layer: str
    name: str
    place: int
    shape: tuple[int, ...]


def load_weights(network: keras.Model, path: Path) -> None:
    """Fills all weights of a network; what the file holds beyond them is left aside. Raises WeightsError."""
    variables = list(_variables(network))
    weights = [Weight(layer, variable.name, place, tuple(variable.shape)) for layer, place, variable in variables]
    for (_, _, variable), value in zip(variables, _values(path, weights, network.name), strict=True):
        variable.assign(value.astype(variable.dtype))


def check_weights(tower: Tower, cut: Cut, path: Path, name: str) -> None:
    """Raises WeightsError where the file does not hold what such a tower needs; no network is built for it."""
    weights, places = list[Weight](), Counter[str]()
    for variable, shape in tower.variables(cut):
        layer, _, name_within = variable.rpartition("/")
        weights.append(Weight(layer, name_within, places[layer], shape))
        places[layer] += 1
    _values(path, weights, name)


def _values(path: Path, weights: Iterable[Weight], network: str) -> list[Array]:
    """What a file holds of these.

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
    for weight in weights:
        within, called = stored.get(weight.layer, {}), f"{weight.layer}/{weight.name}"
        value = within.get(weight.name, within.get(str(weight.place)))
        if value is None:
            missing.append(called)
        elif value.shape != weight.shape:
            wrong.append(f"{called} is {value.shape}, not {weight.shape}")
        elif not np.isfinite(value).all():
            wrong.append(f"{called} holds what is no number")
        else:
            values.append(value)
    if missing or wrong:
        reasons = [f"missing: {_some(missing)}"] * bool(missing) + [_some(wrong, "; ")] * bool(wrong)
        raise WeightsError(
            f"weights {path} cannot be loaded into {network}: {'; '.join(reasons)}; name a file of this backbone, "
            "saved by Keras 3 without its top or made by `captune weights convert`"
        )
    return values


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


def _variables(network: keras.Model) -> Iterator[tuple[str, int, keras.Variable]]:
    """Layer, place in the layer, and the variable itself."""
    import keras

    from captune.model.keras_private import layers_within

    for layer in layers_within(network):
        if not isinstance(layer, keras.Model):
            for place, variable in enumerate(layer.weights):
                yield _plain(layer.name), place, variable


def _plain(layer: str) -> str:
    return _AUTOMATIC.sub(r"\1", layer)


def _some(texts: list[str], joint: str = ", ") -> str:
    more = len(texts) - _MOST
    return joint.join(texts[:_MOST]) + (f" and {more} more" if more > 0 else "")
