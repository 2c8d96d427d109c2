"""Text towers in BERT's shape: of built-in layers, as large as predicted, with the weights of their folders."""

import json
import math
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from text_towers import write_tower

from captune.model.backbones import WEIGHTS_FOLDER, WeightsError
from captune.model.config import ModelConfig, TextConfig
from captune.model.layout import STORAGES
from captune.model.size import Contents, size
from captune.model.text_towers import TowerOnData, TransformerShape, variables
from captune.model.transformer_weights import check_text_tower, read_text_tower
from captune.model.transformers import weights_folder

CAPTIONS = ["a dog runs over the wet grass", "two cats on a bench"]
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tower(tmp_path_factory.mktemp("towers") / "small", CAPTIONS)


def bound(folder: Path, *, pieces: int = 30, longest: int = 12, **settings: Any) -> TextConfig:
    text = TextConfig(encoder="transformer", weights=str(folder), dense=0, **settings)
    return TowerOnData(TransformerShape.read(folder), pieces, longest).bound(text)


# A second implementation: BERT by hand, from the names and axes of its own file, one caption at a time.


def normalised(x: Array, values: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return centred / deviation * values[f"{name}.weight"] + values[f"{name}.bias"]


def linear(x: Array, values: dict[str, Array], name: str) -> Array:
    return np.einsum("ti,oi->to", x, values[f"{name}.weight"]) + values[f"{name}.bias"]


def bert(values: dict[str, Array], ids: list[int], heads: int, layers: int) -> Array:
    """(pieces, width) of one caption without padding, by ids of the whole vocabulary."""
    x = values["embeddings.word_embeddings.weight"][ids]
    x = x + values["embeddings.token_type_embeddings.weight"][[0] * len(ids)]
    x = normalised(x + values["embeddings.position_embeddings.weight"][: len(ids)], values, "embeddings.LayerNorm")
    for number in range(layers):
        name = f"encoder.layer.{number}"
        query, key, value = (linear(x, values, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        size = x.shape[1] // heads
        mixed = np.zeros_like(x)
        for head in range(heads):
            columns = slice(head * size, (head + 1) * size)
            scores = query[:, columns] @ key[:, columns].T / math.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, columns] = weights / weights.sum(-1, keepdims=True) @ value[:, columns]
        attended = linear(mixed, values, f"{name}.attention.output.dense")
        x = normalised(x + attended, values, f"{name}.attention.output.LayerNorm")
        inner = linear(x, values, f"{name}.intermediate.dense")
        gelu = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = normalised(x + linear(gelu, values, f"{name}.output.dense"), values, f"{name}.output.LayerNorm")
    return x


def tower_of(config: TextConfig, rows: list[int]) -> Any:
    """The features alone."""
    import keras

    from captune.model.text_tower import features

    tokens = keras.Input((config.max_tokens,), dtype="int32", name="caption")
    return keras.Model(tokens, features(tokens, config, load_weights=True, pieces=rows))


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "pooling"), [(1, "average"), (2, "max"), (2, "both")])
def test_features_are_those_of_a_second_implementation(folder: Path, layers: int, pooling: Any) -> None:
    config = bound(folder, layers=layers, pooling=pooling)
    rows = random.Random(0).sample(range(40), 30)
    captions = [[2, 7, 9, 11, 3], [2, 4, 3], [2, *range(4, 14)], [2, 4, 4, 4, 3]]
    ids = np.zeros((5, 12), np.int32)
    for row, codes in zip(ids, captions, strict=False):
        row[: len(codes)] = codes
    given = tower_of(config, rows).predict(ids, verbose=0)
    values = load_file(folder / "model.safetensors")
    for answer, codes in zip(given, captions, strict=False):
        by_piece = bert(values, [rows[code] for code in codes], heads=2, layers=layers)
        parts = {"average": [by_piece.mean(0)], "max": [by_piece.max(0)]}
        parts["both"] = parts["average"] + parts["max"]
        assert np.allclose(answer, np.concatenate(parts[pooling]), atol=1e-4)
    assert not given[4].any()  # a caption of nothing


@pytest.mark.slow
def test_padding_and_what_a_batch_is_cut_to_change_nothing(folder: Path) -> None:
    import keras

    from captune.model.views import with_captions_cut

    config = bound(folder)
    tower = tower_of(config, list(range(30)))
    ids = np.zeros((2, 12), np.int32)
    ids[0, :4], ids[1, :3] = [2, 5, 6, 3], [2, 8, 3]
    whole = tower.predict(ids, verbose=0)
    cut = with_captions_cut(keras.Model({"caption": tower.input}, tower.output))
    assert np.allclose(cut.predict({"caption": ids}, verbose=0), whole, atol=1e-6)


