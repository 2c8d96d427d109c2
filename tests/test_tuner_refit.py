"""Refit, proof and export of a trial, without a search: the record is made by hand."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import epoch, refused, rest_in_soak
from builders import record as a_record
from conftest import Captune
from conftest import refused as only_line

from captune.data_prep.store import PreparedData, prepare
from captune.errors import UsageError
from captune.model.config import TrialConfig
from captune.model.flat import flatten, replace
from captune.model.presets import PRESETS
from captune.model.rule import DecisionRule
from captune.model.size import Budget, size
from captune.results.baselines import score
from captune.results.records import Record
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.space.space import bind
from captune.tuner.winner.plan import RefitPlan
from captune.tuner.winner.proof import Proof, ProofError, check_bytes, probabilities_in_fresh_process
from captune.tuner.winner.step import Step

pytestmark = pytest.mark.slow

TINY = {"text.units": 8, "text.embedding": 8, "train.epochs": 3, "train.batch_size": 32}
BUDGET = Budget(10**6)
RULE = DecisionRule(0.35, "relative", 1.5, -0.25)


def record(config: TrialConfig, *, best: int = 1, **changes: Any) -> Record:
    """A complete trial of three epochs whose best one is `best`."""
    curve = tuple(epoch(n, 0.5 if n == best else 0.1, rule=RULE) for n in (1, 2, 3))
    predicted = size(config.model)
    return a_record(
        4, curve=curve, config=flatten(config), seed=5,
        weights_bytes=predicted.weights_bytes, bundle_bytes=predicted.bundle_bytes, **changes,
    )  # fmt: skip


def left(folder: Path) -> set[str]:
    """Names of what a refit or an export that failed left; the lock of a run stays."""
    return {path.name for path in folder.iterdir()} - {"lock"}


@pytest.fixture(scope="module")
def config(captions_data: PreparedData) -> TrialConfig:
    return bind(replace(PRESETS["captions"], TINY), captions_data.manifest)


@pytest.fixture(scope="module")
def winner(captions_data: PreparedData, config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A refitted run on captions alone, of two epochs and two seeds."""
    from captune.tuner.winner.refit import refit

    run = RunFolder(tmp_path_factory.mktemp("refit"))
    run.settings.write_text("{}")
    said: list[Any] = []
    returned = refit(run, record(config, best=2), captions_data, BUDGET, seeds=2, say=said.append)
    assert Proof.read(run.proof) == returned
    assert sum(isinstance(step, Step) and "loss" in step.note for step in said) == 4, "two epochs for each of two seeds"
    told = [line for line in said if isinstance(line, str) and "at the pace of the search" in line]
    assert told[0] == "refit 1 of 2: 2 epochs on train + validation, 0:04 at the pace of the search" and len(told) == 2
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def refitted(run: RunFolder, record: Record, data: PreparedData, *, budget: Budget = BUDGET) -> Any:
    from captune.tuner.winner.refit import refit

    return refit(run, record, data, budget, seeds=1, say=lambda line: None)


def test_proof_has_the_keys_that_users_build_on(winner: RunFolder, captions_data: PreparedData) -> None:
    proof = json.loads(winner.proof.read_text())
    assert proof.keys() >= {"trial", "config", "search", "test", "reloaded", "weights_bytes", "bundle_bytes"}
    assert (proof["trial"], proof["epochs"], proof["version"]) == (4, 2, 2)
    assert proof["rule"] == {"value": 0.35, "kind": "relative", "scale": 1.5, "shift": -0.25}
    assert proof["search"]["mean_f1"] == 0.5
    assert 0 <= proof["test"]["low"] <= proof["test"]["mean_f1"] <= proof["test"]["high"] <= 1
    assert proof["test"]["examples"] == captions_data.manifest.counts["test"]
    assert proof["reloaded"]["mean_f1"] == pytest.approx(proof["test"]["mean_f1"])
    assert proof["reloaded"]["max_difference"] <= 1e-6
    baseline = max(
        (each for each in score(captions_data, captions=True) if each.rows == "test"), key=lambda each: each.mean_f1
    )
    gain = proof["gain"]
    assert (gain["baseline"], gain["metric"]) == (baseline.name, "mean_f1")
    assert gain["difference"] == pytest.approx(proof["test"]["mean_f1"] - baseline.mean_f1)
    assert gain["low"] < gain["difference"] < gain["high"]
    assert len(proof["seeds"]) == 2
    assert proof["seeds"][0] == proof["test"]["mean_f1"], "the bundle is that of the trial's own seed"
    assert proof["bundle_bytes"] > proof["weights_bytes"] == size_of(proof["config"])
    assert proof["bundle_fits"] is True
    assert (proof["budget_bytes"], proof["measure"]) == (BUDGET.limit, "weights")


