"""Heads: their formulas, what they start from, files without code; networks whose parts add their logits."""

import json
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_config
from numpy.typing import NDArray

from captune.model.config import ImageConfig, ModelConfig, TextConfig, TrainConfig, TrialConfig
from captune.model.metrics import DecisionRule

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
SIDE, LABELS, WORDS, TOKENS = 32, 3, 12, 6
PIXELS = RNG.integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
CAPTIONS = np.array(
    [[5, 3, 9, 0, 0, 0], [1, 1, 0, 0, 0, 0], [2, 4, 6, 8, 7, 3], [0] * 6, [11, 10, 9, 8, 7, 0]], np.int32
)
IMAGE = ImageConfig(side=SIDE, width=4, stages=2, units=5)
TEXT = TextConfig(vocabulary_size=WORDS, max_tokens=TOKENS, embedding=4, units=5, dense=6)


def image(**changes: Any) -> ImageConfig:
    return IMAGE.model_copy(update=changes)


def text(**changes: Any) -> TextConfig:
    return TEXT.model_copy(update=changes)


def summed(**changes: Any) -> ModelConfig:
    settings = {"image": image(head="positions"), "text": TEXT, "fusion": "summed", "num_labels": LABELS}
    return ModelConfig(**{**settings, **changes})


def built(config: ModelConfig) -> Any:
    """The network with random weights, biases and tables too."""
    import keras

    from captune.model.classifier import build

    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    network = build(config, load_weights=False)
    for variable in network.trainable_weights:
        variable.assign(np.asarray(variable) + RNG.normal(0, 0.3, variable.shape))
    return network


def inputs_of(network: Any) -> dict[str, NDArray[Any]]:
    return {x.name: {"image": PIXELS, "caption": CAPTIONS}[x.name] for x in network.inputs}


def values(network: Any, *layers: str) -> list[NDArray[np.float32]]:
    """What layers give on five examples."""
    import keras

    outputs = {name: network.get_layer(name).output for name in layers}
    given = keras.Model(network.inputs, outputs).predict_on_batch(inputs_of(network))
    return [np.asarray(given[name]) for name in layers]


