"""What is stored of a network: every tensor with its name, shape and type, from the configuration alone.

size.py adds it up before a network exists, bundle.py writes it. Matrices, which are tensors of two or more
axes with at least four values a channel (kernels, embeddings), take the storage of the configuration: float32, float16,
int8 with one float32 scale a channel, or int4 with one float16 scale for each GROUP values of a channel. Under int4,
convolutions that read pixels and depthwise ones are int8: they are few bytes and lose most. Vectors (biases, batch-norm
statistics) stay float32: they are few, and a variance can leave the range of float16. The channels of a tensor are its
last axis, or the one before where that is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from captune.model.average import Average, Network
from captune.model.backbones import BACKBONES, behind
from captune.model.backbones import map_side as map_side_of
from captune.model.config import ImageConfig, Storage, TextConfig
from captune.model.text_towers import variables as text_variables
from captune.model.vision_towers import variables as vision_variables

STORAGES: dict[Storage, int] = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
"""Bits of one value of a matrix."""
GROUP = 64
"""Values of a channel that have one scale under int4, neighbours in memory but for the other channels."""
SCALE = ".scale"
"""Added to the name of an int8 or int4 tensor for the name of its scales."""
MANIFEST = "bundle.json"
"""The file that makes a folder a bundle, written last."""
BACKBONE = "image_backbone"
"""Name of a named backbone in the network; its tensors are numbered, as Keras's names in it vary."""
LEAST_VALUES_A_CHANNEL = 4
_CHANNELS_OF_PIXELS = 3
_VECTOR_BYTES, _SCALE_BYTES, _GROUP_SCALE_BYTES, _INTEGER_BYTES = 4, 4, 2, 8
# An entry of a safetensors header without its name, its shape and the digits of its two offsets.
_ENTRY = len('"":{"dtype":"F32","shape":,"data_offsets":[,]},')
_LONGEST_SCALE_SHAPE = len("[4096]")
_GROUP_SCALE_SHAPE = len("[,]") + 1  # without as many digits as an offset has: two numbers have one more than a product


class Tensors(NamedTuple):
    """Totals over some tensors of one part of the network ("image encoder", "text encoder", "fusion", "head")."""

    part: str
    values: int = 0
    frozen: int = 0  # values never trained
    tensors: int = 0
    matrices: int = 0
    matrix_values: int = 0
    channels: int = 0  # of the matrices
    int4_bytes: int = 0  # of the matrices as int4, with their scales
    text: int = 0  # characters of names and shapes
    matrix_names: int = 0  # characters of the matrices' names
    integers: int = 0  # 8-byte counters, counted as one value each

    @classmethod
    def sum(cls, part: str, tensors: Iterable[Tensors]) -> Tensors:
        """Totals of several."""
        _, *counts = zip(*tensors, strict=True)
        return cls(part, *map(sum, counts))

    def within(self, folder: str) -> Tensors:
        """The same tensors, their names with that of a folder before them."""
        longer = self.text + len(folder) * self.tensors
        return self._replace(text=longer, matrix_names=self.matrix_names + len(folder) * self.matrices)

    def less(self, other: Tensors) -> Tensors:
        """Totals without those of some of them."""
        return Tensors(self.part, *(total - some for total, some in zip(self[1:], other[1:], strict=True)))

    def bytes_as(self, storage: Storage) -> int:
        """Bytes of all values, int8 and int4 with their scales."""
        scales = _SCALE_BYTES * self.channels if storage == "int8" else 0
        matrices = self.int4_bytes if storage == "int4" else STORAGES[storage] // 8 * self.matrix_values + scales
        vectors = self.values - self.matrix_values - self.integers
        return matrices + _VECTOR_BYTES * vectors + _INTEGER_BYTES * self.integers

    def header_bytes(self, storage: Storage, digits: int) -> int:
        """Bytes of their entries in a safetensors header, at most, where offsets have `digits` digits."""
        entry = _ENTRY + 2 * digits
        shape = _LONGEST_SCALE_SHAPE if storage == "int8" else _GROUP_SCALE_SHAPE + digits
        scales = self.matrices * (entry + len(SCALE) + shape) + self.matrix_names
        return self.tensors * entry + self.text + (scales if STORAGES[storage] <= 8 else 0)


def channel_axis(shape: Sequence[int]) -> int:
    """Axis of the channels of a matrix. The last one, but of depthwise kernels (.., channels, 1) the one before."""
    return -2 if shape[-1] == 1 else -1


def is_matrix(shape: Sequence[int]) -> bool:
    """Whether a tensor is one that float16, int8 and int4 reduce."""
    return len(shape) >= 2 and 0 < LEAST_VALUES_A_CHANNEL * shape[channel_axis(shape)] <= math.prod(shape)


