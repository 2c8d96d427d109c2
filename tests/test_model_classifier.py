"""The network: names and shapes, padding that means nothing, weights that are loaded or refused, files without code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from captune.model.backbones import BACKBONES
from captune.model.config import ImageConfig, ModelConfig, TextConfig

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
TOKENS = np.array([[5, 3, 9, 0, 0, 0], [1, 1, 0, 0, 0, 0], [2, 4, 6, 8, 7, 3]], np.int32)
ENCODERS: list[Any] = ["bilstm", "lstm", "gru", "convolution", "average"]
IMAGE = ImageConfig(side=32, width=4, stages=2, units=5)


def text(encoder: Any = "convolution", **settings: Any) -> TextConfig:
    return TextConfig(
        **{
            "encoder": encoder,
            "vocabulary_size": 12,
            "max_tokens": 6,
            "embedding": 4,
            "units": 5,
            "dense": 6,
            **settings,
        }
    )


def built(config: ModelConfig, **options: Any) -> Any:
    import keras

    from captune.model.classifier import build

    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    return build(config, **options)


def probabilities(network: Any) -> NDArray[np.float32]:
    inputs = {"image": PIXELS, "caption": TOKENS}
    return np.asarray(network.predict_on_batch({x.name: inputs[x.name] for x in network.inputs}))


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (ModelConfig(image=IMAGE, text=text(), num_labels=7), ["caption", "image"]),
        (ModelConfig(image=IMAGE, text=text(), fusion="gated", head_units=3, num_labels=7), ["caption", "image"]),
        (ModelConfig(image=IMAGE, num_labels=7), ["image"]),
        (ModelConfig(text=text(), num_labels=7), ["caption"]),
    ],
)
def test_network_reads_what_it_is_configured_to_and_gives_probabilities(config: ModelConfig, names: list[str]) -> None:
    network = built(config)
    assert sorted(x.name for x in network.inputs) == names
    shapes = {"image": ("uint8", (None, 32, 32, 3)), "caption": ("int32", (None, 6))}
    assert all((x.dtype, x.shape) == shapes[x.name] for x in network.inputs)
    assert network.output.shape == (None, 7)
    values = probabilities(network)
    assert ((values > 0) & (values < 1)).all()


def test_layer_logits_is_what_the_sigmoid_is_taken_of() -> None:
    import keras

    network = built(ModelConfig(image=IMAGE, text=text(), num_labels=7))
    logits = keras.Model(network.inputs, network.get_layer("logits").output)
    assert 1 / (1 + np.exp(-probabilities(logits))) == pytest.approx(probabilities(network), abs=1e-6)


def test_network_depends_on_each_of_its_inputs() -> None:
    network = built(ModelConfig(image=IMAGE, text=text(), fusion="gated", num_labels=7))
    before = probabilities(network)
    other = network.predict_on_batch({"image": 255 - PIXELS, "caption": TOKENS})
    another = network.predict_on_batch({"image": PIXELS, "caption": TOKENS[::-1]})
    assert (other != before).any() and (another != before).any()


@pytest.mark.parametrize(("encoder", "kernel"), [*((encoder, 3) for encoder in ENCODERS), ("convolution", 2)])
def test_longer_padding_changes_no_probability(encoder: Any, kernel: int) -> None:
    # An even kernel is padded on one side more; the last row has no padding of its own in the shorter network.
    short = built(ModelConfig(text=text(encoder, kernel=kernel), num_labels=7))
    long = built(ModelConfig(text=text(encoder, kernel=kernel, max_tokens=11), num_labels=7))
    long.set_weights(short.get_weights())
    padded = np.pad(TOKENS, ((0, 0), (0, 5)))
    assert long.predict_on_batch({"caption": padded}) == pytest.approx(probabilities(short), abs=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_captions_cut_to_the_longest_of_their_batch_give_the_same(encoder: Any) -> None:
    import keras

    from captune.model.text_encoder import Cut

    network = built(ModelConfig(text=text(encoder, kernel=2), num_labels=7))
    whole = keras.Input((6,), dtype="int32")
    cut = Cut()(whole)
    both = keras.Model(whole, [cut, network({"caption": cut})])
    for longest in (0, 1, 4, 6):
        tokens = TOKENS.copy()
        tokens[:, longest:] = 0
        short, values = both.predict_on_batch(tokens)
        assert short.shape == (len(TOKENS), max(1, int((tokens != 0).sum(axis=1).max())))
        assert values == pytest.approx(network.predict_on_batch({"caption": tokens}), abs=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_embedding_of_the_padding_reaches_no_output(encoder: Any) -> None:
    network = built(ModelConfig(text=text(encoder), num_labels=7))
    before = probabilities(network)
    table = network.get_layer("text_embedding").embeddings
    values = np.array(table)
    values[0] = 100
    table.assign(values)
    assert probabilities(network) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_empty_caption_gives_finite_probabilities_and_gradients(encoder: Any) -> None:
    import tensorflow as tf

    network = built(ModelConfig(text=text(encoder), num_labels=7))
    with tf.GradientTape() as tape:
        values = network({"caption": np.zeros((2, 6), np.int32)}, training=True)
        loss = tf.reduce_sum(values)
    assert np.isfinite(np.array(values)).all()
    for gradient in tape.gradient(loss, network.trainable_variables):
        assert np.isfinite(np.array(tf.convert_to_tensor(gradient))).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_order_of_words_matters_to_all_encoders_but_the_average(encoder: Any) -> None:
    network = built(ModelConfig(text=text(encoder, kernel=2), num_labels=7))
    forward, backward = (
        network.predict_on_batch({"caption": np.array([words], np.int32)})
        for words in ([3, 5, 7, 9, 2, 4], [4, 2, 9, 7, 5, 3])
    )
    assert np.allclose(forward, backward, atol=1e-7) == (encoder == "average")


# Weights


def test_weights_file_that_is_none_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    from captune.model.backbones import WeightsError

    config = ImageConfig(backbone="MobileNetV3Small", side=32, weights=str(tmp_path / "nowhere.weights.h5"))
    with pytest.raises(WeightsError, match=r"nowhere\.weights\.h5 is no file") as caught:
        built(ModelConfig(image=config))
    assert "imagenet, none or a weights file" in str(caught.value)


@pytest.mark.parametrize("name", ["x.weights.h5", "x.h5", "x.txt", "x.keras"])
def test_weights_file_of_another_kind_is_refused_with_a_way_out(tmp_path: Path, name: str) -> None:
    from captune.model.backbones import WeightsError

    (tmp_path / name).write_bytes(b"this is no weights file")
    config = ImageConfig(backbone="MobileNetV3Small", side=32, weights=str(tmp_path / name))
    with pytest.raises(WeightsError, match="cannot be loaded") as caught:
        built(ModelConfig(image=config))
    assert "without its top" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backbone", ["MobileNetV3Small", "VGG16", "ResNet50"])
def test_unreachable_imagenet_weights_are_an_error_and_never_random_ones(
    monkeypatch: pytest.MonkeyPatch, backbone: Any
) -> None:
    from keras.src.utils import file_utils

    from captune.model.backbones import WeightsError

    def offline(*_: Any, **__: Any) -> None:
        raise Exception("URL fetch failure on https://example.invalid: None -- timed out")

    monkeypatch.setattr(file_utils, "get_file", offline)
    config = ImageConfig(backbone=backbone, side=32, weights="imagenet", units=4)
    with pytest.raises(WeightsError, match="URL fetch failure") as caught:
        built(ModelConfig(image=config))
    assert "image.weights: FILE" in str(caught.value) and "image.weights: none" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def mobile_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of MobileNetV3Small without its top, of random weights."""
    import keras

    keras.utils.set_random_seed(9)
    network = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = tmp_path_factory.mktemp("weights") / "mobile.weights.h5"
    network.save_weights(path)
    return path


