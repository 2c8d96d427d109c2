"""The image backbones that captune knows by name, as figures: no framework is needed to read them.

Counts are those of `keras.applications.NAME(include_top=False, pooling="avg")` for three input channels and do not
depend on the picture's side. The tests build every one with Keras and compare, so a wrong figure cannot stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scaling = Literal["caffe", "torch", "included"]
"""What a backbone's ImageNet weights expect of 0..255 RGB pixels: "caffe" BGR less the channel means, "torch"
0..1 less the means over the deviations, "included" untouched, as the network scales by itself."""


@dataclass(frozen=True)
class Backbone:
    """Figures of one network: total parameters, those that are never trained, weight tensors, output channels."""

    parameters: int
    statistics: int  # batch-norm moving means and variances, input normalisation: kept, stored, never trained
    tensors: int
    features: int
    scaling: Scaling


BACKBONES: dict[str, Backbone] = {
    "ResNet50": Backbone(23_587_712, 53_120, 318, 2048, "caffe"),
    "EfficientNetV2B0": Backbone(5_919_312, 60_608, 359, 1280, "included"),
    "EfficientNetV2B1": Backbone(6_931_124, 71_072, 441, 1280, "included"),
    "EfficientNetV2B2": Backbone(8_769_374, 82_288, 460, 1408, "included"),
    "EfficientNetB0": Backbone(4_049_571, 42_023, 312, 1280, "included"),
    "MobileNetV3Small": Backbone(939_120, 12_112, 206, 576, "included"),
    "MobileNetV3Large": Backbone(2_996_352, 24_400, 262, 960, "included"),
    "DenseNet121": Backbone(7_037_504, 83_648, 604, 1024, "torch"),
    "VGG16": Backbone(14_714_688, 0, 26, 512, "caffe"),
    "ConvNeXtTiny": Backbone(27_820_128, 0, 180, 768, "included"),
}