def size_of(flat: dict[str, Any]) -> int:
    from captune.model.flat import unflatten

    return size(unflatten(flat).model).weights_bytes


def test_refit_learns_from_train_and_validation_and_never_from_test(
    config: TrialConfig, captions_data: PreparedData, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import captune.tuner.winner.refit

    asked: list[tuple[str, ...]] = []
    rows = PreparedData.rows

    def noted(self: PreparedData, *splits: str) -> Any:
        asked.append(splits)
        return rows(self, *splits)

    monkeypatch.setattr(PreparedData, "rows", noted)
    trained: list[set[int]] = []
    begin = captune.tuner.winner.refit.begin
    monkeypatch.setattr(
        captune.tuner.winner.refit,
        "begin",
        lambda data, chosen, *rest, **more: trained.append(set(chosen.tolist())) or begin(data, chosen, *rest, **more),
    )
    monkeypatch.setattr(captune.tuner.winner.refit, "probabilities_in_fresh_process", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        refitted(run, record(config), captions_data)
    test = set(rows(captions_data, "test").tolist())
    assert trained == [set(rows(captions_data, "train", "validation").tolist())]
    assert not trained[0] & test
    assert not left(run.path), "what is not proved is not kept"


def test_refit_passes_over_its_rows_as_often_an_epoch_as_the_trial_did(
    config: TrialConfig, captions_data: PreparedData
) -> None:
    """Where train and validation together hold so many that fewer passes would come nearer to what is asked for."""
    from captune.tuner.training.trial import begin

    train, both = captions_data.rows("train"), captions_data.rows("train", "validation")
    asked = int(1.5 * len(train)) + 2
    assert asked / len(both) < 1.5
    few = replace(config, {"train.epoch_examples": asked})
    trainings = [begin(captions_data, rows, few, seed=0, features=None) for rows in (train, both)]
    assert [training._passes for training in trainings] == [2, 2]


def test_refit_a_second_time_is_refused(winner: RunFolder, config: TrialConfig, captions_data: PreparedData) -> None:
    before = winner.proof.read_bytes()
    with pytest.raises(RunError, match="move it away"):
        refitted(winner, record(config), captions_data)
    assert winner.proof.read_bytes() == before


def test_refit_on_a_cluster_is_refused_before_a_cluster_is_looked_for(winner: RunFolder) -> None:
    from captune.tuner.winner.refit_on_cluster import refit_on_cluster

    with pytest.raises(RunError, match="move it away"):
        refit_on_cluster("127.0.0.1:1", str(winner.path), RefitPlan(), None, None, say=lambda line: None)


def test_refit_begun_again_after_its_node_was_lost_finds_what_it_had_proved(winner: RunFolder) -> None:
    from captune.tuner.winner.refit_on_cluster import _refit_once

    proof = Proof.read(winner.proof)
    for trial in (None, proof.trial):
        assert _refit_once(str(winner.path), RefitPlan(trial), 1, 0.0, say=lambda line: None) == proof
    with pytest.raises(RunError, match="move it away"):
        _refit_once(str(winner.path), RefitPlan(proof.trial + 1), 1, 0.0, say=lambda line: None)


def test_bundle_that_answers_otherwise_is_not_kept(
    run: RunFolder, config: TrialConfig, captions_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import captune.tuner.winner.refit

    honest = captune.tuner.winner.refit.probabilities_in_fresh_process
    monkeypatch.setattr(captune.tuner.winner.refit, "probabilities_in_fresh_process", lambda *a: honest(*a) + 2e-6)
    with pytest.raises(ProofError, match="other probabilities"):
        refitted(run, record(config), captions_data)
    assert not left(run.path)


def test_bundle_that_cannot_be_loaded_is_told_in_one_line(
    winner: RunFolder, captions_data: PreparedData, tmp_path: Path
) -> None:
    with pytest.raises(ProofError, match="cannot be loaded in a fresh process") as caught:
        probabilities_in_fresh_process(tmp_path, tmp_path, captions_data, "test")
    assert "\n" not in str(caught.value)
    assert "is not a bundle" in str(caught.value)


def test_trial_over_the_budget_is_not_refitted(
    run: RunFolder, config: TrialConfig, captions_data: PreparedData
) -> None:
    with pytest.raises(ProofError, match="trial 4 needs"):
        refitted(run, record(config), captions_data, budget=Budget(100))
    assert not left(run.path)


def test_trial_without_scored_epoch_is_refused(
    run: RunFolder, config: TrialConfig, captions_data: PreparedData
) -> None:
    unscored = record(config, fate="lost", mean_f1=None, best_epoch=None)
    with pytest.raises(RunError, match="no scored epoch"):
        refitted(run, unscored, captions_data)


def test_data_without_test_rows_cannot_prove_anything(
    run: RunFolder, config: TrialConfig, drawn: Path, tmp_path: Path
) -> None:
    data = prepare(drawn / "train.csv", None, tmp_path / "data", shares=(0.8, 0.2, 0.0))
    with pytest.raises(RunError, match="no test rows"):
        refitted(run, record(config), data)


def test_export_that_answers_otherwise_is_removed(
    winner: RunFolder, captions_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import captune.tuner.winner.export

    honest = captune.tuner.winner.export.probabilities_of_split(
        captune.tuner.winner.export.Bundle.load(winner.bundle), captions_data, "test"
    )
    monkeypatch.setattr(captune.tuner.winner.export, "probabilities_in_fresh_process", lambda *_: honest + 2e-6)
    for kind, name in (("keras", "x.keras"), ("bundle", "x")):
        with pytest.raises(ProofError, match="other probabilities"):
            captune.tuner.winner.export.export(winner, captions_data, BUDGET, tmp_path / name, kind, None)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(captune.tuner.winner.export, "written_by_converter", lambda *a: a[-1].write_text("a model"))
    monkeypatch.setattr(captune.tuner.winner.export, "answers_of", lambda *_: (honest + 2e-5, {1: 0.1}))
    with pytest.raises(ProofError, match="other probabilities"):
        captune.tuner.winner.export.export(winner, captions_data, BUDGET, tmp_path / "x.onnx", "onnx", None)
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_what_is_there_and_what_has_no_winner(
    winner: RunFolder, run: RunFolder, captions_data: PreparedData, tmp_path: Path
) -> None:
    from captune.tuner.winner.export import export

    with pytest.raises(RunError, match="captune refit"):
        export(run, captions_data, BUDGET, tmp_path / "x", "bundle", None)
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RunError, match="exists"):
        export(winner, captions_data, BUDGET, tmp_path / "mine", "bundle", None)
    with pytest.raises(UsageError, match=r"\*\.keras"):
        export(winner, captions_data, BUDGET, tmp_path / "x.h5", "keras", None)
    with pytest.raises(UsageError, match="--format keras"):
        export(winner, captions_data, BUDGET, tmp_path / "x.keras", "bundle", None)
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.fixture(scope="module")
def int8_winner(
    captions_data: PreparedData, config: TrialConfig, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """The same trial, shipped as int8; held by its bundle."""
    run = RunFolder(tmp_path_factory.mktemp("int8"))
    trial = record(replace(config, {"storage": "int8"}), best=2)
    refitted(run, trial, captions_data, budget=Budget(10**6, "bundle"))
    return run


def score_on_test(bundle: Path, data: PreparedData) -> float:
    """Mean F1 of a bundle folder as whoever is sent it finds it."""
    from captune.model.bundle import Bundle
    from captune.model.metrics import score
    from captune.tuner.winner.predict import probabilities_of_split

    loaded = Bundle.load(bundle)
    found = probabilities_of_split(loaded, data, "test")
    return score(data.labels[data.rows("test")], loaded.rule.answers(found)).mean_f1


def test_proof_of_int8_scores_what_is_shipped(
    int8_winner: RunFolder, winner: RunFolder, captions_data: PreparedData, config: TrialConfig
) -> None:
    proof, whole = (json.loads(run.proof.read_text()) for run in (int8_winner, winner))
    assert (proof["storage"], proof["measure"]) == ("int8", "bundle")
    assert proof["reloaded"] == {"mean_f1": proof["test"]["mean_f1"], "max_difference": 0}
    assert proof["test"]["mean_f1"] == score_on_test(int8_winner.bundle, captions_data)
    assert proof["float32"]["mean_f1"] == whole["test"]["mean_f1"], "same seed, same training, before rounding"
    assert (whole["storage"], whole["measure"]) == ("float32", "weights")
    assert whole["float32"]["mean_f1"] == whole["test"]["mean_f1"]
    assert proof["weights_bytes"] == size(replace(config, {"storage": "int8"}).model).weights_bytes
    assert proof["bundle_bytes"] < whole["bundle_bytes"]


@pytest.mark.parametrize(
    ("source", "storage"),
    rest_in_soak([("winner", "int4"), ("winner", "float16"), ("int8_winner", "float32")], ("winner", "int4")),
)
def test_export_in_another_storage_gives_both_scores_and_loads(
    request: pytest.FixtureRequest, captions_data: PreparedData, tmp_path: Path, source: str, storage: Any
) -> None:
    import numpy as np

    from captune.model.bundle import Bundle, measured_bytes
    from captune.tuner.winner.export import export
    from captune.tuner.winner.predict import probabilities_of_split

    run = request.getfixturevalue(source)
    done = export(run, captions_data, BUDGET, tmp_path / "copy", "bundle", storage)
    assert (done.storage, done.format, done.bytes) == (storage, "bundle", measured_bytes(tmp_path / "copy"))
    assert done.winner_mean_f1 == json.loads(run.proof.read_text())["test"]["mean_f1"]
    assert done.mean_f1 == score_on_test(tmp_path / "copy", captions_data)
    copy, original = Bundle.load(tmp_path / "copy"), Bundle.load(run.bundle)
    assert copy.config.storage == storage
    there, here = (probabilities_of_split(bundle, captions_data, "test") for bundle in (copy, original))
    assert done.max_difference == pytest.approx(np.abs(there - here).max(), abs=1e-7)
    if source == "winner":
        assert done.bytes < measured_bytes(run.bundle)
        assert done.max_difference > 0, "rounding that changes no answer shows that nothing was rounded"
    else:
        assert done.max_difference == 0, "float32 holds whatever int8 holds"


@pytest.mark.soak
def test_export_without_a_storage_keeps_the_winner_s_own(
    int8_winner: RunFolder, captions_data: PreparedData, tmp_path: Path
) -> None:
    from captune.tuner.winner.export import export

    done = export(int8_winner, captions_data, BUDGET, tmp_path / "copy", "bundle", None)
    assert (done.storage, done.max_difference) == ("int8", 0)
    for file in int8_winner.bundle.iterdir():
        assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.soak
def test_keras_file_of_an_int8_winner_answers_as_the_winner_does(
    int8_winner: RunFolder, captions_data: PreparedData, tmp_path: Path
) -> None:
    from captune.tuner.winner.export import export

    done = export(int8_winner, captions_data, BUDGET, tmp_path / "x.keras", "keras", None)
    assert done.storage == "float32", "of what a Keras file holds"
    assert done.max_difference <= 1e-6
    assert done.winner_mean_f1 == done.mean_f1


@pytest.mark.parametrize(("kind", "storage"), [("keras", None), ("bundle", "float32")])
def test_export_that_would_leave_the_budget_of_weights_is_refused(
    int8_winner: RunFolder, captions_data: PreparedData, config: TrialConfig, tmp_path: Path, kind: str, storage: Any
) -> None:
    """The budget is between what the winner needs as int8 and what it needs as float32."""
    from captune.tuner.winner.export import export

    budget = Budget(size(config.model).weights_bytes - 1)
    with pytest.raises(ProofError, match=r"of weights, the budget is .*removed"):
        export(int8_winner, captions_data, budget, tmp_path / ("x.keras" if kind == "keras" else "x"), kind, storage)
    assert list(tmp_path.iterdir()) == []
    assert budget.holds(size(replace(config, {"storage": "int8"}).model))


@pytest.mark.soak
def test_keras_file_over_a_budget_that_the_bundle_keeps_ends_the_command_and_leaves_nothing(
    winner: RunFolder, captions_data: PreparedData, tmp_path: Path, captune: Captune
) -> None:
    from captune.model.bundle import measured_bytes
    from captune.tuner.run.settings import create
    from captune.tuner.space.config import read_search

    run = RunFolder(tmp_path / "run")
    settings = {"trials": 1, "measure": "bundle", "budget": measured_bytes(winner.bundle)}
    create(run, read_search(None, preset="captions", default_preset="captions", overrides=settings), captions_data)
    shutil.copytree(winner.winner, run.winner)
    ran = captune("export", run.path, "--to", tmp_path / "x.keras", "--format", "keras")
    assert ran.code == 1, ran
    (line,) = ran.err.splitlines()
    assert line.startswith("error: ") and "of bundle, the budget is" in line and "--format" in line
    assert ran.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    ran = captune("export", run.path, "--to", tmp_path / "copy")
    assert ran.code == 0, ran
    assert measured_bytes(tmp_path / "copy") == settings["budget"]
    assert "weights as float32" in ran.out and "of the winner" in ran.out


def of_bytes(path: Path, count: int) -> Path:
    """A folder with a file of so many bytes."""
    path.mkdir()
    (path / "weights.safetensors").write_bytes(bytes(count))
    return path


@pytest.mark.parametrize(
    ("of_predicted", "understood"),
    [(1.0, True), (0.995, True), (0.98, False), (0.5, False), (1.001, False), (1.5, False)],
)
def test_bundle_is_as_large_as_predicted_or_a_hundredth_smaller(
    tmp_path: Path, of_predicted: float, understood: bool
) -> None:
    predicted = size(PRESETS["captions"].model)
    count = int(of_predicted * predicted.bundle_bytes)
    bundle = of_bytes(tmp_path / "bundle", count)
    if understood:
        assert check_bytes(bundle, "bundle", predicted, Budget()) == count
    else:
        with pytest.raises(ProofError, match=f"{count} bytes where at most {predicted.bundle_bytes}"):
            check_bytes(bundle, "bundle", predicted, Budget())


def test_one_byte_more_than_predicted_is_too_many(tmp_path: Path) -> None:
    predicted = size(PRESETS["captions"].model)
    assert check_bytes(of_bytes(tmp_path / "fits", predicted.bundle_bytes), "bundle", predicted, Budget())
    with pytest.raises(ProofError, match="predicted"):
        check_bytes(of_bytes(tmp_path / "more", predicted.bundle_bytes + 1), "bundle", predicted, Budget())


@pytest.mark.parametrize("measure", ["weights", "bundle"])
def test_bytes_that_count_keep_the_budget_to_the_byte(tmp_path: Path, measure: Any) -> None:
    predicted = size(PRESETS["captions"].model)
    written = predicted.bundle_bytes - 100
    bundle = of_bytes(tmp_path / "bundle", written)
    count = predicted.weights_bytes if measure == "weights" else written
    assert check_bytes(bundle, "bundle", predicted, Budget(count, measure)) == written
    with pytest.raises(ProofError, match=f"of {measure}, the budget is"):
        check_bytes(bundle, "bundle", predicted, Budget(count - 1, measure))


@pytest.mark.parametrize(("extra", "cut"), [(1000, 0), (0, 1000)], ids=["larger", "smaller"])
def test_bundle_of_another_size_than_predicted_is_not_kept(
    run: RunFolder,
    winner: RunFolder,
    config: TrialConfig,
    captions_data: PreparedData,
    monkeypatch: pytest.MonkeyPatch,
    extra: int,
    cut: int,
) -> None:
    from captune.model.bundle import Bundle
    from captune.tuner.winner.export import export

    save = Bundle.save

    def tampered(self: Any, path: Path) -> None:
        save(self, path)
        with (path / "weights.safetensors").open("r+b") as file:
            file.seek(0, 2)
            file.truncate(file.tell() + extra - cut)

    monkeypatch.setattr(Bundle, "save", tampered)
    with pytest.raises(ProofError, match="predicted"):
        refitted(run, record(config), captions_data)
    assert not left(run.path)
    with pytest.raises(ProofError, match="predicted"):
        export(winner, captions_data, BUDGET, run.path / "copy", "bundle", None)
    assert not left(run.path)


@pytest.mark.soak
def test_folders_beside_an_export_stay_as_they_are(
    winner: RunFolder, captions_data: PreparedData, tmp_path: Path
) -> None:
    from captune.tuner.winner.export import export

    for name in ("copy.tmp", "copy.keras.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    export(winner, captions_data, BUDGET, tmp_path / "copy", "bundle", None)
    export(winner, captions_data, BUDGET, tmp_path / "copy.keras", "keras", None)
    assert all((tmp_path / name / "notes.txt").read_text() == "mine" for name in ("copy.tmp", "copy.keras.tmp"))
    written = {"copy", "copy.portable", "copy.keras", "copy.keras.portable"}
    assert left(tmp_path) == written | {"copy.tmp", "copy.keras.tmp"}


def begun(*arguments: object, moment: Callable[[], bool]) -> subprocess.Popen[str]:
    """`captune ARGUMENTS` in a process of its own, once the moment has come."""
    command = [sys.executable, "-m", "captune", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not moment():
        assert process.poll() is None and time.monotonic() < until, process.stderr and process.stderr.read()
        time.sleep(0.01)
    return process


def scratch(folder: Path, inside: str) -> Callable[[], bool]:
    """Whether something is being written aside that has the file `inside` with something in it."""
    return lambda: any(path.stat().st_size > 0 for path in folder.glob(f".captune-*.tmp/{inside}"))


@pytest.mark.soak
def test_refit_keeps_others_out_and_one_that_is_killed_leaves_the_next_its_place(old: Path, captune: Captune) -> None:
    run = RunFolder(old / "run")
    shutil.rmtree(run.winner)
    killed = begun("refit", run.path, moment=lambda: any(run.path.glob(".captune-*.tmp/winner")))
    started = time.monotonic()
    for ran in (captune("refit", run.path), captune("refit", run.path, "--anyway"), captune("resume", run.path)):
        only_line(ran, "another process")
    assert time.monotonic() - started < 20, "no framework was loaded for it"
    worker = int(run.refit_lock.read_text().split()[1])
    for process in (killed.pid, worker):
        os.kill(process, signal.SIGKILL)
    killed.communicate()
    assert not run.winner.exists() and any(run.path.glob(".captune-*.tmp"))
    ran = captune("refit", run.path)
    assert ran.code == 0 and "reloaded" in ran.out, ran.err
    assert Proof.read(run.proof).reloaded.max_difference <= 1e-6
    assert not any(run.path.glob(".captune-*.tmp"))


def test_refit_beside_a_search_is_refused_and_done_where_it_is_asked_for_anyway(old: Path, captune: Captune) -> None:
    run = RunFolder(old / "run")
    shutil.rmtree(run.winner)
    theirs = run.path / ".captune-0123abcd.tmp" / "summary.json"
    theirs.parent.mkdir()
    theirs.write_text("half")  # what the search is writing at this moment
    with run.writing():
        only_line(captune("refit", run.path), "searched by another process", "--anyway")
        assert not run.winner.exists()
        ran = captune("refit", run.path, "--anyway")
        assert ran.code == 0, ran.err
        assert theirs.read_text() == "half"
    assert Proof.read(run.proof).trial == 0


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "inside"), rest_in_soak([("bundle", "copy/bundle.json"), ("keras", "copy.keras")], ("keras", "copy.keras"))
)
def test_export_that_is_killed_while_it_proves_leaves_nothing_under_the_name(
    old: Path, tmp_path: Path, captune: Captune, kind: str, inside: str
) -> None:
    target = tmp_path / Path(inside).parts[0]
    command = ("export", old / "run", "--to", target, "--format", kind)
    killed = begun(*command, moment=scratch(tmp_path, inside))
    killed.kill()
    killed.communicate()
    assert not target.exists()
    assert captune(*command).code == 0
    assert target.exists()


def test_proof_and_its_process_find_nothing_of_the_current_folder(
    winner: RunFolder, captions_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "tuner", "results", "cluster", "data_prep", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of someone else')")
    monkeypatch.chdir(tmp_path)
    shipped = probabilities_in_fresh_process(winner.bundle, winner.bundle, captions_data, "test")
    assert len(shipped) == captions_data.manifest.counts["test"]


def test_proof_of_an_earlier_captune_is_read_and_a_damaged_one_refused_by_field(
    winner: RunFolder, tmp_path: Path
) -> None:
    content = json.loads(winner.proof.read_text())
    content.pop("version")
    content["test"].pop("map")  # from before that metric
    (tmp_path / "proof.json").write_text(json.dumps(content))
    assert math.isnan(Proof.read(tmp_path / "proof.json").test.map)
    (tmp_path / "proof.json").write_text(json.dumps(content | {"test": {"mean_f1": "high"}}))
    refused(lambda: Proof.read(tmp_path / "proof.json"), "proof.json", "test.", error=RunError)


def test_local_refit_loads_no_ray() -> None:
    code = (
        "import sys; from captune.tuner.winner import export, predict, refit, refit_run; "
        "print([name for name in sys.modules if name.split('.')[0] == 'ray'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