def backbone_of(network: Any) -> Any:
    import keras

    (backbone,) = (layer for layer in network.layers if isinstance(layer, keras.Model))
    return backbone


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_of_the_file_are_those_of_the_backbone(mobile_weights: Path, frozen: bool) -> None:
    import keras

    from captune.model.size import size

    image = ImageConfig(backbone="MobileNetV3Small", side=32, weights=str(mobile_weights), frozen=frozen, units=4)
    network = built(ModelConfig(image=image))
    reference = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(32, 32, 3))
    reference.load_weights(mobile_weights)
    for loaded, expected in zip(backbone_of(network).get_weights(), reference.get_weights(), strict=True):
        assert (loaded == expected).all()
    totals = size(ModelConfig(image=image))
    assert totals.parameters == network.count_params()
    assert totals.trainable == sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    assert bool(backbone_of(network).trainable_weights) is not frozen


def test_weights_file_of_another_backbone_is_refused(mobile_weights: Path) -> None:
    from captune.model.backbones import WeightsError

    config = ImageConfig(backbone="MobileNetV3Large", side=32, weights=str(mobile_weights))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        built(ModelConfig(image=config))


def test_weights_are_left_alone_where_the_caller_fills_them_in() -> None:
    config = ImageConfig(backbone="MobileNetV3Small", side=32, weights="/nowhere/x.weights.h5", units=4)
    assert built(ModelConfig(image=config), load_weights=False).count_params() > 0


