"""Sizes: exact, from the configuration alone, and held against what Keras builds and what lands on disk."""

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.backbones import BACKBONES
from model.config import ImageConfig, ModelConfig, TextConfig
from model.presets import PAPER, PRESETS
from model.size import DEFAULT_BUDGET, MB, MiB, Size, parse_bytes, refusal, show_bytes, size

REAL = Path(os.environ.get("CAPTUNE_TEST_DATA", "nowhere"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="CAPTUNE_TEST_DATA names no folder")


def test_paper_model_has_the_published_size() -> None:
    found = size(PAPER.model)
    assert found.parameters == 26_169_282
    assert found.trainable == 26_116_162
    assert found.frozen == 53_120
    assert found.weights_bytes == 104_677_128
    assert refusal(found, DEFAULT_BUDGET) is None
    assert found.bundle_bytes < DEFAULT_BUDGET


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_the_default_budget(name: str) -> None:
    assert refusal(size(PRESETS[name].model), DEFAULT_BUDGET) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1B", 1),
        ("100MiB", 104_857_600),
        ("100MB", 100_000_000),
        (" 100 MiB ", 104_857_600),
        ("0.5kB", 500),
        ("2KB", 2000),
        ("1.5KiB", 1536),
        ("1GiB", 2**30),
        ("1GB", 10**9),
        ("0.3GB", 300_000_000),
        ("1.1kB", 1100),
        ("1.9B", 1),
    ],
)
def test_sizes_are_read_in_both_kinds_of_units(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["100", "100 mb", "100M", "100mib", "10EB", "100 Mo"])
def test_missing_or_unknown_unit_is_refused_with_both_spellings(text: str) -> None:
    number = text.split("E")[0].split("m")[0].split("M")[0].strip()
    with pytest.raises(ValueError, match=rf"{number}MiB \(2\*\*20.*{number}MB \(10\*\*6"):
        parse_bytes(text)


@pytest.mark.parametrize(
    "text",
    ["", "MiB", "-1MiB", "nan MiB", "infMiB", "1e3MiB", "0MiB", "0B", "0.5B", "1,5MiB", "1..5MiB", "9" * 400 + "B"],
)
def test_what_is_no_size_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_bytes(text)
    assert "\n" not in str(caught.value)
    assert "100MiB" in str(caught.value)


@given(st.integers(1, 2**50))
def test_whole_bytes_are_read_exactly(count: int) -> None:
    assert parse_bytes(f"{count}B") == count


def test_bytes_are_shown_in_both_units() -> None:
    assert show_bytes(104_677_128) == "99.83 MiB (104.68 MB)"
    assert show_bytes(0) == "0.00 MiB (0.00 MB)"


def test_over_budget_refusal_names_both_units_the_parts_and_a_way_out() -> None:
    why = refusal(size(PAPER.model), 50 * MB)
    assert why is not None
    assert "99.83 MiB (104.68 MB)" in why
    assert "47.68 MiB (50.00 MB)" in why
    for part in ("image encoder", "text encoder", "head"):
        assert part in why
    assert "--budget" in why
    assert "\n" not in why


def test_budget_is_inclusive_to_the_byte() -> None:
    found = size(PAPER.model)
    assert refusal(found, found.weights_bytes) is None
    assert refusal(found, found.weights_bytes - 1) is not None


def _number(low: int, high: int) -> Any:
    return st.integers(low, high)


TEXTS = st.builds(
    TextConfig,
    encoder=st.sampled_from(["bilstm", "lstm", "gru", "convolution", "average"]),
    vocabulary_size=_number(3, 50_000),
    embedding=_number(1, 512),
    units=_number(1, 1024),
    kernel=_number(1, 8),
    dense=_number(0, 1024),
)
IMAGES = st.one_of(
    st.builds(
        ImageConfig,
        side=st.just(128),
        units=_number(0, 1024),
        width=_number(4, 64),
        stages=_number(1, 5),
        blocks=_number(1, 3),
    ),
    st.builds(ImageConfig, backbone=st.sampled_from(sorted(BACKBONES)), units=_number(0, 1024)),
)
MODELS = st.builds(
    ModelConfig,
    fusion=st.sampled_from(["concatenation", "gated"]),
    image=IMAGES,
    text=TEXTS,
    head_units=_number(0, 1024),
    num_labels=_number(1, 500),
)


@given(MODELS)
def test_parts_add_up_to_the_whole(config: ModelConfig) -> None:
    found = size(config)
    assert sum(found.parts.values()) == found.weights_bytes == 4 * found.parameters
    assert found.frozen + found.trainable == found.parameters
    assert found.bundle_bytes > found.weights_bytes
    assert ("fusion" in found.parts) == (config.fusion == "gated")


