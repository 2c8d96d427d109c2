"""What networks compute: held against Keras's own layers, and against what was published of the backbones."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from networks import random_config

from captune.model.backbone_operations import NAMED
from captune.model.config import ImageConfig, ModelConfig, TextConfig
from captune.model.operations import Operations, operations
from captune.model.presets import PRESETS

PUBLISHED = {  # 10**9 multiply-adds at 224 pixels a side, without what classifies
    "ResNet50": 3.86,
    "EfficientNetV2B0": 0.72,
    "EfficientNetB0": 0.39,
    "MobileNetV3Small": 0.056,
    "MobileNetV3Large": 0.217,
    "DenseNet121": 2.83,
    "VGG16": 15.35,
    "ConvNeXtTiny": 4.45,
    "EfficientNetLite0": 0.39,
    "AlexNet": 0.66,
}


def image(backbone: Any, side: int = 224, **settings: Any) -> ModelConfig:
    return ModelConfig(image=ImageConfig(backbone=backbone, side=side, units=0, **settings), num_labels=1)


def text(encoder: Any, **settings: Any) -> Operations:
    small = {"vocabulary_size": 100, "embedding": 32, "units": 48, "dense": 0}
    return operations(ModelConfig(text=TextConfig(encoder=encoder, **small | settings), num_labels=1))


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_backbones_compute_what_was_published_of_them(name: str, billions: float) -> None:
    """Full blocks of channels are up to a sixth more."""
    counted = operations(image(name))
    total = (counted.convolution + counted.pointwise + counted.depthwise) / 1e9
    assert billions * 0.98 < total < billions * 1.2


@pytest.mark.parametrize("encoder", ["lstm", "bilstm", "gru"])
def test_recurrent_encoders_cost_by_their_steps(encoder: str) -> None:
    short, long = text(encoder, max_tokens=8), text(encoder, max_tokens=32)
    assert short.steps == 8 * (2 if encoder == "bilstm" else 1)
    assert (long.steps, long.recurrent) == (4 * short.steps, 4 * short.recurrent)
    assert short.recurrent == short.steps * (3 if encoder == "gru" else 4) * 48 * (32 + 48)


@pytest.mark.parametrize("encoder", ["convolution", "average"])
def test_other_encoders_take_no_steps(encoder: str) -> None:
    assert (text(encoder).steps, text(encoder).recurrent) == (0, 0)


def test_transformer_costs_by_its_layers_and_more_than_by_its_tokens() -> None:
    one, two = (text("transformer", layers=layers, max_tokens=16) for layers in (1, 2))
    assert two.pointwise == 2 * one.pointwise and two.weights - one.weights == 4 * 32**2 + 2 * 32 * 48
    assert text("transformer", layers=1, max_tokens=32).pointwise > 2 * one.pointwise


def test_channels_count_as_full_blocks() -> None:
    counts = [operations(image("compact", 32, stages=1, width=width)).convolution for width in (16, 17, 24, 25)]
    assert counts[0] < counts[1] == counts[2] < counts[3]


@pytest.mark.parametrize("name", ["EfficientNetLite0", "EfficientNetV2B0", "MobileNetV3Small"])
def test_what_is_behind_a_cut_is_not_computed(name: str) -> None:
    whole, cut = operations(image(name, cut="final")), operations(image(name, cut="last_map"))
    assert cut.pointwise < whole.pointwise and cut.layers < whole.layers
    assert cut.depthwise == whole.depthwise and min(cut) >= 0


def test_pictures_that_are_reduced_cost_the_reducing_and_less_behind_it() -> None:
    large, reduced = (operations(image("compact", 128, max_side=side)) for side in (0, 64))
    assert reduced.convolution * 3.9 < large.convolution < reduced.convolution * 4.1
    assert reduced.pointwise > large.pointwise


def test_pictures_that_are_enlarged_cost_more_behind_it() -> None:
    plain, enlarged = (operations(image("compact", 64, min_side=side)) for side in (0, 128))
    assert plain.convolution * 3.9 < enlarged.convolution < plain.convolution * 4.1
    assert enlarged.values > plain.values * 4 and enlarged.pointwise == plain.pointwise


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_computes_less_than_nothing(name: str) -> None:
    counted = operations(PRESETS[name].model)
    assert min(counted) >= 0 and counted.layers > 3 and counted.weights > 0


def leaves(network: Any) -> Iterator[Any]:
    import keras

    for layer in network.layers:
        yield from leaves(layer) if isinstance(layer, keras.Model) else [layer]


def blocks(channels: int) -> int:
    return channels if channels <= 3 else (channels + 15) // 16 * 16


def by_keras(network: Any) -> Counter[str]:
    """Multiply-adds by kind and weights of a built network, layer by layer."""
    from keras import layers

    counts: Counter[str] = Counter()
    for layer in leaves(network):
        name = type(layer).__name__
        if isinstance(layer, layers.Bidirectional | layers.LSTM | layers.GRU):
            cells = [layer.forward_layer, layer.backward_layer] if name == "Bidirectional" else [layer]
            tokens = layer.input
            steps = (tokens[0] if isinstance(tokens, list) else tokens).shape[1]  # beside them the mask
            for cell in cells:
                counts["recurrent"] += steps * sum(w.shape[0] * w.shape[1] for w in cell.weights if "kernel" in w.path)
                counts["steps"] += steps
            continue
        kernel = getattr(layer, "kernel", None)
        if kernel is None or name == "EinsumDense":
            continue
        *seen, inputs, channels = kernel.shape
        if name == "Conv1D":
            seen, inputs = [], seen[0] * inputs
        positions = 1
        for side in layer.output.shape[1:-1]:
            positions *= side
        if name == "Dense" and len(layer.output.shape) == 2:
            counts["weights"] += inputs * channels
            continue
        area = 1
        for side in seen:
            area *= side
        depthwise = name == "DepthwiseConv2D" or getattr(layer, "groups", 1) > 1  # ConvNeXt's, a channel a group
        whole = area * (blocks(max(inputs, channels)) if depthwise else blocks(inputs) * blocks(channels))
        counts["weights"] += whole
        counts["depthwise" if depthwise else "pointwise" if area == 1 else "convolution"] += positions * whole
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_the_layers_that_keras_builds(seed: int) -> None:
    from captune.model.classifier import build

    backbone: Any = ["compact", "compact", "EfficientNetLite0", "AlexNet"][seed % 4]
    config = random_config(random.Random(seed), backbone, "float32")
    if config.image is not None:
        config = config.model_copy(update={"image": config.image.model_copy(update={"weights": "none"})})
    counted, expected = operations(config)._asdict(), by_keras(build(config, load_weights=False))
    for kind in ("convolution", "pointwise", "depthwise", "recurrent", "steps", "weights"):
        assert counted[kind] == expected[kind], kind


QUICK = ("MobileNetV3Small", "EfficientNetB0", "ResNet50")  # to build; the others in the soak
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.soak) for name in NAMED]


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_figures_of_backbones_are_those_of_keras(name: str) -> None:
    """At a side that is halved unevenly. Layers after a pooling have one position at any side."""
    from captune.model.classifier import build

    config = image(name, 104)
    counted, expected = operations(config), by_keras(build(config, load_weights=False))
    assert counted.convolution == expected["convolution"]
    assert counted.depthwise == expected["depthwise"]
    assert counted.pointwise == expected["pointwise"]
