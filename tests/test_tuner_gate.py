"""The gate: what fits is admitted once, what does not teaches the sampler, and the study is told the truth."""

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import feasible
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from captune.model.flat import unflatten
from captune.model.latency import FAR, Latency, Speed
from captune.model.operations import Operations, operations
from captune.model.size import Contents, Measure, show_bytes, size
from captune.results.attributes import FATES
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.records import Record, load_records
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.gate import MAX_REPEATS, STARTUP, Admitted, Gate, UsedUp
from captune.tuner.space.feasibility import BudgetError, FeasibleSpace

KB = 1000
CONTENTS = Contents.typical(18)
WIDE = {
    "text.embedding": {"low": 8, "high": 64, "step": 8},
    "train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
}
IMPOSSIBLE = {"image.backbone": ["compact", "MobileNetV3Small"], "image.weights": ["none", "imagenet"]}
OBJECTIVES = (["maximize"], ["maximize", "minimize"])


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def widths(count: int, fitting: int) -> FeasibleSpace:
    """A space of so many configurations, of which so many fit."""
    options = [8 * width for width in range(1, count + 1)]
    reach = feasible({"text.embedding": options})
    sizes = [reach.size_of(reach.space.at({"text.embedding": option})).weights_bytes for option in options]
    assert sizes == sorted(sizes)
    return feasible({"text.embedding": options}, sizes[fitting - 1])


def finish(gate: Gate, admitted: Admitted, score: float = 0.5) -> None:
    gate.tell(admitted.trial, "complete", best=score)


def admit_all(gate: Gate) -> list[Admitted]:
    """Everything until the space is used up."""
    admitted = []
    with pytest.raises(UsedUp):
        while True:
            admitted.append(gate.admit())
            finish(gate, admitted[-1])
    return admitted


class Run:
    """A run folder with its study, opened as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = RunFolder(folder)
        folder.mkdir()
        self.folder.settings.write_text("{}")

    def open(self, directions: Sequence[Any] = ("maximize",)) -> optuna.Study:
        return optuna.create_study(
            study_name=STUDY_NAME,
            storage=open_storage(self.folder, wait=pytest.fail),
            directions=directions,
            load_if_exists=True,
        )

    @property
    def records(self) -> list[Record]:
        return load_records(self.folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> int:
    """A space counts as used up after so many repeats: each costs a run folder's journal milliseconds."""
    monkeypatch.setattr("captune.tuner.decisions.gate.MAX_REPEATS", 40)
    return 40


# What fits


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["weights", "bundle"])
def test_refusal_is_a_record_with_its_bytes_and_reason_and_is_never_admitted(run: Run, measure: Measure) -> None:
    limit = {"weights": 20 * KB, "bundle": 26 * KB}[measure]
    study = run.open()
    gate = Gate(study, feasible(WIDE, limit, measure), seed=1)
    admitted = [gate.admit() for _ in range(12)]
    for one in admitted:
        finish(gate, one)
    refused = [record for record in run.records if record.fate == "over_budget"]
    assert refused, "nothing drawn is over this budget: the test shows nothing"
    for record in refused:
        expected = size(unflatten(record.config).model, CONTENTS)
        assert (record.weights_bytes, record.bundle_bytes) == (expected.weights_bytes, expected.bundle_bytes)
        counted = expected.weights_bytes if measure == "weights" else expected.bundle_bytes
        assert record.margin_bytes == limit - counted < 0
        assert record.reason is not None and "\n" not in record.reason
        assert show_bytes(counted) in record.reason and show_bytes(limit) in record.reason
        assert (record.epochs, record.mean_f1) == (0, None)
        trial = study.trials[record.number]
        assert (trial.state, trial.values) == (TrialState.PRUNED, None)
    complete = {record.number: record for record in run.records if record.fate == "complete"}
    assert complete.keys() == {one.trial.number for one in admitted}
    for one in admitted:
        record = complete[one.trial.number]
        assert unflatten(record.config) == one.config
        assert one.size == size(one.config.model, CONTENTS)
        counted = one.size.weights_bytes if measure == "weights" else one.size.bundle_bytes
        assert record.margin_bytes == limit - counted >= 0
    assert gate.fates == {"over_budget": len(refused), "complete": len(admitted)}
    assert len(run.records) == len(study.trials)


