"""The gate between Optuna and Ray Tune: what fits is handed out, and the study is told the truth. No Ray runs here."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from data_prep.store import PreparedData
from model.config import TrialConfig, unflatten
from model.metrics import Epoch
from model.presets import PRESETS
from model.size import size
from results.study import STUDY_NAME, Record, RunFolder, load_records, open_storage
from tuner.config import HalvingConfig
from tuner.space import Space, bind, parse_dimension

pytestmark = [
    pytest.mark.cluster,  # imports Ray, starts none of it
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

KB = 1000
SMALL = {"image.stages": 2, "text.units": 16, "head_units": 16, "text.embedding": 8, "image.width": 4}
DIMENSIONS = {
    "text.embedding": {"low": 8, "high": 64, "step": 8},
    "train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
}


class Search:
    """A run folder and gates on it, as a search and its resumes have them one after another."""

    def __init__(self, folder: Path, data: PreparedData) -> None:
        self.run = RunFolder(folder)
        folder.mkdir()
        self.run.settings.write_text("{}")
        self._manifest = data.manifest

    def bind(self, config: TrialConfig) -> TrialConfig:
        return bind(config, self._manifest)

    def open(self, *, seed: int = 0) -> optuna.Study:
        return optuna.create_study(
            study_name=STUDY_NAME,
            storage=open_storage(self.run, write=True),
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
            direction="maximize",
            load_if_exists=True,
        )

    def gate(
        self,
        *,
        study: optuna.Study | None = None,
        dimensions: dict[str, Any] | None = None,
        budget: int = 10**9,
        trials: int | None = 100,
        seed: int = 0,
    ) -> Any:
        from tuner.gate import Gate
        from tuner.halving import HalvingScheduler

        parsed = {n: parse_dimension(n, d) for n, d in (DIMENSIONS if dimensions is None else dimensions).items()}
        return Gate(
            study or self.open(),
            Space.around(PRESETS["compact"], fixed=SMALL, dimensions=parsed, modality="both"),
            bind=self.bind,
            budget=budget,
            trials=trials,
            seed=seed,
            halving=HalvingScheduler(HalvingConfig(grace=1, reduction=2)),
            run=self.run,
        )

    @property
    def told(self) -> list[FrozenTrial]:
        """What the study on disk holds."""
        return optuna.load_study(study_name=STUDY_NAME, storage=open_storage(self.run)).trials

    @property
    def records(self) -> list[Record]:
        return load_records(self.run)


@pytest.fixture
def search(tmp_path: Path, data: PreparedData) -> Search:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Search(tmp_path / "run", data)


def report(epoch: int, score: float, *, loss: float = 0.5, done: bool = False) -> dict[str, Any]:
    """What a worker's step returns for one epoch."""
    found = Epoch(epoch, loss, score, score, score, score, 0.5, train_seconds=1.0, evaluate_seconds=0.1)
    return {**asdict(found), "node": "here", "done": done, "training_iteration": epoch}


def failure(*, fatal: bool = False) -> dict[str, Any]:
    return {
        "failure": "ValueError: no",
        "traceback": "Traceback (most recent call last):\nValueError: no\n",
        "fatal": fatal,
        "mean_f1": 0.0,
        "done": True,
        "training_iteration": 1,
    }


def finish(gate: Any, trial_id: str, scores: Sequence[float] = (0.5,)) -> None:
    """The epochs of a trial that runs to its end."""
    for epoch, score in enumerate(scores[:-1], 1):
        gate.on_trial_result(trial_id, report(epoch, score))
    gate.on_trial_complete(trial_id, report(len(scores), scores[-1], done=True))


def stop(gate: Any, trial_id: str, score: float) -> None:
    """A trial that halving cuts after its first epoch: Ray gives the searcher that result at the end alone."""
    gate._halving.stopped[trial_id] = 1
    gate.on_trial_complete(trial_id, report(1, score))


def used_up(gate: Any, end: Callable[[Any, str], None] = finish) -> int:
    """Trials handed out until the gate says that it is enough."""
    from ray.tune.search import Searcher

    for count in range(10_000):
        if gate.suggest(f"t{count}") == Searcher.FINISHED:
            return count
        end(gate, f"t{count}")
    raise AssertionError("the gate never finishes")


