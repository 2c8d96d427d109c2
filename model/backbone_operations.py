"""What the backbones of keras.applications compute, as figures: no framework is needed to read them.

The tests build every one with Keras and count, so a wrong figure cannot stay. captune's own towers are counted from
their descriptions (captune.model.towers).
"""

from __future__ import annotations

from typing import NamedTuple


class Level(NamedTuple):
    """At each position of the maps of one side: multiply-adds of convolutions, of 1x1 convolutions and of depthwise
    ones, channels as captune.model.operations counts them; and values that other layers give."""

    convolution: int
    pointwise: int
    depthwise: int
    values: int


class Named(NamedTuple):
    """One network.

    layers: that are computed by themselves. once: multiply-adds of layers after pooling, inside the network. levels:
    of maps of the side of the picture, then after each halving.
    """

    layers: int
    once: int
    levels: tuple[Level, Level, Level, Level, Level, Level]


_NOTHING = Level(0, 0, 0, 0)
NAMED: dict[str, Named] = {
    "ResNet50": Named(
        70,
        0,
        (
            _NOTHING,
            Level(9_408, 0, 0, 64),
            Level(110_592, 102_400, 0, 768),
            Level(589_824, 622_592, 0, 2_048),
            Level(3_538_944, 3_538_944, 0, 6_144),
            Level(7_077_888, 7_864_320, 0, 6_144),
        ),
    ),
    "EfficientNetV2B0": Named(
        195,
        1_081_344,
        (
            Level(0, 0, 0, 6),
            Level(5_472, 0, 0, 48),
            Level(46_080, 6_144, 0, 224),
            Level(119_808, 24_576, 0, 560),
            Level(0, 963_072, 38_016, 22_240),
            Level(0, 3_471_360, 78_624, 45_632),
        ),
    ),
    "EfficientNetV2B1": Named(
        239,
        1_259_520,
        (
            Level(0, 0, 0, 6),
            Level(7_776, 0, 0, 80),
            Level(82_944, 10_240, 0, 384),
            Level(202_752, 33_792, 0, 800),
            Level(0, 1_187_328, 47_520, 27_728),
            Level(0, 3_913_728, 88_992, 51_584),
        ),
    ),
    "EfficientNetV2B2": Named(
        250,
        1_841_152,
        (
            Level(0, 0, 0, 6),
            Level(7_776, 0, 0, 80),
            Level(82_944, 10_240, 0, 384),
            Level(294_912, 51_200, 0, 912),
            Level(0, 1_468_160, 51_264, 29_888),
            Level(0, 5_115_136, 107_568, 62_320),
        ),
    ),
    "EfficientNetB0": Named(
        173,
        692_224,
        (
            Level(0, 0, 0, 6),
            Level(864, 2_048, 288, 256),
            Level(0, 16_896, 2_160, 1_272),
            Level(0, 41_472, 9_600, 2_056),
            Level(0, 641_280, 56_400, 15_936),
            Level(0, 2_455_552, 113_568, 27_584),
        ),
    ),
    "MobileNetV3Small": Named(
        106,
        467_968,
        (
            Level(0, 0, 0, 3),
            Level(432, 0, 0, 16),
            Level(0, 1_536, 144, 48),
            Level(0, 11_776, 1_584, 280),
            Level(0, 90_624, 21_200, 4_520),
            Level(0, 304_128, 36_000, 7_680),
        ),
    ),
    "MobileNetV3Large": Named(
        124,
        1_539_072,
        (
            Level(0, 0, 0, 3),
            Level(432, 1_280, 144, 48),
            Level(0, 9_728, 1_296, 160),
            Level(0, 39_936, 8_400, 1_256),
            Level(0, 431_872, 17_856, 8_968),
            Level(0, 875_520, 64_800, 13_568),
        ),
    ),
    "DenseNet121": Named(
        244,
        0,
        (
            _NOTHING,
            Level(9_408, 0, 0, 64),
            Level(221_184, 143_360, 0, 2_304),
            Level(442_368, 598_016, 0, 8_448),
            Level(884_736, 2_441_216, 0, 32_256),
            Level(589_824, 1_540_096, 0, 25_600),
        ),
    ),
    "VGG16": Named(
        18,
        0,
        (
            Level(38_592, 0, 0, 64),
            Level(221_184, 0, 0, 128),
            Level(1_474_560, 0, 0, 256),
            Level(5_898_240, 0, 0, 512),
            Level(7_077_888, 0, 0, 512),
            _NOTHING,
        ),
    ),
    "ConvNeXtTiny": Named(
        118,
        0,
        (
            Level(0, 0, 0, 3),
            _NOTHING,
            Level(4_608, 221_184, 14_112, 1_920),
            Level(73_728, 884_736, 28_224, 3_648),
            Level(294_912, 10_616_832, 169_344, 21_120),
            Level(1_179_648, 14_155_776, 112_896, 14_592),
        ),
    ),
}
