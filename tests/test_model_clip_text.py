"""Text towers in CLIP's shape: of built-in layers, with the weights of their folders, refused where they are others."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_towers import write_clip
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from test_model_text_tower import CAPTIONS, bound, linear, tower_of

from captune.model.backbones import WeightsError
from captune.model.config import ModelConfig
from captune.model.size import size
from captune.model.text_towers import TransformerShape
from captune.model.transformer_weights import check_text_tower, read_text_tower

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("towers") / "clip", CAPTIONS)


def normalised(x: Array, values: dict[str, Array], name: str) -> Array:
    deviation = np.sqrt(((x - x.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) / deviation * values[f"{name}.weight"] + values[f"{name}.bias"]


def clip(values: dict[str, Array], ids: list[int], heads: int, layers: int) -> Array:
    """A second implementation: (pieces, width) of one caption without padding, by the names and axes of its file."""
    x = values["text_model.embeddings.token_embedding.weight"][ids]
    x = x + values["text_model.embeddings.position_embedding.weight"][: len(ids)]
    for number in range(layers):
        name = f"text_model.encoder.layers.{number}"
        read = normalised(x, values, f"{name}.layer_norm1")
        query, key, value = (linear(read, values, f"{name}.self_attn.{part}_proj") for part in "qkv")
        mixed, each = np.zeros_like(x), x.shape[1] // heads
        for place in range(len(ids)):  # of those up to itself
            for head in range(heads):
                columns = slice(head * each, (head + 1) * each)
                scores = key[: place + 1, columns] @ query[place, columns] / each**0.5
                weights = np.exp(scores - scores.max())
                mixed[place, columns] = weights / weights.sum() @ value[: place + 1, columns]
        x = x + linear(mixed, values, f"{name}.self_attn.out_proj")
        inner = linear(normalised(x, values, f"{name}.layer_norm2"), values, f"{name}.mlp.fc1")
        x = x + linear(inner / (1 + np.exp(-1.702 * inner)), values, f"{name}.mlp.fc2")
    return normalised(x, values, "text_model.final_layer_norm")


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "pooling"), [(2, "end"), (1, "both")])
def test_features_are_those_of_a_second_implementation(folder: Path, layers: int, pooling: Any) -> None:
    import keras

    from captune.model.views import with_captions_cut

    config = bound(folder, layers=layers, pooling=pooling)
    assert (config.family, config.embedding, config.units, config.heads) == ("clip", 8, 12, 2)
    rows = random.Random(0).sample(range(40), 30)
    captions = [[2, 7, 9, 11, 3], [2, 4, 3], [2, *range(4, 14), 3]]
    ids = np.zeros((4, 12), np.int32)
    for row, codes in zip(ids, captions, strict=False):
        row[: len(codes)] = codes
    tower = tower_of(config, rows)
    given = tower.predict(ids, verbose=0)
    values = load_file(folder / "model.safetensors")
    for answer, codes in zip(given, captions, strict=False):
        by_piece = clip(values, [rows[code] for code in codes], heads=2, layers=layers)
        expected = by_piece[-1] if pooling == "end" else np.concatenate([by_piece.mean(0), by_piece.max(0)])
        assert np.allclose(answer, expected, atol=1e-4)
    assert not given[3].any()  # a caption of nothing
    cut = with_captions_cut(keras.Model({"caption": tower.input}, tower.output))
    assert np.allclose(cut.predict({"caption": ids[:2]}, verbose=0), given[:2], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_bundle_has_the_predicted_bytes_and_answers_without_the_folder(
    folder: Path, tmp_path: Path, storage: Any
) -> None:
    pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")
    from captune.data_prep.pieces import MARKS, read_vocabulary
    from captune.model.bundle import Bundle, measured_bytes
    from captune.model.classifier import build
    from captune.model.rule import DecisionRule
    from captune.model.size import Contents
    from captune.model.training import put_through
    from captune.tuner.winner.predict import probabilities

    places, pieces = read_vocabulary(folder)
    text = bound(folder, pieces=pieces.size, frozen=True, pooling="end", vocabulary_size=1000)
    config = ModelConfig(text=text, num_labels=3, storage=storage)
    network = build(config, pieces=[places[text] for text in (*MARKS, *pieces.pieces)])
    put_through(network, storage)
    bundle = Bundle(network, config, DecisionRule(0.5), (1, 2, 3), ("a", "b", "c"), pieces.to_json())
    bundle.save(tmp_path / "bundle")
    predicted = size(config, Contents.of((1, 2, 3), ("a", "b", "c"), None, {text.weights: pieces.pieces}))
    assert predicted.parameters == network.count_params()
    assert 0 <= predicted.bundle_bytes - measured_bytes(tmp_path / "bundle") <= 512
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.config.text is not None and loaded.config.text.family == "clip"
    captions = ["A dog, wet!", "", "\u2603", "two cats on a bench"]
    assert np.array_equal(probabilities(loaded, captions, None), probabilities(bundle, captions, None))


def test_numbers_that_the_library_leaves_out_are_those_of_its_smallest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip_text_model", "num_hidden_layers": 6}')
    assert TransformerShape.read(tmp_path) == TransformerShape(6, 512, 8, 2048, 77, "clip")
    (tmp_path / "config.json").write_text('{"model_type": "clip", "vision_config": {"hidden_size": 1024}}')
    assert TransformerShape.read(tmp_path) == TransformerShape(12, 512, 8, 2048, 77, "clip")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("siglip", "model_type 'siglip', where BERT has 'bert' and CLIP 'clip'"),
        ("gelu", "hidden_act 'gelu', where CLIP has 'quick_gelu'"),
        ("text", r"text_config .*no object"),
        ("missing", r"lacks text_model\.final_layer_norm\.bias"),
        ("shape", r"text_model\.encoder\.layers\.1\.mlp\.fc1\.bias is \(3,\), and \(12,\) by the files"),
    ],
)
def test_faulty_folder_is_refused_in_one_line(folder: Path, tmp_path: Path, fault: str, reason: str) -> None:
    content, values = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    match fault:
        case "siglip":
            content["model_type"] = "siglip"
        case "gelu":
            content["text_config"]["hidden_act"] = "gelu"
        case "text":
            content["text_config"] = ["hidden_size"]
        case "missing":
            del values["text_model.final_layer_norm.bias"]
        case "shape":
            values["text_model.encoder.layers.1.mlp.fc1.bias"] = np.zeros(3, np.float32)
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file(values, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=reason) as caught:
        check_text_tower(tmp_path, TransformerShape.read(tmp_path), 30)
        read_text_tower(tmp_path, bound(tmp_path), list(range(30)))
    assert "\n" not in str(caught.value)


def test_text_tower_of_vit_b_16_is_counted_as_published() -> None:
    text = bound_to_figures(TransformerShape(12, 512, 8, 2048, 77, "clip"), 49_408)
    # 63,428,096 with the projection of 512 x 512, which is not read; two marks are rows of their own.
    assert size(ModelConfig(text=text, num_labels=1)).parameters - 513 == 63_428_096 - 512 * 512 + 2 * 512


def bound_to_figures(shape: TransformerShape, pieces: int) -> Any:
    from captune.model.config import TextConfig
    from captune.model.text_towers import TowerOnData

    text = TextConfig(encoder="transformer", dense=0, vocabulary_size=100_000, max_tokens=77)
    return TowerOnData(shape, pieces + 2, 77).bound(text)
