"""A winner that averages several trials: chosen, trained again, proved, exported and used as any other."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import epoch
from builders import record as a_record
from conftest import Captune, refused

from captune.data_prep.store import PreparedData
from captune.model.average import Average
from captune.model.config import TrialConfig
from captune.model.flat import flatten, replace
from captune.model.presets import PRESETS
from captune.model.rule import DecisionRule
from captune.model.size import Budget, size
from captune.results.records import Record
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.averaging import Choice
from captune.tuner.space.space import bind
from captune.tuner.winner.average import Members, average_of, members_for
from captune.tuner.winner.proof import Proof

pytestmark = pytest.mark.slow

TINY = {"text.units": 8, "text.embedding": 8, "train.epochs": 2, "train.batch_size": 32}
BUDGET = Budget(10**6)


def trial(number: int, score: float, data: PreparedData, **changes: Any) -> Record:
    """A complete trial of two epochs, the second of which is its best."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    config: TrialConfig = bind(replace(PRESETS["captions"], TINY | named), data.manifest)
    rule = DecisionRule(0.35, "relative", 1.5 - number / 4, -0.25)
    predicted = size(config.model)
    return a_record(
        number, curve=(epoch(1, score - 0.1, rule=rule), epoch(2, score, rule=rule)), config=flatten(config),
        seed=5 + number, weights_bytes=predicted.weights_bytes, bundle_bytes=predicted.bundle_bytes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trials(captions_data: PreparedData) -> tuple[Record, ...]:
    """Two kinds of networks of other widths, the third too large to be averaged under a budget of its own size."""
    return (
        trial(0, 0.5, captions_data),
        trial(1, 0.49, captions_data, text__encoder="average", text__vocabulary_size=40, text__max_tokens=5),
        trial(2, 0.48, captions_data),
    )


@pytest.fixture(scope="module")
def winner(
    captions_data: PreparedData, trials: tuple[Record, ...], tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    """Refitted as the average of two trials."""
    from captune.tuner.winner.refit import refit

    run = RunFolder(tmp_path_factory.mktemp("average"))
    run.settings.write_text("{}")
    chosen = Members(trials[:2], Choice((0, 1), 0.51, 0.52, DecisionRule(0.4, scale=1.25)))
    refit(run, trials[0], captions_data, BUDGET, seeds=1, say=lambda _: None, average=chosen)
    return run


def test_proof_is_of_the_bundle_and_names_its_members(winner: RunFolder, trials: tuple[Record, ...]) -> None:
    proof = Proof.read(winner.proof)
    assert [member.trial for member in proof.members] == [0, 1]
    assert [(member.epochs, member.scale, member.shift) for member in proof.members] == [
        (2, 1.5, -0.25),
        (2, 1.25, -0.25),
    ]
    assert (proof.trial, proof.epochs, proof.search.mean_f1, proof.search.score) == (0, 4, 0.51, 0.52)
    assert 0 < proof.test.standard_error < 0.2
    assert proof.rule == DecisionRule(0.4, scale=1.25)
    assert proof.reloaded.max_difference <= 1e-6
    assert proof.weights_bytes == sum(record.weights_bytes for record in trials[:2])
    assert proof.network == average_of(trials[:2])


def test_bundle_of_a_winner_is_the_mean_of_its_members_each_trained_as_a_single_winner(
    winner: RunFolder, trials: tuple[Record, ...], captions_data: PreparedData, tmp_path: Path
) -> None:
    from captune.model.bundle import Bundle
    from captune.tuner.winner.predict import probabilities_of_split
    from captune.tuner.winner.refit import refit

    expected = []
    for record in trials[:2]:
        alone = RunFolder(tmp_path / str(record.number))
        alone.path.mkdir()
        refit(alone, record, captions_data, BUDGET, seeds=1, say=lambda _: None)
        bundle = Bundle.load(alone.bundle)
        expected.append(bundle.rule.calibrated(probabilities_of_split(bundle, captions_data, "test")))
    answers = probabilities_of_split(Bundle.load(winner.bundle), captions_data, "test")
    assert np.abs(answers - np.mean(expected, axis=0)).max() < 1e-6


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "name"), [("keras", "x.keras"), ("bundle", "copy")])
def test_average_is_exported_as_one_file(
    winner: RunFolder, captions_data: PreparedData, tmp_path: Path, kind: Any, name: str
) -> None:
    from captune.tuner.winner.export import export

    done = export(winner, captions_data, BUDGET, tmp_path / name, kind, "int8" if kind == "bundle" else None)
    assert done.winner_mean_f1 == Proof.read(winner.proof).test.mean_f1
    assert (tmp_path / f"{name}.portable").is_dir()


def test_average_predicts_what_a_person_asks_it(winner: RunFolder) -> None:
    from captune.tuner.api.classifier import load

    classifier = load(winner.bundle)
    assert isinstance(classifier.bundle.config, Average)
    assert len(classifier.predict(captions=["a dog on a beach", "two people"])) == 2


