"""Refit, proof and export of a trial, without a search: the record is made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.store import PreparedData, prepare
from model.config import TrialConfig, flatten, replace
from model.metrics import Epoch
from model.presets import PRESETS
from model.size import size
from results.study import Record, RunError, RunFolder
from tuner.space import bind

pytestmark = [pytest.mark.slow, pytest.mark.cluster]  # tuner.trial imports Ray

TINY = {"text.units": 8, "text.embedding": 8, "train.epochs": 3, "train.batch_size": 32}
BUDGET = 10**6


def record(config: TrialConfig, *, best: int = 1, seed: int | None = 5) -> Record:
    """A complete trial whose best epoch is `best`."""
    scores = [0.5 if number == best else 0.1 for number in (1, 2, 3)]
    curve = tuple(Epoch(n, 0.5, s, s, s, s, 0.35, 1.0, 0.1) for n, s in enumerate(scores, 1))
    weights = size(config.model).weights_bytes
    return Record(4, "complete", 0.5, best, 3, weights, 3.0, "here", None, seed, flatten(config), curve)


@pytest.fixture(scope="module")
def config(captions_data: PreparedData) -> TrialConfig:
    return bind(replace(PRESETS["captions"], TINY), captions_data.manifest)


@pytest.fixture(scope="module")
def winner(captions_data: PreparedData, config: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A refitted run on captions alone, of two epochs and two seeds."""
    from tuner.refit import refit

    run = RunFolder(tmp_path_factory.mktemp("refit"))
    said: list[str] = []
    returned = refit(run, record(config, best=2), captions_data, BUDGET, seeds=2, say=said.append)
    assert json.loads(run.proof.read_text()) == returned
    assert sum(line.startswith("epoch ") for line in said) == 4, "two epochs for each of two seeds"
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def refitted(run: RunFolder, record: Record, data: PreparedData, *, budget: int = BUDGET) -> dict[str, Any]:
    from tuner.refit import refit

    return refit(run, record, data, budget, seeds=1, say=lambda line: None)


def test_proof_has_the_keys_that_users_build_on(winner: RunFolder, captions_data: PreparedData) -> None:
    proof = json.loads(winner.proof.read_text())
    assert proof.keys() >= {"trial", "config", "search", "test", "reloaded", "weights_bytes", "bundle_bytes"}
    assert (proof["trial"], proof["epochs"], proof["threshold"]) == (4, 2, 0.35)
    assert proof["search"]["mean_f1"] == 0.5
    assert 0 <= proof["test"]["low"] <= proof["test"]["mean_f1"] <= proof["test"]["high"] <= 1
    assert proof["test"]["examples"] == captions_data.manifest.counts["test"]
    assert proof["reloaded"]["mean_f1"] == pytest.approx(proof["test"]["mean_f1"])
    assert proof["reloaded"]["max_difference"] <= 1e-6
    assert len(proof["seeds"]) == 2
    assert proof["seeds"][0] == proof["test"]["mean_f1"], "the bundle is that of the trial's own seed"
    assert proof["bundle_bytes"] > proof["weights_bytes"] == size_of(proof["config"])
    assert proof["bundle_fits"] is True


def size_of(flat: dict[str, Any]) -> int:
    from model.config import unflatten

    return size(unflatten(flat).model).weights_bytes


def test_refit_learns_from_train_and_validation_and_never_from_test(
    config: TrialConfig, captions_data: PreparedData, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tuner.refit

    asked: list[tuple[str, ...]] = []
    rows = PreparedData.rows

    def noted(self: PreparedData, *splits: str) -> Any:
        asked.append(splits)
        return rows(self, *splits)

    monkeypatch.setattr(PreparedData, "rows", noted)
    trained: list[Any] = []
    batches = tuner.refit.batches
    monkeypatch.setattr(
        tuner.refit,
        "batches",
        lambda data, chosen, *rest, **named: (
            trained.append((set(chosen.tolist()), named)) or batches(data, chosen, *rest, **named)
        ),
    )
    monkeypatch.setattr(tuner.refit, "probabilities_in_fresh_process", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        refitted(run, record(config), captions_data)
    test = set(rows(captions_data, "test").tolist())
    shuffled = [chosen for chosen, named in trained if named.get("seed") is not None]
    assert shuffled == [set(rows(captions_data, "train", "validation").tolist())]
    assert not shuffled[0] & test
    assert not run.winner.exists() and not (run.path / "winner.tmp").exists(), "what is not proved is not kept"


def test_refit_a_second_time_is_refused(winner: RunFolder, config: TrialConfig, captions_data: PreparedData) -> None:
    before = winner.proof.read_bytes()
    with pytest.raises(RunError, match="move it away"):
        refitted(winner, record(config), captions_data)
    assert winner.proof.read_bytes() == before


def test_bundle_that_answers_otherwise_is_not_kept(
    run: RunFolder, config: TrialConfig, captions_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tuner.refit

    honest = tuner.refit.probabilities_in_fresh_process
    monkeypatch.setattr(tuner.refit, "probabilities_in_fresh_process", lambda *a: honest(*a) + 2e-6)
    with pytest.raises(tuner.refit.ProofError, match="other probabilities"):
        refitted(run, record(config), captions_data)
    assert list(run.path.iterdir()) == []


def test_bundle_that_cannot_be_loaded_is_told_in_one_line(
    winner: RunFolder, captions_data: PreparedData, tmp_path: Path
) -> None:
    from tuner.refit import ProofError, probabilities_in_fresh_process

    with pytest.raises(ProofError, match="cannot be loaded in a fresh process") as caught:
        probabilities_in_fresh_process(tmp_path, tmp_path, captions_data, "test")
    assert "\n" not in str(caught.value)
    assert "is not a bundle" in str(caught.value)


def test_trial_over_the_budget_is_not_refitted(
    run: RunFolder, config: TrialConfig, captions_data: PreparedData
) -> None:
    from tuner.refit import ProofError

    with pytest.raises(ProofError, match="trial 4 needs"):
        refitted(run, record(config), captions_data, budget=100)
    assert list(run.path.iterdir()) == []


def test_trial_without_scored_epoch_is_refused(
    run: RunFolder, config: TrialConfig, captions_data: PreparedData
) -> None:
    unscored = Record(4, "lost", None, None, 0, 1, 1.0, None, None, 5, flatten(config), ())
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
    import numpy as np

    import tuner.refit

    answers = iter([np.zeros((3, 6)), np.full((3, 6), 1e-5)])
    monkeypatch.setattr(tuner.refit, "probabilities_in_fresh_process", lambda *_: next(answers))
    with pytest.raises(tuner.refit.ProofError, match="removed"):
        tuner.refit.export(winner, captions_data, tmp_path / "x.keras", "keras")
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_what_is_there_and_what_has_no_winner(
    winner: RunFolder, run: RunFolder, captions_data: PreparedData, tmp_path: Path
) -> None:
    from tuner.refit import export

    with pytest.raises(RunError, match="captune refit"):
        export(run, captions_data, tmp_path / "x", "bundle")
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RunError, match="exists"):
        export(winner, captions_data, tmp_path / "mine", "bundle")
    with pytest.raises(RunError, match=r"\*\.keras"):
        export(winner, captions_data, tmp_path / "x.h5", "keras")
    assert (tmp_path / "mine").read_text() == "mine"