def test_what_is_handed_out_is_a_whole_configuration_inside_the_budget(search: Search) -> None:
    gate = search.gate(budget=40 * KB)
    for count in range(10):
        given = gate.suggest(f"t{count}")
        assert set(given) == {"config", "seed", "number"}
        assert json.loads(json.dumps(given)) == given
        assert size(unflatten(given["config"]).model).weights_bytes <= 40 * KB
        finish(gate, f"t{count}")


def test_over_budget_configurations_are_recorded_with_bytes_and_reason_and_never_handed_out(search: Search) -> None:
    gate = search.gate(budget=20 * KB, trials=20)
    handed: set[int] = set()

    def end(gate: Any, trial_id: str) -> None:
        handed.add(gate._running[trial_id].trial.number)
        finish(gate, trial_id)

    used_up(gate, end)
    refused = [r for r in search.records if r.fate == "over_budget"]
    assert refused, "the sampler drew nothing over this budget: the test shows nothing"
    for record in refused:
        assert record.number not in handed
        assert record.weights_bytes is not None and record.weights_bytes > 20 * KB
        assert record.weights_bytes == size(unflatten(record.config).model).weights_bytes
        assert record.reason is not None and "budget" in record.reason and "\n" not in record.reason
        assert (record.epochs, record.mean_f1) == (0, None)
        told = search.told[record.number]
        assert (told.state, told.values) == (TrialState.PRUNED, None)
    assert {r.number for r in search.records if r.fate == "complete"} == handed
    assert gate.fates["over_budget"] == len(refused)


def test_refusal_is_told_as_a_broken_constraint_and_a_fit_as_a_kept_one(search: Search) -> None:
    used_up(search.gate(budget=20 * KB, trials=10))
    sampled = {False: 0, True: 0}
    for trial, record in zip(search.told, search.records, strict=True):
        (broken,) = trial.constraints.values()
        over = record.fate == "over_budget"
        sampled[over] += 1
        assert (broken > 0) == over
        assert record.weights_bytes is not None
        assert broken == pytest.approx(record.weights_bytes / (20 * KB) - 1)
    assert all(sampled.values())


@pytest.mark.parametrize("wanted", [1, 7])
def test_trials_wanted_are_trials_inside_the_budget(search: Search, wanted: int) -> None:
    assert used_up(search.gate(budget=20 * KB, trials=wanted)) == wanted
    assert sum(r.fate == "complete" for r in search.records) == wanted


def test_trials_at_once_are_not_more_than_wanted(search: Search) -> None:
    from ray.tune.search import Searcher

    gate = search.gate(trials=2)
    assert gate.suggest("a") and gate.suggest("b")
    assert gate.suggest("c") is None
    finish(gate, "a")
    assert gate.suggest("c") is None
    assert gate.running == 1
    finish(gate, "b")
    assert gate.suggest("c") == Searcher.FINISHED


def test_space_that_never_fits_ends_the_search_and_names_the_smallest_size(search: Search) -> None:
    from ray.tune.search import Searcher

    gate = search.gate(budget=10, dimensions={"text.embedding": [8, 16]})
    smallest = size(gate._bind(gate._space.base).model).weights_bytes
    import tuner.gate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner.gate, "MAX_REFUSALS", 25)
        assert gate.suggest("a") == Searcher.FINISHED
    assert "25 configurations" in str(gate.fault)
    assert f"{smallest / 10**6:.2f} MB" in str(gate.fault)
    assert "--budget" in str(gate.fault)
    assert [r.fate for r in search.records] == ["over_budget"] * 25


def test_values_impossible_together_are_refused_with_their_reason(search: Search) -> None:
    gate = search.gate(dimensions={"image.backbone": ["compact", "ResNet50"], "image.weights": ["none", "imagenet"]})
    gate._study.enqueue_trial({"image.backbone": "compact", "image.weights": "imagenet"})
    given = gate.suggest("a")
    assert given["number"] > 0
    assert (given["config"]["image.backbone"], given["config"]["image.weights"]) != ("compact", "imagenet")
    first = search.records[0]
    assert first.fate == "over_budget"
    assert first.reason is not None and first.reason.startswith("impossible: compact has no ImageNet weights")


def test_complete_trial_is_told_its_best_epoch(search: Search) -> None:
    gate = search.gate()
    gate.suggest("a")
    finish(gate, "a", (0.3, 0.7, 0.5))
    (trial,), (record,) = search.told, search.records
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)
    assert trial.intermediate_values == {1: 0.3, 2: 0.7, 3: 0.5}
    assert (record.fate, record.mean_f1, record.best_epoch, record.epochs) == ("complete", 0.7, 2, 3)
    assert (record.node, record.reason) == ("here", None)
    assert gate.best == 0.7


