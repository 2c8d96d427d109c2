"""Ray Tune's view of the study: what is admitted is handed out, and the study is told the truth. No Ray runs here."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from captune.cluster.nodes.resources import Room
from captune.data_prep.store import PreparedData
from captune.model.config import unflatten
from captune.model.metrics import Epoch
from captune.model.presets import PRESETS
from captune.model.size import Budget, Contents, size
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.records import Record, load_records
from captune.results.run_folder import RunFolder
from captune.tuner.space.config import HalvingConfig
from captune.tuner.space.dimensions import Space, bind, parse_dimension

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
    """A run folder and searchers on it, as a search and its resumes have them one after another."""

    def __init__(self, folder: Path, data: PreparedData) -> None:
        self.run = RunFolder(folder)
        folder.mkdir()
        self.run.settings.write_text("{}")
        self._manifest = data.manifest

    def searcher(
        self,
        *,
        dimensions: dict[str, Any] | None = None,
        budget: int = 10**9,
        trials: int | None = 100,
        seed: int = 0,
        objectives: int = 1,
        **care: Any,
    ) -> Any:
        """A searcher on the study of the run, which is continued where there is one already."""
        from captune.tuner.decisions.gate import Gate
        from captune.tuner.decisions.halving import Rungs
        from captune.tuner.decisions.recovery import recover
        from captune.tuner.ray_tune.scheduler import HalvingScheduler
        from captune.tuner.ray_tune.searcher import StudySearcher, TrialLimits
        from captune.tuner.space.feasibility import FeasibleSpace
        from captune.tuner.training.checkpoints import CheckpointCleaner, checkpoints_at

        parsed = {n: parse_dimension(n, d) for n, d in (DIMENSIONS if dimensions is None else dimensions).items()}
        space = Space.around(PRESETS["compact"], fixed=SMALL, dimensions=parsed, modality="both")
        reach = FeasibleSpace(space, partial(bind, manifest=self._manifest), Budget(budget), Contents.typical(6))
        storage = open_storage(self.run, wait=pytest.fail)
        known = load_records(self.run)
        directions = ["maximize", "minimize"][:objectives]
        study = optuna.create_study(study_name=STUDY_NAME, storage=storage, directions=directions, load_if_exists=True)
        gate = Gate(study, reach, seed=seed)
        rungs = Rungs.of(HalvingConfig(grace=1, reduction=2), known)
        recover(study, gate, rungs, known)
        records = load_records(self.run)
        return StudySearcher(
            study,
            gate,
            trials=trials,
            halving=HalvingScheduler(rungs),
            run=self.run,
            shelf=CheckpointCleaner(checkpoints_at(str(self.run.checkpoints)), 2, records),
            care=TrialLimits(**{"retries": 2, "timeout": None, "floor": 0, **care}),
            records=records,
            threads=1,
            gpus=0.0,
            room=Room(slots=99, nodes=2),
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
        "memory": False,
        "mean_f1": 0.0,
        "done": True,
        "training_iteration": 1,
    }


def finish(searcher: Any, trial_id: str, scores: Sequence[float] = (0.5,)) -> None:
    """The epochs of a trial that runs to its end."""
    for epoch, score in enumerate(scores[:-1], 1):
        searcher.on_trial_result(trial_id, report(epoch, score))
    searcher.on_trial_complete(trial_id, report(len(scores), scores[-1], done=True))


def stop(searcher: Any, trial_id: str, score: float) -> None:
    """A trial that halving cuts after its first epoch: Ray gives the searcher that result at the end alone."""
    searcher._halving.stopped[trial_id] = 1
    searcher.on_trial_complete(trial_id, report(1, score))


def used_up(searcher: Any, end: Callable[[Any, str], None] = finish) -> int:
    """Trials handed out until the gate says that it is enough."""
    from ray.tune.search import Searcher

    for count in range(10_000):
        if searcher.suggest(f"t{count}") == Searcher.FINISHED:
            return count
        end(searcher, f"t{count}")
    raise AssertionError("the gate never finishes")


def test_what_is_handed_out_is_a_whole_configuration_inside_the_budget(search: Search) -> None:
    searcher = search.searcher(budget=40 * KB)
    for count in range(10):
        given = searcher.suggest(f"t{count}")
        assert set(given) == {"config", "seed", "origin", "gpus", "best", "reported", "resting"}
        assert json.loads(json.dumps(given)) == given
        assert size(unflatten(given["config"]).model).weights_bytes <= 40 * KB
        finish(searcher, f"t{count}")


def test_over_budget_configurations_are_recorded_with_bytes_and_reason_and_never_handed_out(search: Search) -> None:
    searcher = search.searcher(budget=20 * KB, trials=20)
    handed: set[int] = set()

    def end(searcher: Any, trial_id: str) -> None:
        handed.add(searcher._running[trial_id].trial.number)
        finish(searcher, trial_id)

    used_up(searcher, end)
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
    assert searcher.fates["over_budget"] == len(refused)


def test_refusal_is_told_as_a_broken_constraint_and_a_fit_as_a_kept_one(search: Search) -> None:
    used_up(search.searcher(budget=20 * KB, trials=10))
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
    assert used_up(search.searcher(budget=20 * KB, trials=wanted)) == wanted
    assert sum(r.fate == "complete" for r in search.records) == wanted


def test_trials_at_once_are_not_more_than_wanted(search: Search) -> None:
    from ray.tune.search import Searcher

    searcher = search.searcher(trials=2)
    assert searcher.suggest("a") and searcher.suggest("b")
    assert searcher.suggest("c") is None
    finish(searcher, "a")
    assert searcher.suggest("c") is None
    assert searcher.running == 1
    finish(searcher, "b")
    assert searcher.suggest("c") == Searcher.FINISHED


def test_space_that_never_fits_ends_the_search_and_names_the_smallest_size(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.tune.search import Searcher

    import captune.tuner.decisions.gate

    monkeypatch.setattr(captune.tuner.decisions.gate, "MAX_REFUSALS", 25)
    searcher = search.searcher(budget=10, dimensions={"text.embedding": [8, 16]})
    assert searcher.suggest("a") == Searcher.FINISHED
    assert "smallest configuration" in str(searcher.fault)
    assert "--budget" in str(searcher.fault)
    assert [r.fate for r in search.records] == ["over_budget"] * 25


def test_space_that_is_used_up_ends_the_search_once_nothing_runs(search: Search) -> None:
    from ray.tune.search import Searcher

    searcher = search.searcher(dimensions={"text.embedding": [8, 16, 24]})
    assert all(searcher.suggest(name) for name in "abc")
    assert searcher.suggest("d") is None
    asked = len(search.told)
    assert searcher.suggest("e") is None
    assert len(search.told) == asked, "asking again cost draws"
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("f") is not None, "what was lost may still follow"
    for name in "bcf":
        finish(searcher, name)
    assert searcher.suggest("g") == Searcher.FINISHED
    assert searcher.fault is None
    assert [r.fate for r in search.records] == ["lost", "complete", "complete", "complete"]


def test_complete_trial_is_told_its_best_epoch(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("a")
    finish(searcher, "a", (0.3, 0.7, 0.5))
    (trial,), (record,) = search.told, search.records
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)
    assert trial.intermediate_values == {1: 0.3, 2: 0.7, 3: 0.5}
    assert (record.fate, record.mean_f1, record.best_epoch, record.epochs) == ("complete", 0.7, 2, 3)
    assert (record.node, record.reason) == ("here", None)
    assert searcher.best == 0.7


def test_stopped_trial_is_told_pruned_with_its_rung(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("a")
    stop(searcher, "a", 0.2)
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
    searcher = search.searcher()
    searcher.suggest("a")
    for epoch, score in enumerate(scores[:-1], 1):
        searcher.on_trial_result("a", report(epoch, score))
    searcher.on_trial_complete("a", report(len(scores), scores[-1], loss=loss, done=True))
    (trial,), (record,) = search.told, search.records
    assert trial.state == TrialState.PRUNED
    assert record.fate == "diverged"
    assert record.reason is not None and f"epoch {len(scores)}" in record.reason
    assert all(map(math.isfinite, trial.intermediate_values.values()))
    assert trial.values is None or all(map(math.isfinite, trial.values))
    assert record.epochs == len(scores)
    assert searcher.best is None or math.isfinite(searcher.best)
    assert "NaN" not in search.run.journal.read_text()


def test_diverged_trial_counts_as_one_of_those_wanted(search: Search) -> None:
    def diverge(searcher: Any, trial_id: str) -> None:
        searcher.on_trial_complete(trial_id, report(1, math.nan, loss=math.nan, done=True))

    assert used_up(search.searcher(trials=3), diverge) == 3


def test_failed_trial_is_told_failed_with_reason_and_keeps_its_traceback(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("a")
    finish(searcher, "a")
    searcher.suggest("b")
    searcher.on_trial_result("b", report(1, 0.4))
    searcher.on_trial_complete("b", failure())
    trial, record = search.told[1], search.records[1]
    assert trial.state == TrialState.FAIL
    assert (record.fate, record.reason, record.epochs) == ("failed", "ValueError: no", 1)
    assert (search.run.tracebacks / "trial-1.txt").read_text() == failure()["traceback"]
    assert searcher.fault is None


def test_five_failures_before_the_first_score_end_the_search(search: Search) -> None:
    searcher = search.searcher()
    for count in range(5):
        assert searcher.fault is None
        searcher.suggest(f"t{count}")
        searcher.on_trial_complete(f"t{count}", failure())
    assert "ValueError: no" in str(searcher.fault)


def test_failures_after_a_score_end_the_search_only_when_there_are_many_in_a_row(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("good")
    finish(searcher, "good")
    for turn in range(2):
        for count in range(19):
            searcher.suggest(f"{turn}-{count}")
            searcher.on_trial_complete(f"{turn}-{count}", failure())
        assert searcher.fault is None
        if turn == 0:
            searcher.suggest("another")
            finish(searcher, "another")
    searcher.suggest("last")
    searcher.on_trial_complete("last", failure())
    assert "ValueError: no" in str(searcher.fault)


def test_failures_of_a_resumed_search_that_has_a_score_do_not_end_it(search: Search) -> None:
    first = search.searcher()
    first.suggest("good")
    finish(first, "good")
    again = search.searcher()
    for count in range(6):
        again.suggest(f"t{count}")
        again.on_trial_complete(f"t{count}", failure())
    assert again.fault is None


def test_fatal_failure_ends_the_search_at_once(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("good")
    finish(searcher, "good")
    searcher.suggest("a")
    searcher.on_trial_complete("a", failure(fatal=True))
    assert "ValueError: no" in str(searcher.fault)


def test_lost_trial_is_handed_out_again_with_its_seed_and_parameters(search: Search) -> None:
    searcher = search.searcher(seed=7)
    searcher.suggest("a")
    finish(searcher, "a")
    lost = searcher.suggest("b")
    searcher.on_trial_result("b", report(1, 0.4))
    searcher.on_trial_complete("b", error=True)
    again = searcher.suggest("c")
    assert (again["config"], again["seed"]) == (lost["config"], lost["seed"])
    assert again["origin"] == lost["origin"] == 1
    assert again["best"] == 0.4
    trial, record = search.told[1], search.records[1]
    assert trial.state == TrialState.FAIL
    assert record.fate == "lost"
    assert record.reason is not None and record.reason.startswith("its worker died")


def test_lost_trial_comes_back_at_most_so_often_and_the_search_still_ends(search: Search) -> None:
    def die(searcher: Any, trial_id: str) -> None:
        searcher.on_trial_complete(trial_id, error=True)

    handed = used_up(search.searcher(trials=2), die)
    assert handed == 2 * (1 + 2)
    assert [r.fate for r in search.records] == ["lost"] * handed
    seeds = [r.seed for r in search.records]
    assert sorted(seeds.count(seed) for seed in set(seeds)) == [3, 3]


def test_lost_trial_that_comes_through_counts_once(search: Search) -> None:
    searcher = search.searcher(trials=1)
    searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("b") is not None
    finish(searcher, "b")
    assert used_up(searcher) == 0


def test_seeds_of_trials_differ_and_follow_from_the_seed_of_the_search(search: Search, tmp_path: Path) -> None:
    searcher = search.searcher(seed=3, budget=20 * KB)
    seeds = [searcher.suggest(f"t{count}")["seed"] for count in range(10)]
    assert len(set(seeds)) == 10
    assert all(0 <= seed < 2**31 for seed in seeds)
    other = search.searcher(seed=4)
    assert other.suggest("x")["seed"] not in seeds


def test_no_trial_is_running_after_an_interruption_and_each_is_lost(search: Search) -> None:
    searcher = search.searcher()
    for name in "abc":
        searcher.suggest(name)
    searcher.on_trial_result("b", report(1, 0.4))
    finish(searcher, "c")
    searcher.close(reason="interrupted", resumable=True)
    assert searcher.running == 0
    assert [r.fate for r in search.records] == ["lost", "lost", "complete"]
    assert [r.reason for r in search.records] == ["interrupted", "interrupted", None]
    assert [t.state for t in search.told] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]


def test_no_trial_is_running_after_the_time_limit_and_scores_stay(search: Search) -> None:
    searcher = search.searcher()
    for name in "ab":
        searcher.suggest(name)
    searcher.on_trial_result("b", report(1, 0.4))
    searcher.close(reason="time limit", resumable=False)
    assert [(r.fate, r.mean_f1, r.reason) for r in search.records] == [
        ("stopped", None, "time limit"),
        ("stopped", 0.4, "time limit"),
    ]
    assert [t.state for t in search.told] == [TrialState.FAIL, TrialState.PRUNED]


def test_trial_without_score_at_the_time_limit_cannot_win(search: Search) -> None:
    from captune.results.run_folder import RunError
    from captune.tuner.winner.choose import choose

    searcher = search.searcher()
    for name in "ab":
        searcher.suggest(name)
    searcher.on_trial_result("b", report(1, math.nan, loss=math.nan))
    searcher.close(reason="time limit", resumable=False)
    assert [r.mean_f1 for r in search.records] == [None, None]
    assert [t.values for t in search.told] == [None, None]
    with pytest.raises(RunError, match="no trial"):
        choose(search.records, 10**9)


def resumed(search: Search, **settings: Any) -> Any:
    """A searcher as `captune resume` opens it."""
    return search.searcher(**settings)


def test_resume_hands_out_what_was_interrupted_first_with_seed_and_parameters(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("a")
    finish(searcher, "a")
    before = [searcher.suggest(name) for name in "bc"]
    searcher.close(reason="interrupted", resumable=True)
    again = resumed(search)
    after = [again.suggest(name) for name in "bc"]
    assert [(g["config"], g["seed"]) for g in after] == [(g["config"], g["seed"]) for g in before]
    fresh = again.suggest("d")
    assert fresh["seed"] not in {g["seed"] for g in before}


def test_resume_after_a_crash_hands_out_what_was_running(search: Search) -> None:
    searcher = search.searcher()
    before = [searcher.suggest(name) for name in "ab"]
    searcher.on_trial_result("b", report(1, 0.4))
    again = resumed(search)  # nothing was closed: the driver was killed
    assert [r.fate for r in search.records][:2] == ["lost", "lost"]
    after = [again.suggest(name) for name in "ab"]
    assert [(g["config"], g["seed"]) for g in after] == [(g["config"], g["seed"]) for g in before]


def test_trial_interrupted_twice_is_handed_out_a_third_time(search: Search) -> None:
    first = search.searcher(trials=1)
    given = first.suggest("a")
    first.close(reason="interrupted", resumable=True)
    second = resumed(search, trials=1)
    assert second.suggest("a")["seed"] == given["seed"]
    second.close(reason="interrupted", resumable=True)
    third = resumed(search, trials=1)
    again = third.suggest("a")
    assert (again["config"], again["seed"]) == (given["config"], given["seed"])


def test_trial_lost_for_good_is_tried_again_by_a_resume(search: Search) -> None:
    def die(searcher: Any, trial_id: str) -> None:
        searcher.on_trial_complete(trial_id, error=True)

    used_up(search.searcher(trials=1), die)
    again = resumed(search, trials=1)
    assert again.suggest("a")["seed"] == search.records[0].seed
    finish(again, "a")
    assert used_up(again) == 0


def test_trial_killed_twice_is_handed_out_a_third_time(search: Search) -> None:
    given = search.searcher(trials=1).suggest("a")
    resumed(search, trials=1).suggest("a")
    again = resumed(search, trials=1).suggest("a")
    assert (again["config"], again["seed"]) == (given["config"], given["seed"])


def test_interruption_before_a_retry_began_does_not_double_it(search: Search) -> None:
    searcher = search.searcher(trials=3)
    given = searcher.suggest("a")
    searcher.on_trial_complete("a", error=True)  # waits to be handed out again
    searcher.close(reason="interrupted", resumable=True)
    again = resumed(search, trials=3)
    seeds = []
    for count in range(3):
        seeds.append(again.suggest(f"t{count}")["seed"])
        finish(again, f"t{count}")
    assert seeds.count(given["seed"]) == 1


def test_resume_hands_out_nothing_twice_that_came_through(search: Search) -> None:
    searcher = search.searcher(trials=2)
    given = searcher.suggest("a")
    searcher.close(reason="interrupted", resumable=True)
    second = resumed(search, trials=2)
    second.suggest("a")
    finish(second, "a")
    third = resumed(search, trials=2)
    assert third.suggest("b")["seed"] != given["seed"]


def test_resume_counts_what_is_done_and_leaves_it_as_it_was(search: Search) -> None:
    searcher = search.searcher(trials=3)
    searcher.suggest("a")
    finish(searcher, "a", (0.5, 0.8))
    searcher.suggest("b")
    stop(searcher, "b", 0.2)
    searcher.suggest("c")
    searcher.close(reason="interrupted", resumable=True)
    before = search.records[:2]
    again = resumed(search, trials=3)
    assert again.best == 0.8
    assert used_up(again) == 1
    assert search.records[:2] == before
    assert not any(r.fate in ("running", "waiting") for r in search.records)


def test_resume_of_a_finished_search_hands_out_nothing(search: Search) -> None:
    assert used_up(search.searcher(trials=4)) == 4
    assert used_up(resumed(search, trials=4)) == 0
    assert used_up(resumed(search, trials=6)) == 2


def test_half_written_last_line_of_the_journal_costs_nothing_but_that_line(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("a")
    finish(searcher, "a")
    before = search.records
    with search.run.journal.open("ab") as journal:
        journal.write(b'{"op_code": 5, "worker_id": "x", "tri')
    assert search.records == before
    again = resumed(search, trials=2)
    assert used_up(again) == 1
    assert [r.fate for r in search.records] == ["complete", "complete"]


def test_result_for_a_trial_that_the_gate_does_not_know_is_ignored(search: Search) -> None:
    searcher = search.searcher()
    searcher.on_trial_result("nobody", report(1, 0.4))
    searcher.on_trial_complete("nobody", report(1, 0.4))
    searcher.on_trial_complete("nobody", error=True)
    assert search.records == []


def test_ray_finds_nothing_to_pickle(search: Search, tmp_path: Path) -> None:
    import pickle

    from captune.tuner.ray_tune.searcher import Ending

    searcher = search.searcher()
    searcher.suggest("a")
    assert searcher.__getstate__() == {}
    pickle.dumps(Ending(lambda: False))
    searcher.save_to_dir(str(tmp_path))


def test_the_run_ends_when_asked_to_and_no_single_trial_does() -> None:
    from captune.tuner.ray_tune.searcher import Ending

    answers = iter([False, True])
    ending = Ending(lambda: next(answers))
    assert ending("a", {}) is False
    assert [ending.stop_all(), ending.stop_all()] == [False, True]


def test_trial_that_goes_on_takes_over_the_epochs_before_its_checkpoint(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("a")
    for epoch, score in enumerate((0.2, 0.6, 0.5), 1):
        searcher.on_trial_result("a", report(epoch, score))
    searcher.on_trial_complete("a", error=True)
    assert searcher.suggest("b")["best"] == 0.6
    searcher.on_trial_result("b", report(3, 0.5))  # its checkpoint was of epoch 2
    searcher.on_trial_complete("b", report(4, 0.55, done=True))
    lost, again = search.records
    assert (lost.fate, lost.origin, again.fate, again.origin) == ("lost", 0, "complete", 0)
    assert [e.mean_f1 for e in again.curve] == [0.2, 0.6, 0.5, 0.55]
    assert again.mean_f1 == 0.6
    assert search.told[1].intermediate_values == {1: 0.2, 2: 0.6, 3: 0.5, 4: 0.55}
    assert search.told[1].value == 0.6


def test_trial_whose_end_alone_was_not_told_is_given_it_on_resume(search: Search) -> None:
    searcher = search.searcher()
    for name in "abcd":
        searcher.suggest(name)
    epochs = unflatten(searcher._running["a"].trial.user_attrs["config"]).train.epochs
    for epoch in range(1, epochs + 1):
        searcher.on_trial_result("a", report(epoch, 0.9))
    searcher.on_trial_result("b", report(1, 0.1))  # below the cut, and then the driver was killed
    searcher.on_trial_result("c", report(1, math.nan, loss=math.nan))
    searcher.on_trial_result("d", report(1, 0.95))
    again = search.searcher()
    assert [r.fate for r in search.records[:4]] == ["complete", "stopped", "diverged", "lost"]
    assert search.records[1].reason == "halving at epoch 1"
    assert again.suggest("e")["origin"] == 3


def test_trial_that_was_never_handed_out_leaves_no_record(search: Search) -> None:
    searcher = search.searcher()
    searcher.suggest("a")
    finish(searcher, "a")
    searcher._study.ask()  # killed here
    search.searcher()
    assert [r.fate for r in search.records] == ["complete"]


def test_trial_turned_away_by_a_resting_node_is_handed_out_again_and_is_no_record(search: Search) -> None:
    searcher = search.searcher(trials=1)
    first = searcher.suggest("a")
    away = {"turned_away": True, "node": "bad", "node_id": "1", "mean_f1": 0.0, "done": True}
    searcher.on_trial_complete("a", away)
    again = searcher.suggest("b")
    assert (again["config"], again["seed"], again["origin"]) == (first["config"], first["seed"], first["origin"])
    finish(searcher, "b")
    assert [r.fate for r in search.records] == ["complete"]
    assert used_up(searcher) == 0


def test_node_that_fails_in_a_row_rests_and_the_search_ends_when_all_nodes_do(search: Search) -> None:
    searcher = search.searcher(retries=100)

    def lose(node: str) -> dict[str, Any]:
        given = dict(searcher.suggest(f"{node}{len(search.told)}"))
        trial_id = next(iter(searcher._running))
        searcher.on_trial_complete(trial_id, {"lost": "no device", "node": node, "node_id": node, "done": True})
        return given

    assert [lose("bad")["resting"] for _ in range(3)] == [{}] * 3
    assert set(lose("worse")["resting"]) == {"bad"}
    assert searcher.fault is None
    for _ in range(2):
        lose("worse")
    assert "no node can run trials: no device" in str(searcher.fault)


def test_trial_without_memory_in_its_share_of_a_gpu_is_handed_out_with_twice_of_it(search: Search) -> None:
    searcher = search.searcher(trials=2)
    searcher._gpus = 0.25
    first = searcher.suggest("a")
    assert first["gpus"] == 0.25
    for trial_id, gpus in [("b", 0.5), ("c", 1.0)]:
        searcher.on_trial_complete("a" if trial_id == "b" else "b", failure() | {"memory": True})
        again = searcher.suggest(trial_id)
        assert (again["config"], again["seed"], again["gpus"]) == (first["config"], first["seed"], gpus)
    searcher.on_trial_complete("c", failure() | {"memory": True})  # a whole GPU is all there is
    assert [r.fate for r in search.records] == ["lost", "lost", "failed"]
    assert "out of memory in 0.25 of a GPU; again in 0.5" in str(search.records[0].reason)


def test_trial_of_a_recalled_node_costs_no_retry(search: Search) -> None:
    searcher = search.searcher(trials=1, retries=0)
    first = searcher.suggest("0")
    for number in range(5):
        gone = {"preempted": True, "node": "spot", "node_id": "1", "mean_f1": 0.0, "done": True}
        searcher.on_trial_complete(str(number), gone)
        assert searcher.suggest(str(number + 1))["seed"] == first["seed"]
    finish(searcher, "5")
    assert [r.fate for r in search.records] == ["lost"] * 5 + ["complete"]
    assert searcher.fault is None


def test_no_more_trials_are_handed_out_than_there_is_room_for(search: Search) -> None:
    from ray.tune.search import Searcher

    searcher = search.searcher(trials=9)
    searcher.room = Room(slots=2, nodes=1)
    assert [searcher.suggest(name) is None for name in "abc"] == [False, False, True]
    searcher.room = Room(slots=3, nodes=2)  # a node has come
    assert searcher.suggest("c") is not None
    searcher.room = Room(slots=0, nodes=0)
    for name in "abc":
        finish(searcher, name)
    assert searcher.suggest("d") is None and "no node is left" in str(searcher.waiting)
    searcher.ended = lambda: True
    assert searcher.suggest("d") == Searcher.FINISHED


def test_two_objectives_are_told_and_the_curve_is_kept(search: Search) -> None:
    searcher = search.searcher(objectives=2, trials=12)
    assert used_up(searcher) == 12
    searcher = search.searcher(objectives=2, trials=14)
    searcher.suggest("a")
    finish(searcher, "a", (0.3, 0.7))
    searcher.suggest("b")
    stop(searcher, "b", 0.2)
    *_, complete, stopped = search.told
    assert complete.values == [0.7, search.records[-2].weights_bytes]
    assert (stopped.state, stopped.values) == (TrialState.PRUNED, None)
    assert [len(r.curve) for r in search.records[-2:]] == [2, 1]


def test_no_trial_starts_while_the_disk_is_below_the_floor(search: Search) -> None:
    from ray.tune.search import Searcher

    searcher = search.searcher(floor=2**62)
    assert searcher.suggest("a") is None
    assert "--min-free" in searcher.waiting
    assert search.told[0].state == TrialState.WAITING if search.told else True
    searcher.ended = lambda: True
    assert searcher.suggest("a") == Searcher.FINISHED


# Killed between any two writes

FOUR = {"text.embedding": [8, 16, 24, 32]}


def eventful(search: Search) -> list[bytes]:
    """A search of all four configurations in which each kind of thing happens; the lines of its journal."""
    searcher = search.searcher(dimensions=FOUR, trials=4)
    searcher._study.enqueue_trial({"text.embedding": 24})
    epochs = unflatten(searcher.suggest("a")["config"]).train.epochs
    searcher.suggest("b")
    searcher.on_trial_result("a", report(1, 0.5))
    stop(searcher, "b", 0.2)
    searcher.on_trial_result("a", report(2, 0.6))
    searcher.suggest("c")
    searcher.on_trial_result("c", report(1, 0.7))
    searcher.on_trial_complete("c", error=True)
    searcher.suggest("c again")
    for epoch in range(3, epochs):
        searcher.on_trial_result("a", report(epoch, 0.7))
    searcher.on_trial_complete("a", report(epochs, 0.7, done=True))
    searcher.on_trial_result("c again", report(2, 0.75))
    searcher.suggest("d")
    searcher.on_trial_complete("d", report(1, math.nan, loss=math.nan, done=True))
    searcher.close(reason="interrupted", resumable=True)
    searcher = search.searcher(dimensions=FOUR, trials=4)
    searcher.suggest("c again")
    finish(searcher, "c again", [0.7, 0.75, 0.8])
    return search.run.journal.read_bytes().splitlines(keepends=True)


def assert_goes_on(search: Search, told: object) -> None:
    """Resumes a search of four trials, and holds what comes of it against what must be."""
    searcher = search.searcher(dimensions=FOUR, trials=4)
    assert all(trial.state != TrialState.RUNNING for trial in search.told), told
    for record in search.records:
        trial = search.told[record.number]
        if record.fate == "stopped":
            assert (trial.state, trial.value) == (TrialState.PRUNED, record.curve[-1].mean_f1), told
        if record.fate == "diverged":
            assert trial.constraints["diverged"] > 0, told
    before = {record.number: record for record in search.records if record.fate in ("complete", "stopped", "diverged")}
    used_up(searcher)
    records = search.records
    ends = Counter(r.origin for r in records if r.fate in ("complete", "stopped", "diverged"))
    assert set(ends.values()) == {1} and len(ends) == 4, (told, records)
    assert {record.origin for record in records} == set(ends), told
    assert len({record.config["text.embedding"] for record in records}) == 4, told
    assert before.items() <= {record.number: record for record in records}.items(), told


def test_search_killed_between_any_two_writes_goes_on_as_if_it_had_not_been(
    search: Search, data: PreparedData, tmp_path: Path
) -> None:
    lines = eventful(search)
    for length in range(1, len(lines) + 1):
        killed = Search(tmp_path / f"{length}", data)
        killed.run.journal.write_bytes(b"".join(lines[:length]))
        if length == 2:  # made, and killed before the preset was handed to it
            continue
        assert_goes_on(killed, lines[length - 1])


def test_resume_killed_between_any_two_writes_goes_on_too(search: Search, data: PreparedData, tmp_path: Path) -> None:
    lines = eventful(search)
    for length in range(4, len(lines), 5):
        killed = Search(tmp_path / f"{length}", data)
        killed.run.journal.write_bytes(b"".join(lines[:length]))
        killed.searcher(dimensions=FOUR, trials=4).suggest("x")
        resumed = killed.run.journal.read_bytes().splitlines(keepends=True)
        for cut in range(length + 1, len(resumed)):
            again = Search(tmp_path / f"{length}-{cut}", data)
            again.run.journal.write_bytes(b"".join(resumed[:cut]))
            assert_goes_on(again, resumed[cut - 1])


def test_trial_cut_by_the_time_limit_before_it_reported_again_keeps_what_it_had(search: Search) -> None:
    searcher = search.searcher(trials=1)
    searcher.suggest("a")
    for epoch in (1, 2):
        searcher.on_trial_result("a", report(epoch, 0.5 + epoch / 100))
    kept = search.run.checkpoints / "0" / "best-2"
    kept.mkdir(parents=True)
    searcher.close(reason="interrupted", resumable=True)
    searcher = search.searcher(trials=1)
    searcher.suggest("b")
    searcher.close(reason="time limit", resumable=False)
    _, stopped = search.records
    assert (stopped.fate, stopped.mean_f1, stopped.epochs, stopped.reason) == ("stopped", 0.52, 2, "time limit")
    assert (search.told[1].state, search.told[1].value) == (TrialState.PRUNED, 0.52)
    assert kept.is_dir()


def test_late_divergence_is_no_good_sign_for_the_sampler(search: Search) -> None:
    from optuna.samplers._tpe.sampler import _split_trials

    searcher = search.searcher()
    searcher.suggest("a")
    searcher.suggest("b")
    for epoch in range(1, 4):
        searcher.on_trial_result("a", report(epoch, 0.9))
    searcher.on_trial_complete("a", report(4, math.nan, loss=math.nan, done=True))
    stop(searcher, "b", 0.6)
    good, _ = _split_trials(searcher._study, searcher._study.trials, 1)
    assert [trial.number for trial in good] == [1]


def test_workers_that_die_again_and_again_before_an_epoch_end_the_search(search: Search) -> None:
    from captune.tuner.ray_tune.searcher import MAX_LOSSES

    searcher = search.searcher(retries=1000)
    for number in range(MAX_LOSSES):
        assert searcher.fault is None
        searcher.suggest(f"t{number}")
        if number == 3:  # an epoch in between: it begins anew
            searcher.on_trial_result(f"t{number}", report(1, 0.5))
        searcher.on_trial_complete(f"t{number}", error=True)
    assert searcher.fault is None
    for number in range(MAX_LOSSES - 8):
        searcher.suggest(f"u{number}")
        searcher.on_trial_complete(f"u{number}", error=True)
    assert searcher.fault is None
    searcher.suggest("last")
    searcher.on_trial_complete("last", error=True)
    assert f"{MAX_LOSSES} trials in a row were lost before an epoch was trained" in str(searcher.fault)


def test_machine_that_takes_many_trials_along_does_not_end_the_search(search: Search) -> None:
    searcher = search.searcher(retries=1000)
    for number in range(16):
        searcher.suggest(f"t{number}")
    for number in range(16):
        searcher.on_trial_complete(f"t{number}", error=True)
    assert searcher.fault is None