def is_grouped(shape: Sequence[int]) -> bool:
    """Whether a tensor is one that int4 packs: a matrix, but no convolution of pixels and no depthwise one."""
    reads_few_channels = len(shape) == 4 and (shape[-1] == 1 or shape[-2] <= _CHANNELS_OF_PIXELS)
    return is_matrix(shape) and not reads_few_channels


def groups(shape: Sequence[int]) -> tuple[int, int]:
    """Groups of a channel, the last one perhaps a smaller one, and channels of a tensor that int4 packs."""
    channels = shape[channel_axis(shape)]
    return math.ceil(math.prod(shape) / channels / GROUP), channels


def int4_bytes(shape: Sequence[int]) -> int:
    """Bytes of a matrix as int4, with its scales."""
    values = math.prod(shape)
    if not is_grouped(shape):
        return values + _SCALE_BYTES * shape[channel_axis(shape)]
    return -(-values // 2) + _GROUP_SCALE_BYTES * math.prod(groups(shape))


def layout(config: Network) -> Iterator[Tensors]:
    """All tensors of a network, shared ones once, in groups of one part each; those of an average by member."""
    if isinstance(config, Average):
        for number, model in enumerate(config.models):
            yield from (group.within(f"{number}/") for group in layout(model))
        return
    image, text, labels = config.image, config.text, config.num_labels
    features: list[int] = []
    # Logits by position alone leave nothing to be made of the whole picture.
    joined = image is None or image.head == "pooled" or config.has_parts
    if image is not None:
        yield _image(image, joined=joined)
        features.append(image.units or pooled_features(image))
    if text is not None:
        yield _text(text)
        features.append(text.dense or encoded_features(text))
    width = sum(features)
    if len(features) == 2 and config.fusion == "gated":
        yield Tensors.sum("fusion", _dense("fusion_gate", width, width))
    head: list[Tensors] = []
    if config.head_units and joined:
        head += _dense("head_dense", width, config.head_units)
        width = config.head_units
    if config.has_parts and image is not None and text is not None:
        head += _of_image("logits_of_image", image, features[0], labels)
        head += _dense("logits_of_caption" + ("_dense" if text.wide else ""), features[1], labels)
        head += _dense("logits_of_both", width, labels)
        head += [_tensor("stacking/kernel", 3, frozen=True), _tensor("stacking/bias", labels, frozen=True)]
    elif image is not None and not joined:
        head += _of_image("logits", image, 0, labels)
    else:
        head += _dense("logits" + ("_dense" if text is not None and text.wide else ""), width, labels)
    if text is not None and text.wide:
        head.append(_tensor("logits_of_words/embeddings", text.vocabulary_size, labels))
        if text.wide_buckets:
            head.append(_tensor("logits_of_pairs/embeddings", text.wide_buckets, labels))
    yield Tensors.sum("head", head)


def _of_image(name: str, config: ImageConfig, features: int, labels: int) -> list[Tensors]:
    """The head of a picture: of its `features`, or by position."""
    if config.head == "pooled":
        return _dense(name, features, labels)
    positions = _positions(f"{name}_map", read_channels(config), labels)
    if config.head == "queries":
        positions.append(_tensor(f"{name}_queries/kernel", 1, 1, read_channels(config), labels))
    return positions


def _positions(name: str, inputs: int, units: int) -> list[Tensors]:
    return [_tensor(f"{name}/kernel", 1, 1, inputs, units), _tensor(f"{name}/bias", units)]


@lru_cache(maxsize=2**16)
def _tensor(name: str, *shape: int, frozen: bool = False) -> Tensors:
    values = math.prod(shape)
    matrix = is_matrix(shape)
    return Tensors(
        "",
        values=values,
        frozen=values if frozen else 0,
        tensors=1,
        matrices=int(matrix),
        matrix_values=values if matrix else 0,
        channels=shape[channel_axis(shape)] if matrix else 0,
        int4_bytes=int4_bytes(shape) if matrix else 0,
        text=len(name) + len(str(list(shape)).replace(" ", "")),
        matrix_names=len(name) if matrix else 0,
    )


def _dense(name: str, inputs: int, units: int) -> list[Tensors]:
    return [_tensor(f"{name}/kernel", inputs, units), _tensor(f"{name}/bias", units)]


@lru_cache(maxsize=4096)
def _image(config: ImageConfig, *, joined: bool) -> Tensors:
    match config.backbone:
        case "compact":
            backbone = list(_compact(config))
        case "transformer":
            backbone = [_tensor(name, *shape) for name, shape in vision_variables(config)]
        case _:
            backbone = [_named(config)]
    total = Tensors.sum("", backbone)
    frozen = total.values if config.frozen else total.frozen
    dense = _dense("image_dense", pooled_features(config), config.units) if config.units and joined else []
    if config.head != "pooled" and config.position_units:
        dense += _positions("image_positions", backbone_channels(config), config.position_units)
    whole = Tensors.sum("image encoder", [*backbone, *dense])
    return whole._replace(frozen=frozen)


def _named(config: ImageConfig) -> Tensors:
    figures = BACKBONES[config.backbone]
    name = len(backbone_tensor(0))
    whole = Tensors(
        "",
        values=figures.parameters,
        frozen=figures.statistics,
        tensors=figures.tensors,
        matrices=figures.matrices,
        matrix_values=figures.matrix_values,
        channels=figures.channels,
        int4_bytes=figures.int4_bytes,
        text=figures.tensors * name + figures.shapes,
        matrix_names=figures.matrices * name,
        integers=figures.integers,
    )
    cut_off = [
        _tensor(backbone_tensor(0), *shape, frozen=not trained)
        for shape, trained in behind(config.backbone, config.cut)
    ]
    return whole.less(Tensors.sum("", cut_off)) if cut_off else whole


def backbone_tensor(place: int) -> str:
    """Name of a tensor of a named backbone, by its place among the backbone's own."""
    return f"{BACKBONE}/{place:03d}"


def _compact(config: ImageConfig) -> Iterator[Tensors]:
    blocks = [
        (f"compact_{stage}_{block}", config.width * 2**stage)
        for stage in range(1, config.stages + 1)
        for block in range(config.blocks)
    ]
    before = [("compact_pixels", config.stem)] if config.stem else []
    for (_, inputs), (name, channels) in pairwise([("", 3), *before, ("compact_stem", config.width), *blocks]):
        yield _tensor(f"{name}_convolution/kernel", 3, 3, inputs, channels)
        for vector in ("gamma", "beta", "moving_mean", "moving_variance"):
            yield _tensor(f"{name}_norm/{vector}", channels, frozen=vector.startswith("moving"))


@lru_cache(maxsize=4096)
def _text(config: TextConfig) -> Tensors:
    tower = config.encoder == "transformer"
    encoder = [_tensor(name, *shape) for name, shape in text_variables(config)] if tower else _encoder(config)
    frozen = sum(tensor.values for tensor in encoder) if config.keeps_tower else 0
    dense = _dense("text_dense", encoded_features(config), config.dense) if config.dense else []
    return Tensors.sum("text encoder", [*encoder, *dense])._replace(frozen=frozen)


def _encoder(config: TextConfig) -> list[Tensors]:
    width, units = config.embedding, config.units
    tensors = [_tensor("text_embedding/embeddings", config.vocabulary_size, width)]
    match config.encoder:
        case "bilstm":
            for direction in ("forward", "backward"):
                tensors += _recurrent(f"text_bilstm/{direction}_lstm/lstm_cell", width, units, gates=4, biases=1)
        case "lstm":
            tensors += _recurrent("text_lstm/lstm_cell", width, units, gates=4, biases=1)
        case "gru":  # Keras's GRU (reset after) keeps two biases
            tensors += _recurrent("text_gru/gru_cell", width, units, gates=3, biases=2)
        case "convolution":
            tensors += [
                _tensor("text_convolution/kernel", config.kernel, width, units),
                _tensor("text_convolution/bias", units),
            ]
    return tensors


def _recurrent(name: str, inputs: int, units: int, *, gates: int, biases: int) -> list[Tensors]:
    width = gates * units
    return [
        _tensor(f"{name}/kernel", inputs, width),
        _tensor(f"{name}/recurrent_kernel", units, width),
        _tensor(f"{name}/bias", *((biases, width) if biases > 1 else (width,))),
    ]


def pooled_features(config: ImageConfig) -> int:
    """Features after pooling."""
    return read_channels(config) * (2 if config.pooling == "both" else 1)


def features_shape(config: ImageConfig) -> tuple[int, ...]:
    """Of what a backbone but compact gives of one picture to the layers behind it: pooled, or by position."""
    channels = backbone_channels(config)
    if config.head == "pooled":
        return (channels * (2 if config.pooling == "both" else 1),)
    side = map_side(config)
    return side, side, channels


def map_side(config: ImageConfig) -> int:
    """Positions a side of what the backbone gives."""
    match config.backbone:
        case "compact":
            side = config.seen_side
            for _ in range(config.stages + config.last_halving):  # the first convolution halves, too
                side = -(-side // 2)
            return side
        case "transformer":
            return config.patches
        case _:
            return map_side_of(config.backbone, config.cut, config.seen_side)


def read_channels(config: ImageConfig) -> int:
    """Of what is pooled, or read position by position."""
    return (config.position_units if config.head != "pooled" else 0) or backbone_channels(config)


def backbone_channels(config: ImageConfig) -> int:
    if config.backbone == "compact":
        return config.width * 2**config.stages
    if config.backbone == "transformer":
        return config.channels
    return BACKBONES[config.backbone].channels_at(config.cut)


def encoded_features(config: TextConfig) -> int:
    """Features that the text encoder itself gives."""
    match config.encoder:
        case "transformer":
            return config.embedding * (2 if config.pooling == "both" else 1)
        case "bilstm":
            return 2 * config.units
        case "average":
            return config.embedding
        case _:
            return config.units