def logit(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.log(probabilities / (1 - probabilities))


# Positions


def test_positions_take_the_logarithm_of_the_mean_of_exponentials() -> None:
    network = built(ModelConfig(image=image(head="positions"), num_labels=LABELS))
    each, logits = values(network, "logits_map", "logits")
    assert each.shape == (5, 4, 4, LABELS)
    assert logits == pytest.approx(np.log(np.exp(each.astype(np.float64)).mean(axis=(1, 2))), abs=1e-5)
    assert logits == pytest.approx(logit(network.predict_on_batch(inputs_of(network))), abs=1e-4)


def test_queries_take_a_mean_that_each_label_weights_by_its_own_query() -> None:
    network = built(ModelConfig(image=image(head="queries", position_units=7), num_labels=LABELS))
    maps, each, logits = values(network, "image_positions", "logits_map", "logits")
    query = np.asarray(network.get_layer("logits_queries").kernel)[0, 0]
    products = np.exp(maps.reshape(5, 16, 7) @ query / np.sqrt(7))
    weights = products / products.sum(axis=1, keepdims=True)
    assert logits == pytest.approx((weights * each.reshape(5, 16, LABELS)).sum(axis=1), abs=1e-5)


@pytest.mark.parametrize("head", ["positions", "queries"])
def test_logit_lies_between_those_of_the_positions(head: Any) -> None:
    each, logits = values(built(ModelConfig(image=image(head=head), num_labels=LABELS)), "logits_map", "logits")
    assert (each.min(axis=(1, 2)) < logits).all() and (logits < each.max(axis=(1, 2))).all()


def test_large_logits_of_positions_stay_finite() -> None:
    network = built(ModelConfig(image=image(head="positions"), num_labels=LABELS))
    network.get_layer("logits_map").bias.assign(np.array([1e4, -1e4, 0], np.float32))
    assert np.isfinite(values(network, "logits")[0]).all()


def test_last_stage_without_its_maxima_has_four_times_the_positions_and_the_same_weights() -> None:
    coarse, fine = (
        built(ModelConfig(image=image(last_halving=halving), num_labels=LABELS)) for halving in (True, False)
    )
    assert [w.shape for w in coarse.weights] == [w.shape for w in fine.weights]
    assert "compact_2_halving" in {layer.name for layer in coarse.layers}
    assert "compact_2_halving" not in {layer.name for layer in fine.layers}
    assert fine.get_layer("image_pooling").input.shape[1:3] == (8, 8)


# Words


def test_wide_branch_adds_a_row_for_each_word_and_each_pair_and_nothing_for_padding() -> None:
    network = built(ModelConfig(text=text(wide=True, wide_buckets=5), num_labels=LABELS))
    logits, dense = values(network, "logits", "logits_dense")
    words = np.asarray(network.get_layer("logits_of_words").embeddings)
    pairs = np.asarray(network.get_layer("logits_of_pairs").embeddings)
    for row, caption in enumerate(CAPTIONS):
        tokens = [int(token) for token in caption if token]
        expected = sum((words[token] for token in tokens), np.zeros(LABELS))
        expected = expected + sum(
            (pairs[(first % 5 * 1021 + second) % 5] for first, second in pairwise(tokens)),
            np.zeros(LABELS),
        )
        assert logits[row] - dense[row] == pytest.approx(expected, abs=1e-5)


def test_order_of_words_matters_to_pairs_alone() -> None:
    def difference(buckets: int) -> float:
        network = built(ModelConfig(text=text(encoder="average", wide=True, wide_buckets=buckets), num_labels=LABELS))
        one, other = network.predict_on_batch({"caption": np.array([[3, 5, 7, 9, 2, 4], [4, 2, 9, 7, 5, 3]], np.int32)})
        return float(np.abs(one - other).max())

    assert difference(0) < 1e-6 < difference(101)


def test_pairs_of_the_largest_ids_keep_within_their_table() -> None:
    config = text(vocabulary_size=1_000_000, embedding=1, wide=True, wide_buckets=2**20)
    import keras

    from captune.model import heads

    tokens = keras.Input((4,), dtype="int32")
    network = keras.Model(tokens, heads.wide(tokens, config, 1))
    table = network.get_layer("logits_of_pairs")
    ids = keras.Model(tokens, table.input).predict_on_batch(np.array([[999_999, 999_998, 999_999, 0]], np.int32))
    expected = [
        (a % 2**20 * 1021 + b) % 2**20 for a, b in [(999_999, 999_998), (999_998, 999_999), (999_999, 0), (0, 0)]
    ]
    assert ids.tolist() == [expected]


@pytest.mark.parametrize("buckets", [0, 7])
def test_wide_branch_starts_at_nothing(buckets: int) -> None:
    from captune.model.classifier import build

    network = build(ModelConfig(text=text(wide=True, wide_buckets=buckets), num_labels=LABELS))
    logits, dense = values(network, "logits", "logits_dense")
    assert (logits == dense).all()


# Parts


@pytest.mark.parametrize(
    "config",
    [
        summed(),
        summed(image=image(head="pooled"), head_units=4),
        summed(image=image(head="queries"), text=text(wide=True)),
    ],
)
def test_logits_of_picture_caption_and_both_are_added_where_there_is_a_caption(config: ModelConfig) -> None:
    from captune.model.classifier import alone

    network = built(config)
    whole, *parts = values(network, "logits", "logits_of_image", "logits_of_caption", "logits_of_both")
    has_caption = CAPTIONS.any(axis=1)
    assert whole[has_caption] == pytest.approx(sum(parts)[has_caption], abs=1e-5)
    assert whole[~has_caption] == pytest.approx(parts[0][~has_caption], abs=1e-5)
    for part, name in zip(parts, ("image", "caption"), strict=False):
        own = alone(network, name).predict_on_batch({name: inputs_of(network)[name]})
        assert logit(own) == pytest.approx(part, abs=1e-4)
    for name, others in (("image", "caption"), ("caption", "image")):
        changed = {**inputs_of(network), others: inputs_of(network)[others][::-1]}
        import keras

        part = keras.Model(network.inputs, network.get_layer(f"logits_of_{name}").output)
        assert (part.predict_on_batch(changed) == part.predict_on_batch(inputs_of(network))).all()


def test_modality_dropout_drops_all_features_of_an_example_or_none() -> None:

    network = built(summed(modality_dropout=0.5))
    for layer, width in (("fusion_dropout_0", 5), ("fusion_dropout_1", 6)):
        features = RNG.uniform(1, 2, (200, width)).astype(np.float32)
        dropped = np.asarray(network.get_layer(layer)(features, training=True))
        gone = (dropped == 0).any(axis=1)
        assert 0.3 < gone.mean() < 0.7  # missed by chance once in 10**8 times
        assert (dropped[gone] == 0).all()
        assert dropped[~gone] == pytest.approx(2 * features[~gone])


def test_network_starts_at_the_prior() -> None:
    from captune.model.classifier import build, start_at
    from captune.model.losses import log_odds

    odds = log_odds([70, 20, 0], 100)
    assert 1 / (1 + np.exp(-odds)) == pytest.approx([0.7, 0.2, 0], abs=0.005)
    for config in (
        summed(),
        ModelConfig(text=text(wide=True), num_labels=LABELS),
        ModelConfig(text=TEXT, num_labels=3),
    ):
        network = build(config)
        for variable in network.trainable_weights:
            if variable.path.startswith("logits"):
                variable.assign(np.zeros(variable.shape))
        start_at(network, odds)
        assert values(network, "logits")[0] == pytest.approx(np.tile(odds, (5, 1)), abs=1e-5)
        assert not config.has_parts or values(network, "logits_of_both")[0][0] == pytest.approx(-odds, abs=1e-5)
        for name in {layer.name for layer in network.layers} & {"logits_of_image", "logits_of_caption"}:
            assert values(network, name)[0] == pytest.approx(np.tile(odds, (5, 1)), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_loss_of_the_parts_counts_as_it_is_weighed(share: float) -> None:
    import keras

    from captune.model.losses import make_loss, with_own

    targets, logits = RNG.integers(0, 2, (6, LABELS)).astype(np.float32), RNG.normal(size=(6, 3 * LABELS))
    loss = make_loss(TrainConfig(), [1] * LABELS)
    whole, *parts = (np.asarray(loss(targets, part)) for part in np.split(logits.astype(np.float32), 3, axis=1))
    total = with_own(loss, share)(targets, keras.ops.convert_to_tensor(logits, "float32"))
    assert np.asarray(total) == pytest.approx(whole + share * sum(parts), abs=1e-5)


def test_stack_weighs_the_parts_and_shifts_the_labels_in_the_network_as_in_numbers() -> None:
    import keras

    from captune.model.classifier import parts_of, set_stack
    from captune.model.stack import Stack

    network = built(summed())
    parts = keras.Model(network.inputs, parts_of(network)).predict_on_batch(inputs_of(network))
    before = network.predict_on_batch(inputs_of(network))
    plain, stack = Stack((1, 1, 1), (0, 0, 0)), Stack((1.5, 0.5, -0.2), (0.3, -1.0, 0.0))
    assert plain.probabilities(parts) == pytest.approx(before, abs=1e-6)
    set_stack(network, stack)
    after = network.predict_on_batch(inputs_of(network))
    assert stack.probabilities(parts) == pytest.approx(after, abs=1e-6)
    has_caption = CAPTIONS.any(axis=1)
    assert (np.abs(after - before).max(axis=1) > 0.01).tolist() == has_caption.tolist()
    set_stack(network, None)
    assert (network.predict_on_batch(inputs_of(network)) == before).all()


def test_stack_is_the_logistic_regression_that_the_labels_come_from() -> None:
    from captune.model.stack import fit_stack

    rng = np.random.default_rng(4)
    parts = rng.normal(0, 2, (6000, 3, LABELS)).astype(np.float32)
    shifts = np.array([-1.0, 0.0, 0.5])
    chances = 1 / (1 + np.exp(-(parts * np.array([1.5, 0.7, 0.1])[:, None]).sum(axis=1) - shifts))
    stack = fit_stack(rng.random(chances.shape) < chances, parts)
    assert stack.weights == pytest.approx((1.5, 0.7, 0.1), abs=0.1)
    assert stack.shifts == pytest.approx(shifts, abs=0.15)
    assert hash(stack) == hash(type(stack).of(list(stack.weights), list(stack.shifts)))


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_stack_of_next_to_nothing_stays_near_the_plain_sum(rows: int) -> None:
    from captune.model.stack import cross_stacked, fit_stack

    parts = RNG.normal(0, 3, (rows, 3, LABELS)).astype(np.float32)
    truth = np.ones((rows, LABELS), np.uint8)
    stack = fit_stack(truth, parts)
    assert np.abs(np.array(stack.weights) - 1).max() < 3 and np.abs(stack.shifts).max() < 3
    assert all(np.isfinite(part).all() for part in cross_stacked(truth, parts))


def test_own_half_has_no_say_in_its_stack_nor_in_its_rule() -> None:
    from captune.model.rule import cross_fitted
    from captune.model.stack import cross_stacked

    rng = np.random.default_rng(5)
    parts, truth = rng.normal(0, 2, (200, 3, LABELS)), rng.integers(0, 2, (200, LABELS))
    before = cross_fitted(truth, *cross_stacked(truth, parts))
    changed = truth.copy()
    changed[::2] = 1 - changed[::2]
    after = cross_fitted(changed, *cross_stacked(changed, parts))
    assert (before.probabilities[::2] == after.probabilities[::2]).all()
    assert (before.labels[::2] == after.labels[::2]).all()
    assert (before.probabilities[1::2] != after.probabilities[1::2]).any()


# Files


def drawn(seed: int, count: int) -> list[ModelConfig]:
    draw = random.Random(seed)
    return [random_config(draw, "compact", draw.choice(["float32", "float16", "int8", "int4"])) for _ in range(count)]


@pytest.mark.parametrize("config", drawn(3, 2))
def test_random_network_comes_back_from_its_bundle_and_its_keras_file(tmp_path: Path, config: ModelConfig) -> None:
    import keras

    from captune.model.bundle import Bundle, measured_bytes
    from captune.model.size import size
    from captune.model.training import put_through

    network = built(config)
    pixels = RNG.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    inputs = {
        x.name: CAPTIONS[:, : x.shape[1]] % 3 if x.name == "caption" else pixels[:, : x.shape[1], : x.shape[2]]
        for x in network.inputs
    }
    labels = tuple(range(config.num_labels))
    vocabulary = '{"words": [], "settings": {}}' if config.text is not None else None
    Bundle(network, config, DecisionRule(0.5), labels, tuple(map(str, labels)), vocabulary).save(tmp_path / "bundle")
    put_through(network, config.storage)
    expected = network.predict_on_batch(inputs)
    assert (Bundle.load(tmp_path / "bundle").network.predict_on_batch(inputs) == expected).all()
    assert measured_bytes(tmp_path / "bundle") <= size(config).bundle_bytes
    network.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras", compile=False, safe_mode=True)
    assert (loaded.predict_on_batch(inputs) == expected).all()
    assert all(type(layer).__module__.startswith("keras") for layer in network.layers)


_ON_JAX = """
import json, sys
from pathlib import Path
import numpy as np
from captune.model.bundle import Bundle
from captune.model.classifier import set_stack
from captune.model.stack import Stack
from test_model_heads import CAPTIONS, PIXELS
answers = []
for path in map(Path, sys.argv[1:]):
    network = Bundle.load(path).network
    for stack in (None, Stack((1.5, 0.5, 1.0), (0.1, 0.2, 0.3))):
        set_stack(network, stack)
        answers.append(np.asarray(network.predict_on_batch({"image": PIXELS, "caption": CAPTIONS})).tolist())
print(json.dumps(answers))
"""


@pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed")
def test_networks_answer_on_jax_as_on_tensorflow(tmp_path: Path) -> None:
    from captune.model.bundle import Bundle
    from captune.model.classifier import set_stack
    from captune.model.stack import Stack

    wide = text(wide=True, wide_buckets=100, max_tokens=TOKENS)
    configs = [summed(text=wide), summed(image=image(head="queries", last_halving=False), modality_dropout=0.2)]
    expected, folders = [], []
    for place, config in enumerate(configs):
        network = built(config)
        folders.append(tmp_path / str(place))
        vocabulary = '{"words": [], "settings": {}}'
        Bundle(network, config, DecisionRule(0.5), (1, 2, 3), ("a", "b", "c"), vocabulary).save(folders[-1])
        for stack in (None, Stack((1.5, 0.5, 1.0), (0.1, 0.2, 0.3))):
            set_stack(network, stack)
            expected.append(network.predict_on_batch(inputs_of(network)))
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    ran = subprocess.run(
        [sys.executable, "-c", _ON_JAX, *map(str, folders)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path},
        capture_output=True,
        check=True,
        timeout=300,
    )
    for one, other in zip(expected, json.loads(ran.stdout.splitlines()[-1]), strict=True):
        assert np.asarray(other) == pytest.approx(one, abs=1e-5)


# Configurations


@pytest.mark.parametrize("fusion", ["concatenation", "gated"])
@pytest.mark.parametrize("head", ["positions", "queries"])
def test_logits_by_position_cannot_be_fused_with_features(head: Any, fusion: Any) -> None:
    with pytest.raises(ValueError, match=rf"image.head {head} .*fusion {fusion}.*use fusion: summed, or image.head"):
        ModelConfig(image=ImageConfig(head=head), text=TEXT, fusion=fusion)
    assert ModelConfig(image=ImageConfig(head=head), fusion=fusion).modality == "image"


def test_settings_without_effect_make_no_other_network() -> None:
    from captune.model.effects import key_of

    def key(own_losses: float = 0.0, **model: Any) -> bytes:
        return key_of(TrialConfig(model=ModelConfig(**model), train=TrainConfig(own_losses=own_losses)))

    alone = {"image": image(head="positions")}
    assert key(**alone) == key(image=image(head="positions", units=9, pooling="max"), head_units=3)
    assert key(**alone) != key(image=image(head="queries"))
    assert key(image=IMAGE) == key(image=image(position_units=8))
    assert key(text=TEXT) == key(text=text(wide_buckets=8), modality_dropout=0.5)
    assert key(text=text(wide=True)) != key(text=text(wide=True, wide_buckets=8))
    two = {"image": IMAGE, "text": TEXT}
    assert key(**two) == key(0.3, **two)
    assert key(**two, fusion="summed") != key(0.3, **two, fusion="summed")
