"""The deliverable: a folder of safetensors and JSON with SHA-256 sums. No pickle, no code, nothing is executed.

bundle.json           network, decision rule, labels, sums of all files; written last
weights.safetensors   every weight in its storage type, by the names of captune.model.layout
vocabulary.json       words and caption settings, where the network reads captions
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from captune.errors import one_line
from captune.files import written_aside
from captune.model.average import Network
from captune.model.average_network import build_shipped, members_of
from captune.model.bundle_manifest import VOCABULARY, WEIGHTS, BundleError, BundleManifest
from captune.model.config import Storage
from captune.model.image_encoder import normalisations
from captune.model.layout import backbone_tensor
from captune.model.rule import DecisionRule
from captune.model.size import size
from captune.model.storage import restore, store


@dataclass(frozen=True)
class Bundle:
    """A network with all that is needed to use it."""

    network: keras.Model
    config: Network
    rule: DecisionRule
    label_ids: tuple[int, ...]
    label_names: tuple[str, ...]
    vocabulary: str | None  # JSON of captune.data_prep.captions.Vocabulary; None for a network without captions

    def save(self, path: Path) -> None:
        """Writes the bundle to a folder that does not exist yet, and that is there once all is in it.

        Raises:
            BundleError: the folder exists.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(path, replace=False) as aside:
                aside.mkdir()
                self._write(aside)
        except FileExistsError:
            raise BundleError(f"{path} exists; name a folder that does not") from None

    def _write(self, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(save(stored(self.network, self.config.storage)))
        if self.vocabulary is not None:
            (folder / VOCABULARY).write_text(self.vocabulary, encoding="utf-8")
        BundleManifest(self.config, self.rule, self.label_ids, self.label_names).write(folder)

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """The bundle in a folder, its sums checked first.

        Raises:
            BundleError: no bundle, a newer format, or a file that is not as it was written.
        """
        manifest = BundleManifest.read(path)
        config = manifest.config
        try:
            tensors = load_file(path / WEIGHTS)
            # Before anything is built: a file of a few bytes must not make a network of many.
            total, expected = sum(tensor.nbytes for tensor in tensors.values()), size(config).weights_bytes
            if total != expected:
                raise ValueError(f"it holds {total} bytes of weights, the network needs {expected}")
            network = build_shipped(config)
            _assign(network, tensors)
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            # The last two where a tensor is of a type that NumPy has not, such as bfloat16.
            raise BundleError(
                f"{path / WEIGHTS} does not fit the network: {one_line(error)}; export it again"
            ) from None
        vocabulary = None if config.text is None else (path / VOCABULARY).read_text(encoding="utf-8")
        return cls(network, config, manifest.rule, manifest.label_ids, manifest.label_names, vocabulary)


def measured_bytes(path: Path) -> int:
    """Bytes of all files in a folder, or of one file."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def named_weights(network: keras.Model) -> Iterator[tuple[str, Any]]:
    """Every variable of a network that `build_shipped` made with its name in captune.model.layout."""
    if members := members_of(network):
        for number, member in enumerate(members):
            yield from ((f"{number}/{name}", weight) for name, weight in named_weights(member))
        return
    backbones = [layer for layer in network.layers if isinstance(layer, keras.Model)]
    places = {id(weight): place for backbone in backbones for place, weight in enumerate(backbone.weights)}
    for weight in network.weights:
        place = places.get(id(weight))
        yield weight.path if place is None else backbone_tensor(place), weight


def stored(network: keras.Model, storage: Storage) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of a network as they are written."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, weight in named_weights(network):
        tensors |= store(name, keras.ops.convert_to_numpy(weight.value), storage)
    return tensors


def _assign(network: keras.Model, tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    for name, weight in named_weights(network):
        values = restore(tensors, name, tuple(weight.shape))
        if tuple(weight.shape) != values.shape:
            raise ValueError(f"{name} is {tuple(weight.shape)}, the file has {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds what is no number")
        weight.assign(values)
    for layer in normalisations(network):
        layer.finalize_state()
