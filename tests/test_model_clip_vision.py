"""CLIP's tower of pictures: of built-in layers, with the weights of its folder, refused where they are others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_towers import write_clip
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from test_model_clip_text import normalised
from test_model_text_tower import CAPTIONS, linear

from captune.model.backbones import WeightsError
from captune.model.config import ImageConfig, ModelConfig, TextConfig
from captune.model.size import size
from captune.model.transformer_weights import check_vision_tower, read_vision_tower
from captune.model.vision_towers import VisionShape

Array = NDArray[np.float32]
MEANS, DEVIATIONS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("towers") / "clip", CAPTIONS)


def bound(folder: Path, **settings: Any) -> ImageConfig:
    image = ImageConfig(**{"backbone": "transformer", "weights": str(folder), "side": 20, "units": 0, **settings})
    return VisionShape.read(folder).bound(image)


def clip(values: dict[str, Array], picture: NDArray[np.uint8], layers: int) -> Array:
    """A second implementation: (1 + patches, width) of one picture, by the names and axes of its file."""
    pixels = (picture / 255 - np.array(MEANS)) / np.array(DEVIATIONS)
    kernel = values["vision_model.embeddings.patch_embedding.weight"]
    patch, grid = kernel.shape[-1], picture.shape[0] // kernel.shape[-1]
    rows = [values["vision_model.embeddings.class_embedding"]]
    for down in range(grid):
        for right in range(grid):
            seen = pixels[down * patch : (down + 1) * patch, right * patch : (right + 1) * patch]
            rows.append((kernel * seen.transpose(2, 0, 1)).sum((1, 2, 3)))
    x = np.array(rows) + values["vision_model.embeddings.position_embedding.weight"]
    x = normalised(x, values, "vision_model.pre_layrnorm")
    for number in range(layers):
        name, each = f"vision_model.encoder.layers.{number}", x.shape[1] // 2
        read = normalised(x, values, f"{name}.layer_norm1")
        query, key, value = (linear(read, values, f"{name}.self_attn.{part}_proj") for part in "qkv")
        mixed = np.zeros_like(x)
        for columns in (slice(0, each), slice(each, None)):
            scores = query[:, columns] @ key[:, columns].T / each**0.5
            weights = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, columns] = weights / weights.sum(1, keepdims=True) @ value[:, columns]
        x = x + linear(mixed, values, f"{name}.self_attn.out_proj")
        inner = linear(normalised(x, values, f"{name}.layer_norm2"), values, f"{name}.mlp.fc1")
        x = x + linear(inner / (1 + np.exp(-1.702 * inner)), values, f"{name}.mlp.fc2")
    return normalised(x, values, "vision_model.post_layernorm")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "head", "pooling"), [(2, "pooled", "class_token"), (1, "pooled", "both"), (2, "positions", "average")]
)
def test_features_are_those_of_a_second_implementation(folder: Path, layers: int, head: Any, pooling: Any) -> None:
    import keras

    from captune.model import image_encoder

    config = bound(folder, layers=layers, head=head, pooling=pooling)
    assert (config.channels, config.hidden, config.heads, config.patch, config.patches) == (8, 12, 2, 6, 3)
    pixels = keras.Input((20, 20, 3), dtype="uint8")
    tower = keras.Model(pixels, image_encoder.features(pixels, config, load_weights=True))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)
    values = load_file(folder / "model.safetensors")
    for answer, picture in zip(tower.predict(pictures, verbose=0), pictures, strict=True):
        token, *patches = clip(values, picture, layers)
        by_patch = np.array(patches)
        expected = np.concatenate([by_patch.mean(0), by_patch.max(0)]) if pooling == "both" else token
        assert np.allclose(answer, by_patch.reshape(3, 3, 8) if head == "positions" else expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_bundle_has_the_predicted_bytes_and_answers_without_the_folder(
    folder: Path, tmp_path: Path, storage: Any
) -> None:
    from captune.model.bundle import Bundle, measured_bytes
    from captune.model.classifier import build
    from captune.model.rule import DecisionRule
    from captune.model.size import Contents
    from captune.model.training import put_through

    config = ModelConfig(
        image=bound(folder, frozen=True, pooling="class_token", side=24, max_side=20), num_labels=3, storage=storage
    )
    network = build(config)
    assert not network.get_layer("image_1_query").trainable
    put_through(network, storage)
    bundle = Bundle(network, config, DecisionRule(0.5), (1, 2, 3), ("a", "b", "c"), None)
    bundle.save(tmp_path / "bundle")
    predicted = size(config, Contents.of((1, 2, 3), ("a", "b", "c"), None))
    assert predicted.parameters == network.count_params()
    assert predicted.frozen == predicted.parameters - 8 * 3 - 3
    assert 0 <= predicted.bundle_bytes - measured_bytes(tmp_path / "bundle") <= 512
    pictures = {"image": np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)}
    answers = Bundle.load(tmp_path / "bundle").network.predict(pictures, verbose=0)
    assert np.array_equal(answers, network.predict(pictures, verbose=0))


@pytest.mark.slow
def test_places_of_another_grid_lie_between_those_of_the_tower(folder: Path, tmp_path: Path) -> None:
    own = read_vision_tower(folder, bound(folder))["image_places/embeddings"]
    assert own.shape == (10, 8)
    finer = read_vision_tower(folder, bound(folder, side=36))["image_places/embeddings"]
    assert finer.shape == (37, 8) and np.array_equal(finer[0], own[0])
    assert np.allclose(finer[1:].mean(0), own[1:].mean(0), atol=0.1)  # of the whole grid they hardly move
    values = load_file(folder / "model.safetensors")
    by_column = np.tile(np.arange(3, dtype=np.float32), 3)  # rows of three places alike
    values["vision_model.embeddings.position_embedding.weight"] = np.tile(np.append(7, by_column)[:, None], (1, 8))
    save_file(values, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    places = read_vision_tower(tmp_path, bound(tmp_path, side=36))["image_places/embeddings"]
    rows = places[1:, 0].reshape(6, 6)
    assert np.allclose(rows, rows[0], atol=1e-5) and (np.diff(rows[0]) > 0).all() and places[0, 0] == 7


def test_numbers_that_the_library_leaves_out_are_those_of_its_smallest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model", "patch_size": 16}')
    assert VisionShape.read(tmp_path) == VisionShape(12, 768, 12, 3072, 16, 224)
    (tmp_path / "config.json").write_text('{"model_type": "clip", "text_config": {"hidden_size": 1024}}')
    assert VisionShape.read(tmp_path) == VisionShape(12, 768, 12, 3072, 32, 224)


def test_all_layers_are_kept_unless_fewer_are_asked_for() -> None:
    large = VisionShape(24, 1024, 16, 4096, 14, 224)
    assert large.bound(ImageConfig(backbone="transformer")).layers == 24
    assert large.bound(ImageConfig(backbone="transformer", layers=5)).layers == 5


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("bert", "model_type 'bert', where CLIP has 'clip'"),
        ("gelu", "hidden_act 'gelu', where CLIP has 'quick_gelu'"),
        ("heads", "has 3 heads, which do not divide 8 values"),
        ("none", "hidden_size None, a number from 1 to 4096 is needed"),
        ("large", "patch_size 128, a number from 1 to 64 is needed"),
        ("vision", r"vision_config .*no object"),
        ("missing", r"lacks vision_model\.post_layernorm\.bias"),
        ("shape", r"vision_model\.encoder\.layers\.1\.mlp\.fc1\.bias is \(3,\), and \(12,\) by the files"),
        (
            "patch",
            r"vision_model\.embeddings\.patch_embedding\.weight is \(8, 3, 5, 5\), and \(8, 3, 6, 6\)",
        ),
        ("places", r"vision_model\.embeddings\.position_embedding\.weight is \(9, 8\), and \(10, 8\) by the files"),
        ("no places", r"vision_model\.embeddings\.position_embedding\.weight is \(0, 8\), and \(10, 8\) by the files"),
        ("nan", r"vision_model\.embeddings\.class_embedding holds what is no number"),
    ],
)
def test_faulty_folder_is_refused_in_one_line(folder: Path, tmp_path: Path, fault: str, reason: str) -> None:
    content, values = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    before = "vision_model.embeddings"
    match fault:
        case "bert":
            content["model_type"] = "bert"
        case "gelu":
            content["vision_config"]["hidden_act"] = "gelu"
        case "heads":
            content["vision_config"]["num_attention_heads"] = 3
        case "none":
            content["vision_config"]["hidden_size"] = None
        case "large":
            content["vision_config"]["patch_size"] = 128
        case "vision":
            content["vision_config"] = ["hidden_size"]
        case "missing":
            del values["vision_model.post_layernorm.bias"]
        case "shape":
            values["vision_model.encoder.layers.1.mlp.fc1.bias"] = np.zeros(3, np.float32)
        case "patch":
            values[f"{before}.patch_embedding.weight"] = np.zeros((8, 3, 5, 5), np.float32)
        case "places":
            values[f"{before}.position_embedding.weight"] = np.zeros((9, 8), np.float32)
        case "no places":
            values[f"{before}.position_embedding.weight"] = np.zeros((0, 8), np.float32)
        case "nan":
            values[f"{before}.class_embedding"][0] = np.nan
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file(values, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=reason) as caught:
        check_vision_tower(tmp_path, VisionShape.read(tmp_path))
        read_vision_tower(tmp_path, bound(tmp_path))
    assert "\n" not in str(caught.value)


def test_pickle_is_never_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match="is a pickle, which is never read"):
        check_vision_tower(tmp_path, VisionShape.read(tmp_path))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"weights": "imagenet"}, "folder of a CLIP model"),
        ({"channels": 10, "heads": 3}, "3 heads do not divide 10"),
        ({"side": 31, "patch": 32}, "a side of at least 32"),
        ({"cut": "last_map"}, "ends at final"),
        ({"pooling": "class_token", "head": "positions"}, "class_token needs"),
        ({"pooling": "class_token", "backbone": "compact"}, "class_token needs"),
    ],
)
def test_impossible_transformer_is_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ImageConfig(**{"backbone": "transformer", **settings})


def test_towers_of_vit_b_are_counted_as_published() -> None:
    """With their projections, which are not read, they have 86,192,640 and 87,849,216 values."""
    for patch, published in ((16, 86_192_640 - 768 * 512), (32, 87_849_216 - 768 * 512)):
        image = VisionShape(12, 768, 12, 3072, patch, 224).bound(ImageConfig(backbone="transformer", units=0))
        counted = size(ModelConfig(image=image, num_labels=1, storage="int8"))
        assert counted.parameters - 769 == published
        assert 82 < counted.weights_bytes / 2**20 < 85


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["vision", "text"])
def test_litert_answers_as_the_network_does(tower: str, tmp_path: Path) -> None:
    """In float32: what int8 may differ by hides an axis that is joined wrongly."""
    from captune.model.classifier import build
    from captune.tuner.winner.formats.declarations import FORMATS

    for package in FORMATS["litert"].packages:
        pytest.importorskip(package, reason="pip install 'captune[litert]'")
    shape = {"layers": 2, "heads": 4}
    image = ImageConfig(backbone="transformer", side=32, patch=8, channels=32, hidden=48, **shape)
    text = TextConfig(encoder="transformer", vocabulary_size=40, max_tokens=9, embedding=32, units=48, **shape)
    config = ModelConfig(**({"image": image} if tower == "vision" else {"text": text}), num_labels=3)
    network, form = build(config), FORMATS["litert"].functions()
    draw = np.random.default_rng(0)
    rows = {"image": draw.integers(0, 256, (4, 32, 32, 3), np.uint8)}
    if tower == "text":
        rows = {"caption": draw.integers(1, 40, (4, 9), np.int32)}
    form.write(network, tmp_path / "x.tflite", "float32")
    answers = form.session(tmp_path / "x.tflite", 1)(rows)
    assert np.abs(answers - network.predict(rows, verbose=0)).max() < 1e-5
