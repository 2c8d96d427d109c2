"""Settings: what goes in comes out, and nothing impossible gets in."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from captune.model.backbones import BACKBONES
from captune.model.config import AugmentConfig, ImageConfig, ModelConfig, TextConfig, TrainConfig, TrialConfig, restrict
from captune.model.flat import flatten, replace, unflatten
from captune.model.presets import PRESETS
from captune.model.towers import TOWERS

SHARES = st.floats(0, 0.9)
BOTH = ModelConfig(image=ImageConfig(), text=TextConfig())


@st.composite
def images(draw: st.DrawFn) -> ImageConfig:
    named = draw(st.booleans())
    stages = draw(st.integers(1, 6))
    weights = st.sampled_from([("none", False), ("imagenet", False), ("imagenet", True), ("own.weights.h5", True)])
    source, frozen = draw(weights) if named else ("none", False)
    backbone = draw(st.sampled_from(sorted(BACKBONES))) if named else "compact"
    return ImageConfig(
        backbone=backbone,  # type: ignore[arg-type]
        weights="own.safetensors" if source == "imagenet" and backbone in TOWERS else source,
        frozen=frozen,
        scaling=draw(st.sampled_from(["backbone", "unit"])),
        side=draw(st.integers(63 if named else max(8, 2 ** (stages + 1)), 1024)),
        pooling=draw(st.sampled_from(["average", "max", "both"])),
        units=draw(st.integers(0, 4096)),
        dropout=draw(SHARES),
        width=draw(st.integers(4, 256)),
        stages=stages,
        blocks=draw(st.integers(1, 4)),
    )


TEXTS = st.builds(
    TextConfig,
    encoder=st.sampled_from(["bilstm", "lstm", "gru", "convolution", "average"]),
    vocabulary_size=st.integers(3, 1_000_000),
    max_tokens=st.integers(1, 512),
    embedding=st.integers(1, 1024),
    units=st.integers(1, 2048),
    kernel=st.integers(1, 9),
    dense=st.integers(0, 4096),
    embedding_dropout=SHARES,
    dropout=SHARES,
)
MODELS = st.one_of(st.tuples(images(), TEXTS), st.tuples(images(), st.none()), st.tuples(st.none(), TEXTS)).flatmap(
    lambda pair: st.builds(
        ModelConfig,
        image=st.just(pair[0]),
        text=st.just(pair[1]),
        fusion=st.sampled_from(["concatenation", "gated"]),
        head_units=st.integers(0, 4096),
        head_dropout=SHARES,
        num_labels=st.integers(1, 10_000),
        storage=st.sampled_from(["float32", "float16", "int8", "int4"]),
    )
)
TRAININGS = st.builds(
    TrainConfig,
    optimizer=st.sampled_from(["adam", "adamw"]),
    loss=st.sampled_from(["binary_crossentropy", "focal", "asymmetric"]),
    epochs=st.integers(1, 1000),
    batch_size=st.integers(1, 8192),
    learning_rate=st.floats(1e-7, 1),
    warmup=st.floats(0, 0.5),
    weight_decay=st.floats(0, 1),
    label_smoothing=st.floats(0, 0.5),
    clip_norm=st.floats(0, 1000),
    ema=st.floats(0, 1, exclude_max=True),
    gamma=st.floats(1, 8),
    augment=st.builds(
        AugmentConfig, flip=st.booleans(), rotation=st.floats(0, 180), shift=SHARES, shear=st.floats(0, 45), zoom=SHARES
    ),
)
CONFIGS = st.builds(TrialConfig, model=MODELS, train=TRAININGS)


@given(CONFIGS)
def test_unflatten_undoes_flatten_also_through_json(config: TrialConfig) -> None:
    flat = flatten(config)
    assert unflatten(flat) == config
    assert unflatten(json.loads(json.dumps(flat, allow_nan=False))) == config


@given(CONFIGS)
def test_flat_configuration_has_plain_values_under_dotted_names(config: TrialConfig) -> None:
    flat = flatten(config)
    assert all(value is None or isinstance(value, bool | int | float | str) for value in flat.values())
    assert "train.augment.rotation" in flat and "fusion" in flat
    assert ("image.side" in flat) == (config.model.image is not None)
    assert ("text.units" in flat) == (config.model.text is not None)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_flattening(name: str) -> None:
    assert unflatten(flatten(PRESETS[name])) == PRESETS[name]


def test_absent_encoder_is_one_key_with_none() -> None:
    flat = flatten(TrialConfig(model=ModelConfig(text=TextConfig())))
    assert flat["image"] is None
    assert not [name for name in flat if name.startswith("image.")]


def test_missing_names_take_their_defaults() -> None:
    assert unflatten({"text.units": 7}) == TrialConfig(model=ModelConfig(text=TextConfig(units=7)))


@pytest.mark.parametrize(
    "name", ["image.sid", "text.strata", "train.speed", "train.augment.blur", "depth", "train", "", "image.side.x"]
)
def test_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        replace(TrialConfig(model=BOTH), {name: 1})


@pytest.mark.parametrize("name", ["image.units", "image.augment.flip"])
def test_setting_of_an_absent_encoder_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        replace(TrialConfig(model=ModelConfig(text=TextConfig())), {name: 64})


def _bounds() -> list[tuple[str, Any]]:
    """Every numeric field's dotted name with a value just outside each of its bounds."""
    bounds: list[tuple[str, Any]] = []
    for prefix, kind in {
        "image.": ImageConfig,
        "text.": TextConfig,
        "": ModelConfig,
        "train.": TrainConfig,
        "train.augment.": AugmentConfig,
    }.items():
        for name, field in kind.model_fields.items():
            for bound in field.metadata:
                for side, step in (("ge", -1), ("le", 1), ("lt", 0)):
                    limit = getattr(bound, side, None)
                    if limit is not None:
                        bounds.append((prefix + name, limit + step * (1 if field.annotation is int else 1e-6)))
    return bounds


