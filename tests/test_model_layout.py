"""What is stored of a network: figures and layout held against Keras's own variables, by a rule told twice."""

import math
import random
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import pytest
from builders import rest_in_soak
from networks import ENCODERS, random_config

from captune.model.backbones import BACKBONES, behind
from captune.model.config import ImageConfig
from captune.model.layout import STORAGES, channel_axis, int4_bytes, is_grouped, is_matrix, layout
from captune.model.size import size
from captune.model.towers import TOWERS

NAMES: list[Any] = ["compact", "transformer", *BACKBONES]
Shape = tuple[int, ...]


# The rule, told again and differently from captune.model.layout


def channels(shape: Shape) -> int:
    return shape[-1] if shape[-1] > 1 else shape[-2]


def reduced(shape: Shape) -> bool:
    """Whether float16, int8 and int4 take fewer bytes for a tensor: a kernel or table with four values a channel."""
    return len(shape) > 1 and math.prod(shape) // channels(shape) > 3


def stored_bytes(shape: Shape, in_memory: int, storage: str) -> int:
    """Bytes of a variable that takes `in_memory` bytes in Keras."""
    if storage == "float32" or not reduced(shape):
        return in_memory
    if storage == "int4" and not (len(shape) == 4 and (shape[-1] == 1 or shape[-2] in (1, 2, 3))):
        rows = math.prod(shape) // channels(shape)
        return (math.prod(shape) + 1) // 2 + 2 * channels(shape) * ((rows + 63) // 64)
    return in_memory // 2 if storage == "float16" else in_memory // 4 + 4 * channels(shape)


@pytest.mark.parametrize(
    ("shape", "matrix", "axis"),
    [
        ((3, 3, 64, 128), True, -1),
        ((3, 3, 64, 1), True, -2),  # depthwise: a channel is one picture's
        ((7, 7, 1, 1), True, -2),
        ((1, 1, 4, 96), True, -1),
        ((1, 1, 3, 96), False, -1),
        ((4, 8), True, -1),
        ((3, 8), False, -1),
        ((2, 384), False, -1),  # both biases of a GRU
        ((500, 1), False, -2),  # 500 channels of one value: scales would cost more than they save
        ((3, 4, 1), False, -2),
        ((4, 4, 1), True, -2),
        ((1, 4), False, -1),
        ((5, 3, 7), True, -1),
    ],
)
def test_tensor_with_four_values_a_channel_is_a_matrix(shape: Shape, matrix: bool, axis: int) -> None:
    assert is_matrix(shape) is matrix
    assert channel_axis(shape) == axis
    assert shape[axis] == channels(shape)


@pytest.mark.parametrize(
    ("shape", "packed"),
    [
        ((4, 8), True),
        ((3, 8), False),
        ((1024,), False),
        ((3, 3, 4, 8), True),
        ((3, 3, 3, 8), False),  # of pixels
        ((3, 3, 64, 1), False),  # depthwise
        ((7, 7, 1, 96), False),  # depthwise, as a grouped convolution
        ((1, 1, 64, 18), True),
        ((5, 3, 7), True),  # of captions
        ((64, 1, 1), True),
    ],
)
def test_matrix_is_packed_under_int4_but_for_convolutions_of_pixels_and_depthwise_ones(
    shape: Shape, packed: bool
) -> None:
    assert is_grouped(shape) is packed


@pytest.mark.parametrize("shape", [(), (1,), (4,), (1024,)])
def test_vector_of_any_length_is_no_matrix(shape: Shape) -> None:
    assert not is_matrix(shape)


# Keras's variables


@dataclass(frozen=True)
class Variable:
    path: str
    shape: Shape
    nbytes: int
    trainable: bool


def variables(network: Any) -> list[Variable]:
    import keras

    return [
        Variable(w.path, tuple(w.shape), keras.ops.convert_to_numpy(w.value).nbytes, w.trainable)
        for w in network.weights
    ]


