"""What a network computes of one row, by kind of work, from its configuration alone: no framework, microseconds.

Milliseconds are predicted from these counts (captune.model.latency). Channels of convolutions count as full blocks of
BLOCK, as runtimes lay them out: 20 channels cost what 32 do. What runtimes fold into the layer before it, biases, batch
normalisation and ReLU, is no layer of its own here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from captune.model.backbone_operations import NAMED
from captune.model.backbones import BACKBONES, behind
from captune.model.config import ImageConfig, ModelConfig, TextConfig
from captune.model.layout import backbone_channels, encoded_features, map_side, pooled_features, read_channels
from captune.model.towers import TOWERS

BLOCK = 16
_PIXEL = 3
_GATES = {"bilstm": 4, "lstm": 4, "gru": 3}


class Operations(NamedTuple):
    """Counts for one row.

    layers: that are computed by themselves. convolution, pointwise, depthwise, recurrent: multiply-adds of convolutions
    over several positions, of 1x1 ones, of depthwise ones, of recurrent layers. steps: of recurrent layers, which wait
    for each other. weights: values of kernels that are read, each once, recurrent ones apart. values: that pooling,
    activations other than ReLU, sums and the like work on.
    """

    layers: int = 0
    convolution: int = 0
    pointwise: int = 0
    depthwise: int = 0
    recurrent: int = 0
    steps: int = 0
    weights: int = 0
    values: int = 0

    @classmethod
    def sum(cls, parts: Iterable[Operations]) -> Operations:
        """Totals of several."""
        return cls(*map(sum, zip(*parts, strict=True)))


@lru_cache(maxsize=4096)
def operations(config: ModelConfig) -> Operations:
    """Of a whole network, pixels and token ids to probabilities. All tokens count: what pads a caption is computed."""
    return Operations.sum(_network(config))


def _network(config: ModelConfig) -> Iterator[Operations]:
    image, text, labels = config.image, config.text, config.num_labels
    features: list[int] = []
    joined = image is None or image.head == "pooled" or config.has_parts
    positions = 0
    if image is not None:
        positions = map_side(image) ** 2
        yield from _image(image, positions)
        if joined:
            channels = read_channels(image)
            yield _values(positions * channels, layers=2 if image.pooling == "both" else 1)
            if image.units:
                yield _dense(pooled_features(image), image.units)
            features.append(image.units or pooled_features(image))
    if text is not None:
        yield from _text(text, labels)
        features.append(text.dense or encoded_features(text))
    width = sum(features)
    if len(features) == 2 and config.fusion == "gated":
        yield from (_dense(width, width), _values(2 * width, layers=2))
    if config.head_units and joined:
        yield _dense(width, config.head_units)
        width = config.head_units
    if config.has_parts and image is not None:
        yield from (_dense(features[1], labels), _dense(width, labels), _values(3 * labels, layers=4))
        yield from _of_image(image, positions, features[0], labels)
    elif image is not None and not joined:
        yield from _of_image(image, positions, 0, labels)
    else:
        yield _dense(width, labels)
    yield _values(labels)  # sigmoid


def _image(config: ImageConfig, positions: int) -> Iterator[Operations]:
    """All that is computed position by position before the head."""
    side, seen = config.side, config.seen_side
    yield _values(2 * side * side * _PIXEL, layers=2)  # bytes become numbers, and are scaled
    if seen < side:  # by a matrix for each axis, after each of which the axes change places
        yield Operations(layers=2, pointwise=seen * side * (side + seen) * _PIXEL)
        yield _values(2 * side * (side + seen) * _PIXEL, layers=4)
    if seen > side:  # each from four
        yield _values(6 * seen * seen * _PIXEL, layers=3)
    if config.backbone == "compact":
        yield from _compact(config)
    elif config.backbone == "transformer":
        yield from _transformer(config)
    elif config.backbone in TOWERS:
        yield from _tower(config)
    else:
        yield from _named(config)
    if config.head != "pooled" and config.position_units:
        yield _convolution(positions, 1, backbone_channels(config), config.position_units)


def _compact(config: ImageConfig) -> Iterator[Operations]:
    side, channels = -(-config.seen_side // 2), config.width
    if config.stem:
        yield _convolution(config.seen_side**2, 3, _PIXEL, config.stem)
    yield _convolution(side * side, 3, config.stem or _PIXEL, channels)
    for stage in range(1, config.stages + 1):
        for _ in range(config.blocks):
            yield _convolution(side * side, 3, channels, config.width * 2**stage)
            channels = config.width * 2**stage
        if stage < config.stages or config.last_halving:
            yield _values(side * side * channels)
            side = -(-side // 2)


def _transformer(config: ImageConfig) -> Iterator[Operations]:
    places = 1 + config.patches**2
    yield _convolution(config.patches**2, config.patch, _PIXEL, config.channels)
    yield _values(2 * places * config.channels, layers=4)  # class token and places; normalised, at both ends
    yield from [_attention(places, config.channels, config.hidden, config.heads)] * config.layers


def _tower(config: ImageConfig) -> Iterator[Operations]:
    side, channels = config.seen_side, _PIXEL
    for block in TOWERS[config.backbone].before(config.cut):
        inner = side
        for each in block.convolutions:
            inner, channels = each.map_side(inner), each.channels
            yield _convolution(inner * inner, each.kernel, each.inputs, channels, depthwise=each.depthwise)
        if block.residual or block.halved:
            yield _values(inner * inner * channels)
        side = block.map_side(side)


def _named(config: ImageConfig) -> Iterator[Operations]:
    figures, backbone = NAMED[config.backbone], BACKBONES[config.backbone]
    side = config.seen_side
    yield Operations(layers=figures.layers, weights=backbone.matrix_values, pointwise=figures.once)
    for level, direction in zip(figures.levels, (*backbone.rounding, "u"), strict=True):
        convolution, pointwise, depthwise, values = (side * side * count for count in level)
        yield Operations(convolution=convolution, pointwise=pointwise, depthwise=depthwise, values=values)
        side = (side + (direction == "u")) // 2
    for shape, _ in behind(config.backbone, config.cut):
        if len(shape) == 4:  # the last convolution, with its activation
            *_, inputs, channels = shape
            last = _convolution(map_side(config) ** 2, 1, inputs, channels)
            yield Operations(*(-count for count in last))
            yield Operations(layers=-1, values=-(map_side(config) ** 2) * channels)


def _of_image(config: ImageConfig, positions: int, features: int, labels: int) -> Iterator[Operations]:
    if config.head == "pooled":
        yield _dense(features, labels)
        return
    yield _convolution(positions, 1, read_channels(config), labels)
    yield _values(2 * positions * labels, layers=3)  # exponentials and their sum
    if config.head == "queries":
        yield _convolution(positions, 1, read_channels(config), labels)
        yield _values(positions * labels)


def _text(config: TextConfig, labels: int) -> Iterator[Operations]:
    tokens, width, units = config.max_tokens, config.embedding, config.units
    yield _values(tokens * width)
    match config.encoder:
        case "bilstm" | "lstm" | "gru" as encoder:
            steps = tokens * (2 if encoder == "bilstm" else 1)
            multiply_adds = _GATES[encoder] * units * (width + units)
            yield Operations(layers=steps // tokens, recurrent=steps * multiply_adds, steps=steps)
        case "convolution":
            yield _convolution(tokens, 1, config.kernel * width, units)
            yield _values(tokens * (width + 2 * units), layers=3)  # without padding, before and after; the maximum
        case "average":
            yield _values(2 * tokens * width, layers=2)
        case "transformer":
            yield from [_attention(tokens, width, units, config.heads)] * config.layers
            yield _values(tokens * width, layers=2 if config.pooling == "both" else 1)
    if config.dense:
        yield _dense(encoded_features(config), config.dense)
    for _ in range(config.wide * (1 + bool(config.wide_buckets))):
        yield _values(3 * tokens * labels, layers=3)  # rows, without padding, their sum


def _attention(tokens: int, width: int, hidden: int, heads: int) -> Operations:
    """One layer of a transformer: four projections and two dense layers of each token, products between all tokens."""
    weights = 4 * width * width + 2 * width * hidden
    return Operations(
        layers=14,
        pointwise=tokens * weights + 2 * tokens * tokens * width,
        weights=weights,
        values=tokens * (4 * width + hidden + heads * tokens),
    )


def _dense(inputs: int, units: int) -> Operations:
    """Of one row a matrix is read once for as many multiply-adds as it has values: reading is what it costs."""
    return Operations(layers=1, weights=inputs * units)


def _convolution(positions: int, kernel: int, inputs: int, channels: int, *, depthwise: bool = False) -> Operations:
    """kernel: positions a side that it sees."""
    whole = kernel * kernel * _in_blocks(channels) * (1 if depthwise else _in_blocks(inputs))
    count = positions * whole
    if depthwise:
        return Operations(layers=1, depthwise=count, weights=whole)
    if kernel == 1:
        return Operations(layers=1, pointwise=count, weights=whole)
    return Operations(layers=1, convolution=count, weights=whole)


def _in_blocks(channels: int) -> int:
    return channels if channels <= _PIXEL else -(-channels // BLOCK) * BLOCK


def _values(count: int, layers: int = 1) -> Operations:
    return Operations(layers=layers, values=count)
