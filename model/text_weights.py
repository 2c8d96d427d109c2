"""Weights of a text tower from model.safetensors: by captune's names, cut to the pieces and layers that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from captune.errors import one_line
from captune.model.backbones import WeightsError
from captune.model.config import TextConfig
from captune.model.text_towers import WEIGHTS, TransformerShape, variables

Array = NDArray[np.float32]
_PREFIXES = ("", "bert.")  # the second where the tower was saved with a head
_MOST = 3  # names in a message
_PICKLES = ("pytorch_model.bin", "*.pt", "*.pth", "*.ckpt")
_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "norm": "output.LayerNorm",
}
_EMBEDDING = {"text_embedding": "word_embeddings", "text_positions": "position_embeddings", "text_norm": "LayerNorm"}
_KINDS = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
_TYPES = "embeddings.token_type_embeddings.weight"


def read_tower(folder: Path, config: TextConfig, pieces: Sequence[int]) -> dict[str, Array]:
    """The values of all variables of the tower that `config` has, see captune.model.text_towers.variables.

    Args:
        folder: of the weights.
        config: bound to the tower.
        pieces: of each id its row in the tower's own vocabulary.

    Raises:
        WeightsError: the file cannot be read, a tensor is missing, or one is of another shape or no number.
    """
    values = {}
    with _Source(folder) as source:
        for name, shape in variables(config):
            value = source.tensor(_theirs(name))
            if name == "text_embedding/embeddings":
                value = value[np.asarray(pieces[: shape[0]])]
            elif name == "text_positions/embeddings":
                # All of a caption is of the first type, so that its vector belongs to every place.
                value = value[: shape[0]] + source.tensor(_TYPES)[0]
            elif name.endswith("/kernel"):
                value = value.T
            if value.shape != shape or not np.isfinite(value).all():
                fault = "holds what is no number" if value.shape == shape else f"gives {value.shape}, not {shape}"
                raise WeightsError(f"{source.path}: {_theirs(name)} {fault}; name the folder of a whole BERT model")
            values[name] = np.ascontiguousarray(value)
    return values


def check_tower(folder: Path, shape: TransformerShape) -> None:
    """Raises WeightsError unless the weights of a folder are those of a tower of this shape, by their names."""
    whole = TextConfig(
        encoder="transformer", embedding=shape.width, units=shape.hidden, heads=shape.heads, layers=shape.layers
    )
    with _Source(folder) as source:
        source.require([*(_theirs(name) for name, _ in variables(whole)), _TYPES])


class _Source:
    """The tensors of a folder's model.safetensors. What is no such file is a WeightsError; nothing is executed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / WEIGHTS
        if not self.path.is_file():
            pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
            why = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
            raise WeightsError(f"{folder} has no {WEIGHTS}{why}; save the model as safetensors there")
        try:
            self._file = safe_open(self.path, framework="numpy")
            self._names = frozenset(self._file.keys())  # type: ignore[no-untyped-call]
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"{self.path} is no safetensors file ({one_line(error, 200)}); save the model as safetensors there"
            ) from None
        self._prefix = next((prefix for prefix in _PREFIXES if f"{prefix}{_TYPES}" in self._names), "")

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        del self._file

    def require(self, names: Sequence[str]) -> None:
        missing = [name for name in names if f"{self._prefix}{name}" not in self._names]
        if missing:
            more = f" and {len(missing) - _MOST} more" if len(missing) > _MOST else ""
            raise WeightsError(
                f"{self.path} lacks {', '.join(missing[:_MOST])}{more}; name the folder of a whole BERT model"
            )

    def tensor(self, name: str) -> Array:
        self.require([name])
        try:
            value: NDArray[Any] = self._file.get_tensor(f"{self._prefix}{name}")  # type: ignore[no-untyped-call]
            return value.astype(np.float32)
        except (SafetensorError, TypeError, AttributeError, ValueError) as error:  # a type that NumPy has not
            raise WeightsError(
                f"{self.path}: {name} cannot be read ({one_line(error, 100)}); save it as float32"
            ) from None


def _theirs(name: str) -> str:
    layer, _, kind = name.partition("/")
    if layer in _EMBEDDING:
        return f"embeddings.{_EMBEDDING[layer]}.{_KINDS[kind]}"
    _, number, part = layer.split("_", 2)
    return f"encoder.layer.{int(number) - 1}.{_LAYER[part]}.{_KINDS[kind]}"
