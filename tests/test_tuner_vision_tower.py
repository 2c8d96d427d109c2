"""CLIP's tower of pictures in trials: features computed once, training, files that a search names, what is shipped."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import rest_in_soak, trained
from clip_towers import VISION, vision_tensors, write_clip
from conftest import Captune
from safetensors.numpy import load_file, save_file

from captune.data_prep.store import PreparedData
from captune.model.config import ImageConfig, TrialConfig
from captune.model.effects import idle, key_of
from captune.model.flat import flatten, replace
from captune.model.frozen_features import FrozenFeatures
from captune.model.presets import PRESETS
from captune.model.size import size
from captune.tuner.run.named_files import digests
from captune.tuner.run.settings import check, contents_of
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.yaml_file import ConfigError
from captune.tuner.winner.ablations import ablations

SMALL = {"text.units": 8, "text.embedding": 8, "head_units": 8, "train.epochs": 2, "train.batch_size": 32}
TOWER = {"image.backbone": "transformer", "image.units": 8, "image.pooling": "class_token", "image.head": "pooled"}
CACHED = {"image.frozen": True, "train.cached_features": True, "train.augment.flip": False, "train.augment.shift": 0.0}


@pytest.fixture(scope="module")
def folder(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("towers") / "clip", data.captions)


@pytest.fixture
def own(data: PreparedData, tmp_path: Path) -> PreparedData:
    """The drawn scenes in a folder of their own."""
    shutil.copytree(data.path, tmp_path / "data")
    return PreparedData.open(tmp_path / "data")


def searched(folder: Path, data: PreparedData, space: dict[str, Any] | None = None, **fixed: Any) -> FeasibleSpace:
    """A space around a tower in small."""
    settings = {**SMALL, **TOWER, "image.weights": str(folder), **fixed}
    asked = {"preset": "compact", "modality": "both", "trials": 3, "fixed": settings, "space": space or {}}
    return check(SearchConfig.model_validate(asked), data)


def configured(folder: Path, data: PreparedData, **fixed: Any) -> TrialConfig:
    feasible = searched(folder, data, **fixed)
    return feasible.bind(feasible.space.base)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", rest_in_soak(["class_token", "both"], "class_token"))
def test_trial_on_features_computed_once_learns_what_it_learns_without(
    folder: Path, own: PreparedData, pooling: str
) -> None:
    same = {**CACHED, "image.pooling": pooling}
    cached = trained(configured(folder, own, **same), own)
    plain = trained(configured(folder, own, **{**same, "train.cached_features": False}), own)
    losses = [(one.loss, other.loss) for one, other in zip(cached, plain, strict=True)]
    assert np.allclose(*zip(*losses, strict=True), rtol=1e-3)
    assert list((own.path / "features").glob("transformer-*/*.npy"))


@pytest.mark.slow
def test_features_of_other_weights_or_settings_are_others(folder: Path, own: PreparedData, tmp_path: Path) -> None:
    from captune.tuner.training.features import FeatureFiles

    def place(where: Path, **changes: Any) -> Path:
        image = configured(where, own, **CACHED, **changes).model.image
        assert image is not None
        return FeatureFiles(own, image, FrozenFeatures.of(image, "float32")).folder

    for name in ("copy", "other"):
        shutil.copytree(folder, tmp_path / name)
    save_file(vision_tensors(VISION, seed=2), tmp_path / "other" / "model.safetensors")
    shutil.copytree(folder, heads := tmp_path / "heads")
    content = json.loads((heads / "config.json").read_text())
    content["vision_config"]["num_attention_heads"] = 4
    (heads / "config.json").write_text(json.dumps(content))
    changed = {"image.layers": 1}, {"image.max_side": 24}, {"image.scaling": "unit"}
    places = [place(folder), place(tmp_path / "other"), place(heads)]
    places += [place(folder, **change) for change in changed]
    assert len(set(places)) == len(places)
    assert place(tmp_path / "copy") == place(folder, **{"image.dropout": 0.1}) == places[0]


@pytest.mark.slow
def test_tuned_tower_learns_slower_than_its_head(folder: Path, own: PreparedData) -> None:
    from captune.tuner.training.trial import begin

    config = configured(folder, own, **{"train.tower_rate": 1e-4, "train.warmup": 0.0, "train.schedule": "constant"})
    training = begin(own, own.rows("train"), config, seed=0, features=None)
    before = {weight.path: weight.numpy() for weight in training.network.weights}
    training.epoch(1)
    moved = {weight.path: np.abs(weight.numpy() - before[weight.path]).max() for weight in training.network.weights}
    tower = [moved[f"image_{name}"] for name in ("1_query/kernel", "2_inner/kernel", "class/embeddings", "norm/gamma")]
    assert 0 < max(tower) < 1e-2 * moved["image_dense/kernel"]


@pytest.mark.slow
def test_bundle_of_a_trial_answers_as_it_was_scored_and_has_the_predicted_bytes(
    folder: Path, own: PreparedData, tmp_path: Path
) -> None:
    from captune.model.bundle import Bundle, measured_bytes
    from captune.model.training import put_through
    from captune.tuner.training.trial import begin, features_for, make_bundle
    from captune.tuner.winner.predict import probabilities_of_split

    config = configured(folder, own, storage="int8", **CACHED)
    training = begin(own, own.rows("train"), config, seed=0, features=features_for(config, own))
    training.epoch(1)
    report = trained(config, own)[0]
    with training.averaged():
        bundle = make_bundle(training.network, config.model, report.rule, own)
    bundle.save(tmp_path / "bundle")
    shutil.move(folder, hidden := tmp_path / "hidden")
    try:
        loaded = Bundle.load(tmp_path / "bundle")
        answers = probabilities_of_split(loaded, own, "validation")
    finally:
        shutil.move(hidden, folder)
    put_through(bundle.network, "int8")
    assert np.allclose(answers, probabilities_of_split(bundle, own, "validation"), atol=1e-6)
    predicted = size(config.model, contents_of(own))
    assert 0 <= predicted.bundle_bytes - measured_bytes(tmp_path / "bundle") <= len(str(folder)) + 512


def test_budget_counts_the_tower_as_the_side_cuts_it(folder: Path, own: PreparedData) -> None:
    feasible = searched(folder, own, {"image.layers": {"low": 1, "high": 2}}, **CACHED)
    config = feasible.bind(feasible.space.base)
    image = config.model.image
    assert image is not None and (image.side, image.patches, image.layers) == (32, 5, 2)
    sizes = [size(replace(config, {"image.layers": layers}).model).weights_bytes for layers in (1, 2)]
    assert sizes[1] - sizes[0] == 4 * (4 * (8 * 8 + 8) + 2 * 8 * 12 + 12 + 8 + 4 * 8)
    assert feasible.smallest is not None and flatten(feasible.smallest)["image.layers"] == 1


def test_choices_between_a_transformer_and_another_backbone_are_one_space(folder: Path, own: PreparedData) -> None:
    space = {
        "image.backbone": ["compact", "transformer"],
        "image.weights": {"choices": [str(folder)], "when": {"image.backbone": "transformer"}},
    }
    feasible = searched(
        folder, own, space, **{"image.backbone": "compact", "image.weights": "none", "image.pooling": "average"}
    )
    compact, tower = (
        feasible.bind(feasible.space.at({"image.backbone": name, "image.weights": str(folder)})).model.image
        for name in ("compact", "transformer")
    )
    assert compact is not None and tower is not None
    assert (compact.weights, tower.weights, tower.channels) == ("none", str(folder), 8)
    assert set(digests(feasible.space)) == {f"image.weights {folder}", f"image.weights {folder}/config.json"}


def test_transformer_that_may_be_drawn_without_weights_is_refused_in_one_line(folder: Path, own: PreparedData) -> None:
    space: dict[str, Any] = {"image.backbone": ["compact", "transformer"]}
    compact = {"image.backbone": "compact", "image.pooling": "average"}
    with pytest.raises(ConfigError, match=r"image\.backbone transformer needs image\.weights"):
        searched(folder, own, space, **compact, **{"image.weights": "none"})
    both = space | {"image.weights": ["none", str(folder)]}
    with pytest.raises(ConfigError, match=r"is a folder.*`when: \{image\.backbone: transformer\}`"):
        searched(folder, own, both, **compact, **{"image.weights": "none"})
    texts = {"text.encoder": ["convolution", "transformer"]}
    with pytest.raises(ConfigError, match=r"text\.encoder transformer needs text\.weights"):
        searched(folder, own, texts)


def test_smallest_network_has_the_smallest_side_that_holds_a_patch(folder: Path, own: PreparedData) -> None:
    feasible = searched(folder, own, {"image.max_side": [12, 18, 30]})
    assert feasible.smallest is not None and feasible.smallest.model.image is not None
    assert feasible.smallest.model.image.max_side == 12
    feasible = searched(folder, own, {"image.min_side": [0, 100, 36, 48]})
    assert feasible.smallest is not None and feasible.smallest.model.image is not None
    assert feasible.smallest.model.image.min_side == 0


def test_what_the_weights_set_changes_nothing_and_is_told(folder: Path, own: PreparedData) -> None:
    config = configured(folder, own, **CACHED)
    set_by_them = {"image.heads", "image.patch", "image.channels", "image.hidden"}
    assert set_by_them <= idle(config) and not {"image.layers", "image.scaling"} & idle(config)
    assert key_of(config) != key_of(replace(config, {"image.layers": 1}))
    assert {*set_by_them, "image.layers"} <= idle(PRESETS["compact"])


def test_ablation_keeps_the_shape_of_a_tower_without_its_weights(folder: Path, own: PreparedData) -> None:
    config = configured(folder, own, **CACHED)
    without = ablations(config)["image.weights"]
    assert without.model.image is not None and without.model.image.weights == "none"
    assert size(without.model).parameters == size(config.model).parameters
    assert size(without.model).frozen == 3 + 6  # how logits are stacked


def test_search_without_its_folder_is_refused_before_it_starts(folder: Path, own: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"image\.weights of a transformer must be a folder") as caught:
        searched(tmp_path / "nowhere", own)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="is no vision tower"):
        searched(own.path, own)
    (copy := tmp_path / "copy").mkdir()
    shutil.copy(folder / "config.json", copy)
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        searched(copy, own)
    with pytest.raises(ConfigError, match=r"needs image\.weights"):
        searched(Path("none"), own)
    content, values = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    content["vision_config"] |= {"patch_size": 40, "image_size": 40}
    (copy / "config.json").write_text(json.dumps(content))
    save_file(values, copy / "model.safetensors")
    with pytest.raises(ConfigError, match=r"patch_embedding\.weight is \(8, 3, 6, 6\), and \(8, 3, 40, 40\) by"):
        searched(copy, own)
    before = "vision_model.embeddings"
    values |= {
        f"{before}.patch_embedding.weight": np.zeros((8, 3, 40, 40), np.float32),
        f"{before}.position_embedding.weight": np.zeros((2, 8), np.float32),
    }
    save_file(values, copy / "model.safetensors")
    with pytest.raises(ConfigError, match="a side of at least 40 pixels, got 32"):
        searched(copy, own)


def test_size_of_a_configuration_is_that_of_the_folder(folder: Path, tmp_path: Path) -> None:
    import captune

    file = tmp_path / "network.yaml"
    file.write_text(
        f"preset: compact\nimage.backbone: transformer\nimage.weights: {folder}\nimage.layers: 1\n"
        "image.pooling: class_token\nimage.head: pooled\nimage.units: 0\n"
    )
    layer, places = 4 * (8 * 8 + 8) + 2 * 8 * 12 + 12 + 8 + 4 * 8, 1 + (ImageConfig().side // 6) ** 2
    parts = captune.size(config=file).size.parts
    assert parts["image encoder"] == 4 * (6 * 6 * 3 * 8 + 8 + places * 8 + 4 * 8 + layer)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_search_with_both_towers_of_clip_is_resumed_refitted_exported_and_ablated(
    captune: Captune, folder: Path, own: PreparedData, tmp_path: Path, backend: str, frozen: bool
) -> None:
    towers = {
        **SMALL, **TOWER, "image.weights": str(folder), "text.encoder": "transformer", "text.weights": str(folder),
        "text.pooling": "end", "text.frozen": frozen, "train.alignment": 0.01, "storage": "int8",
        **({**CACHED} if frozen else {"train.tower_rate": 0.1}),
    }  # fmt: skip
    yaml, run = tmp_path / "search.yaml", tmp_path / "run"
    space = "{train.learning_rate: [0.01, 0.02], image.layers: [1, 2]}"
    yaml.write_text(f"preset: compact\nfixed: {json.dumps(towers)}\nspace: {space}\n")
    command = ("search", own.path, "--run", run, "--config", yaml, "--trials", 2, "--slots", 1, "--backend", backend)
    assert (ran := captune(*command)).code == 0, ran
    assert (ran := captune("resume", run, "--trials", 3)).code == 0, ran
    assert (ran := captune("replay", run, 0)).code == 0, ran
    assert (ran := captune("refit", run)).code == 0, ran
    assert 0 < json.loads((run / "winner" / "proof.json").read_text())["test"]["mean_f1"] <= 1
    for form, name in (("onnx", "winner.onnx"), ("litert", "winner.tflite")):
        assert (ran := captune("export", run, "--to", tmp_path / name, "--format", form)).code == 0, ran
    assert (ran := captune("ablate", run, "--without", "captions", "--without", "image.weights")).code == 0, ran
