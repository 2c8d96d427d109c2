"""A network that is taught by another."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused
from conftest import Captune

from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.errors import UsageError
from captune.model.bundle_manifest import BundleError
from captune.model.config import TrainConfig, TrialConfig
from captune.model.effects import key_of
from captune.model.flat import replace
from captune.model.presets import PRESETS
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.settings import RunSettings, check, create, refuse_other_files
from captune.tuner.space.config import read_search
from captune.tuner.space.space import bind
from captune.tuner.training.teacher import TeacherAnswers, check_teacher, targets
from captune.tuner.winner.replay import differences_of

SMALL = {"text.units": 8, "text.embedding": 8, "train.epochs": 2, "train.batch_size": 32}


def configured(data: PreparedData, **changes: Any) -> TrialConfig:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return bind(replace(PRESETS["captions"], SMALL | named), data.manifest)


@pytest.fixture(scope="module")
def taught(captions_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a winner."""
    from builders import epoch, record

    from captune.model.flat import flatten
    from captune.model.rule import DecisionRule
    from captune.model.size import Budget
    from captune.tuner.winner.refit import refit

    run = RunFolder(tmp_path_factory.mktemp("teacher") / "run")
    run.path.mkdir()
    config = configured(captions_data)
    rule = DecisionRule(0.5, "threshold", 2.0, -0.5)
    trial = record(0, curve=(epoch(1, 0.4, rule=rule), epoch(2, 0.5, rule=rule)), config=flatten(config), seed=3)
    refit(run, trial, captions_data, Budget(10**6), seeds=1, say=lambda _: None)
    return run.bundle


@pytest.fixture
def own(captions_data: PreparedData, tmp_path: Path) -> PreparedData:
    """The captions in a folder of their own."""
    shutil.copytree(captions_data.path, tmp_path / "data", ignore=shutil.ignore_patterns("features"))
    return PreparedData.open(tmp_path / "data")