def test_stopped_trial_is_told_pruned_with_its_rung(search: Search) -> None:
    gate = search.gate()
    gate.suggest("a")
    stop(gate, "a", 0.2)
    (trial,), (record,) = search.told, search.records
    assert trial.state == TrialState.PRUNED
    assert (record.fate, record.mean_f1, record.epochs) == ("stopped", 0.2, 1)
    assert record.reason == "halving at epoch 1"


@pytest.mark.parametrize(
    ("scores", "loss"),
    [((math.nan,), math.nan), ((0.6, math.nan), math.nan), ((0.6, math.nan), math.inf), ((0.6, 0.7), math.nan)],
    ids=["first epoch", "later epoch", "infinite loss", "loss alone"],
)
def test_diverged_trial_is_told_pruned_and_nan_is_never_a_value(
    search: Search, scores: tuple[float, ...], loss: float
) -> None:
    gate = search.gate()
    gate.suggest("a")
    for epoch, score in enumerate(scores[:-1], 1):
        gate.on_trial_result("a", report(epoch, score))
    gate.on_trial_complete("a", report(len(scores), scores[-1], loss=loss, done=True))
    (trial,), (record,) = search.told, search.records
    assert trial.state == TrialState.PRUNED
    assert record.fate == "diverged"
    assert record.reason is not None and f"epoch {len(scores)}" in record.reason
    assert all(map(math.isfinite, trial.intermediate_values.values()))
    assert trial.values is None or all(map(math.isfinite, trial.values))
    assert record.epochs == len(scores)
    assert gate.best is None or math.isfinite(gate.best)
    assert "NaN" not in search.run.journal.read_text()


def test_diverged_trial_counts_as_one_of_those_wanted(search: Search) -> None:
    def diverge(gate: Any, trial_id: str) -> None:
        gate.on_trial_complete(trial_id, report(1, math.nan, loss=math.nan, done=True))

    assert used_up(search.gate(trials=3), diverge) == 3


def test_failed_trial_is_told_failed_with_reason_and_keeps_its_traceback(search: Search) -> None:
    gate = search.gate()
    gate.suggest("a")
    finish(gate, "a")
    gate.suggest("b")
    gate.on_trial_result("b", report(1, 0.4))
    gate.on_trial_complete("b", failure())
    trial, record = search.told[1], search.records[1]
    assert trial.state == TrialState.FAIL
    assert (record.fate, record.reason, record.epochs) == ("failed", "ValueError: no", 1)
    assert (search.run.tracebacks / "trial-1.txt").read_text() == failure()["traceback"]
    assert gate.fault is None


def test_five_failures_before_the_first_score_end_the_search(search: Search) -> None:
    gate = search.gate()
    for count in range(5):
        assert gate.fault is None
        gate.suggest(f"t{count}")
        gate.on_trial_complete(f"t{count}", failure())
    assert "ValueError: no" in str(gate.fault)


def test_failures_after_a_score_do_not_end_the_search(search: Search) -> None:
    gate = search.gate()
    gate.suggest("good")
    finish(gate, "good")
    for count in range(9):
        gate.suggest(f"t{count}")
        gate.on_trial_complete(f"t{count}", failure())
    assert gate.fault is None


def test_failures_of_a_resumed_search_that_has_a_score_do_not_end_it(search: Search) -> None:
    first = search.gate()
    first.suggest("good")
    finish(first, "good")
    again = search.gate()
    for count in range(6):
        again.suggest(f"t{count}")
        again.on_trial_complete(f"t{count}", failure())
    assert again.fault is None


def test_fatal_failure_ends_the_search_at_once(search: Search) -> None:
    gate = search.gate()
    gate.suggest("good")
    finish(gate, "good")
    gate.suggest("a")
    gate.on_trial_complete("a", failure(fatal=True))
    assert "ValueError: no" in str(gate.fault)


def test_lost_trial_is_handed_out_again_with_its_seed_and_parameters(search: Search) -> None:
    gate = search.gate(seed=7)
    gate.suggest("a")
    finish(gate, "a")
    lost = gate.suggest("b")
    gate.on_trial_result("b", report(1, 0.4))
    gate.on_trial_complete("b", error=True)
    again = gate.suggest("c")
    assert (again["config"], again["seed"]) == (lost["config"], lost["seed"])
    assert again["number"] != lost["number"]
    trial, record = search.told[1], search.records[1]
    assert trial.state == TrialState.FAIL
    assert record.fate == "lost"
    assert record.reason == "its worker died"


