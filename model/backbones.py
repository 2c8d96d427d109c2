"""The image backbones that captune knows by name, as figures: no framework is needed to read them.

Counts are those of `keras.applications.NAME(include_top=False, pooling="avg")` for three input channels and do not
depend on the picture's side. The tests build every one with Keras and compare, so a wrong figure cannot stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from captune.errors import WorkError

Scaling = Literal["caffe", "torch", "included"]
"""What a backbone's ImageNet weights expect of 0..255 RGB pixels: "caffe" BGR less the channel means, "torch"
0..1 less the means over the deviations, "included" untouched, as the network scales by itself."""


class WeightsError(WorkError):
    """Pretrained weights that were asked for cannot be had. Training never starts from random ones instead."""


@dataclass(frozen=True)
class Backbone:
    """Figures of one network.

    parameters, statistics: values in all variables, and in those never trained (batch norm, input normalisation).
    tensors, features: variables, output channels. matrices, matrix_values, channels: variables that float16 and int8
    reduce (see model/layout.py), their values and their output channels. shapes: characters of all shapes, as "[3,3]".
    integers: variables that are 8-byte counters.
    """

    parameters: int
    statistics: int
    tensors: int
    features: int
    scaling: Scaling
    matrices: int
    matrix_values: int
    channels: int
    shapes: int
    integers: int = 0


BACKBONES: dict[str, Backbone] = {
    "ResNet50": Backbone(23_587_712, 53_120, 318, 2048, "caffe", 53, 23_454_912, 26_560, 2037),
    "EfficientNetV2B0": Backbone(5_919_312, 60_608, 359, 1280, "included", 91, 5_784_576, 43_824, 2484),
    "EfficientNetV2B1": Backbone(6_931_124, 71_072, 441, 1280, "included", 111, 6_773_152, 51_364, 3029),
    "EfficientNetV2B2": Backbone(8_769_374, 82_288, 460, 1408, "included", 116, 8_586_384, 59_558, 3197),
    "EfficientNetB0": Backbone(4_049_571, 42_023, 312, 1280, "included", 81, 3_956_192, 30_348, 2092, integers=1),
    "MobileNetV3Small": Backbone(939_120, 12_112, 206, 576, "included", 52, 912_008, 8_944, 1282),
    "MobileNetV3Large": Backbone(2_996_352, 24_400, 262, 960, "included", 62, 2_942_472, 17_280, 1658),
    "DenseNet121": Backbone(7_037_504, 83_648, 604, 1024, "torch", 120, 6_870_208, 10_240, 3914),
    "VGG16": Backbone(14_714_688, 0, 26, 512, "caffe", 13, 14_710_464, 4_224, 226),
    "ConvNeXtTiny": Backbone(27_820_128, 0, 180, 768, "included", 58, 27_756_000, 41_184, 1187),
}