def test_constraint_of_a_trial_is_how_far_it_is_over_the_budget() -> None:
    limit = 20 * KB
    study = optuna.create_study(direction="maximize")
    gate = Gate(study, feasible(WIDE, limit), seed=1)
    for _ in range(10):
        finish(gate, gate.admit())
    over = {False: 0, True: 0}
    for trial in study.trials:
        (broken,) = trial.constraints.values()
        assert broken == pytest.approx(trial.user_attrs["size"]["weights_bytes"] / limit - 1)
        over[broken > 0] += 1
        assert (broken > 0) == (trial.state == TrialState.PRUNED)
    assert all(over.values())


def test_what_is_predicted_far_over_the_latency_is_refused_and_told_and_what_is_a_little_over_is_tried(
    run: Run,
) -> None:
    free = dict.fromkeys(Operations._fields, 0.0)
    reach = feasible({"image.width": {"low": 8, "high": 64, "step": 4}})
    middle = operations(reach.space.at({"image.width": 32}).model).convolution
    prices = free | {"convolution": 0.9e6 / middle}
    latency = Latency(1.0, Speed(runtime="onnx", machine="m", nanoseconds=prices, error=1.2))
    study = run.open()
    gate = Gate(study, dataclasses.replace(reach, latency=latency), seed=2)
    admitted = admit_all(gate)
    shares = [latency.share(one.config.model) for one in admitted]
    assert any(share < 1 for share in shares) and any(1 < share <= FAR for share in shares)
    refused = [record for record in run.records if record.fate == "over_budget"]
    assert refused and all(latency.share(unflatten(record.config).model) > FAR for record in refused)
    assert len({record.config["image.width"] for record in refused}) == len(refused), "each once"
    assert all(record.reason and record.reason.startswith("needs about ") for record in refused)
    assert all(record.margin_bytes > 0 for record in refused), "of bytes they have few enough"
    for trial in study.trials:
        config = unflatten(trial.user_attrs["config"]).model
        assert trial.constraints["latency"] == pytest.approx(latency.share(config) - 1)
        assert (trial.state == TrialState.PRUNED) == (trial.constraints["latency"] > FAR - 1)


def test_space_of_which_nothing_is_fast_enough_says_so_with_both_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune.tuner.decisions.gate.MAX_REFUSALS", 30)
    slow = Speed(runtime="onnx", machine="m", nanoseconds=dict.fromkeys(Operations._fields, 1e6), error=1.2)
    gate = Gate(optuna.create_study(), dataclasses.replace(feasible(WIDE), latency=Latency(1.0, slow)), seed=0)
    with pytest.raises(BudgetError, match=r"and 1 ms a row; narrow the space to smaller models or raise .* --latency$"):
        gate.admit()


def test_configuration_of_exactly_the_budget_is_admitted_and_one_byte_more_is_not() -> None:
    reach = feasible({"text.embedding": [8]})
    exact = reach.size_of(reach.space.base).weights_bytes
    assert admit_all(Gate(optuna.create_study(), feasible({"text.embedding": [8]}, exact), seed=0))
    with pytest.raises(BudgetError):
        Gate(optuna.create_study(), feasible({"text.embedding": [8]}, exact - 1), seed=0).admit()


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), limit=st.integers(19 * KB, 60 * KB), fate=st.sampled_from([*FATES, None]))
def test_what_is_admitted_fits_and_is_none_that_was_admitted_before(seed: int, limit: int, fate: Any) -> None:
    gate = Gate(optuna.create_study(direction="maximize"), feasible(WIDE, limit), seed=seed)
    seen = set()
    for _ in range(10):
        admitted = gate.admit()
        assert size(admitted.config.model).weights_bytes <= limit
        assert admitted.config not in seen
        seen.add(admitted.config)
        if fate is not None:  # else they all run on
            gate.tell(admitted.trial, fate, best=0.5)


def test_enqueued_preset_is_admitted_first() -> None:
    reach = feasible(WIDE)
    study = optuna.create_study()
    study.enqueue_trial(reach.preset())
    first = Gate(study, reach, seed=5).admit()
    assert first.config == reach.space.base
    assert first.trial.number == 0


# What the sampler learns


def test_first_configurations_are_drawn_evenly_however_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, seed = 20 * KB, 4
    study = optuna.create_study(direction="maximize")
    used, ask = [], study.ask

    def noted() -> optuna.Trial:
        used.append(type(study.sampler).__name__)
        return ask()

    monkeypatch.setattr(study, "ask", noted)
    gate = Gate(study, feasible(WIDE, limit), seed=seed)
    for place in range(STARTUP):
        finish(gate, gate.admit(), score=0.1 * place)
    assert gate.fates["over_budget"] > STARTUP, "so few refusals that they need not be counted to be mistaken"
    assert set(used) == {"RandomSampler"}
    evenly = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for trial in study.trials:
        drawn = evenly.ask()
        feasible(WIDE).space.suggest(drawn)
        assert trial.params == drawn.params
    gate.admit()
    assert set(used[len(study.trials) - 1 :]) == {"TPESampler"}