def test_lost_trial_comes_back_at_most_so_often_and_the_search_still_ends(search: Search) -> None:
    from tuner.gate import MAX_RETRIES

    def die(gate: Any, trial_id: str) -> None:
        gate.on_trial_complete(trial_id, error=True)

    handed = used_up(search.gate(trials=2), die)
    assert handed == 2 * (1 + MAX_RETRIES)
    assert [r.fate for r in search.records] == ["lost"] * handed
    seeds = [r.seed for r in search.records]
    assert sorted(seeds.count(seed) for seed in set(seeds)) == [3, 3]


def test_lost_trial_that_comes_through_counts_once(search: Search) -> None:
    gate = search.gate(trials=1)
    gate.suggest("a")
    gate.on_trial_complete("a", error=True)
    assert gate.suggest("b") is not None
    finish(gate, "b")
    assert used_up(gate) == 0


def test_seeds_of_trials_differ_and_follow_from_the_seed_of_the_search(search: Search, tmp_path: Path) -> None:
    gate = search.gate(seed=3, budget=20 * KB)
    seeds = [gate.suggest(f"t{count}")["seed"] for count in range(10)]
    assert len(set(seeds)) == 10
    assert all(0 <= seed < 2**31 for seed in seeds)
    other = search.gate(seed=4)
    assert other.suggest("x")["seed"] not in seeds


def test_no_trial_is_running_after_an_interruption_and_each_is_lost(search: Search) -> None:
    gate = search.gate()
    for name in "abc":
        gate.suggest(name)
    gate.on_trial_result("b", report(1, 0.4))
    finish(gate, "c")
    gate.close(reason="interrupted", resumable=True)
    assert gate.running == 0
    assert [r.fate for r in search.records] == ["lost", "lost", "complete"]
    assert [r.reason for r in search.records] == ["interrupted", "interrupted", None]
    assert [t.state for t in search.told] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]


def test_no_trial_is_running_after_the_time_limit_and_scores_stay(search: Search) -> None:
    gate = search.gate()
    for name in "ab":
        gate.suggest(name)
    gate.on_trial_result("b", report(1, 0.4))
    gate.close(reason="time limit", resumable=False)
    assert [(r.fate, r.mean_f1, r.reason) for r in search.records] == [
        ("stopped", None, "time limit"),
        ("stopped", 0.4, "time limit"),
    ]
    assert [t.state for t in search.told] == [TrialState.FAIL, TrialState.PRUNED]


def test_trial_without_score_at_the_time_limit_cannot_win(search: Search) -> None:
    from results.study import RunError
    from results.winner import choose

    gate = search.gate()
    for name in "ab":
        gate.suggest(name)
    gate.on_trial_result("b", report(1, math.nan, loss=math.nan))
    gate.close(reason="time limit", resumable=False)
    assert [r.mean_f1 for r in search.records] == [None, None]
    assert [t.values for t in search.told] == [None, None]
    with pytest.raises(RunError, match="no trial"):
        choose(search.records, 10**9)


def resumed(search: Search, **settings: Any) -> Any:
    """A gate as `captune resume` opens it."""
    from tuner.gate import hand_out_again

    study = search.open(seed=99)
    hand_out_again(study)
    return search.gate(study=study, **settings)


def test_resume_hands_out_what_was_interrupted_first_with_seed_and_parameters(search: Search) -> None:
    gate = search.gate()
    gate.suggest("a")
    finish(gate, "a")
    before = [gate.suggest(name) for name in "bc"]
    gate.close(reason="interrupted", resumable=True)
    again = resumed(search)
    after = [again.suggest(name) for name in "bc"]
    assert [(g["config"], g["seed"]) for g in after] == [(g["config"], g["seed"]) for g in before]
    fresh = again.suggest("d")
    assert fresh["seed"] not in {g["seed"] for g in before}


def test_resume_after_a_crash_hands_out_what_was_running(search: Search) -> None:
    gate = search.gate()
    before = [gate.suggest(name) for name in "ab"]
    gate.on_trial_result("b", report(1, 0.4))
    again = resumed(search)  # nothing was closed: the driver was killed
    assert [r.fate for r in search.records][:2] == ["lost", "lost"]
    after = [again.suggest(name) for name in "ab"]
    assert [(g["config"], g["seed"]) for g in after] == [(g["config"], g["seed"]) for g in before]


