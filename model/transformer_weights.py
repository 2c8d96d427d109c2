"""Weights of pretrained transformers from model.safetensors: by captune's names, cut to what is kept of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from captune.errors import one_line
from captune.model.backbones import WeightsError
from captune.model.config import ImageConfig, TextConfig
from captune.model.text_towers import TransformerShape
from captune.model.text_towers import variables as text_variables
from captune.model.transformers import WEIGHTS, Family, Shape
from captune.model.vision_towers import VisionShape
from captune.model.vision_towers import variables as vision_variables

Array = NDArray[np.float32]
_HEADED = "bert."  # before all names where the tower was saved with a head
_MOST = 3  # names in a message
_SHARDS = f"{WEIGHTS}.index.json"
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
_BEFORE_LAYERS: dict[Family, str] = {"bert": "encoder.layer", "clip": "{part}_model.encoder.layers"}
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
        "image_patches": "vision_model.embeddings.patch_embedding",
        "image_class": "vision_model.embeddings.class_embedding",
        "image_places": "vision_model.embeddings.position_embedding",
        "image_norm_before": "vision_model.pre_layrnorm",  # as their library spells it
        "image_norm": "vision_model.post_layernorm",
    },
}
_KINDS = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
_TYPES = "embeddings.token_type_embeddings.weight"
_FLOATS = ("F64", "F32", "F16")  # those that NumPy has
_PIECES = "text_embedding/embeddings"


def read_text_tower(folder: Path, config: TextConfig, pieces: Sequence[int]) -> dict[str, Array]:
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
        for name, shape in text_variables(config):
            value = source.value(name, config.family)
            if name == _PIECES:
                value = value[np.asarray(pieces[: shape[0]])]
            elif name == "text_positions/embeddings":
                # All of a caption is of the first of BERT's types, so that its vector belongs to every place.
                value = value[: shape[0]] + (source.tensor(_TYPES)[0] if config.family == "bert" else 0)
            values[name] = source.checked(value, name, config.family, shape)
    return values


def read_vision_tower(folder: Path, config: ImageConfig) -> dict[str, Array]:
    """The same of a tower of pictures, see captune.model.vision_towers.variables.

    Places of another grid than the tower was trained on take values between those of its own.
    """
    values = {}
    with _Source(folder) as source:
        for name, shape in vision_variables(config):
            value = source.value(name, "clip")
            if name == "image_class/embeddings":
                value = value[None]
            elif name == "image_places/embeddings" and value.ndim == 2:
                value = _on_grid(value, config.patches)
            values[name] = source.checked(value, name, "clip", shape)
    return values


def _on_grid(places: Array, side: int) -> Array:
    """(1 + places, width) values, the first one of no place, on a square grid of `side` by `side` places."""
    grid = math.isqrt(max(len(places) - 1, 0))
    if grid in (side, 0) or grid * grid != len(places) - 1:
        return places
    import keras

    own = places[1:].reshape(grid, grid, -1)
    resized = keras.ops.image.resize(own, (side, side), interpolation="bicubic", data_format="channels_last")
    return np.concatenate([places[:1], keras.ops.convert_to_numpy(resized).reshape(side * side, -1)])


def check_text_tower(folder: Path, shape: TransformerShape, rows: int) -> None:
    """Raises WeightsError unless the weights of a folder are those of a tower of this shape, by names and shapes.

    rows: that its table of pieces has at least.
    """
    whole = TextConfig(encoder="transformer", embedding=shape.width, units=shape.hidden, layers=shape.layers)
    own = {_PIECES: (rows, shape.width), "text_positions/embeddings": (shape.positions, shape.width)}
    expected = _as_theirs(dict(text_variables(whole)) | own, shape.family)
    if shape.family == "bert":
        expected[_TYPES] = (1, shape.width)
    with _Source(folder) as source:
        source.match(expected, longer={_theirs(_PIECES, shape.family), _TYPES})


def check_vision_tower(folder: Path, shape: VisionShape) -> None:
    """The same of a tower of pictures."""
    whole = shape.bound(ImageConfig(backbone="transformer", layers=shape.layers))
    own = {"image_places/embeddings": (1 + (shape.side // shape.patch) ** 2, shape.width)}
    with _Source(folder) as source:
        source.match(_as_theirs(dict(vision_variables(whole)) | own, "clip"))


class _Source:
    """The tensors of a folder's model.safetensors. What is no such file is a WeightsError; nothing is executed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / WEIGHTS
        if not self.path.is_file():
            pickles = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
            why = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
            if (folder / _SHARDS).is_file():
                why = f"; its weights stand in several files, as {_SHARDS} has it, and one is read"
            raise WeightsError(f"{folder} has no {WEIGHTS}{why}; save the model as one safetensors file there")
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

    def match(self, expected: Mapping[str, Shape], longer: Collection[str] = ()) -> None:
        """Raises WeightsError unless its tensors have these shapes. longer: which may have more rows."""
        self.require(list(expected))
        for name, shape in expected.items():
            found = self.shape(name)
            if found != shape and not (name in longer and found[1:] == shape[1:] and found[:1] > shape[:1]):
                least = " at least" if name in longer else ""
                raise WeightsError(
                    f"{self.path}: {name} is {found}, and {shape}{least} by the files beside it; name the folder of a "
                    "whole model"
                )

    def shape(self, name: str) -> Shape:
        """Of a tensor that is there. Raises WeightsError where it holds no floats: those of int8 would need scales."""
        part = self._file.get_slice(f"{self._prefix}{name}")  # type: ignore[no-untyped-call]
        if (kind := part.get_dtype()) not in _FLOATS:
            raise WeightsError(f"{self.path}: {name} holds {kind}; save it as float32")
        return tuple(part.get_shape())

    def value(self, name: str, family: Family) -> Array:
        """Of a variable of captune's, its axes in captune's order."""
        value = self.tensor(_theirs(name, family))
        return np.moveaxis(value, (1, 0), (-2, -1)) if name.endswith("/kernel") and value.ndim >= 2 else value

    def checked(self, value: Array, name: str, family: Family, shape: Shape) -> Array:
        """A value that is of its variable's shape, and numbers."""
        if value.shape != shape or not np.isfinite(value).all():
            fault = "holds what is no number" if value.shape == shape else f"gives {value.shape}, not {shape}"
            raise WeightsError(f"{self.path}: {_theirs(name, family)} {fault}; name the folder of a whole model")
        return np.ascontiguousarray(value)

    def tensor(self, name: str) -> Array:
        self.require([name])
        self.shape(name)
        value: NDArray[Any] = self._file.get_tensor(f"{self._prefix}{name}")  # type: ignore[no-untyped-call]
        return value.astype(np.float32)


def _as_theirs(variables: Mapping[str, Shape], family: Family) -> dict[str, Shape]:
    """Variables of captune's by their names, the axes of each in their order."""
    expected = {}
    for name, shape in variables.items():
        ours = (*shape[:-3:-1], *shape[:-2]) if name.endswith("/kernel") else shape
        expected[_theirs(name, family)] = ours[1:] if name == "image_class/embeddings" else ours
    return expected


def _theirs(name: str, family: Family) -> str:
    """Their name of a variable of captune's."""
    layer, _, kind = name.partition("/")
    if layer == "image_class":  # no weight of a layer there
        return _OUTSIDE[family][layer]
    if layer in _OUTSIDE[family]:
        return f"{_OUTSIDE[family][layer]}.{_KINDS[kind]}"
    tower, number, part = layer.split("_", 2)
    before = _BEFORE_LAYERS[family].format(part="vision" if tower == "image" else tower)
    return f"{before}.{int(number) - 1}.{(_CLIP if family == 'clip' else _BERT)[part]}.{_KINDS[kind]}"