@pytest.mark.soak
@pytest.mark.slow
def test_in_a_space_that_is_mostly_over_the_budget_a_third_of_an_even_filters_refusals_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five seeds, sixty admitted each; TPE that is not taught by its refusals never comes so far."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    benchmark = importlib.import_module("gate")
    gates = [benchmark.through_gate(seed) for seed in range(5)]
    filters = [benchmark.drawn_evenly(seed) for seed in range(5)]
    assert all(refused / (refused + benchmark.FITTING) >= 0.6 for refused in filters), "most of the space does not fit"
    assert all(ours <= evenly / 3 for ours, evenly in zip(gates, filters, strict=True)), (gates, filters)


# Nothing twice


@pytest.mark.parametrize(("count", "fitting", "seed"), [(6, 4, 0), (6, 6, 1), (12, 9, 0), (40, 4, 1), (40, 1, 0)])
def test_small_space_is_used_up_when_all_that_fits_was_admitted_once(count: int, fitting: int, seed: int) -> None:
    study = optuna.create_study(direction="maximize")
    gate = Gate(study, widths(count, fitting), seed=seed)
    admitted = [one.config.model.text.embedding for one in admit_all(gate) if one.config.model.text]
    assert sorted(admitted) == [8 * width for width in range(1, fitting + 1)]
    refused = [
        trial.params["text.embedding"] for trial in study.trials if trial.user_attrs.get("fate") == "over_budget"
    ]
    assert len(refused) == len(set(refused)) <= count - fitting, "each is refused on record once"
    assert len(study.trials) <= count + 21 * (1 + fitting)


def test_space_that_cannot_be_gone_through_is_used_up_after_very_many_repeats() -> None:
    share = {"low": 0.1, "high": 0.5, "when": {"text.encoder": "gru"}}
    study = optuna.create_study(direction="maximize")
    assert len(admit_all(Gate(study, feasible({"text.units": [8, 16], "text.dropout": share}), seed=0))) == 2
    assert MAX_REPEATS <= len(study.trials) <= 3 * MAX_REPEATS


def test_settings_without_effect_make_no_second_network() -> None:
    dimensions = {"text.encoder": ["average", "convolution"], "text.kernel": [1, 2, 3], "train.gamma": [1.0, 2.0]}
    admitted = admit_all(Gate(optuna.create_study(direction="maximize"), feasible(dimensions), seed=0))
    networks = [
        (one.config.model.text.encoder, one.config.model.text.kernel) for one in admitted if one.config.model.text
    ]
    assert sorted(network for network in networks if network[0] == "convolution") == [
        ("convolution", k) for k in (1, 2, 3)
    ]
    assert len(networks) == 4


def test_resume_of_a_used_up_space_refuses_nothing_anew(run: Run) -> None:
    admit_all(Gate(run.open(), widths(3, 1), seed=0))
    before = [record.fate for record in run.records]
    assert sorted(before) in (["complete"], ["complete", "over_budget"], ["complete", "over_budget", "over_budget"])
    draws = len(run.open().trials)
    gate = Gate(run.open(), widths(3, 1), seed=0)
    assert admit_all(gate) == [] and gate.used_up
    assert sum(record.fate == "complete" for record in run.records) == 1
    assert len(run.records) <= 3
    assert len(run.open().trials) <= draws + 22


def test_used_up_space_costs_no_more_draws() -> None:
    study = optuna.create_study(direction="maximize")
    gate = Gate(study, widths(6, 4), seed=0)
    admit_all(gate)
    drawn = len(study.trials)
    for _ in range(3):
        with pytest.raises(UsedUp):
            gate.admit()
    assert len(study.trials) == drawn


@pytest.mark.usefixtures("impatient")
def test_used_up_space_is_used_up_for_the_next_search_of_the_run_too(run: Run) -> None:
    assert len(admit_all(Gate(run.open(), widths(6, 4), seed=0))) == 4
    again = Gate(run.open(), widths(6, 4), seed=0)
    assert admit_all(again) == []
    assert sum(record.fate == "complete" for record in run.records) == 4


def test_space_without_dimensions_has_one_configuration() -> None:
    assert len(admit_all(Gate(optuna.create_study(), feasible({}), seed=0))) == 1


