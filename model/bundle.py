"""The deliverable: a folder of safetensors and JSON with SHA-256 sums. No pickle, no code, nothing is executed.

bundle.json           network, decision rule, labels, sums of all files; written last
weights.safetensors   every weight in its storage type, by the names of captune.model.layout
vocabulary.json       words and caption settings, where the network reads captions
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from pydantic import StrictInt, StrictStr, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from captune.errors import UsageError, one_line
from captune.files import written_aside
from captune.model.classifier import build
from captune.model.config import ModelConfig, Storage, complaint
from captune.model.image_encoder import normalisations
from captune.model.layout import MANIFEST, backbone_tensor
from captune.model.metrics import DecisionRule
from captune.model.size import size
from captune.model.storage import restore, store
from captune.reading import UnreadableError, json_object, sha256

FORMAT = 2
WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.json"
_LABEL_IDS, _LABEL_NAMES = TypeAdapter(tuple[StrictInt, ...]), TypeAdapter(tuple[StrictStr, ...])
_WORDS = TypeAdapter(list[StrictStr])


class BundleError(UsageError):
    """A folder that is no bundle, or one that was changed or cut short."""


@dataclass(frozen=True)
class Bundle:
    """A network with all that is needed to use it."""

    network: keras.Model
    config: ModelConfig
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
        # The weights are inside: where they once came from, and which were trained, is history.
        config = self.config.model_dump()
        if config["image"] is not None:
            config["image"] |= {"weights": "none", "frozen": False}
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "model": config,
            "threshold": self.rule.threshold,
            "label_ids": self.label_ids,
            "label_names": self.label_names,
            "sha256": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        }
        manifest["sha256"][MANIFEST] = _own_digest(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """The bundle in a folder, its sums checked first.

        Raises:
            BundleError: no bundle, a newer format, or a file that is not as it was written.
        """
        manifest = _manifest(path)
        for name in sorted({WEIGHTS, *manifest["sha256"]} - {MANIFEST}):
            if name not in (WEIGHTS, VOCABULARY) or not (path / name).is_file():
                raise BundleError(f"{path} is not whole: {one_line(name, 60)} is missing or unknown; export it again")
            if sha256(path / name) != manifest["sha256"].get(name):
                raise BundleError(f"{path / name} is not as it was written (SHA-256 differs); export it again")
        try:
            config = ModelConfig.model_validate(manifest["model"])
            rule = DecisionRule(manifest["threshold"])
            label_ids = _LABEL_IDS.validate_python(manifest["label_ids"])
            label_names = _LABEL_NAMES.validate_python(manifest["label_names"])
            vocabulary = (path / VOCABULARY).read_text(encoding="utf-8") if VOCABULARY in manifest["sha256"] else None
            words = None if vocabulary is None else _WORDS.validate_python(json.loads(vocabulary)["words"])
        except (ValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = complaint(error) if isinstance(error, ValidationError) else repr(error)
            raise BundleError(f"{path} cannot be read: {one_line(reason, 200)}; export it again") from None
        if (
            (config.text is None) != (words is None)
            or (config.text is not None and words is not None and len(words) > config.text.vocabulary_size - 2)
            or not len(label_ids) == len(label_names) == config.num_labels
            or list(label_ids) != sorted(set(label_ids))
            or min(label_ids) < 0
        ):
            raise BundleError(f"{path / MANIFEST} contradicts itself; export it again")
        try:
            tensors = load_file(path / WEIGHTS)
            # Before anything is built: a file of a few bytes must not make a network of many.
            total, expected = sum(tensor.nbytes for tensor in tensors.values()), size(config).weights_bytes
            if total != expected:
                raise ValueError(f"it holds {total} bytes of weights, the network needs {expected}")
            network = build(config, load_weights=False)
            _assign(network, tensors)
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            # The last two where a tensor is of a type that NumPy has not, such as bfloat16.
            raise BundleError(
                f"{path / WEIGHTS} does not fit the network: {one_line(error)}; export it again"
            ) from None
        return cls(network, config, rule, label_ids, label_names, vocabulary)


def measured_bytes(path: Path) -> int:
    """Bytes of the files of a bundle, or of one file."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.iterdir() if f.is_file())


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json_object(path / MANIFEST)
    except UnreadableError as error:
        raise BundleError(
            f"{path} is not a bundle ({one_line(error)}); name a folder that refit or export made"
        ) from None
    if manifest.get("format") != FORMAT:
        version = one_line(repr(manifest.get("format")), 40)
        raise BundleError(
            f"{path} has bundle format {version}, this captune reads format {FORMAT}; use a matching version"
        )
    if not isinstance(manifest.get("sha256"), dict) or manifest["sha256"].get(MANIFEST) != _own_digest(manifest):
        raise BundleError(f"{path / MANIFEST} is not as it was written (SHA-256 differs); export it again")
    return manifest


def _own_digest(manifest: dict[str, Any]) -> str:
    """Sum of the manifest itself, all but the place where this sum stands."""
    others = {name: value for name, value in manifest["sha256"].items() if name != MANIFEST}
    return hashlib.sha256(json.dumps({**manifest, "sha256": others}, sort_keys=True).encode()).hexdigest()


def named_weights(network: keras.Model) -> Iterator[tuple[str, Any]]:
    """Every variable of a network that `build` made with its name in captune.model.layout."""
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
        values = restore(tensors, name)
        if tuple(weight.shape) != values.shape:
            raise ValueError(f"{name} is {tuple(weight.shape)}, the file has {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds what is no number")
        weight.assign(values)
    for layer in normalisations(network):
        layer.finalize_state()
