"""What commit c3a2cec wrote as version 0.1.0 still opens: a prepared set, a finished run and its bundle."""

import json
import math
import shutil
from pathlib import Path

import pytest
from conftest import Captune

import captune as package
from captune.data_prep.store import PreparedData
from captune.tuner.winner.proof import Proof


def test_prepared_set_opens(old: Path) -> None:
    data = PreparedData.open(old / "data")
    assert data.manifest.counts == {"train": 32, "validation": 14, "test": 13}
    assert data.captions[0] and data.tokens is not None


def test_prepared_set_is_used_again_by_the_command_that_made_it(captune: Captune, old: Path) -> None:
    before = {path: path.read_bytes() for path in (old / "data").iterdir()}
    ran = captune("prepare", old / "train.csv", "--out", old / "data", "--split", "60/20/20")
    assert ran.code == 0 and "59 of 59 rows" in ran.out, ran
    assert {path: path.read_bytes() for path in (old / "data").iterdir()} == before


def test_trials_are_those_of_then(captune: Captune, old: Path) -> None:
    trials = json.loads(captune("trials", old / "run", "--format", "json").out)
    assert [trial.pop("ece") for trial in trials] == [None] * 3, "a metric that came later"
    assert trials == json.loads((old / "trials.json").read_text())


def test_rules_of_then_are_thresholds_without_calibration(old: Path) -> None:
    from captune.model.bundle_manifest import BundleManifest

    run = package.open_run(old / "run")
    rules = [epoch.rule for record in run.records() for epoch in record.curve]
    assert len(rules) == 6
    for rule in (*rules, run.winner.proof.rule, BundleManifest.read(old / "run" / "winner" / "bundle").rule):
        assert rule is not None and (rule.kind, rule.scale, rule.shift) == ("threshold", 1.0, 0.0)
    assert run.winner.proof.rule.value == 0.56
    assert math.isnan(run.winner.proof.test.ece)


def test_documents_are_read(old: Path) -> None:
    run = package.open_run(old / "run")
    assert (run.settings.trials, run.settings.budget, run.settings.halving.reduction) == (3, 100 * 2**20, 2)
    assert run.summary.trials == {"complete": 3}
    assert run.winner.proof == Proof.read(old / "run" / "winner" / "proof.json")
    assert run.winner.proof.test.mean_f1 == pytest.approx(0.3590, abs=1e-4)


@pytest.mark.slow
def test_bundle_answers_as_then(captune: Captune, old: Path) -> None:
    scores = json.loads(captune("evaluate", old / "run" / "winner" / "bundle", old / "train.csv", "--json").out)
    then = json.loads((old / "scores.json").read_text())
    assert scores.keys() == {*then, "ece", "low", "high", "commonest_label", "rows_per_label"}
    for name in ("mean_f1", "micro_f1", "macro_f1", "map", "per_label", "examples"):
        assert scores[name] == pytest.approx(then[name], abs=1e-6)
    ran = captune(
        *("predict", old / "run" / "winner" / "bundle", old / "train.csv", "--out", old / "out.csv", "--probabilities")
    )
    assert ran.code == 0, ran.err
    header, first, *_ = (old / "out.csv").read_text().splitlines()
    assert header == "ImageID,Labels,1,2,3,5,6,8"
    _, labels, *probabilities = first.split(",")
    above = [label for label, p in zip(header.split(",")[2:], map(float, probabilities), strict=True) if p >= 0.56]
    assert not above or labels == " ".join(above), "a threshold for the network's own probabilities"


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.cluster
def test_search_goes_on_and_its_winner_is_trained_again(captune: Captune, old: Path) -> None:
    before = package.open_run(old / "run").records()
    ran = captune("resume", old / "run", "--trials", 4)
    assert ran.code == 0, ran.err
    after = package.open_run(old / "run").records()
    assert after[:3] == before and len(after) == 4
    then = package.open_run(old / "run").winner.proof
    shutil.rmtree(old / "run" / "winner")
    ran = captune("refit", old / "run", "--trial", then.trial)
    assert ran.code == 0, ran.err
    assert package.open_run(old / "run").winner.proof.test.mean_f1 == pytest.approx(then.test.mean_f1, abs=1e-6)