def random_text(draw: random.Random, storage: Any) -> ModelConfig:
    heads = draw.choice([1, 2, 3, 4])
    text = TextConfig(
        encoder="transformer",
        weights="folder",
        frozen=draw.choice([True, False]),
        layers=draw.randint(1, 3),
        heads=heads,
        embedding=heads * draw.choice([1, 2, 3, 5]),
        units=draw.choice([1, 2, 5, 33]),
        vocabulary_size=draw.choice([5, 6, draw.randint(7, 400)]),
        max_tokens=draw.choice([3, 4, 17]),
        pooling=draw.choice(["average", "max", "both"]),
        dense=draw.choice([0, 1, 7]),
        wide=draw.choice([True, False]),
    )
    return ModelConfig(text=text, head_units=draw.choice([0, 5]), num_labels=draw.choice([1, 3, 6]), storage=storage)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_size_is_that_of_the_network_in_every_storage(seed: int) -> None:
    from captune.model.bundle import named_weights, stored
    from captune.model.classifier import build

    draw = random.Random(seed)
    storage = list(STORAGES)[seed % len(STORAGES)]
    config = random_text(draw, storage)
    network = build(config, load_weights=False)
    predicted = size(config)
    assert predicted.parameters == network.count_params()
    assert predicted.frozen == sum(int(np.prod(weight.shape)) for weight in network.non_trainable_weights)
    assert predicted.weights_bytes == sum(tensor.nbytes for tensor in stored(network, storage).values())
    assert config.text is not None
    shapes = {name: tuple(weight.shape) for name, weight in named_weights(network)}
    assert dict(variables(config.text)).items() <= shapes.items()


@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGES)
def test_bundle_has_the_predicted_bytes_and_answers_without_the_folder(
    folder: Path, tmp_path: Path, storage: Any
) -> None:
    pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")
    from captune.data_prep.pieces import Pieces, PieceSettings
    from captune.model.bundle import Bundle, measured_bytes
    from captune.model.classifier import build
    from captune.model.rule import DecisionRule
    from captune.model.training import put_through
    from captune.tuner.winner.predict import probabilities

    words = tuple(f"piece{number}" for number in range(26))
    config = ModelConfig(text=bound(folder, frozen=True), num_labels=3, storage=storage)
    network = build(config, pieces=list(range(30)))
    put_through(network, storage)
    pieces = Pieces(words, PieceSettings())
    bundle = Bundle(network, config, DecisionRule(0.5), (1, 2, 3), ("a", "b", "c"), pieces.to_json())
    bundle.save(tmp_path / "bundle")
    assert config.text is not None
    predicted = size(config, Contents.of((1, 2, 3), ("a", "b", "c"), None, {config.text.weights: words}))
    measured = measured_bytes(tmp_path / "bundle")
    assert 0 <= predicted.bundle_bytes - measured <= 512
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.config.text is not None and loaded.config.text.weights == "none"
    captions = ["piece3 piece4", "", "nothing known"]
    assert np.array_equal(probabilities(loaded, captions, None), probabilities(bundle, captions, None))


