"""Networks with what is hard to convert, written in each format and answered by its runtime alone."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import rest_in_soak

from captune.data_prep.store import PreparedData
from captune.model.config import ImageConfig, ModelConfig, TextConfig
from captune.model.rule import DecisionRule
from captune.tuner.winner.formats.declarations import FORMATS

pytestmark = pytest.mark.slow

TEXT = TextConfig(
    encoder="bilstm", vocabulary_size=5000, max_tokens=9, embedding=24, units=10, dense=8, wide=True, wide_buckets=50
)
IMAGE = ImageConfig(max_side=24, head="queries", position_units=6, width=4)
SUMMED = ModelConfig(image=IMAGE, text=TEXT, fusion="summed", head_units=8)
# EfficientNetV2B0 scales pictures by layers of its own, whose constants have to come along; it has a side of its own.
PICTURES = ModelConfig(image=ImageConfig(backbone="EfficientNetV2B0", cut="last_map", units=0, min_side=48))
WORDS = ModelConfig(text=TEXT.model_copy(update={"encoder": "gru", "wide": False}))
# Members that read captions of other lengths, and words of other vocabularies.
AVERAGE = (WORDS, WORDS.model_copy(update={"text": TEXT.model_copy(update={"max_tokens": 5, "vocabulary_size": 20})}))


def bundle_of(config: ModelConfig, data: PreparedData, storage: Any) -> Any:
    """A bundle with random weights, the last ones large: probabilities are far from one half."""
    import keras

    from captune.model.bundle import Bundle
    from captune.model.classifier import LOGITS, build
    from captune.model.training import put_through

    manifest = data.manifest
    changes: dict[str, Any] = {"num_labels": len(manifest.label_ids), "storage": storage}
    if config.image is not None:
        changes["image"] = config.image.model_copy(update={"side": manifest.side})
    config = config.model_copy(update=changes)
    keras.utils.set_random_seed(11)
    network = build(config)
    for layer in network.layers:
        if layer.name.startswith(LOGITS) and getattr(layer, "kernel", None) is not None:
            layer.kernel.assign(layer.kernel * (30 if config.text is None else 3))
    put_through(network, storage)
    vocabulary = None
    if config.text is not None:
        assert data.vocabulary is not None
        vocabulary = data.vocabulary.to_json()
    return Bundle(network, config, DecisionRule(0.5), manifest.label_ids, manifest.label_names, vocabulary)


def average_of(models: tuple[ModelConfig, ...], data: PreparedData, storage: Any) -> Any:
    """The same of several networks whose calibrated probabilities are averaged."""
    from captune.model.average import Average, Member
    from captune.model.average_network import assembled

    bundles = [bundle_of(model, data, storage) for model in models]
    scales = (4.0, 2.5)
    members = [Member(model=each.config, scale=scale) for each, scale in zip(bundles, scales, strict=True)]
    average = Average(members=tuple(members))
    network = assembled(average, [each.network.get_weights() for each in bundles])
    return replace(bundles[0], network=network, config=average)


@pytest.mark.parametrize(
    ("config", "name", "storage"),
    [
        (AVERAGE, "savedmodel", "float32"),
        (SUMMED, "litert", "float32"),
        (SUMMED, "onnx", "int8"),
        (WORDS, "litert", "int8"),
        *rest_in_soak(
            [
                (AVERAGE, "litert", "float32"),
                (AVERAGE, "onnx", "int8"),
                (SUMMED, "savedmodel", "float32"),
                (PICTURES, "onnx", "float32"),
                (WORDS, "onnx", "float32"),
            ]
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "average" if isinstance(part, tuple) else part.modality,
)
def test_file_answers_as_the_network_it_was_made_of(
    data: PreparedData, tmp_path: Path, config: Any, name: Any, storage: Any
) -> None:
    from captune.model.bundle import measured_bytes
    from captune.model.size import size
    from captune.tuner.winner.formats.fresh_process import answers_of
    from captune.tuner.winner.predict import probabilities_of_split

    form = FORMATS[name]
    for package in form.packages:
        pytest.importorskip(package, reason=f"no {package} here; pip install 'captune[{form.extra}]'")
    bundle = (average_of if isinstance(config, tuple) else bundle_of)(config, data, storage)
    expected = probabilities_of_split(bundle, data, "test")
    assert expected.std() > 0.01, "answers that are all the same would show nothing"
    path = tmp_path / f"x{form.suffix}"
    form.functions().write(bundle.network, path, storage)
    answers, milliseconds = answers_of(path, form, bundle, data, "test")
    assert answers.shape == expected.shape
    assert np.abs(answers - expected).max() <= form.tolerances[storage]
    assert sorted(milliseconds) == [1, 32] and min(milliseconds.values()) > 0
    # Every weight once, in the bytes that its storage promises, and the graph.
    weights = size(bundle.config).weights_bytes
    assert 0.95 * weights < measured_bytes(path) < weights + 400_000


def test_file_that_is_no_model_is_told_in_one_line(data: PreparedData, tmp_path: Path) -> None:
    from captune.tuner.winner.formats.fresh_process import answers_of
    from captune.tuner.winner.proof import ProofError

    if find_spec("onnxruntime") is None:
        pytest.skip("no onnxruntime here; pip install 'captune[onnx]'")
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(ProofError, match=r"x\.onnx cannot be loaded") as refused:
        answers_of(tmp_path / "x.onnx", FORMATS["onnx"], bundle_of(WORDS, data, "float32"), data, "test")
    assert "\n" not in str(refused.value)