def test_draw_that_repeats_a_trial_is_in_no_record_and_no_count(run: Run) -> None:
    study = run.open()
    gate = Gate(study, widths(6, 4), seed=0)
    admit_all(gate)
    void = [trial for trial in study.trials if "void" in trial.user_attrs]
    assert void
    assert {trial.state for trial in void} <= {TrialState.FAIL, TrialState.PRUNED}
    shown = {record.number for record in run.records}
    assert shown.isdisjoint(trial.number for trial in void)
    assert len(shown) + len(void) == len(study.trials)
    assert {record.fate for record in run.records} == {"complete", "over_budget"}
    assert sum(gate.fates.values()) == len(shown)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fate", ["complete", "stopped", "diverged", "failed", "lost", None])
def test_configuration_is_not_admitted_again_whatever_became_of_it(run: Run, fate: Any) -> None:
    def opened() -> Gate:
        return Gate(run.open(), feasible({"text.embedding": [8, 16, 24]}), seed=0)

    gate = opened()
    first = gate.admit()
    if fate is not None:  # else it runs on
        gate.tell(first.trial, fate, best=0.5)
    second, third = gate.admit(), opened().admit()
    assert len({one.config for one in (first, second, third)}) == 3
    with pytest.raises(UsedUp):
        opened().admit()


@pytest.mark.usefixtures("impatient")
def test_lost_trial_that_is_handed_out_again_is_admitted_though_it_is_known(run: Run) -> None:
    study = run.open()
    gate = Gate(study, widths(6, 4), seed=0)
    lost = gate.admit()
    gate.tell(lost.trial, "lost")
    again = study.trials[lost.trial.number]
    study.enqueue_trial(again.params, user_attrs={"replaces": lost.trial.number, "tries": 2})
    admitted = gate.admit()
    assert (admitted.config, admitted.origin) == (lost.config, lost.trial.number)
    finish(gate, admitted)
    assert lost.config not in {one.config for one in admit_all(gate)}
    # The space is used up, and still a lost trial comes back; by another gate too.
    study.enqueue_trial(again.params, user_attrs={"replaces": lost.trial.number, "tries": 3})
    drawn = len(study.trials)
    assert gate.admit().config == lost.config
    assert len(study.trials) == drawn
    with pytest.raises(UsedUp):
        gate.admit()
    study.enqueue_trial(again.params, user_attrs={"replaces": lost.trial.number, "tries": 3})
    assert Gate(run.open(), widths(6, 4), seed=0).admit().config == lost.config


def test_continued_study_knows_what_it_admitted_and_draws_on_instead_of_anew(run: Run) -> None:
    first = Gate(run.open(), feasible(WIDE), seed=3)
    before = [first.admit() for _ in range(STARTUP - 2)]
    for one in before:
        finish(first, one)
    study = run.open()
    again = Gate(study, feasible(WIDE), seed=3)
    assert again.fates == {"complete": len(before)}
    after = [again.admit() for _ in range(3)]
    rates = [one.config.train.learning_rate for one in (*before, *after)]
    assert len(set(rates)) == len(rates)
    # The same numbers once more would be repeats, set aside before new ones come.
    assert not any("void" in trial.user_attrs for trial in study.trials)


def test_configurations_that_a_continued_study_admitted_count_as_start_up(run: Run) -> None:
    first = Gate(run.open(), feasible(WIDE), seed=3)
    for _ in range(STARTUP):
        finish(first, first.admit())
    study = run.open()
    Gate(study, feasible(WIDE), seed=3).admit()
    assert isinstance(study.sampler, optuna.samplers.TPESampler)


# What is impossible


def test_values_impossible_together_are_no_trial_and_tell_the_sampler_to_stay_away(run: Run) -> None:
    study = run.open()
    study.enqueue_trial({"image.backbone": "compact", "image.weights": "imagenet"})
    gate = Gate(study, feasible(IMPOSSIBLE | WIDE), seed=0)
    for _ in range(8):
        admitted = gate.admit()
        image = admitted.config.model.image
        assert image is not None and (image.backbone, image.weights) != ("compact", "imagenet")
        finish(gate, admitted)
    first = study.trials[0]
    assert first.user_attrs["void"].startswith("impossible: compact has no ImageNet weights")
    assert first.state == TrialState.PRUNED
    assert any(broken > 0 for broken in first.constraints.values())
    assert "over_budget" not in gate.fates
    assert 1 <= gate.impossible == Gate(study, feasible(IMPOSSIBLE | WIDE), seed=0).impossible
    assert {record.fate for record in run.records} == {"complete"}
    assert 0 not in {record.number for record in run.records}


