"""The image backbones that captune knows by name, as figures: no framework is needed to read them.

Counts are those of `keras.applications.NAME(include_top=False)`, or of the tower of that name that captune builds
itself (captune.model.towers), for three input channels; they do not depend on the picture's side. The tests build every
one with Keras and compare, so a wrong figure cannot stay.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from captune.errors import WorkError
from captune.model.towers import TOWERS, Cut, Shape

Scaling = Literal["caffe", "torch", "clip", "lite", "included"]
"""What a backbone's pretrained weights expect of 0..255 RGB pixels: "caffe" BGR less the channel means, "torch"
0..1 less the means over the deviations, "clip" the same by CLIP's own, "lite" less 127, over 128, "included" untouched,
as the network scales by itself."""


WEIGHTS_FOLDER = "CAPTUNE_WEIGHTS"
"""Variable that names the folder of weights files which configurations call by their names."""


class WeightsError(WorkError):
    """Pretrained weights that were asked for cannot be had. Training never starts from random ones instead."""


def weights_places(name: str) -> list[Path]:
    """Where weights of that name are looked for: at its path, then in the folder that CAPTUNE_WEIGHTS names."""
    folder = os.environ.get(WEIGHTS_FOLDER)
    return [Path(name)] if not folder or Path(name).is_absolute() else [Path(name), Path(folder) / name]


def weights_path(name: str) -> Path:
    """A weights file by its path; one that is not there, by its name in the folder that CAPTUNE_WEIGHTS names.

    Raises:
        WeightsError: it is in neither place.
    """
    places = weights_places(name)
    for path in places:
        if path.is_file():
            return path
    if any(path.is_dir() for path in places):
        raise WeightsError(
            f"image.weights {name} is a folder, which image.backbone transformer reads and no other; in a space of "
            "both it stands under `when: {image.backbone: transformer}`"
        )
    raise WeightsError(
        "image.weights must be imagenet, none or a weights file without top, but "
        f"{' or '.join(map(str, places))} is no file; make one by `captune weights convert`, here or in a folder that "
        f"{WEIGHTS_FOLDER} names"
    )


@dataclass(frozen=True)
class Backbone:
    """Figures of one network.

    parameters, statistics: values in all variables, and in those never trained (batch norm, input normalisation).
    tensors, features: variables, output channels. matrices, matrix_values, channels: variables that float16 and int8
    reduce (see model/layout.py), their values and their output channels. int4_bytes: of them as int4. shapes:
    characters of all shapes, as "[3,3]". integers: variables that are 8-byte counters. rounding: up or down at each
    halving of the side, for those of keras.applications. cuts: channels at each cut but the end. least_side: pixels
    a side that it needs.
    """

    parameters: int
    statistics: int
    tensors: int
    features: int
    scaling: Scaling
    matrices: int
    matrix_values: int
    channels: int
    int4_bytes: int
    shapes: int
    integers: int = 0
    rounding: str = "uuuuu"
    cuts: Mapping[Cut, int] = field(default_factory=dict)
    least_side: int = 32

    def channels_at(self, cut: Cut) -> int:
        """Channels of the map where it ends."""
        return self.features if cut == "final" else self.cuts[cut]


BACKBONES: dict[str, Backbone] = {
    "ResNet50": Backbone(23_587_712, 53_120, 318, 2048, "caffe", 53, 23_454_912, 26_560, 12_465_088, 2037),
    "EfficientNetV2B0": Backbone(
        5_919_312, 60_608, 359, 1280, "included", 91, 5_784_576, 43_824, 3_194_272, 2484, cuts={"last_map": 192}
    ),
    "EfficientNetV2B1": Backbone(
        6_931_124, 71_072, 441, 1280, "included", 111, 6_773_152, 51_364, 3_740_520, 3029, cuts={"last_map": 192}
    ),
    "EfficientNetV2B2": Backbone(
        8_769_374, 82_288, 460, 1408, "included", 116, 8_586_384, 59_558, 4_745_116, 3197, cuts={"last_map": 208}
    ),
    "EfficientNetB0": Backbone(
        4_049_571,
        42_023,
        312,
        1280,
        "included",
        81,
        3_956_192,
        30_348,
        2_236_640,
        2092,
        integers=1,
        cuts={"last_map": 320},
    ),
    "MobileNetV3Small": Backbone(
        939_120, 12_112, 206, 576, "included", 52, 912_008, 8_944, 527_992, 1282, cuts={"last_map": 96}
    ),
    "MobileNetV3Large": Backbone(
        2_996_352, 24_400, 262, 960, "included", 62, 2_942_472, 17_280, 1_635_912, 1658, cuts={"last_map": 160}
    ),
    "DenseNet121": Backbone(
        7_037_504, 83_648, 604, 1024, "torch", 120, 6_870_208, 10_240, 3_658_176, 3914, rounding="uuddd"
    ),
    "VGG16": Backbone(14_714_688, 0, 26, 512, "caffe", 13, 14_710_464, 4_224, 7_816_000, 226, rounding="ddddd"),
    "ConvNeXtTiny": Backbone(
        27_820_128, 0, 180, 768, "included", 58, 27_756_000, 41_184, 14_927_712, 1187, rounding="ddddd"
    ),
    "EfficientNetLite0": Backbone(
        3_413_024,
        42_016,
        245,
        1280,
        "lite",
        49,
        3_328_992,
        21_008,
        1_895_136,
        1562,
        cuts={"last_map": 320, "stride_16": 112},
    ),
    "EfficientNetLite1": Backbone(
        4_189_344,
        53_664,
        320,
        1280,
        "lite",
        64,
        4_082_016,
        26_832,
        2_334_416,
        2040,
        cuts={"last_map": 320, "stride_16": 112},
    ),
    "EfficientNetLite2": Backbone(
        4_869_168,
        58_096,
        320,
        1280,
        "lite",
        64,
        4_752_976,
        29_048,
        2_716_064,
        2040,
        cuts={"last_map": 352, "stride_16": 120},
    ),
    "AlexNet": Backbone(
        2_469_696, 0, 10, 256, "torch", 5, 2_468_544, 1_152, 1_322_560, 87, cuts={"stride_16": 256}, least_side=63
    ),
}


def behind(name: str, cut: Cut) -> Iterator[tuple[Shape, bool]]:
    """Shape of each variable that a backbone has not where it ends at `cut`, and whether it would be trained."""
    if name in TOWERS:
        yield from ((shape, "moving" not in variable) for variable, shape in TOWERS[name].behind(cut))
    elif cut == "last_map":
        backbone = BACKBONES[name]
        yield (1, 1, backbone.cuts[cut], backbone.features), True
        for trained in (True, True, False, False):  # of the batch normalisation after it
            yield (backbone.features,), trained


def map_side(name: str, cut: Cut, side: int) -> int:
    """Positions a side of what a backbone gives of pictures with so many pixels a side."""
    if name in TOWERS:
        return TOWERS[name].map_side(cut, side)
    for direction in BACKBONES[name].rounding:
        side = (side + (direction == "u")) // 2
    return side