@given(MODELS)
def test_an_encoder_weighs_the_same_alone_and_beside_another(config: ModelConfig) -> None:
    both = size(config).parts
    for part, alone in (
        ("text encoder", config.model_copy(update={"image": None})),
        ("image encoder", config.model_copy(update={"text": None})),
    ):
        assert size(alone).parts[part] == both[part]
        assert set(size(alone).parts) == {part, "head"}


@given(MODELS, st.sampled_from(["vocabulary_size", "embedding", "units", "kernel", "dense"]), _number(1, 100))
def test_no_text_setting_makes_a_network_smaller_by_growing(config: ModelConfig, name: str, more: int) -> None:
    assert config.text is not None
    if name == "dense" and config.text.dense == 0:
        return  # from no layer to one: the head may shrink by more than the layer costs
    value = getattr(config.text, name)
    larger = config.text.model_copy(update={name: value + more})
    grown = size(config.model_copy(update={"text": larger}))
    unused = (name == "units" and config.text.encoder == "average") or (
        name == "kernel" and config.text.encoder != "convolution"
    )
    if unused:
        assert grown.weights_bytes == size(config).weights_bytes
    else:
        assert grown.weights_bytes > size(config).weights_bytes


@given(MODELS, _number(1, 100))
def test_wider_image_encoder_is_larger(config: ModelConfig, more: int) -> None:
    assert config.image is not None
    name = "width" if config.image.backbone == "compact" else "units"
    if getattr(config.image, name) == 0:
        return
    wider = config.image.model_copy(update={name: getattr(config.image, name) + more})
    assert size(config.model_copy(update={"image": wider})).weights_bytes > size(config).weights_bytes


@given(MODELS, _number(1, 100))
def test_each_label_costs_one_row_of_the_head(config: ModelConfig, more: int) -> None:
    grown = size(config.model_copy(update={"num_labels": config.num_labels + more}))
    one = size(config.model_copy(update={"num_labels": config.num_labels + 1})).parameters - size(config).parameters
    assert grown.parameters - size(config).parameters == more * one
    if config.head_units:
        assert one == config.head_units + 1


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_frozen_backbone_counts_in_full_and_as_frozen(backbone: Any) -> None:
    def of(frozen: bool) -> Size:
        return size(ModelConfig(image=ImageConfig(backbone=backbone, weights="imagenet", frozen=frozen, units=64)))

    figures = BACKBONES[backbone]
    assert of(True).weights_bytes == of(False).weights_bytes
    assert of(True).frozen == figures.parameters
    assert of(False).frozen == figures.statistics
    assert of(True).trainable == (figures.features + 1) * 64 + (64 + 1) * 18


def test_side_and_caption_length_change_no_weight() -> None:
    small = ModelConfig(image=ImageConfig(side=32), text=TextConfig(max_tokens=1))
    large = ModelConfig(image=ImageConfig(side=1024), text=TextConfig(max_tokens=512))
    assert size(small).weights_bytes == size(large).weights_bytes


# Against Keras


def _agrees(config: ModelConfig, network: Any) -> None:
    from model.size import _weights

    found = size(config)
    assert found.parameters == network.count_params()
    assert found.frozen == sum(_count(weight) for weight in network.non_trainable_weights)
    assert sum(part.tensors for part in _weights(config)) == len(network.weights)


def _count(weight: Any) -> int:
    count = 1
    for side in weight.shape:
        count *= side
    return count


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_size_equals_what_keras_builds_for_every_backbone_with_imagenet_weights_and_without(
    monkeypatch: pytest.MonkeyPatch, backbone: Any
) -> None:
    """A bundle is built again without them, so a layer that only comes with them would be lost."""
    import keras
    from keras.src.utils import file_utils

    from model.classifier import build

    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: "nowhere")
    monkeypatch.setattr(keras.Model, "load_weights", lambda *_, **__: None)
    keras.utils.clear_session()
    layers = []
    for weights in ("imagenet", "none"):
        config = ModelConfig(image=ImageConfig(backbone=backbone, side=32, weights=weights, units=5), num_labels=3)
        network = build(config)
        _agrees(config, network)
        layers.append([type(layer) for layer in network._flatten_layers()])
    assert layers[0] == layers[1]