@pytest.mark.parametrize("directions", OBJECTIVES, ids=["one", "two"])
def test_whole_loop_works_with_refusals_impossible_values_and_trials_of_every_fate(
    run: Run, directions: list[str]
) -> None:
    limit = 6_000 * KB
    dimensions = {**IMPOSSIBLE, **WIDE, "image.units": [0, 1024, 4096], "head_units": [0, 64, 1024]}
    study = run.open(directions)
    gate = Gate(study, feasible(dimensions, limit), seed=2)
    fates = ["complete", "complete", "complete", "stopped", "diverged", "failed", "lost"]
    for place in range(30):
        admitted = gate.admit()
        assert admitted.size.weights_bytes <= limit
        gate.tell(admitted.trial, fates[place % len(fates)], best=admitted.config.train.learning_rate)  # type: ignore[arg-type]
    assert isinstance(study.sampler, optuna.samplers.TPESampler)
    assert gate.fates["over_budget"] > 0 and any("void" in trial.user_attrs for trial in study.trials)
    assert sum(record.fate != "over_budget" for record in run.records) == 30
    best = study.best_trials
    assert best and all(trial.user_attrs["size"]["margin_bytes"] >= 0 for trial in best)
    assert all(len(trial.values) == len(directions) for trial in best)


# Fates in Optuna's words


@pytest.mark.parametrize("directions", OBJECTIVES, ids=["one", "two"])
@pytest.mark.parametrize(
    ("fate", "best", "state"),
    [
        ("complete", 0.7, TrialState.COMPLETE),
        ("complete", 0.0, TrialState.COMPLETE),
        ("stopped", 0.4, TrialState.PRUNED),
        ("stopped", 0.0, TrialState.PRUNED),
        ("stopped", None, TrialState.FAIL),
        ("over_budget", None, TrialState.PRUNED),
        ("diverged", None, TrialState.PRUNED),
        ("diverged", 0.4, TrialState.PRUNED),
        ("failed", None, TrialState.FAIL),
        ("failed", 0.4, TrialState.FAIL),
        ("lost", None, TrialState.FAIL),
        ("lost", 0.4, TrialState.FAIL),
    ],
)
def test_each_fate_has_its_state(
    run: Run, directions: list[str], fate: Any, best: float | None, state: TrialState
) -> None:
    study = run.open(directions)
    gate = Gate(study, feasible(WIDE, measure="bundle"), seed=0)
    admitted = gate.admit()
    if best is not None and len(directions) == 1:
        admitted.trial.report(best, 1)
    gate.tell(admitted.trial, fate, best=best, reason="because")
    trial = study.trials[0]
    assert trial.state == state
    if fate == "complete":
        assert trial.values == [best, admitted.size.bundle_bytes][: len(directions)]
    elif state == TrialState.PRUNED and best is not None and len(directions) == 1:
        assert trial.intermediate_values == {1: best}, "what a pruned trial teaches"
    else:
        assert trial.values is None
    (record,) = run.records
    assert (record.fate, record.reason) == (fate, "because")
    assert gate.fates == {fate: 1}
    assert Gate(run.open(directions), feasible(WIDE), seed=0).fates == {fate: 1}


# No way out


def test_space_in_which_nothing_fits_ends_with_its_smallest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune.tuner.decisions.gate.MAX_REFUSALS", 25)
    reach = feasible({"text.embedding": [16, 8]}, 10)
    study = optuna.create_study()
    with pytest.raises(BudgetError, match="--budget") as caught:
        Gate(study, reach, seed=0).admit()
    smallest = reach.size_of(reach.space.at({"text.embedding": 8})).weights_bytes
    assert show_bytes(smallest) in str(caught.value)
    assert [trial.user_attrs["fate"] for trial in study.trials if "void" not in trial.user_attrs] == ["over_budget"] * 2


def test_space_in_which_nothing_that_fits_is_found_says_how_often_it_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune.tuner.decisions.gate.MAX_REFUSALS", 3)
    study = optuna.create_study()
    for _ in range(3):
        study.enqueue_trial({"text.embedding": 96})
    with pytest.raises(BudgetError, match=r"none of 3 .* --budget"):
        Gate(study, widths(12, 1), seed=0).admit()


def test_refusals_are_counted_from_the_last_that_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune.tuner.decisions.gate.MAX_REFUSALS", 3)
    study = optuna.create_study(direction="maximize")
    for width in (96, 96, 8, 88, 88, 16):
        study.enqueue_trial({"text.embedding": width})
    gate = Gate(study, widths(12, 2), seed=0)
    assert [gate.admit().trial.number for _ in range(2)] == [2, 5]