@pytest.mark.parametrize(("name", "value"), _bounds())
def test_value_just_outside_its_bounds_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        replace(TrialConfig(model=BOTH), {name: value})


def test_every_number_is_bounded_on_both_sides() -> None:
    sides: dict[str, int] = {}
    for name, _ in _bounds():
        sides[name] = sides.get(name, 0) + 1
    numbers = {name for name, value in flatten(TrialConfig(model=BOTH)).items() if type(value) in (int, float)}
    assert {name for name in numbers if sides.get(name) != 2} == set()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["train.learning_rate", "image.dropout", "train.augment.zoom", "train.gamma"])
def test_nan_and_infinity_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError):
        replace(TrialConfig(model=BOTH), {name: value})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image.weights": "imagenet"}, "compact has no ImageNet weights"),
        ({"image.backbone": "VGG16", "image.frozen": True}, "a frozen backbone needs weights"),
        ({"image.stages": 6, "image.side": 127}, "6 stages need a side of 128 pixels, got 127"),
        ({"image.backbone": "ResNet50", "image.side": 31}, "ResNet50 needs a side of at least 32 pixels, got 31"),
        ({"image": None, "text": None}, "an image encoder, a text encoder, or both"),
    ],
)
def test_values_that_are_impossible_together_say_why(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        replace(TrialConfig(model=BOTH), changes)


@pytest.mark.parametrize("value", ["float64", "bfloat16", "int2", "INT8", "", None, 8])
def test_storage_is_one_of_three(value: Any) -> None:
    assert flatten(TrialConfig(model=BOTH))["storage"] == "float32"
    with pytest.raises(ValidationError, match="'float32', 'float16', 'int8' or 'int4'"):
        replace(TrialConfig(model=BOTH), {"storage": value})


def test_restricted_network_keeps_its_storage() -> None:
    assert restrict(BOTH.model_copy(update={"storage": "int8"}), "caption").storage == "int8"


def test_replace_changes_what_is_named_and_nothing_else() -> None:
    before = TrialConfig(model=BOTH)
    after = replace(before, {"text.units": 9, "train.augment.flip": True})
    changed = {name for name, value in flatten(after).items() if flatten(before)[name] != value}
    assert changed == {"text.units", "train.augment.flip"}
    assert before == TrialConfig(model=BOTH)


def test_replacing_an_encoder_by_none_removes_it() -> None:
    assert replace(TrialConfig(model=BOTH), {"image": None}).model.modality == "caption"


def test_settings_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        BOTH.num_labels = 3  # type: ignore[misc]


@pytest.mark.parametrize(("modality", "image", "text"), [("both", 1, 1), ("image", 1, 0), ("caption", 0, 1)])
def test_restrict_keeps_the_encoders_of_the_modality(modality: Any, image: int, text: int) -> None:
    config = restrict(BOTH, modality)
    assert config.modality == modality
    assert (config.image is BOTH.image) == bool(image)
    assert (config.text is BOTH.text) == bool(text)


@pytest.mark.parametrize(("has", "modality"), [("image", "caption"), ("image", "both"), ("caption", "image")])
def test_restrict_names_what_the_model_reads_instead(has: Any, modality: Any) -> None:
    with pytest.raises(ValueError, match=f"modality {modality} was asked for, but this model reads {has}"):
        restrict(restrict(BOTH, has), modality)


@pytest.mark.parametrize("changes", [{"flip": True}, {"rotation": 1}, {"shift": 0.1}, {"shear": 1}, {"zoom": 0.1}])
def test_any_single_change_makes_augmentation_active(changes: dict[str, Any]) -> None:
    assert AugmentConfig(**changes).active
    assert not AugmentConfig().active