@pytest.mark.slow
def test_targets_are_labels_and_calibrated_answers_mixed_and_test_is_left_alone(
    taught: Path, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.model.bundle import Bundle
    from captune.tuner.winner.predict import probabilities_of_split

    def mixed(share: float) -> Any:
        return targets(TrainConfig(teacher=str(taught), teacher_share=share), own)

    bundle = Bundle.load(taught)
    assert bundle.rule.scale != 1
    found = mixed(0.25)
    for split in ("train", "validation"):
        labels = own.labels[own.rows(split)]
        answers = bundle.rule.calibrated(probabilities_of_split(bundle, own, split))
        assert found[own.rows(split)] == pytest.approx(0.75 * labels + 0.25 * answers, abs=1e-3)
    assert np.array_equal(found[own.rows("test")], own.labels[own.rows("test")])
    monkeypatch.setattr(TeacherAnswers, "values", None)
    assert mixed(1.0)[own.rows("train")] == pytest.approx((found - 0.75 * own.labels)[own.rows("train")] * 4, abs=1e-3)
    assert mixed(0.0) is None and targets(TrainConfig(), own) is None


@pytest.mark.slow
def test_network_that_is_given_no_labels_learns_its_teachers_answers(taught: Path, own: PreparedData) -> None:
    from captune.tuner.training.trial import begin, to_answer

    rows = own.rows("train")
    aim = targets(TrainConfig(teacher=str(taught), teacher_share=1.0), own)[rows]
    distances = []
    for share in (0.0, 1.0):
        config = configured(
            own, train__epochs=30, train__learning_rate=0.02, train__teacher=str(taught), train__teacher_share=share
        )
        training = begin(own, rows, config, seed=1, features=None)
        for number in range(1, 31):
            training.epoch(number)
        distances.append(np.abs(training.predict(to_answer(own, rows, config.model)) - aim).mean())
    assert distances[1] < distances[0] / 2, distances


@pytest.mark.slow
def test_teacher_that_does_not_suit_is_refused_in_one_line(
    taught: Path, own: PreparedData, data: PreparedData, tmp_path: Path
) -> None:
    check_teacher(str(taught), own)
    refused(lambda: check_teacher(str(tmp_path / "none"), own), "train.teacher", "not a bundle", error=BundleError)
    refused(lambda: check_teacher(str(taught), data), "trained on other rows", error=DataError)
    elsewhere = tmp_path / "elsewhere" / "bundle"
    shutil.copytree(taught, elsewhere)
    check_teacher(str(elsewhere), data)  # with nothing beside it that tells what it learnt from
    proof = elsewhere.parent / "proof.json"
    proof.write_text(json.dumps({"data": data.manifest.fingerprint}))
    check_teacher(str(elsewhere), data)
    refused(lambda: check_teacher(str(elsewhere), own), "trained on other rows", error=DataError)
    proof.write_text("[")
    refused(lambda: check_teacher(str(elsewhere), data), "train.teacher", "proof.json", error=DataError)
    proof.unlink()
    with (elsewhere / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    refused(lambda: check_teacher(str(elsewhere), data), "train.teacher", "SHA-256 differs", error=BundleError)


@pytest.mark.slow
def test_search_says_before_it_starts_what_is_wrong_with_a_teacher_it_may_draw(
    taught: Path, captions_data: PreparedData, tmp_path: Path
) -> None:
    def held_against(teachers: list[str]) -> Any:
        space = {"train.teacher": teachers, "train.teacher_share": [0.3, 0.9]}
        file = tmp_path / "search.yaml"
        file.write_text(f"preset: captions\ntrials: 2\nspace: {json.dumps(space)}\n")
        return check(read_search(file, preset=None, default_preset="captions", overrides={}), captions_data)

    refused(lambda: held_against(["none", str(taught), "elsewhere"]), "train.teacher", "elsewhere", error=UsageError)
    assert held_against(["none", str(taught)]).fitting()


@pytest.mark.slow
def test_run_notices_that_a_teacher_is_another_and_not_that_it_is_gone(
    taught: Path, captions_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    teacher, file, run = tmp_path / "bundle", tmp_path / "search.yaml", RunFolder(tmp_path / "run")
    shutil.copytree(taught, teacher)
    file.write_text("preset: captions\ntrials: 2\nspace: {train.teacher: [none, bundle]}\n")
    create(run, read_search(file, preset=None, default_preset="captions", overrides={}), captions_data)
    settings = RunSettings.of(run)
    assert settings.search.space["train.teacher"] == ["none", str(teacher)]
    refuse_other_files(settings)
    manifest = teacher / "bundle.json"
    manifest.write_text(manifest.read_text() + " ")
    refused(lambda: refuse_other_files(settings), f"train.teacher {teacher} is not the file it was", error=RunError)
    (difference,) = differences_of(settings, captions_data)
    assert str(teacher) in difference
    shutil.rmtree(teacher)
    refuse_other_files(settings)
    assert not differences_of(settings, captions_data)


@pytest.mark.slow
def test_teacher_behind_a_link_is_held_against_what_it_was_trained_on(
    taught: Path, data: PreparedData, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(taught)
    refused(lambda: check_teacher(str(tmp_path / "link"), data), "trained on other rows", error=DataError)
    refused(lambda: check_teacher("a\0b", data), "train.teacher", error=BundleError)


def test_share_of_no_teacher_and_a_teacher_without_a_share_make_no_other_network() -> None:
    plain = PRESETS["captions"]
    for nothing in ({"train.teacher_share": 0.9}, {"train.teacher": "x", "train.teacher_share": 0.0}):
        assert key_of(replace(plain, nothing)) == key_of(plain)
    taught = {"train.teacher": "x", "train.teacher_share": 0.9}
    assert len({key_of(replace(plain, change)) for change in (taught, taught | {"train.teacher": "y"}, {})}) == 3


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_search_with_a_teacher_is_refitted_and_proved(
    captune: Captune, taught: Path, own: PreparedData, tmp_path: Path, backend: str
) -> None:
    yaml = tmp_path / "search.yaml"
    settings = {**SMALL, "train.teacher": str(taught), "train.teacher_share": 0.7}
    yaml.write_text(f"preset: captions\nfixed: {json.dumps(settings)}\nspace: {{train.learning_rate: [0.01, 0.02]}}\n")
    run = tmp_path / "run"
    command = ("search", own.path, "--run", run, "--config", yaml, "--trials", 2, "--slots", 1, "--backend", backend)
    assert (ran := captune(*command)).code == 0, ran
    assert (ran := captune("refit", run)).code == 0, ran
    proof = json.loads((run / "winner" / "proof.json").read_text())
    assert 0 < proof["test"]["mean_f1"] <= 1
    assert "taught by" in (run / "winner" / "README.md").read_text()
    assert (ran := captune("replay", run, 0)).code == 0, ran
