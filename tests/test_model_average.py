"""Averages of networks: what they give, their exact size, and their bundles."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused, rest_in_soak
from pydantic import ValidationError

from captune.model.average import Average, Member
from captune.model.config import ImageConfig, ModelConfig, TextConfig
from captune.model.layout import STORAGES
from captune.model.rule import DecisionRule
from captune.model.size import Budget, Contents, size

LABELS, NAMES, WORDS = (1, 2, 3), ("a", "b", "c"), [f"w{number}" for number in range(48)]
CONTENTS = Contents.of(LABELS, NAMES, WORDS)


def text(**changes: Any) -> TextConfig:
    plain: dict[str, Any] = {"vocabulary_size": 50, "max_tokens": 8, "embedding": 8, "units": 8, "dense": 4}
    return TextConfig(**plain | changes)


def model(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"num_labels": 3} | changes)


CAPTIONS = (
    model(text=text()),
    model(text=text(encoder="bilstm", vocabulary_size=40, max_tokens=6, wide=True, wide_buckets=16)),
    model(text=text(encoder="average")),
)
IMAGE = ImageConfig(side=32, width=8, stages=2)
SUMMED = (
    model(image=IMAGE, text=text(), fusion="summed"),
    model(image=IMAGE.model_copy(update={"head": "positions"}), text=text(encoder="gru"), fusion="summed"),
)
NAMED = (
    model(image=ImageConfig(side=64, backbone="MobileNetV3Small"), text=text()),
    model(image=ImageConfig(side=64, backbone="EfficientNetB0", max_side=48, units=5), text=text(), fusion="gated"),
)


def average(models: tuple[ModelConfig, ...], storage: Any = "float32") -> Average:
    scales = (1.5, 0.7, 1.0)
    return Average(
        members=tuple(
            Member(model=each, scale=scale, shift=0.25 - scale) for each, scale in zip(models, scales, strict=False)
        )
    ).stored_as(storage)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_labels": 4}, "num_labels"),
        ({"storage": "int8"}, "storage"),
        ({"image": IMAGE, "text": None}, "modality"),
    ],
)
def test_members_that_do_not_go_together_are_refused(changes: dict[str, Any], what: str) -> None:
    other = Member(model=CAPTIONS[0].model_copy(update=changes))
    with pytest.raises(ValidationError, match=f"one {what}"):
        Average(members=(Member(model=CAPTIONS[0]), other))


def test_members_read_pictures_of_one_side() -> None:
    other = SUMMED[0].model_copy(update={"image": IMAGE.model_copy(update={"side": 48})})
    with pytest.raises(ValidationError, match=r"one image\.side"):
        average((SUMMED[0], other))


def test_one_network_is_no_average() -> None:
    with pytest.raises(ValidationError):
        Average(members=(Member(model=CAPTIONS[0]),))


def test_average_reads_what_any_member_reads_and_answers_alone_where_all_do() -> None:
    whole = average(CAPTIONS)
    assert whole.text is not None and (whole.text.max_tokens, whole.text.vocabulary_size) == (8, 50)
    assert (whole.image, whole.num_labels, whole.storage, whole.modality) == (None, 3, "float32", "caption")
    assert average(SUMMED).has_parts
    assert not average((SUMMED[0], SUMMED[0].model_copy(update={"fusion": "gated"}))).has_parts


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("models", [CAPTIONS, SUMMED, NAMED])
def test_weights_of_an_average_are_those_of_its_members(models: tuple[ModelConfig, ...], storage: Any) -> None:
    total, each = size(average(models, storage), CONTENTS), [size(one.stored_as(storage), CONTENTS) for one in models]
    assert total.weights_bytes == sum(one.weights_bytes for one in each)
    assert total.parameters == sum(one.parameters for one in each)
    assert sum(total.parts.values()) == total.weights_bytes
    assert Budget(total.weights_bytes).holds(total) and not Budget(total.weights_bytes - 1).holds(total)


def built(models: tuple[ModelConfig, ...], storage: Any = "float32") -> tuple[Any, list[Any], Average]:
    """The network of an average as it is shipped, its members as `build` makes them, and what describes it."""
    from captune.model.average_network import assembled
    from captune.model.classifier import build
    from captune.model.training import put_through

    whole = average(models, storage)
    members = [build(each, load_weights=False) for each in whole.models]
    network = assembled(whole, [member.get_weights() for member in members])
    for each in (network, *members):
        put_through(each, storage)
    return network, members, whole


def rows(whole: Average, count: int = 5) -> dict[str, Any]:
    random = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    if whole.image is not None:
        inputs["image"] = random.integers(0, 256, (count, whole.image.side, whole.image.side, 3), dtype=np.uint8)
    if whole.text is not None:
        inputs["caption"] = random.integers(0, whole.text.vocabulary_size, (count, whole.text.max_tokens), np.int32)
    return inputs


@pytest.mark.slow
@pytest.mark.parametrize("models", [CAPTIONS, SUMMED])
def test_average_is_the_mean_of_the_calibrated_probabilities_of_its_members(models: tuple[ModelConfig, ...]) -> None:
    network, members, whole = built(models)
    inputs, expected = rows(whole), []
    for member, described in zip(members, whole.members, strict=True):
        own = dict(inputs)
        if (reads := described.model.text) is not None:
            tokens = inputs["caption"][:, : reads.max_tokens]
            own["caption"] = np.where(tokens < reads.vocabulary_size, tokens, 1)
        rule = DecisionRule(0.5, scale=described.scale, shift=described.shift)
        expected.append(rule.calibrated(np.asarray(member.predict_on_batch(own))))
    assert np.abs(network.predict_on_batch(inputs) - np.mean(expected, axis=0)).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("part", ["image", "caption"])
def test_average_answers_by_picture_or_caption_alone(part: Any) -> None:
    from captune.model.average_network import alone_of
    from captune.model.classifier import alone

    network, members, whole = built(SUMMED)
    inputs = {name: values for name, values in rows(whole).items() if name == part}
    expected = [
        DecisionRule(0.5, scale=described.scale, shift=described.shift).calibrated(
            np.asarray(alone(member, part).predict_on_batch(inputs))
        )
        for member, described in zip(members, whole.members, strict=True)
    ]
    answers = alone_of(network, whole, part).predict_on_batch(inputs)
    assert np.abs(answers - np.mean(expected, axis=0)).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "storage"),
    rest_in_soak([(CAPTIONS, "float32"), (CAPTIONS, "int4"), (SUMMED, "int8")], (SUMMED, "int8")),
)
def test_bundle_of_an_average_is_of_the_predicted_size_and_answers_as_before(
    models: tuple[ModelConfig, ...], storage: Any, tmp_path: Path
) -> None:
    import keras
    from safetensors.numpy import load_file

    from captune.model.bundle import Bundle, measured_bytes

    network, _, whole = built(models, storage)
    vocabulary = json.dumps({"words": WORDS, "settings": {}})
    Bundle(network, whole, DecisionRule(0.5), LABELS, NAMES, vocabulary).save(tmp_path / "bundle")
    predicted = size(whole, CONTENTS)
    tensors = load_file(tmp_path / "bundle/weights.safetensors")
    assert sum(tensor.nbytes for tensor in tensors.values()) == predicted.weights_bytes
    assert 0 <= predicted.bundle_bytes - measured_bytes(tmp_path / "bundle") <= 512
    keras.utils.clear_session()
    loaded = Bundle.load(tmp_path / "bundle")
    assert loaded.config == whole
    inputs = rows(whole)
    assert (loaded.network.predict_on_batch(inputs) == network.predict_on_batch(inputs)).all()
    loaded.save(tmp_path / "again")
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes() for name in names)


@pytest.mark.slow
def test_bundle_of_an_average_whose_members_were_changed_is_refused(tmp_path: Path) -> None:
    from captune.model.bundle import Bundle
    from captune.model.bundle_manifest import BundleManifest

    network, _, whole = built(CAPTIONS[:2])
    Bundle(network, whole, DecisionRule(0.5), LABELS, NAMES, json.dumps({"words": WORDS})).save(tmp_path / "bundle")
    folder = tmp_path / "bundle"
    path = folder / "bundle.json"
    sealed = json.loads(path.read_text())
    assert sealed["format"] == 4 and "model" not in sealed and len(sealed["members"]) == 2
    path.write_text(json.dumps(sealed | {"members": sealed["members"][:1]}))
    refused(lambda: Bundle.load(folder), "SHA-256")
    path.unlink()
    BundleManifest(average(CAPTIONS), DecisionRule(0.5), LABELS, NAMES).write(folder)  # of three, with sums put right
    refused(lambda: Bundle.load(folder), "does not fit the network")
