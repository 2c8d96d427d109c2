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
from captune.model.text_towers import WEIGHTS, Family, TransformerShape, variables

Array = NDArray[np.float32]
_HEADED = "bert."  # before all names where the tower was saved with a head
_MOST = 3  # names in a message
_PICKLES = ("pytorch_model.bin", "*.pt", "*.pth", "*.ckpt")
_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "norm": "output.LayerNorm",
}
_CLIP = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attended": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "inner": "mlp.fc1",
    "outer": "mlp.fc2",
    "norm": "layer_norm2",
}
_OUTSIDE: dict[Family, dict[str, str]] = {
    "bert": {
        "text_embedding": "embeddings.word_embeddings",
        "text_positions": "embeddings.position_embeddings",
        "text_norm": "embeddings.LayerNorm",
    },
    "clip": {
        "text_embedding": "text_model.embeddings.token_embedding",
        "text_positions": "text_model.embeddings.position_embedding",
        "text_norm": "text_model.final_layer_norm",
    },
}
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
            value = source.tensor(_theirs(name, config.family))
            if name == "text_embedding/embeddings":
                value = value[np.asarray(pieces[: shape[0]])]
            elif name == "text_positions/embeddings":
                # All of a caption is of the first of BERT's types, so that its vector belongs to every place.
                value = value[: shape[0]] + (source.tensor(_TYPES)[0] if config.family == "bert" else 0)
            elif name.endswith("/kernel"):
                value = value.T
            if value.shape != shape or not np.isfinite(value).all():
                fault = "holds what is no number" if value.shape == shape else f"gives {value.shape}, not {shape}"
                theirs = _theirs(name, config.family)
                raise WeightsError(f"{source.path}: {theirs} {fault}; name the folder of a whole model")
            values[name] = np.ascontiguousarray(value)
    return values


def check_tower(folder: Path, shape: TransformerShape) -> None:
    """Raises WeightsError unless the weights of a folder are those of a tower of this shape, by their names."""
    whole = TextConfig(encoder="transformer", embedding=shape.width, units=shape.hidden, layers=shape.layers)
    with _Source(folder) as source:
        names = [_theirs(name, shape.family) for name, _ in variables(whole)]
        source.require(names + [_TYPES] * (shape.family == "bert"))


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
        self._prefix = _HEADED if f"{_HEADED}{_TYPES}" in self._names else ""

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        del self._file

    def require(self, names: Sequence[str]) -> None:
        missing = [name for name in names if f"{self._prefix}{name}" not in self._names]
        if missing:
            more = f" and {len(missing) - _MOST} more" if len(missing) > _MOST else ""
            raise WeightsError(
                f"{self.path} lacks {', '.join(missing[:_MOST])}{more}; name the folder of a whole model"
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


def _theirs(name: str, family: Family) -> str:
    layer, _, kind = name.partition("/")
    if layer in _OUTSIDE[family]:
        return f"{_OUTSIDE[family][layer]}.{_KINDS[kind]}"
    _, number, part = layer.split("_", 2)
    if family == "clip":
        return f"text_model.encoder.layers.{int(number) - 1}.{_CLIP[part]}.{_KINDS[kind]}"
    return f"encoder.layer.{int(number) - 1}.{_BERT[part]}.{_KINDS[kind]}"
