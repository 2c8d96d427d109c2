"""Text towers in trials: features computed once, training, what is shipped."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused, rest_in_soak, trained
from clip_towers import write_clip
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from text_towers import write_tower

from captune.data_prep.store import PreparedData
from captune.model.backbones import WeightsError
from captune.model.config import TrialConfig
from captune.model.effects import idle, key_of
from captune.model.flat import flatten, replace
from captune.model.frozen_features import CaptionFeatures, needed
from captune.model.presets import PRESETS
from captune.model.size import parse_bytes, size
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.settings import RunSettings, check, contents_of, create, refuse_other_files
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.dimensions import SpaceError
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import bind
from captune.tuner.space.yaml_file import ConfigError

pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")

FROZEN = {"text.frozen": True, "train.cached_features": True}
INT8 = {"text.pooling": "both", "storage": "int8"}


@pytest.fixture(scope="module")
def folder(captions_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tower(tmp_path_factory.mktemp("towers") / "small", captions_data.captions)


@pytest.fixture
def own(captions_data: PreparedData, tmp_path: Path) -> PreparedData:
    """The captions in a folder of their own."""
    shutil.copytree(captions_data.path, tmp_path / "data")
    return PreparedData.open(tmp_path / "data")


def searched(folder: Path, data: PreparedData, space: dict[str, Any] | None = None, **fixed: Any) -> FeasibleSpace:
    """A space around a tower in small."""
    return check(search_of(folder, space, **fixed), data)


def search_of(folder: Path, space: dict[str, Any] | None = None, **fixed: Any) -> SearchConfig:
    settings = {
        "text.encoder": "transformer", "text.weights": str(folder), "text.dense": 8, "train.epochs": 2,
        "train.batch_size": 32, "text.max_tokens": 40, **fixed,
    }  # fmt: skip
    asked = {"preset": "captions", "modality": "caption", "trials": 3, "fixed": settings, "space": space or {}}
    return SearchConfig.model_validate(asked)


def configured(folder: Path, data: PreparedData, **fixed: Any) -> TrialConfig:
    feasible = searched(folder, data, **fixed)
    return feasible.bind(feasible.space.base)


@pytest.mark.slow
@pytest.mark.parametrize("changes", rest_in_soak([{}, INT8, {"text.wide": True}], INT8))
def test_trial_on_features_computed_once_learns_what_it_learns_without(
    folder: Path, own: PreparedData, changes: dict[str, Any]
) -> None:
    plain = configured(folder, own, **{"text.frozen": True}, **changes)
    cached = trained(configured(folder, own, **FROZEN, **changes), own)
    losses = [(one.loss, other.loss) for one, other in zip(cached, trained(plain, own), strict=True)]
    assert np.allclose(*zip(*losses, strict=True), rtol=1e-3)
    assert list((own.path / "features").glob("transformer-*/*.npy"))


def test_run_notices_each_file_that_changes_how_captions_are_cut(
    folder: Path, own: PreparedData, tmp_path: Path
) -> None:
    """Also one that was not there: word pieces are read from a tokenizer.json before those of a vocab.txt."""
    tower, run = tmp_path / "tower", RunFolder(tmp_path / "run")
    shutil.copytree(folder, tower)
    whole = (tower / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    places = json.loads(whole.read_text())["model"]["vocab"]
    (tower / "vocab.txt").write_text("\n".join(sorted(places, key=places.__getitem__)))
    create(run, search_of(tower), own)
    refuse_other_files(settings := RunSettings.of(run))
    for name, content in (("tokenizer.json", whole.read_text()), ("tokenizer_config.json", '{"do_lower_case": false}')):
        (tower / name).write_text(content)
        told = f"text.weights {tower}/{name} was not there when the search began"
        refused(lambda: refuse_other_files(settings), told, error=RunError)
        (tower / name).unlink()
    (tower / "vocab.txt").rename(tmp_path / "vocab.txt")
    refused(lambda: refuse_other_files(settings), f"{tower}/vocab.txt is gone", error=RunError)


@pytest.mark.slow
def test_features_are_those_of_the_shipped_network_and_are_read_again(
    folder: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    from captune.model.classifier import build
    from captune.model.text_encoder import DROPOUT
    from captune.model.training import put_through
    from captune.tuner.training.features import FeatureFiles, text_tower_ids, text_tower_rows

    config = configured(folder, own, storage="int8", **FROZEN)
    text, features = config.model.text, CaptionFeatures.needed(config)
    assert text is not None and features is not None
    files = FeatureFiles(own, text, features)
    rows = np.arange(len(own))[::-1]
    values = files.computed()[rows]
    network = build(config.model, pieces=text_tower_rows(own, text))
    put_through(network, "int8")
    tower = keras.Model(network.inputs, network.get_layer(DROPOUT).input)
    expected = tower.predict({"caption": text_tower_ids(own, text)}, verbose=0)[rows]
    assert np.abs(values - expected).max() < 2e-3 * np.abs(expected).max()
    monkeypatch.setattr(FeatureFiles, "_compute", None)
    assert np.array_equal(FeatureFiles(own, text, features).computed()[rows], values)


@pytest.mark.slow
def test_features_of_other_weights_or_settings_are_others(folder: Path, own: PreparedData, tmp_path: Path) -> None:
    from captune.tuner.training.features import FeatureFiles

    def place(where: Path, **changes: Any) -> Path:
        config = configured(where, own, **FROZEN, **changes)
        assert config.model.text is not None
        return FeatureFiles(own, config.model.text, CaptionFeatures.of(config.model.text, "float32")).folder

    other = write_tower(tmp_path / "other", own.captions, seed=1)
    heads = write_tower(tmp_path / "heads", own.captions, heads=4)
    changed = {"text.layers": 1}, {"text.pooling": "max"}, {"text.vocabulary_size": 20}, {"text.max_tokens": 5}
    places = [place(folder), place(other), place(heads), *(place(folder, **change) for change in changed)]
    assert len(set(places)) == len(places)
    assert place(folder, **{"text.dropout": 0.1}) == places[0]


@pytest.mark.slow
def test_tuned_tower_learns_slower_than_its_head(folder: Path, own: PreparedData) -> None:
    from captune.tuner.training.trial import begin

    config = configured(folder, own, **{"train.tower_rate": 1e-4, "train.warmup": 0.0, "train.schedule": "constant"})
    training = begin(own, own.rows("train"), config, seed=0, features=None)
    before = {weight.path: weight.numpy() for weight in training.network.weights}
    training.epoch(1)
    moved = {weight.path: np.abs(weight.numpy() - before[weight.path]).max() for weight in training.network.weights}
    tower = [moved[name] for name in ("text_1_query/kernel", "text_2_inner/kernel", "text_norm/gamma")]
    assert 0 < max(tower) < 1e-2 * moved["text_dense/kernel"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "storage"), rest_in_soak([("bert", "float32"), ("bert", "int8"), ("clip", "int8")], ("clip", "int8"))
)
def test_bundle_of_a_trial_answers_as_it_was_scored_and_has_the_predicted_bytes(
    folder: Path, own: PreparedData, tmp_path: Path, family: str, storage: str
) -> None:
    from captune.model.bundle import Bundle, measured_bytes
    from captune.tuner.training.trial import begin, features_for, make_bundle
    from captune.tuner.winner.portable import write_portable
    from captune.tuner.winner.predict import probabilities, probabilities_of_split

    pooling = "average"
    if family == "clip":
        folder, pooling = write_clip(tmp_path / "clip", own.captions), "end"
    cut = {"text.vocabulary_size": 60, "text.pooling": pooling}
    config = configured(folder, own, storage=storage, **FROZEN, **cut)
    assert config.model.text is not None and config.model.text.family == family
    training = begin(own, own.rows("train"), config, seed=0, features=features_for(config, own))
    training.epoch(1)
    report = trained(config, own)[0]
    with training.averaged():
        make_bundle(training.network, config.model, report.rule, own).save(tmp_path / "bundle")
    shutil.move(folder, hidden := tmp_path / "hidden")
    try:
        bundle = Bundle.load(tmp_path / "bundle")
        validation = probabilities_of_split(bundle, own, "validation")
        alone = probabilities(bundle, [own.captions[row] for row in own.rows("validation")], None)
        write_portable(tmp_path / "portable", bundle, own)
    finally:
        shutil.move(hidden, folder)
    assert np.allclose(validation, alone, atol=1e-6)
    predicted = size(config.model, contents_of(own, [str(folder)]))
    slack = len(str(folder)) + 512
    assert 0 <= predicted.bundle_bytes - measured_bytes(tmp_path / "bundle") <= slack


def test_budget_counts_the_tower_as_the_data_cut_it(folder: Path, own: PreparedData) -> None:
    feasible = searched(folder, own, {"text.layers": {"low": 1, "high": 2}}, **FROZEN)
    config = feasible.bind(feasible.space.base)
    assert config.model.text is not None and 40 < config.model.text.vocabulary_size < 10_000
    sizes = [size(replace(config, {"text.layers": layers}).model).weights_bytes for layers in (1, 2)]
    assert sizes[1] - sizes[0] == 4 * (4 * (8 * 8 + 8) + 2 * 8 * 12 + 12 + 8 + 4 * 8)
    assert feasible.smallest is not None and flatten(feasible.smallest)["text.layers"] == 1


def test_choices_between_a_tower_and_none_are_one_space(folder: Path, own: PreparedData) -> None:
    space = {
        "text.encoder": ["convolution", "transformer"],
        "train.cached_features": {"choices": [True], "when": {"text.encoder": "transformer"}},
    }
    feasible = searched(folder, own, space, **{"text.frozen": True})
    convolution, tower = (
        feasible.bind(feasible.space.at({"text.encoder": encoder, "train.cached_features": True}))
        for encoder in ("convolution", "transformer")
    )
    assert not convolution.train.cached_features and convolution.model.text is not None
    assert convolution.model.text.embedding == 128 and not needed(convolution)
    assert [features.name for features in needed(tower)] == ["transformer"]


def test_what_the_weights_set_changes_nothing_and_is_told(folder: Path, own: PreparedData) -> None:
    config = configured(folder, own, **FROZEN)
    names = {"text.embedding", "text.heads", "text.units", "text.kernel", "text.embedding_dropout", "train.tower_rate"}
    assert names <= idle(config)
    assert not {"text.layers", "text.pooling", "text.weights"} & idle(config)
    assert key_of(config) != key_of(replace(config, {"text.layers": 1}))
    tuned = configured(folder, own)
    assert not {"train.tower_rate", "train.thaw", "text.embedding_dropout"} & idle(tuned)
    assert {"text.layers", "text.frozen", "text.weights"} <= idle(PRESETS["captions"])


def test_features_that_would_change_are_not_computed_once(folder: Path) -> None:
    tower = {"text.encoder": "transformer", "text.weights": str(folder), "train.cached_features": True}
    with pytest.raises(ValidationError, match=r"needs text\.frozen: true"):
        replace(PRESETS["captions"], tower)
    assert replace(PRESETS["captions"], tower | {"text.frozen": True}).train.cached_features


def test_search_without_its_folder_is_refused_before_it_starts(folder: Path, own: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"text\.weights of a transformer must be a folder") as caught:
        searched(tmp_path / "nowhere", own)
    assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    for where in (tmp_path / "empty", own.path):
        with pytest.raises(ConfigError, match="is no text tower"):
            searched(where, own)
    (copy := tmp_path / "copy").mkdir()
    shutil.copy(folder / "config.json", copy)
    with pytest.raises(ConfigError, match="has no vocabulary of word pieces"):
        searched(copy, own)
    shutil.copy(folder / "tokenizer.json", copy)
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        searched(copy, own)
    with pytest.raises(ConfigError, match=r"needs text\.weights"):
        searched(Path("none"), own)
    clip = write_clip(tmp_path / "clip", own.captions)
    shutil.copy(folder / "tokenizer.json", clip)
    with pytest.raises(ConfigError, match=r"config\.json of CLIP beside a vocabulary of BERT's"):
        searched(clip, own)
    (short := tmp_path / "short").mkdir()
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(folder / file, short)
    values = load_file(folder / "model.safetensors")
    values["embeddings.word_embeddings.weight"] = values["embeddings.word_embeddings.weight"][:9]
    save_file(values, short / "model.safetensors")
    with pytest.raises(ConfigError, match=r"word_embeddings\.weight is \(9, 8\), and \(\d+, 8\) at least by the files"):
        searched(short, own)


@pytest.mark.slow
def test_worker_without_the_folder_ends_the_search(folder: Path, own: PreparedData) -> None:
    config = configured(folder, own, **FROZEN)
    gone = replace(config, {"text.weights": "/nowhere/at/all"})
    with pytest.raises(WeightsError, match="nothing is fetched"):
        trained(gone, own)


def test_tower_is_not_bound_to_a_data_set_without_its_folder(own: PreparedData) -> None:
    config = replace(PRESETS["captions"], {"text.encoder": "transformer", "text.weights": "x"})
    with pytest.raises(SpaceError, match=r"needs text\.weights"):
        partial(bind, manifest=own.manifest)(config)


def test_size_of_a_configuration_is_that_of_the_folder(folder: Path, tmp_path: Path) -> None:
    import captune

    file = tmp_path / "network.yaml"
    named = f"preset: captions\ntext.encoder: transformer\ntext.vocabulary_size: 50\ntext.weights: {folder}\n"
    file.write_text(f"{named}text.dense: 0\ntext.max_tokens: 9\n")
    blocks = 2 * (4 * (8 * 8 + 8) + 2 * 8 * 12 + 12 + 8 + 4 * 8)
    assert captune.size(config=file).size.parameters == 50 * 8 + 9 * 8 + 2 * 8 + blocks + 8 * 18 + 18


def test_budget_that_no_tower_fits_names_the_ways_out(folder: Path, own: PreparedData) -> None:
    from captune.tuner.space.feasibility import BudgetError

    asked = searched(folder, own)
    config = {"preset": "captions", "modality": "caption", "trials": 1, "budget": parse_bytes("7.5kB")}
    fixed = {"text.encoder": "transformer", "text.weights": str(folder), "text.dense": 0}
    assert asked.complaint() is None
    with pytest.raises(BudgetError, match=r"allow .*text\.vocabulary_size"):
        check(SearchConfig.model_validate(config | {"fixed": fixed, "space": {}}), own)