def test_trial_interrupted_twice_is_handed_out_a_third_time(search: Search) -> None:
    first = search.gate(trials=1)
    given = first.suggest("a")
    first.close(reason="interrupted", resumable=True)
    second = resumed(search, trials=1)
    assert second.suggest("a")["seed"] == given["seed"]
    second.close(reason="interrupted", resumable=True)
    third = resumed(search, trials=1)
    again = third.suggest("a")
    assert (again["config"], again["seed"]) == (given["config"], given["seed"])


def test_trial_lost_for_good_is_tried_again_by_a_resume(search: Search) -> None:
    def die(gate: Any, trial_id: str) -> None:
        gate.on_trial_complete(trial_id, error=True)

    used_up(search.gate(trials=1), die)
    again = resumed(search, trials=1)
    assert again.suggest("a")["seed"] == search.records[0].seed
    finish(again, "a")
    assert used_up(again) == 0


def test_trial_killed_twice_is_handed_out_a_third_time(search: Search) -> None:
    given = search.gate(trials=1).suggest("a")
    resumed(search, trials=1).suggest("a")
    again = resumed(search, trials=1).suggest("a")
    assert (again["config"], again["seed"]) == (given["config"], given["seed"])


def test_interruption_before_a_retry_began_does_not_double_it(search: Search) -> None:
    gate = search.gate(trials=3)
    given = gate.suggest("a")
    gate.on_trial_complete("a", error=True)  # waits to be handed out again
    gate.close(reason="interrupted", resumable=True)
    again = resumed(search, trials=3)
    seeds = []
    for count in range(3):
        seeds.append(again.suggest(f"t{count}")["seed"])
        finish(again, f"t{count}")
    assert seeds.count(given["seed"]) == 1


def test_resume_hands_out_nothing_twice_that_came_through(search: Search) -> None:
    gate = search.gate(trials=2)
    given = gate.suggest("a")
    gate.close(reason="interrupted", resumable=True)
    second = resumed(search, trials=2)
    second.suggest("a")
    finish(second, "a")
    third = resumed(search, trials=2)
    assert third.suggest("b")["seed"] != given["seed"]


def test_resume_counts_what_is_done_and_leaves_it_as_it_was(search: Search) -> None:
    gate = search.gate(trials=3)
    gate.suggest("a")
    finish(gate, "a", (0.5, 0.8))
    gate.suggest("b")
    stop(gate, "b", 0.2)
    gate.suggest("c")
    gate.close(reason="interrupted", resumable=True)
    before = search.records[:2]
    again = resumed(search, trials=3)
    assert again.best == 0.8
    assert used_up(again) == 1
    assert search.records[:2] == before
    assert not any(r.fate in ("running", "waiting") for r in search.records)


def test_resume_of_a_finished_search_hands_out_nothing(search: Search) -> None:
    assert used_up(search.gate(trials=4)) == 4
    assert used_up(resumed(search, trials=4)) == 0
    assert used_up(resumed(search, trials=6)) == 2


def test_half_written_last_line_of_the_journal_costs_nothing_but_that_line(search: Search) -> None:
    gate = search.gate()
    gate.suggest("a")
    finish(gate, "a")
    before = search.records
    with search.run.journal.open("ab") as journal:
        journal.write(b'{"op_code": 5, "worker_id": "x", "tri')
    assert search.records == before
    again = resumed(search, trials=2)
    assert used_up(again) == 1
    assert [r.fate for r in search.records] == ["complete", "complete"]


def test_result_for_a_trial_that_the_gate_does_not_know_is_ignored(search: Search) -> None:
    gate = search.gate()
    gate.on_trial_result("nobody", report(1, 0.4))
    gate.on_trial_complete("nobody", report(1, 0.4))
    gate.on_trial_complete("nobody", error=True)
    assert search.records == []


def test_ray_finds_nothing_to_pickle(search: Search, tmp_path: Path) -> None:
    import pickle

    from tuner.gate import Ending

    gate = search.gate()
    gate.suggest("a")
    assert gate.__getstate__() == {}
    pickle.dumps(Ending(lambda: False))
    gate.save_to_dir(str(tmp_path))


def test_the_run_ends_when_asked_to_and_no_single_trial_does() -> None:
    from tuner.gate import Ending

    answers = iter([False, True])
    ending = Ending(lambda: next(answers))
    assert ending("a", {}) is False
    assert [ending.stop_all(), ending.stop_all()] == [False, True]