@pytest.mark.soak
def test_efficientnet_b0_sees_pixels_as_keras_has_it_and_its_bundle_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its published weights hold deviations in the place of variances, and Keras adds a layer only with them."""
    import keras
    from keras.src.utils import file_utils

    from captune.model.bundle import Bundle
    from captune.model.rule import DecisionRule

    source = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    (layer,) = (layer for layer in source.layers if isinstance(layer, keras.layers.Normalization))
    layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
    source.save_weights(tmp_path / "b0.weights.h5")
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(tmp_path / "b0.weights.h5"))
    reference = keras.applications.EfficientNetB0(include_top=False, weights="imagenet", input_shape=(32, 32, 3))
    expected = np.array(reference(PIXELS.astype(np.float32))).mean(axis=(1, 2))
    nearly = 1e-3 * float(np.abs(expected).max())

    image = ImageConfig(backbone="EfficientNetB0", side=32, weights="imagenet", units=0)
    config = ModelConfig(image=image, num_labels=3)
    network = built(config)
    both = keras.Model(network.inputs, [network.get_layer("image_pooling").output, network.output])
    features, before = both.predict_on_batch({"image": PIXELS})
    assert features == pytest.approx(expected, abs=nearly)
    Bundle(network, config, DecisionRule(0.5), (1, 2, 3), ("a", "b", "c"), None).save(tmp_path / "bundle")
    assert (probabilities(Bundle.load(tmp_path / "bundle").network) == before).all()


# Pixels


@pytest.mark.parametrize(
    ("backbone", "module"), [("ResNet50", "resnet"), ("VGG16", "vgg16"), ("DenseNet121", "densenet")]
)
def test_pixels_are_scaled_as_the_backbones_imagenet_weights_expect(backbone: Any, module: str) -> None:
    import keras

    from captune.model.image_encoder import _scaled

    pixels = keras.Input((32, 32, 3), dtype="uint8")
    scaling = keras.Model(pixels, _scaled(pixels, ImageConfig(backbone=backbone, side=32)))
    expected = getattr(keras.applications, module).preprocess_input(PIXELS.astype(np.float32))
    assert np.array(scaling(PIXELS)) == pytest.approx(np.array(expected), abs=1e-3)


@pytest.mark.parametrize("backbone", sorted(name for name in BACKBONES if BACKBONES[name].scaling == "included"))
@pytest.mark.parametrize("scaling", ["backbone", "unit"])
def test_backbone_that_scales_by_itself_gets_the_pixels_untouched(backbone: Any, scaling: Any) -> None:
    import keras

    from captune.model.image_encoder import _scaled

    pixels = keras.Input((32, 32, 3), dtype="uint8")
    model = keras.Model(pixels, _scaled(pixels, ImageConfig(backbone=backbone, side=32, scaling=scaling)))
    assert (np.array(model(PIXELS)) == PIXELS).all()


def test_unit_scaling_divides_by_255() -> None:
    import keras

    from captune.model.image_encoder import _scaled

    pixels = keras.Input((32, 32, 3), dtype="uint8")
    model = keras.Model(pixels, _scaled(pixels, ImageConfig(backbone="ResNet50", side=32, scaling="unit")))
    assert np.array(model(PIXELS)) == pytest.approx(PIXELS / 255, abs=1e-6)


def test_larger_pictures_are_reduced_for_the_backbone_and_smaller_ones_are_not() -> None:
    """Of one colour a picture is the same at every side."""
    small = ModelConfig(image=IMAGE.model_copy(update={"side": 16}), num_labels=7)
    reducing = ModelConfig(image=IMAGE.model_copy(update={"max_side": 16}), num_labels=7)
    of_small, of_reducing = built(small), built(reducing)
    of_reducing.set_weights(of_small.get_weights())
    colours = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 3), np.uint8)
    expected = of_small.predict_on_batch({"image": np.tile(colours, (1, 16, 16, 1))})
    assert of_reducing.predict_on_batch({"image": np.tile(colours, (1, 32, 32, 1))}) == pytest.approx(
        expected, abs=1e-5
    )
    plain, generous = built(ModelConfig(image=IMAGE, num_labels=7)), IMAGE.model_copy(update={"max_side": 32})
    names = [layer.name for layer in plain.layers]
    assert [layer.name for layer in built(ModelConfig(image=generous, num_labels=7)).layers] == names


def test_reduced_pictures_are_averaged_not_sampled() -> None:
    import keras

    from captune.model.image_encoder import features

    pixels = keras.Input((32, 32, 3), dtype="uint8")
    reducing = features(pixels, IMAGE.model_copy(update={"max_side": 16}), load_weights=False)
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, ::2] = 200
    layer = keras.Model(pixels, reducing).get_layer("image_resizing")
    assert np.asarray(layer(stripes.astype("float32")))[:, 2:-2] == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("sides", "seen"), [({"min_side": 48}, 48), ({"min_side": 48, "max_side": 40}, 40)])
def test_smaller_pictures_are_enlarged_for_the_backbone(sides: dict[str, int], seen: int) -> None:
    import keras

    from captune.model.image_encoder import features

    config = IMAGE.model_copy(update=sides)
    assert config.seen_side == seen and IMAGE.model_copy(update={"min_side": 32}).seen_side == 32
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    layer = keras.Model(pixels, features(pixels, config, load_weights=False)).get_layer("image_resizing")
    slope = np.broadcast_to(np.arange(32, dtype="float32")[:, None, None] * 8, (1, 32, 32, 3))
    between = (np.arange(seen) + 0.5) / seen * 32 - 0.5  # places of its rows among those of the picture
    expected = np.broadcast_to(between.clip(0, 31)[:, None, None] * 8, (1, seen, seen, 3))
    assert np.asarray(layer(slope)) == pytest.approx(expected, abs=1e-3)


# Files


@pytest.mark.parametrize(
    "config",
    [
        *(ModelConfig(text=text(encoder), num_labels=7) for encoder in ENCODERS),
        ModelConfig(image=IMAGE.model_copy(update={"pooling": "both"}), text=text(), fusion="gated", head_units=3),
        ModelConfig(image=IMAGE.model_copy(update={"pooling": "max", "units": 0}), num_labels=7),
        ModelConfig(image=ImageConfig(backbone="MobileNetV3Small", side=32, units=4), num_labels=7),
        ModelConfig(image=ImageConfig(backbone="VGG16", side=32, units=4), num_labels=7),
        ModelConfig(image=IMAGE.model_copy(update={"max_side": 16}), num_labels=7),
    ],
)
def test_keras_file_loads_without_our_code_and_predicts_the_same(tmp_path: Path, config: ModelConfig) -> None:
    import keras

    network = built(config)
    network.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras", compile=False, safe_mode=True)
    assert (probabilities(loaded) == probabilities(network)).all()
    for layer in network._flatten_layers():
        assert type(layer).__module__.startswith("keras"), layer