@cache
def backbone_of(name: str, cut: Any = "final") -> tuple[list[Variable], int]:
    """Variables and output channels of a backbone as Keras has it; building one takes a second."""
    import keras

    from captune.model.image_encoder import _named

    keras.utils.clear_session()
    if cut == "final" and name not in TOWERS:
        network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(64, 64, 3))
    else:
        network = _named(ImageConfig(backbone=name, cut=cut, side=64), load_weights=False)  # type: ignore[arg-type]
    return variables(network), network.output.shape[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", rest_in_soak(BACKBONES, "EfficientNetLite0", "AlexNet"))
def test_every_figure_of_a_backbone_is_that_of_keras(name: str) -> None:
    weights, features = backbone_of(name)
    shapes = [v.shape for v in weights]
    matrices = [shape for shape in shapes if reduced(shape)]
    assert asdict(BACKBONES[name]) == {
        "parameters": sum(map(math.prod, shapes)),
        "statistics": sum(math.prod(v.shape) for v in weights if not v.trainable),
        "tensors": len(weights),
        "features": features,
        "scaling": BACKBONES[name].scaling,  # compared with Keras's preprocess_input in test_model_classifier
        "matrices": len(matrices),
        "matrix_values": sum(map(math.prod, matrices)),
        "channels": sum(map(channels, matrices)),
        "int4_bytes": sum(stored_bytes(shape, 4 * math.prod(shape), "int4") for shape in matrices),
        "shapes": sum(len("[" + ",".join(map(str, shape)) + "]") for shape in shapes),
        "integers": sum(v.nbytes == 8 * math.prod(v.shape) for v in weights),
        "cuts": {cut: backbone_of(name, cut)[1] for cut in BACKBONES[name].cuts},
        "least_side": BACKBONES[name].least_side,  # see test_model_towers
        "rounding": BACKBONES[name].rounding,  # the same
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", rest_in_soak([name for name in BACKBONES if BACKBONES[name].cuts], "EfficientNetLite0", "MobileNetV3Small")
)
def test_what_is_behind_a_cut_is_not_there(name: str) -> None:
    whole, _ = backbone_of(name)
    for cut in BACKBONES[name].cuts:
        ends = [v.shape for v in backbone_of(name, cut)[0]]
        assert ends == [v.shape for v in whole][: len(ends)]
        assert [(v.shape, v.trainable) for v in whole][len(ends) :] == list(behind(name, cut))


# Random networks


def part_of(path: str) -> str:
    prefixes = {"image": "image encoder", "compact": "image encoder", "text": "text encoder", "fusion": "fusion"}
    return prefixes.get(path.split("_")[0], "head")


@pytest.mark.slow
@pytest.mark.parametrize("count", rest_in_soak([12, 400], 12))
def test_bytes_of_random_networks_are_those_of_keras_variables(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Named backbones are built once, and stand in the networks as something of their width without weights."""
    import keras

    from captune.model import image_encoder
    from captune.model.classifier import build

    def weightless(config: ImageConfig, *, load_weights: bool) -> Any:
        pixels = keras.Input((config.side, config.side, 3))
        channels = backbone_of(config.backbone, config.cut)[1]
        return keras.Model(pixels, keras.ops.repeat(pixels[..., :1], channels, axis=-1))

    draw, storages, kinds = random.Random(21), list(STORAGES), set()
    configs = [
        random_config(draw, NAMES[n % len(NAMES)], storages[n // len(NAMES) % len(storages)]) for n in range(count)
    ]
    for config in configs:
        if config.image is not None and config.image.is_named:
            backbone_of(config.image.backbone, config.image.cut)
    monkeypatch.setattr(image_encoder, "_named", weightless)
    for n, config in enumerate(configs):
        if n % 50 == 0:
            keras.utils.clear_session()  # takes longer than a network
        whole = variables(build(config))
        if config.image is not None and config.image.is_named:
            whole += [
                Variable(f"image_{v.path}", v.shape, v.nbytes, v.trainable and not config.image.frozen)
                for v in backbone_of(config.image.backbone, config.image.cut)[0]
            ]
        totals = size(config)
        assert totals.parameters == sum(math.prod(v.shape) for v in whole), config
        assert totals.frozen == sum(math.prod(v.shape) for v in whole if not v.trainable), config
        parts = dict.fromkeys((part_of(v.path) for v in whole), 0)
        for v in whole:
            parts[part_of(v.path)] += stored_bytes(v.shape, v.nbytes, config.storage)
        assert totals.parts == parts, config
        assert totals.weights_bytes == sum(parts.values())
        if config.image is not None:
            kinds.add(("image", config.image.backbone, config.storage))
        if config.text is not None:
            kinds.add(("text", config.text.encoder, config.storage))
        if config.modality == "both":
            kinds.add(("fusion", config.fusion, config.storage))
            kinds.add(("head", config.image.head, config.storage))
    assert count < 400 or len(kinds) == (len(NAMES) + len(ENCODERS) + 3 + 3) * len(storages)


@pytest.mark.slow
def test_totals_are_those_of_what_a_bundle_writes() -> None:
    """Numbers of tensors and the characters of their names and shapes, from which the header's bytes are told."""
    from captune.model.bundle import named_weights
    from captune.model.classifier import build

    draw = random.Random(7)
    for backbone in ["compact"] * 30 + ["MobileNetV3Small", "EfficientNetLite0", "EfficientNetLite0", "AlexNet"]:
        config = random_config(draw, backbone, "float32")
        written = {name: tuple(w.shape) for name, w in named_weights(build(config, load_weights=False))}
        groups = list(layout(config))
        matrices = {name: shape for name, shape in written.items() if reduced(shape)}
        assert sum(group.tensors for group in groups) == len(written)
        assert sum(group.matrices for group in groups) == len(matrices)
        assert sum(group.matrix_values for group in groups) == sum(map(math.prod, matrices.values()))
        assert sum(group.channels for group in groups) == sum(map(channels, matrices.values()))
        assert sum(group.int4_bytes for group in groups) == sum(map(int4_bytes, matrices.values()))
        assert sum(group.matrix_names for group in groups) == sum(map(len, matrices))
        assert sum(group.text for group in groups) == sum(
            len(name) + len("[" + ",".join(map(str, shape)) + "]") for name, shape in written.items()
        )