@pytest.mark.soak
@pytest.mark.slow
def test_keras_file_is_read_without_captune(folder: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    from captune.model.classifier import build

    network = build(ModelConfig(text=bound(folder, pooling="both"), num_labels=3), pieces=list(range(30)))
    network.save(tmp_path / "n.keras")
    ids = np.zeros((2, 12), np.int32)
    ids[0, :4] = [2, 5, 6, 3]
    np.save(tmp_path / "ids.npy", ids)
    code = (
        "import keras, numpy as np, sys; sys.modules['captune'] = None; n = keras.saving.load_model('n.keras');"
        "np.save('out.npy', n.predict({'caption': np.load('ids.npy')}, verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert np.allclose(np.load(tmp_path / "out.npy"), network.predict({"caption": ids}, verbose=0), atol=1e-6)


def test_frozen_tower_counts_as_frozen_and_its_head_does_not(folder: Path) -> None:
    config = bound(folder, frozen=True)
    whole = sum(math.prod(shape) for _, shape in variables(config))
    totals = size(ModelConfig(text=config, num_labels=3))
    assert totals.frozen == whole and totals.trainable == 8 * 3 + 3


def test_tower_is_bound_to_its_folder_and_the_data(folder: Path) -> None:
    text = bound(folder, pieces=23, longest=99, layers=9, vocabulary_size=10_000, max_tokens=512)
    assert (text.embedding, text.units, text.heads, text.layers) == (8, 12, 2, 2)
    assert (text.vocabulary_size, text.max_tokens) == (23, 40)  # of 40 positions


def test_tower_saved_with_a_head_is_read(folder: Path, tmp_path: Path) -> None:
    values = load_file(folder / "model.safetensors")
    save_file({f"bert.{name}": value for name, value in values.items()}, tmp_path / "model.safetensors")
    config = bound(folder)
    ours, theirs = (read_text_tower(each, config, list(range(30))) for each in (folder, tmp_path))
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_folder_is_looked_for_where_weights_lie(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEIGHTS_FOLDER, str(folder.parent))
    assert weights_folder("small", "text") == folder
    with pytest.raises(WeightsError, match=r"config\.json, model\.safetensors.*nothing is fetched"):
        weights_folder(str(tmp_path / "nowhere"), "text")


def faulty(folder: Path, tmp_path: Path, fault: str) -> Path:
    """A copy of the folder with something wrong."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content, values = json.loads((copy / "config.json").read_text()), load_file(copy / "model.safetensors")
    match fault:
        case "nothing":
            (copy / "config.json").unlink()
        case "architecture":
            content["model_type"] = "roberta"
        case "activation":
            content["hidden_act"] = "relu"
        case "heads":
            content["num_attention_heads"] = 3
        case "width":
            content["hidden_size"] = "wide"
        case "short":
            content["max_position_embeddings"] = 2
        case "pickle alone":
            (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
        case "pickle":
            (copy / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
        case "missing":
            del values["encoder.layer.1.output.dense.bias"]
        case "shape":
            values["encoder.layer.1.output.dense.bias"] = np.zeros(3, np.float32)
        case "number":
            values["encoder.layer.1.output.dense.bias"][0] = np.nan
        case "int8":
            values["encoder.layer.1.output.dense.bias"] = np.zeros(8, np.int8)
    if fault not in ("nothing",):
        (copy / "config.json").write_text(json.dumps(content))
    if fault in ("missing", "shape", "number", "int8"):
        save_file(values, copy / "model.safetensors")
    return copy


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("nothing", r"is no text tower: .*config\.json"),
        ("architecture", "model_type 'roberta', where BERT has 'bert' and CLIP 'clip'"),
        ("activation", "hidden_act 'relu'"),
        ("heads", "3 heads, which do not divide 8"),
        ("width", "hidden_size 'wide'"),
        ("pickle alone", r"no model\.safetensors; pytorch_model\.bin is a pickle, which is never read"),
        ("pickle", "is no safetensors file"),
        ("missing", r"lacks encoder\.layer\.1\.output\.dense\.bias"),
        ("shape", r"encoder\.layer\.1\.output\.dense\.bias is \(3,\), and \(8,\) by the files"),
        ("number", "holds what is no number"),
        ("int8", r"encoder\.layer\.1\.output\.dense\.bias holds I8; save it as float32"),
        ("short", "max_position_embeddings 2, a number from 3 to 65536 is needed"),
    ],
)
def test_faulty_folder_is_refused_in_one_line(folder: Path, tmp_path: Path, fault: str, reason: str) -> None:
    copy = faulty(folder, tmp_path, fault)
    with pytest.raises(WeightsError, match=reason) as caught:
        check_text_tower(copy, TransformerShape.read(copy), 30)
        read_text_tower(copy, bound(copy), list(range(30)))
    assert "\n" not in str(caught.value)


def test_table_without_a_row_for_each_piece_is_refused(folder: Path) -> None:
    shape = TransformerShape.read(folder)
    rows = len(load_file(folder / "model.safetensors")["embeddings.word_embeddings.weight"])
    check_text_tower(folder, shape, rows)
    with pytest.raises(WeightsError, match=rf"is \({rows}, 8\), and \({rows + 1}, 8\) at least by the files"):
        check_text_tower(folder, shape, rows + 1)


@pytest.mark.slow
def test_real_sentence_vectors_are_those_of_a_second_implementation() -> None:
    """all-MiniLM-L6-v2: average over the pieces, as it was trained for."""
    tower = Path(os.environ.get("CAPTUNE_TEST_WEIGHTS", "nowhere")) / "all-MiniLM-L6-v2"
    if not tower.is_dir():
        pytest.skip("CAPTUNE_TEST_WEIGHTS names no folder with all-MiniLM-L6-v2")
    pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")
    from captune.data_prep.pieces import MARKS, read_vocabulary

    places, pieces = read_vocabulary(tower)
    rows = [places[text] for text in (*MARKS, *pieces.pieces)]
    captions = [*CAPTIONS, "a man riding a wave on top of a surfboard", "Two giraffes, one zebra: a zoo."]
    ids = pieces.encode(captions, 20)
    config = bound(tower, pieces=pieces.size, longest=20, vocabulary_size=100_000)
    given = tower_of(config, rows).predict(ids, verbose=0)
    values = load_file(tower / "model.safetensors")
    for answer, codes in zip(given, ids, strict=True):
        by_piece = bert(values, [rows[code] for code in codes if code], heads=config.heads, layers=config.layers)
        assert np.allclose(answer, by_piece.mean(0), atol=1e-4)


@pytest.mark.slow
def test_tower_that_is_not_pretrained_has_its_shape_alone(folder: Path) -> None:
    rows = list(range(30))
    loaded, drawn = tower_of(bound(folder), rows), tower_of(bound(folder, pretrained=False), rows)
    assert [weight.shape for weight in loaded.weights] == [weight.shape for weight in drawn.weights]
    kernels = [tower.get_layer("text_1_query").kernel.numpy() for tower in (loaded, drawn)]
    assert not np.allclose(*kernels)


def test_frozen_tower_that_is_not_pretrained_is_refused(folder: Path) -> None:
    with pytest.raises(ValidationError, match=r"needs text\.pretrained: true"):
        bound(folder, pretrained=False, frozen=True)