def test_model_card_counts_all_members(winner: RunFolder, captions_data: PreparedData) -> None:
    from captune.results.error_analysis import ErrorAnalysis
    from captune.tuner.winner.model_card import CardFacts, model_card

    proof = Proof.read(winner.proof)
    facts = CardFacts("run", "", {}, proof, ErrorAnalysis.read(winner.error_analysis), (), captions_data.manifest)
    card = model_card(facts)
    assert "| trials, averaged | 0, 1 |" in card
    assert f"| parameters | {size(proof.network).parameters:,} |" in card


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_members_are_chosen_on_networks_trained_on_train_alone_once(
    run: RunFolder, trials: tuple[Record, ...], captions_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.winner import candidates
    from captune.tuner.winner.candidates import Validation

    trained: list[set[int]] = []
    begin = candidates.begin
    monkeypatch.setattr(
        candidates,
        "begin",
        lambda data, rows, *rest, **more: trained.append(set(rows.tolist())) or begin(data, rows, *rest, **more),
    )
    said: list[Any] = []
    validation = Validation(run, captions_data, said.append)
    chosen = members_for(trials[0], trials, validation, BUDGET, 2)
    assert chosen is not None and chosen.records[0] == trials[0] and len(chosen.records) == 2
    assert trained == [set(captions_data.rows("train").tolist())] * 3
    again = members_for(trials[0], trials, validation, BUDGET, 2)
    assert again == chosen and len(trained) == 3, "what was computed is kept for a refit that is begun again"
    assert any("trained again" in line for line in said if isinstance(line, str))


@pytest.mark.soak
def test_budget_that_holds_one_network_ships_one(
    run: RunFolder, trials: tuple[Record, ...], captions_data: PreparedData
) -> None:
    from captune.tuner.winner.candidates import Validation

    said: list[Any] = []
    budget = Budget(trials[0].weights_bytes)
    assert members_for(trials[0], trials, Validation(run, captions_data, said.append), budget, "auto") is None
    assert any("no further network fits" in line for line in said if isinstance(line, str))
    assert "no average: trial 0 is shipped alone" in said


@pytest.mark.soak
def test_network_that_the_search_kept_is_not_trained_again(
    run: RunFolder, trials: tuple[Record, ...], captions_data: PreparedData, tmp_path: Path
) -> None:
    from captune.model.bundle import Bundle
    from captune.model.rule import fit_rule
    from captune.tuner.winner.candidates import Validation
    from captune.tuner.winner.predict import probabilities_of_split
    from captune.tuner.winner.refit import refit

    alone = RunFolder(tmp_path / "alone")
    alone.path.mkdir()
    refit(alone, trials[1], captions_data, BUDGET, seeds=1, say=lambda _: None)
    (run.checkpoints / "1").mkdir(parents=True)
    alone.bundle.rename(run.checkpoints / "1" / "best-2")
    said: list[Any] = []
    validation = Validation(run, captions_data, said.append)
    answers = validation.probabilities(trials[1])
    kept = probabilities_of_split(Bundle.load(run.checkpoints / "1" / "best-2"), captions_data, "validation")
    kept = kept[[list(captions_data.rows("validation")).index(row) for row in validation.rows]]
    assert answers is not None and not said
    assert np.abs(answers - fit_rule(validation.truth, kept).calibrated(kept)).max() < 1e-6
    assert validation.probabilities(trials[1], turn=1) is not None
    assert said[0] == "trial 1 is trained again on train", "another seed is another network"


@pytest.mark.soak
def test_command_confirms_and_averages_the_trials_of_an_earlier_search(captune: Captune, old: Path) -> None:
    run = RunFolder(old / "run")
    shutil.rmtree(run.winner)
    refused(captune("refit", run, "--average", "some"), "a number of networks or auto, got some")
    refused(captune("refit", run, "--average", 0), "--average", "1 or more, got 0")
    refused(captune("refit", run, "--confirm", "long"), "--confirm", "auto, or a duration is written like 90s")
    refused(captune("refit", run, "--confirm", "auto", "--trial", 0), "--confirm", "leave it out to refit trial 0")
    ran = captune("refit", run, "--average", 2, "--confirm", "5m")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("average of trials ") and "its network was not kept" in ran.err
    assert " epochs in all on train + validation" in ran.out.splitlines()[0]
    assert "is the best with probability" in ran.err or "is the smallest of trials" in ran.err
    proof = Proof.read(run.proof)
    assert len(proof.members) == 2 and proof.reloaded.max_difference <= 1e-6
    assert proof.confirmation is not None
    assert "the average of trials" in run.report.read_text()
    ran = captune("evaluate", run.bundle, old / "train.csv", "--json")
    assert ran.code == 0 and json.loads(ran.out)["examples"] > 2
    shutil.rmtree(run.winner)
    ran = captune("refit", run, "--confirm", "5m")
    assert ran.code == 0 and "was expected before test was read" in ran.out, "from what the first refit left"
    assert "trained again" not in ran.err