def _random_config(draw: random.Random) -> ModelConfig:
    image = ImageConfig(
        side=draw.choice([32, 64]),
        pooling=draw.choice(["average", "max", "both"]),
        units=draw.choice([0, 1, 7]),
        width=draw.randint(4, 9),
        stages=draw.randint(1, 4),
        blocks=draw.randint(1, 3),
    )
    text = TextConfig(
        encoder=draw.choice(["bilstm", "lstm", "gru", "convolution", "average"]),
        vocabulary_size=draw.randint(3, 40),
        max_tokens=draw.randint(1, 6),
        embedding=draw.randint(1, 9),
        units=draw.randint(1, 9),
        kernel=draw.randint(1, 5),
        dense=draw.choice([0, 1, 7]),
    )
    reads = draw.choice(["both", "both", "image", "caption"])
    return ModelConfig(
        image=image if reads != "caption" else None,
        text=text if reads != "image" else None,
        fusion=draw.choice(["concatenation", "gated"]),
        head_units=draw.choice([0, 1, 6]),
        num_labels=draw.randint(1, 9),
    )


@pytest.mark.slow
def test_size_equals_what_keras_builds_for_fifty_random_networks() -> None:
    from model.classifier import build

    draw = random.Random(20)
    for _ in range(50):
        config = _random_config(draw)
        _agrees(config, build(config))


# Against the disk


def _words(count: int) -> list[str]:
    """Distinct words of 2 to 12 letters; half a letter longer on average than those of English captions."""
    draw = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        letters = draw.choices("etaoinshrdlucmfwyp", k=min(12, max(2, round(draw.gauss(6.5, 2)))))
        found["".join(letters)] = None
    return list(found)


def _saved(config: ModelConfig, folder: Path, words: list[str]) -> int:
    import keras

    from data_prep.captions import CaptionSettings, Vocabulary
    from model.bundle import Bundle, measured_bytes
    from model.classifier import build
    from model.metrics import DecisionRule

    keras.utils.clear_session()
    labels = tuple(range(config.num_labels))
    vocabulary = Vocabulary(tuple(words), CaptionSettings()).to_json() if config.text is not None else None
    names = tuple(f"traffic light {label}" for label in labels)
    network = build(config, load_weights=False)
    Bundle(network, config, DecisionRule(0.4), labels, names, vocabulary).save(folder / "bundle")
    return measured_bytes(folder / "bundle")


@pytest.mark.slow
def test_bundle_on_disk_is_just_below_its_estimate(tmp_path: Path) -> None:
    config = ModelConfig(
        image=ImageConfig(backbone="EfficientNetV2B0", side=32, units=128),
        text=TextConfig(encoder="bilstm", vocabulary_size=2_002, embedding=64, units=64),
        fusion="gated",
    )
    on_disk = _saved(config, tmp_path, _words(2_000))
    estimate = size(config).bundle_bytes
    assert estimate * 0.98 <= on_disk <= estimate


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["compact", "MobileNetV3Small", "DenseNet121"])
def test_bundle_of_a_network_with_many_small_tensors_is_below_its_estimate(tmp_path: Path, backbone: Any) -> None:
    config = ModelConfig(image=ImageConfig(backbone=backbone, side=32, units=0), num_labels=80)
    assert _saved(config, tmp_path, []) <= size(config).bundle_bytes


@pytest.mark.slow
def test_paper_model_is_shipped_below_the_budget(tmp_path: Path) -> None:
    assert PAPER.model.image is not None
    config = PAPER.model.model_copy(update={"image": PAPER.model.image.model_copy(update={"weights": "none"})})
    on_disk = _saved(config, tmp_path, _words(9_998))
    estimate = size(config).bundle_bytes
    assert on_disk < DEFAULT_BUDGET
    assert estimate * 0.98 <= on_disk <= estimate


@needs_real
def test_words_of_real_captions_take_no_more_than_estimated() -> None:
    from data_prep.captions import CaptionSettings, count_words, tokenize
    from data_prep.records import read_csv

    captions = [example.caption for example in read_csv(REAL / "coco18" / "train.csv").examples[:3_000]]
    settings = CaptionSettings()
    vocabulary = count_words([tokenize(caption, settings) for caption in captions], settings)
    config = ModelConfig(text=TextConfig(vocabulary_size=vocabulary.size))
    spare = size(config).bundle_bytes - size(config).weights_bytes
    assert len(vocabulary.to_json().encode()) < spare


def test_mib_and_mb_are_two_units() -> None:
    assert (MiB, MB) == (1_048_576, 1_000_000)
    for low, high in itertools.pairwise(["1kB", "1KiB", "1MB", "1MiB", "1GB", "1GiB"]):
        assert parse_bytes(low) < parse_bytes(high)


def test_sizing_needs_no_framework() -> None:
    import subprocess
    import sys

    code = "import sys, json, model.size; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert "model.size" in modules
    assert not {"keras", "tensorflow", "ray", "numpy"} & set(modules)
