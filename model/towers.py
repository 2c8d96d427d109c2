"""Towers that captune builds itself, described layer by layer: sizes are told from them without a framework.

EfficientNetLite0 to 2 (the mobile EfficientNets without squeeze-excitation, with ReLU6 in place of swish) and AlexNet
in the form of one column (Krizhevsky, 2014, arXiv 1404.5997, as torchvision has it: 64, 192, 384, 256 and 256 channels,
no local response normalisation), all without what classifies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Cut = Literal["final", "last_map", "stride_16"]
"""Where a backbone ends. "final": at its end; "last_map": before its final 1x1 convolution; "stride_16": at the last
map that has a position for every 16 pixels a side."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """A convolution with batch normalisation or a bias, and what follows it.

    inputs, channels: the same where it is depthwise. zeros: around the map; None for as many as TensorFlow's "same".
    """

    name: str
    kernel: int
    stride: int
    inputs: int
    channels: int
    depthwise: bool = False
    normalised: bool = True
    activation: Literal["relu", "relu6", "linear"] = "relu6"
    zeros: int | None = None

    def variables(self) -> Iterator[tuple[str, Shape]]:
        """Name and shape of each, in the order in which layers have them."""
        outputs = 1 if self.depthwise else self.channels
        yield f"{self.name}_convolution/kernel", (self.kernel, self.kernel, self.inputs, outputs)
        vectors = ("gamma", "beta", "moving_mean", "moving_variance")
        for name in [f"norm/{v}" for v in vectors] if self.normalised else ["convolution/bias"]:
            yield f"{self.name}_{name}", (self.channels,)

    def map_side(self, side: int) -> int:
        """Positions a side of what it makes of a map with so many."""
        if self.zeros is None:
            return -(-side // self.stride)
        return (side + 2 * self.zeros - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class Block:
    """Convolutions one after another. residual: what came in is added. halved: by maxima of 3 x 3, every other one."""

    convolutions: tuple[Convolution, ...] = ()
    residual: bool = False
    halved: bool = False

    def map_side(self, side: int) -> int:
        """Positions a side of what it makes of a map with so many."""
        for convolution in self.convolutions:
            side = convolution.map_side(side)
        return (side - 3) // 2 + 1 if self.halved else side


@dataclass(frozen=True)
class Tower:
    """Blocks one after another. cuts: how many of them there are before each cut but the end."""

    blocks: tuple[Block, ...]
    cuts: Mapping[Cut, int] = field(default_factory=dict)

    def before(self, cut: Cut) -> tuple[Block, ...]:
        """The blocks of the tower that ends there."""
        return self.blocks[: self.cuts.get(cut)]

    def map_side(self, cut: Cut, side: int) -> int:
        """Positions a side of the map at a cut, of pictures with so many pixels a side."""
        for block in self.before(cut):
            side = block.map_side(side)
        return side

    def variables(self, cut: Cut) -> Iterator[tuple[str, Shape]]:
        """Of the tower that ends there."""
        yield from _variables(self.before(cut))

    def behind(self, cut: Cut) -> Iterator[tuple[str, Shape]]:
        """Variables that a tower which ends there has not."""
        yield from _variables(self.blocks[len(self.before(cut)) :])


def _variables(blocks: Iterable[Block]) -> Iterator[tuple[str, Shape]]:
    for block in blocks:
        for convolution in block.convolutions:
            yield from convolution.variables()


def _lite(width: float, depth: float) -> Tower:
    """EfficientNet-Lite: B0's blocks (Tan and Le, 2019, arXiv 1905.11946), scaled but for stem, ends and last map."""
    stages = (  # kernel, stride of the first block, expansion, channels, blocks
        *((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3)),
        *((5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)),
    )
    blocks, inputs, cuts = [Block((Convolution("stem", 3, 2, 3, 32),))], 32, dict[Cut, int]()
    for number, (kernel, stride, expansion, channels, repeats) in enumerate(stages, 1):
        if number == 6:
            cuts["stride_16"] = len(blocks)
        channels = _rounded(width * channels)
        for place in range(repeats if number in (1, len(stages)) else math.ceil(depth * repeats)):
            name, step, hidden = f"stage_{number}_{place}", stride if place == 0 else 1, expansion * inputs
            expand = Convolution(f"{name}_expand", 1, 1, inputs, hidden)
            spread = Convolution(f"{name}_depthwise", kernel, step, hidden, hidden, depthwise=True)
            project = Convolution(f"{name}_project", 1, 1, hidden, channels, activation="linear")
            blocks.append(Block((expand, spread, project)[expansion == 1 :], residual=place > 0))
            inputs = channels
    cuts["last_map"] = len(blocks)
    return Tower((*blocks, Block((Convolution("last", 1, 1, inputs, 1280),))), cuts)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, but never less than nine tenths."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _alexnet() -> Tower:
    def layer(number: int, kernel: int, inputs: int, channels: int, **settings: int) -> Convolution:
        stride, zeros = settings.get("stride", 1), settings.get("zeros")
        name = f"layer_{number}"
        return Convolution(name, kernel, stride, inputs, channels, normalised=False, activation="relu", zeros=zeros)

    first, second = layer(1, 11, 3, 64, stride=4, zeros=2), layer(2, 5, 64, 192)
    others = (layer(3, 3, 192, 384), layer(4, 3, 384, 256), layer(5, 3, 256, 256))
    blocks = (Block((first,), halved=True), Block((second,), halved=True), Block(others), Block(halved=True))
    return Tower(blocks, {"stride_16": 3})


TOWERS: dict[str, Tower] = {
    "EfficientNetLite0": _lite(1.0, 1.0),
    "EfficientNetLite1": _lite(1.0, 1.1),
    "EfficientNetLite2": _lite(1.1, 1.2),
    "AlexNet": _alexnet(),
}
