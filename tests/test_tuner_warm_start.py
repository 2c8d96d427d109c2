"""What an earlier run found out, told to the sampler of a new one."""

from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from captune.data_prep.store import PreparedData
from captune.model.flat import flatten, unflatten
from captune.model.latency import Latency, Speed
from captune.model.operations import Operations
from captune.model.size import Budget, Contents
from captune.results.attributes import TrialAttributes
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.records import load_records
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.decisions.gate import STARTUP, Gate
from captune.tuner.decisions.preflight import inspect
from captune.tuner.decisions.warm_start import Findings, differing, findings, take_over
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import bind

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
CONFIG = SearchConfig.model_validate(
    {
        "preset": "captions",
        "modality": "caption",
        "trials": 9,
        "space": {
            "text.embedding": {"low": 8, "high": 256},
            "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        },
    }
)


def run_of(folder: Path) -> RunFolder:
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    return RunFolder(folder)


def study_of(run: RunFolder) -> optuna.Study:
    storage = open_storage(run, wait=pytest.fail)
    return optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize", load_if_exists=True)


def reach(data: PreparedData, budget: int = 600_000, latency: Latency | None = None, **changes: Any) -> FeasibleSpace:
    config = SearchConfig.model_validate({**CONFIG.model_dump(), **changes})
    bound = partial(bind, manifest=data.manifest)
    return FeasibleSpace(config.build_space(), bound, Budget(budget), Contents.typical(6), latency)


def gate_of(study: optuna.Study, data: PreparedData, budget: int, seed: int = 0) -> Gate:
    return Gate(study, reach(data, budget), seed=seed)


def informed(study: optuna.Study, old: RunFolder, *arguments: Any, **changes: Any) -> Findings:
    found = findings(old, reach(*arguments, **changes))
    take_over(study, found)
    return found


@pytest.fixture
def old(tmp_path: Path, captions_data: PreparedData) -> RunFolder:
    """Eight trials: wide embeddings score best. One stopped, one diverged, one failed, one lost."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    run = run_of(tmp_path / "old")
    gate = gate_of(study_of(run), captions_data, 600_000)
    for number in range(12):
        admitted = gate.admit()
        text = admitted.config.model.text
        assert text is not None
        score = text.embedding / 300
        if number in (1, 2, 3, 4):
            fate: Any = ("stopped", "diverged", "failed", "lost")[number - 1]
            if fate == "stopped":
                admitted.trial.report(score, 1)
            gate.tell(admitted.trial, fate, best=score if fate == "stopped" else None)
        else:
            gate.tell(admitted.trial, "complete", best=score)
    return run


def test_finished_and_refused_trials_are_known_and_no_records(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    new = run_of(tmp_path / "new")
    study = study_of(new)
    assert informed(study, old, captions_data).known == 9
    taken = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    before = {r.number: r for r in load_records(old) if r.fate in ("complete", "stopped", "diverged", "over_budget")}
    assert len(taken) == len(before)
    assert [r.fate for r in load_records(new)] == ["waiting"]  # the best of the old run, to be trained anew
    best = max(
        (r for r in before.values() if r.mean_f1 or r.fate == "complete"), key=lambda r: r.config["text.embedding"]
    )
    admitted = gate_of(study, captions_data, 600_000, seed=5).admit()
    assert admitted.config.model.text is not None
    assert admitted.config.model.text.embedding == best.config["text.embedding"]


@pytest.mark.parametrize("others", [(), ("other data",)])
def test_search_runs_first_what_was_foretold(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData, others: tuple[str, ...]
) -> None:
    """Where scores mean something else the three best run again, else the best alone, before the sampler's."""
    feasible, study = reach(captions_data), study_of(run_of(tmp_path / "new"))
    learn = partial(take_over, found=findings(old, feasible, others))
    foretold = inspect(CONFIG, feasible, 0, captions_data.manifest.counts, learn).first
    study.enqueue_trial(feasible.preset())
    learn(study)
    gate = Gate(study, feasible, seed=CONFIG.seed)
    assert [flatten(one.config) for one in foretold] == [flatten(gate.admit().config) for _ in foretold]
    assert len({one.config.model_dump_json() for one in foretold}) == 3


def test_sampler_that_was_told_draws_no_even_start(tmp_path: Path, old: RunFolder, captions_data: PreparedData) -> None:
    """Of six draws without knowledge all being in the best third has a chance of one in 700 a seed."""
    new = run_of(tmp_path / "new")
    study = study_of(new)
    informed(study, old, captions_data, 10**9)
    gate = gate_of(study, captions_data, 10**9, seed=1)
    drawn = []
    for _ in range(STARTUP + 1):
        admitted = gate.admit()
        assert admitted.config.model.text is not None
        drawn.append(admitted.config.model.text.embedding)
        gate.tell(admitted.trial, "complete", best=drawn[-1] / 300)
    known = [r.config["text.embedding"] for r in load_records(old) if r.fate == "complete"]
    assert sum(drawn) / len(drawn) > sum(known) / len(known)


def test_what_was_within_the_old_budget_is_known_to_be_over_a_smaller_one(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    new = run_of(tmp_path / "new")
    study = study_of(new)
    informed(study, old, captions_data, 100_000)
    sizes = {record.weights_bytes for record in load_records(old)}
    taken = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert {trial.constraints["bytes"] for trial in taken} <= {size / 100_000 - 1 for size in sizes}


def test_latencies_are_those_of_the_new_limit(tmp_path: Path, old: RunFolder, captions_data: PreparedData) -> None:
    prices = dict.fromkeys(Operations._fields, 1.0)
    latency = Latency(0.001, Speed(runtime="onnx", machine="m", nanoseconds=prices, error=1.2))
    study = study_of(run_of(tmp_path / "new"))
    informed(study, old, captions_data, latency=latency)
    taken = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    shares = {latency.share(unflatten(record.config).model) - 1 for record in load_records(old)}
    assert taken and {trial.constraints["latency"] for trial in taken} <= shares


def embeddings(trials: list[Any]) -> set[int]:
    return {trial.params["text.embedding"] for trial in trials}


def test_trials_that_a_narrower_space_draws_inform_it_and_the_others_do_not(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    """The new space's own distributions are those of the evidence, as the sampler needs it."""
    narrow = {"text.embedding": {"low": 64, "high": 128}, "train.learning_rate": CONFIG.space["train.learning_rate"]}
    study = study_of(run_of(tmp_path / "new"))
    found = informed(study, old, captions_data, space=narrow)
    scored = [r for r in load_records(old) if r.fate in ("complete", "stopped")]
    within = {r.config["text.embedding"] for r in scored if 64 <= r.config["text.embedding"] <= 128}
    assert 0 < found.known == len(within) < found.finished == len(scored)
    assert "as the others have settings outside of this space" in str(found)
    known = study.get_trials(states=(TrialState.COMPLETE,))
    assert embeddings(known) <= within
    assert all(trial.distributions["text.embedding"].high == 128 for trial in known)


def test_trials_that_fixed_what_is_searched_now_inform_a_wider_space(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    wider = {**CONFIG.model_dump()["space"], "text.dense": [64, 128]}
    study = study_of(run_of(tmp_path / "new"))
    found = informed(study, old, captions_data, space=wider)
    assert found.known == found.finished == 9
    assert {trial.params["text.dense"] for trial in study.get_trials(states=(TrialState.COMPLETE,))} == {128}


def test_trials_of_other_fixed_settings_are_no_evidence_and_the_best_one_is_tried_with_those_of_now(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    study = study_of(run_of(tmp_path / "new"))
    assert informed(study, old, captions_data, fixed={"text.dense": 16}).known == 0
    [first] = study.get_trials()
    complete = [record.config["text.embedding"] for record in load_records(old) if record.fate == "complete"]
    assert first.state == TrialState.WAITING
    assert first.system_attrs["fixed_params"]["text.embedding"] == max(complete)


@pytest.mark.parametrize("why", [("other data",), ("another metric",), ("other data", "other objectives")])
def test_best_configurations_of_a_run_whose_scores_mean_something_else_run_again_once(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData, why: tuple[str, ...]
) -> None:
    study = study_of(run_of(tmp_path / "new"))
    found = findings(old, reach(captions_data), why)
    for _ in range(2):  # the second time as a resume does
        take_over(study, found)
    complete = [record.config["text.embedding"] for record in load_records(old) if record.fate == "complete"]
    again = [trial.system_attrs["fixed_params"]["text.embedding"] for trial in study.get_trials()]
    assert again == sorted(complete, reverse=True)[:3]
    told = f"0 of 9 finished trials of {old} inform the sampler, as it had {' and '.join(why)}; "
    assert str(found) == told + "its 3 best that fit come before what the sampler proposes"


def test_what_runs_anyway_is_not_foretold_as_tried_again(old: RunFolder, captions_data: PreparedData) -> None:
    """Trial 0, and what draws the network of a better one: the space has one value for what told them apart."""
    same = findings(old, reach(captions_data, space={"text.embedding": [128]}), ["other data"])
    assert same.first == () and "best" not in str(same), "the preset's own embedding"
    two = findings(old, reach(captions_data, space={"text.embedding": [16, 128]}), ["other data"])
    assert two.first == ({"text.embedding": 16},)


def test_best_configuration_is_tried_as_near_as_another_space_comes_to_it(
    old: RunFolder, captions_data: PreparedData
) -> None:
    rate = CONFIG.space["train.learning_rate"]
    space = {"text.embedding": [8], "train.learning_rate": rate}
    found = findings(old, reach(captions_data, fixed={"text.dense": 16}, space=space))
    (first,) = found.first
    assert first["text.embedding"] == 8
    assert str(found).endswith(
        "its best that fits comes before what the sampler proposes, as near as this space comes to it"
    )


def test_best_configurations_are_those_that_fit_now(old: RunFolder, captions_data: PreparedData) -> None:
    feasible = reach(captions_data, budget=250_000)
    found = findings(old, feasible, ["other data"])
    assert found.first and all(feasible.refusal(feasible.bind(feasible.space.at(one))) is None for one in found.first)
    complete = [record.config["text.embedding"] for record in load_records(old) if record.fate == "complete"]
    assert found.first[0]["text.embedding"] < max(complete)


def test_scores_mean_the_same_where_data_metric_and_objectives_do() -> None:
    others: list[tuple[dict[str, Any], bool, tuple[str, ...]]] = [
        ({"seed": 7, "budget": 10**6, "trials": 50, "fixed": {"text.dense": 16}}, True, ()),
        ({}, False, ("other data",)),
        ({"metric": "map"}, True, ("another metric",)),
        ({"objectives": ("mean_f1", "bytes")}, False, ("other data", "other objectives")),
    ]
    for changes, same_data, expected in others:
        other = SearchConfig.model_validate({**CONFIG.model_dump(), **changes})
        assert differing(CONFIG, other, same_data=same_data) == expected


def test_what_was_taken_over_before_is_not_taken_again_and_what_is_new_is(
    tmp_path: Path, old: RunFolder, captions_data: PreparedData
) -> None:
    study = study_of(run_of(tmp_path / "new"))
    informed(study, old, captions_data)
    before = len(study.trials)
    assert informed(study, old, captions_data).known == 9
    assert len(study.trials) == before
    gate = gate_of(study_of(old), captions_data, 600_000, seed=3)
    admitted = gate.admit()
    gate.tell(admitted.trial, "complete", best=0.5)
    assert informed(study, old, captions_data).known == 10
    assert len([trial for trial in study.trials if trial.state == TrialState.WAITING]) == 1


def test_trial_whose_settings_are_no_more_is_neither_evidence_nor_an_error(
    old: RunFolder, captions_data: PreparedData
) -> None:
    before = findings(old, reach(captions_data))
    gone = TrialAttributes(fate="complete", config={"text.encoder": "convolution", "text.gone": 1}).values()
    study_of(old).add_trial(create_trial(state=TrialState.COMPLETE, value=0.99, user_attrs=gone))
    found = findings(old, reach(captions_data))
    assert (found.finished, found.known, found.first) == (before.finished + 1, before.known, before.first)


def test_run_that_is_gone_is_told_and_one_without_trials_says_nothing(
    old: RunFolder, captions_data: PreparedData
) -> None:
    old.journal.unlink()
    found = findings(old, reach(captions_data))
    assert (found.finished, found.evidence, found.first) == (0, (), ())
    old.settings.unlink()
    with pytest.raises(RunError, match="holds no run"):
        findings(old, reach(captions_data))
