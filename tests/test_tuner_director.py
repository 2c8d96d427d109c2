"""A search is directed: what is admitted is handed out, and the study is told the truth. No Ray is imported here."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import SMALL, epoch
from optuna.trial import FrozenTrial, TrialState

from captune.cluster.nodes.resources import Room
from captune.data_prep.store import PreparedData
from captune.model.part_of_epoch import PartOfEpoch
from captune.model.presets import PRESETS
from captune.model.size import Budget, Contents
from captune.results.attributes import TrialAttributes
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.records import Record, load_records, records_of
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.director import Director, Ended
from captune.tuner.decisions.fates import TrialLimits
from captune.tuner.decisions.gate import Gate
from captune.tuner.decisions.halving import Rungs
from captune.tuner.decisions.progress import Best, RunningTrial
from captune.tuner.decisions.recovery import recover
from captune.tuner.decisions.steering import enqueue
from captune.tuner.decisions.trial_events import (
    Assignment,
    Completed,
    Done,
    End,
    Failed,
    NodeBroken,
    Preempted,
    Report,
    TurnedAway,
    Wait,
    Worker,
    WorkerDied,
)
from captune.tuner.space.config import HalvingConfig
from captune.tuner.space.dimensions import parse_dimension
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import Space, bind
from captune.tuner.training.job import Job

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

KB = 1000
HERE = Worker("here", "0a1b")
DIED = WorkerDied("its worker died: gone")
FAILED = Failed("ValueError: no", "Traceback (most recent call last):\nValueError: no\n")
DIMENSIONS = {
    "text.embedding": {"low": 8, "high": 64, "step": 8},
    "train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
}


@dataclass
class Directed:
    """A director, and what workers would ask it and tell it. Trials go by names; the clock moves by hand."""

    director: Director
    now: float = 0.0
    ended: list[Ended] = field(default_factory=list)

    def next(self, name: str, free_bytes: int = 2**40) -> Assignment | Wait | Done:
        return self.director.next(name, now=self.now, free_bytes=free_bytes)

    def start(self, name: str) -> Job:
        """A trial that must be handed out."""
        step = self.next(name)
        assert isinstance(step, Assignment), step
        return step.job

    def report(self, name: str, number: int, score: float, **changes: Any) -> bool:
        return self.director.report(name, Report(HERE, epoch(number, score, **changes)))

    def end(self, name: str, end: End) -> None:
        ended = self.director.end(name, end, now=self.now)
        assert ended is not None
        self.ended.append(ended)

    def finish(self, name: str, *scores: float, **changes: Any) -> None:
        """The epochs of a trial up to its end, whatever halving says."""
        for number, score in enumerate(scores or (0.5,), 1):
            self.report(name, number, score, **changes)
        self.director.running[name].stopped_at = None
        self.end(name, Completed())

    def stop(self, name: str, score: float) -> None:
        """A trial that halving cuts after its first epoch."""
        self.director.rungs._decided[self.director.running[name].origin, 1] = False
        assert not self.report(name, 1, score)
        self.end(name, Completed())

    def use_up(self, end: Callable[["Directed", str], None] | None = None) -> int:
        """Trials handed out until nothing is left."""
        for count in range(10_000):
            if isinstance(self.next(f"t{count}"), Done):
                return count
            (end or Directed.finish)(self, f"t{count}")
        raise AssertionError("the director never finishes")


class Search:
    """A run folder and directors on it, as a search and its resumes have them one after another."""

    def __init__(self, folder: Path, data: PreparedData) -> None:
        self.run = RunFolder(folder)
        folder.mkdir()
        self.run.settings.write_text("{}")
        self._manifest = data.manifest

    def direct(
        self,
        *,
        dimensions: dict[str, Any] | None = None,
        budget: int = 10**9,
        trials: int | None = 100,
        seed: int = 0,
        objectives: int = 1,
        retries: int = 2,
        timeout: float | None = None,
        min_free: int = 0,
        gpus: float = 0.0,
        patience: int | None = None,
    ) -> Directed:
        """A director on the study of the run, which is continued where there is one already."""
        parsed = {n: parse_dimension(n, d) for n, d in (DIMENSIONS if dimensions is None else dimensions).items()}
        fixed = {name: value for name, value in SMALL.items() if name != "text.vocabulary_size"} | {"train.epochs": 8}
        space = Space.around(PRESETS["compact"], fixed=fixed, dimensions=parsed, modality="both")
        feasible = FeasibleSpace(space, partial(bind, manifest=self._manifest), Budget(budget), Contents.typical(6))
        storage = open_storage(self.run, wait=pytest.fail)
        directions = ["maximize", "minimize"][:objectives]
        study = optuna.create_study(study_name=STUDY_NAME, storage=storage, directions=directions, load_if_exists=True)
        records = records_of(study)
        gate = Gate(study, feasible, seed=seed)
        rungs = Rungs.of(HalvingConfig(grace=1, reduction=2), records, schedule=space.base.train.epochs)
        recover(study, gate, rungs, records)
        records = records_of(study)
        limits = TrialLimits(retries, timeout, min_free)
        room = Room(slots=99, nodes=2)
        return Directed(Director(study, gate, rungs, limits, trials, records, 1, gpus, room, patience))

    @property
    def in_study(self) -> list[FrozenTrial]:
        """What the study on disk holds."""
        return optuna.load_study(study_name=STUDY_NAME, storage=open_storage(self.run)).trials

    @property
    def records(self) -> list[Record]:
        return load_records(self.run)


@pytest.fixture
def search(tmp_path: Path, data: PreparedData) -> Search:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return Search(tmp_path / "run", data)


@pytest.mark.parametrize("wanted", [1, 7])
def test_trials_wanted_are_trials_inside_the_budget(search: Search, wanted: int) -> None:
    assert search.direct(budget=20 * KB, trials=wanted).use_up() == wanted
    assert sum(r.fate == "complete" for r in search.records) == wanted


def test_search_ends_when_its_patience_does_and_a_resume_has_as_much_again(search: Search) -> None:
    scores = iter((0.5, 0.6, 0.4, 0.6, 0.7, 0.1, 0.7, 0.69, 0.1, 0.1, 0.8))

    def end(directed: Directed, name: str) -> None:
        directed.finish(name, next(scores))

    assert search.direct(trials=None, patience=3).use_up(end) == 8
    assert search.direct(trials=None, patience=2).use_up(end) == 2
    again = search.direct(trials=None, patience=2)
    assert again.use_up(lambda directed, name: directed.finish(name, 0.8)) == 3


def test_trials_that_run_when_patience_ends_are_waited_for_and_a_better_one_renews_it(search: Search) -> None:
    directed = search.direct(patience=1)
    for name, score in (("first", 0.5), ("worse", 0.4)):
        directed.next(name)
        if name == "worse":
            directed.next("better")
        directed.finish(name, score)
    assert isinstance(directed.next("more"), Wait)
    directed.finish("better", 0.9)
    assert isinstance(directed.next("more"), Assignment)


def test_trials_at_once_are_not_more_than_wanted(search: Search) -> None:
    directed = search.direct(trials=2)
    assert directed.start("a") and directed.start("b")
    assert directed.next("c") == Wait()
    directed.finish("a")
    assert directed.next("c") == Wait()
    assert list(directed.director.running) == ["b"]
    directed.finish("b")
    assert directed.next("c") == Done()


def test_space_that_never_fits_ends_the_search_and_names_the_smallest_size(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    import captune.tuner.decisions.gate

    monkeypatch.setattr(captune.tuner.decisions.gate, "MAX_REFUSALS", 25)
    directed = search.direct(budget=10, dimensions={"text.embedding": [8, 16]})
    assert directed.next("a") == Done()
    assert "smallest configuration" in str(directed.director.fault)
    assert "--budget" in str(directed.director.fault)
    assert [r.fate for r in search.records] == ["over_budget"] * 2, "each once"


def test_space_that_is_used_up_ends_the_search_once_nothing_runs(search: Search) -> None:
    directed = search.direct(dimensions={"text.embedding": [8, 16, 24]})
    assert all(directed.start(name) for name in "abc")
    assert directed.next("d") == Wait()
    draws = len(search.in_study)
    assert directed.next("e") == Wait()
    assert len(search.in_study) == draws, "asking again cost draws"
    directed.end("a", DIED)
    assert directed.start("f"), "what was lost may still follow"
    for name in "bcf":
        directed.finish(name)
    assert directed.next("g") == Done()
    assert directed.director.fault is None
    assert [r.fate for r in search.records] == ["lost", "complete", "complete", "complete"]


def test_complete_trial_is_told_its_best_epoch(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.finish("a", 0.3, 0.7, 0.5)
    (trial,), (record,) = search.in_study, search.records
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)
    assert trial.intermediate_values == {1: 0.3, 2: 0.7, 3: 0.5}
    assert (record.fate, record.mean_f1, record.best_epoch, record.epochs) == ("complete", 0.7, 2, 3)
    assert (record.node, record.reason) == ("here", None)
    assert directed.director.best == Best(0, 0.7, record.weights_bytes)


def test_best_is_of_a_trial_that_runs_too_and_of_none_that_failed(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.finish("a", 0.5)
    directed.start("b")
    directed.report("b", 1, 0.9)
    assert directed.director.best is not None and directed.director.best.trial == 1
    directed.end("b", FAILED)
    assert directed.director.best is not None and directed.director.best.trial == 0


def test_trial_in_a_slot_says_what_it_waits_for_and_then_its_scores(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    attempt = directed.director.running["a"]
    assert attempt.running(placed=False, ready=False).phase == "waiting for room"
    assert attempt.running(placed=True, ready=False).phase == "starting a worker"
    assert attempt.running(placed=True, ready=True).phase == "first epoch"
    directed.report("a", 1, 0.25)
    directed.report("a", 2, math.nan)
    shown = attempt.running(placed=True, ready=True)
    assert shown == RunningTrial(0, attempt.epochs, (0.25, shown.scores[1]), "here", "training")
    assert math.isnan(shown.scores[1]) and directed.director.epochs == 2


def test_part_of_an_epoch_is_shown_while_the_epoch_trains(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    attempt = directed.director.running["a"]
    first, second = PartOfEpoch(1, 0.5), PartOfEpoch(2, 0.25)
    assert attempt.running(placed=True, ready=True, part=first).part == first
    directed.report("a", 1, 0.25)
    assert attempt.running(placed=True, ready=True, part=first).part is None, "it is over"
    assert attempt.running(placed=True, ready=True, part=second).part == second


def test_trial_that_goes_on_shows_the_scores_of_its_earlier_attempt(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    for number, score in enumerate((0.2, 0.6), 1):
        directed.report("a", number, score)
    directed.end("a", DIED)
    directed.start("b")
    directed.report("b", 3, 0.7)
    assert directed.director.running["b"].running(placed=True, ready=True).scores == (0.2, 0.6, 0.7)
    again = search.direct()
    assert (again.director.epochs, again.director.counted_before) == (0, again.director.counted)


def test_stopped_trial_is_told_pruned_with_its_rung(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.stop("a", 0.2)
    (trial,), (record,) = search.in_study, search.records
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
    directed = search.direct()
    directed.start("a")
    for number, score in enumerate(scores[:-1], 1):
        directed.report("a", number, score)
    assert not directed.report("a", len(scores), scores[-1], loss=loss)
    directed.end("a", Completed())
    (trial,), (record,) = search.in_study, search.records
    assert trial.state == TrialState.PRUNED
    assert record.fate == "diverged"
    assert record.reason is not None and f"epoch {len(scores)}" in record.reason
    assert all(map(math.isfinite, trial.intermediate_values.values()))
    assert trial.values is None or all(map(math.isfinite, trial.values))
    assert record.epochs == len(scores)
    assert directed.director.best is None  # it cannot win
    assert "NaN" not in search.run.journal.read_text()


def test_failed_trial_is_told_failed_with_its_reason_and_its_traceback_is_passed_on(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.finish("a")
    directed.start("b")
    directed.report("b", 1, 0.4)
    directed.end("b", FAILED)
    trial, record = search.in_study[1], search.records[1]
    assert trial.state == TrialState.FAIL
    assert (record.fate, record.reason, record.epochs) == ("failed", "ValueError: no", 1)
    assert directed.ended[-1].verdict.traceback == FAILED.traceback
    assert directed.director.fault is None


def test_failures_of_a_resumed_search_that_has_a_score_do_not_end_it(search: Search) -> None:
    first = search.direct()
    first.start("good")
    first.finish("good")
    again = search.direct()
    for count in range(6):
        again.start(f"t{count}")
        again.end(f"t{count}", FAILED)
    assert again.director.fault is None


def test_lost_trial_is_handed_out_again_with_its_seed_and_parameters(search: Search) -> None:
    directed = search.direct(seed=7)
    directed.start("a")
    directed.finish("a")
    lost = directed.start("b")
    directed.report("b", 1, 0.4)
    directed.end("b", DIED)
    again = directed.start("c")
    assert (again.config, again.seed) == (lost.config, lost.seed)
    assert again.origin == lost.origin == 1
    assert again.best == 0.4
    trial, record = search.in_study[1], search.records[1]
    assert trial.state == TrialState.FAIL
    assert record.fate == "lost"
    assert record.reason is not None and record.reason.startswith("its worker died")


def test_lost_trial_comes_back_at_most_so_often_and_the_search_still_ends(search: Search) -> None:
    def die(directed: Directed, name: str) -> None:
        directed.end(name, DIED)

    handed = search.direct(trials=2).use_up(die)
    assert handed == 2 * (1 + 2)
    assert [r.fate for r in search.records] == ["lost"] * handed
    seeds = [r.seed for r in search.records]
    assert sorted(seeds.count(seed) for seed in set(seeds)) == [3, 3]


def test_lost_trial_that_comes_through_counts_once(search: Search) -> None:
    directed = search.direct(trials=1)
    directed.start("a")
    directed.end("a", DIED)
    directed.start("b")
    directed.finish("b")
    assert directed.use_up() == 0


def test_seeds_of_trials_differ_and_follow_from_the_seed_of_the_search(search: Search, tmp_path: Path) -> None:
    directed = search.direct(seed=3, budget=20 * KB)
    seeds = [directed.start(f"t{count}").seed for count in range(10)]
    assert len(set(seeds)) == 10
    assert all(0 <= seed < 2**31 for seed in seeds)
    other = search.direct(seed=4)
    assert other.start("x").seed not in seeds


def test_no_trial_is_running_after_an_interruption_and_each_is_lost(search: Search) -> None:
    directed = search.direct()
    for name in "abc":
        directed.start(name)
    directed.report("b", 1, 0.4)
    directed.finish("c")
    directed.director.close(reason="interrupted", resumable=True)
    assert not directed.director.running
    assert [r.fate for r in search.records] == ["lost", "lost", "complete"]
    assert [r.reason for r in search.records] == ["interrupted", "interrupted", None]
    assert [t.state for t in search.in_study] == [TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]


def test_no_trial_is_running_after_the_time_limit_and_scores_stay(search: Search) -> None:
    directed = search.direct()
    for name in "ab":
        directed.start(name)
    directed.report("b", 1, 0.4)
    directed.director.close(reason="time limit", resumable=False)
    assert [(r.fate, r.mean_f1, r.reason) for r in search.records] == [
        ("lost", None, "time limit before its first epoch"),
        ("stopped", 0.4, "time limit"),
    ]
    assert [t.state for t in search.in_study] == [TrialState.FAIL, TrialState.PRUNED]


def test_trial_that_the_time_limit_gave_no_epoch_is_handed_out_again_and_counts_once(search: Search) -> None:
    directed = search.direct(trials=3)
    directed.director.study.enqueue_trial({"text.embedding": 24})  # as the preset is
    before = [directed.start(name) for name in "ab"]
    assert all(ended.score is None for ended in directed.director.close(reason="time limit", resumable=False))
    again = search.direct(trials=3)
    after = [again.start(name) for name in "ab"]
    assert [(job.config, job.seed, job.origin) for job in after] == [(j.config, j.seed, j.origin) for j in before]
    for name in "ab":
        again.finish(name)
    assert again.use_up() == 1
    assert Counter(r.fate for r in search.records) == {"lost": 2, "complete": 3}


def days_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on Optuna's clock is three days ahead."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=3)

    monkeypatch.setattr("optuna.storages.journal._storage.datetime", Later)


def test_time_until_somebody_resumes_a_killed_search_is_no_ones(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    directed = search.direct()
    epochs = directed.start("ended").config.train.epochs
    for number in range(1, epochs + 1):
        directed.report("ended", number, 0.9, train_seconds=3.0)
    for name in ("half", "none"):
        directed.start(name)
    directed.report("half", 1, 0.95, train_seconds=3.0, start_seconds=2.0)
    days_later(monkeypatch)
    resumed = search.direct()  # the driver was killed
    ended = [("complete", 4.0 * epochs), ("lost", 6.0), ("lost", 0.0)]
    assert [(r.fate, r.seconds) for r in search.records[:3]] == ended
    resumed.start("half again")
    resumed.report("half again", 2, 0.96, train_seconds=5.0)
    search.direct()  # and again
    again = next(r for r in search.records if r.origin == 1 and r.number > 2)
    assert (again.epochs, again.fate, again.seconds) == (2, "lost", 6.0), "not of what it took over"


def test_resume_hands_out_what_was_interrupted_first_with_seed_and_parameters(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.finish("a")
    before = [directed.start(name) for name in "bc"]
    directed.director.close(reason="interrupted", resumable=True)
    again = search.direct()
    after = [again.start(name) for name in "bc"]
    assert [(g.config, g.seed) for g in after] == [(g.config, g.seed) for g in before]
    fresh = again.start("d")
    assert fresh.seed not in {g.seed for g in before}


def test_resume_after_a_crash_hands_out_what_was_running(search: Search) -> None:
    directed = search.direct()
    before = [directed.start(name) for name in "ab"]
    directed.report("b", 1, 0.4)
    again = search.direct()  # nothing was closed: the driver was killed
    assert [r.fate for r in search.records][:2] == ["lost", "lost"]
    after = [again.start(name) for name in "ab"]
    assert [(g.config, g.seed) for g in after] == [(g.config, g.seed) for g in before]


def test_trial_lost_for_good_is_tried_again_by_a_resume(search: Search) -> None:
    def die(directed: Directed, name: str) -> None:
        directed.end(name, DIED)

    search.direct(trials=1).use_up(die)
    again = search.direct(trials=1)
    assert again.start("a").seed == search.records[0].seed
    again.finish("a")
    assert again.use_up() == 0


def test_interruption_before_a_retry_began_does_not_double_it(search: Search) -> None:
    directed = search.direct(trials=3)
    first = directed.start("a")
    directed.end("a", DIED)  # waits to be handed out again
    directed.director.close(reason="interrupted", resumable=True)
    again = search.direct(trials=3)
    seeds = []
    for count in range(3):
        seeds.append(again.start(f"t{count}").seed)
        again.finish(f"t{count}")
    assert seeds.count(first.seed) == 1


def test_resume_hands_out_nothing_twice_that_came_through(search: Search) -> None:
    directed = search.direct(trials=2)
    first = directed.start("a")
    directed.director.close(reason="interrupted", resumable=True)
    second = search.direct(trials=2)
    second.start("a")
    second.finish("a")
    third = search.direct(trials=2)
    assert third.start("b").seed != first.seed


def test_resume_counts_what_is_done_and_leaves_it_as_it_was(search: Search) -> None:
    directed = search.direct(trials=3)
    directed.start("a")
    directed.finish("a", 0.5, 0.8)
    directed.start("b")
    directed.stop("b", 0.2)
    directed.start("c")
    directed.director.close(reason="interrupted", resumable=True)
    before = search.records[:2]
    again = search.direct(trials=3)
    assert again.director.best == Best(0, 0.8, before[0].weights_bytes)
    assert again.use_up() == 1
    assert search.records[:2] == before
    assert not any(r.fate in ("running", "waiting") for r in search.records)


def test_resume_of_a_finished_search_hands_out_nothing(search: Search) -> None:
    assert search.direct(trials=4).use_up() == 4
    assert search.direct(trials=4).use_up() == 0
    assert search.direct(trials=6).use_up() == 2


def test_result_for_a_trial_that_the_gate_does_not_know_is_ignored(search: Search) -> None:
    directed = search.direct()
    assert directed.report("nobody", 1, 0.4)
    assert directed.director.end("nobody", DIED, now=0.0) is None
    assert search.records == []


def test_trial_that_goes_on_takes_over_the_epochs_before_its_checkpoint(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    for number, score in enumerate((0.2, 0.6, 0.5), 1):
        directed.report("a", number, score)
    directed.end("a", DIED)
    assert directed.start("b").best == 0.6
    directed.report("b", 3, 0.5)  # its checkpoint was of epoch 2
    directed.finish("b", 0.0, 0.0, 0.0, 0.55)  # told again: what is known stays
    lost, again = search.records
    assert (lost.fate, lost.origin, again.fate, again.origin) == ("lost", 0, "complete", 0)
    assert [e.mean_f1 for e in again.curve] == [0.2, 0.6, 0.5, 0.55]
    assert again.mean_f1 == 0.6
    assert search.in_study[1].intermediate_values == {1: 0.2, 2: 0.6, 3: 0.5, 4: 0.55}
    assert search.in_study[1].value == 0.6


def test_trial_whose_end_alone_was_not_told_is_given_it_on_resume(search: Search) -> None:
    directed = search.direct()
    for name in "abcd":
        directed.start(name)
    for number in range(1, directed.director.running["a"].epochs + 1):
        directed.report("a", number, 0.9)
    directed.report("b", 1, 0.1)  # below the cut, and then the driver was killed
    directed.report("c", 1, math.nan, loss=math.nan)
    directed.report("d", 1, 0.95)
    again = search.direct()
    assert [r.fate for r in search.records[:4]] == ["complete", "stopped", "diverged", "lost"]
    assert search.records[1].reason == "halving at epoch 1"
    assert again.start("e").origin == 3


def test_trial_that_was_never_handed_out_leaves_no_record(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.finish("a")
    directed.director.study.ask()  # killed here
    search.direct()
    assert [r.fate for r in search.records] == ["complete"]


def test_trial_turned_away_by_a_resting_node_is_handed_out_again_and_is_no_record(search: Search) -> None:
    directed = search.direct(trials=1)
    first = directed.start("a")
    directed.end("a", TurnedAway(HERE))
    again = directed.start("b")
    assert (again.config, again.seed, again.origin) == (first.config, first.seed, first.origin)
    directed.finish("b")
    assert [r.fate for r in search.records] == ["complete"]
    assert directed.use_up() == 0


def test_node_that_fails_in_a_row_rests_and_the_search_ends_when_all_nodes_do(search: Search) -> None:
    directed = search.direct(retries=100)

    def lose(node: str) -> set[str]:
        """Loses a trial to a node; the nodes that it was told to leave alone."""
        assignment = directed.next("a")
        assert isinstance(assignment, Assignment)
        directed.end("a", NodeBroken(Worker(node, node), "no device"))
        return set(assignment.resting)

    assert [lose("bad") for _ in range(3)] == [set(), set(), set()]
    assert lose("worse") == {"bad"}
    assert directed.director.fault is None
    for _ in range(2):
        lose("worse")
    assert "no node can run trials: no device" in str(directed.director.fault)


def test_trial_without_memory_in_its_share_of_a_gpu_is_handed_out_with_twice_of_it(search: Search) -> None:
    directed = search.direct(trials=2, gpus=0.25)
    jobs, shares = [], []
    for name in "abc":
        assignment = directed.next(name)
        assert isinstance(assignment, Assignment)
        jobs.append((assignment.job.config, assignment.job.seed))
        shares.append(assignment.gpus)
        directed.end(name, replace(FAILED, out_of_memory=True))
    assert jobs == jobs[:1] * 3
    assert shares == [0.25, 0.5, 1.0]  # a whole GPU is all there is
    assert [r.fate for r in search.records] == ["lost", "lost", "failed"]
    assert "out of memory in 0.25 of a GPU; again in 0.5" in str(search.records[0].reason)


def test_trial_of_a_recalled_node_costs_no_retry(search: Search) -> None:
    directed = search.direct(trials=1, retries=0)
    first = directed.start("0")
    for number in range(5):
        directed.end(str(number), Preempted(HERE))
        assert directed.start(str(number + 1)).seed == first.seed
    directed.finish("5")
    assert [r.fate for r in search.records] == ["lost"] * 5 + ["complete"]
    assert directed.director.fault is None


def test_no_more_trials_are_handed_out_than_there_is_room_for(search: Search) -> None:
    directed = search.direct(trials=9)
    directed.director.room = Room(slots=2, nodes=1)
    assert [isinstance(directed.next(name), Wait) for name in "abc"] == [False, False, True]
    directed.director.room = Room(slots=3, nodes=2)  # a node has come
    directed.start("c")
    directed.director.room = Room(slots=0, nodes=0)
    for name in "abc":
        directed.finish(name)
    assert isinstance(directed.next("d"), Wait) and "no node is left" in str(directed.director.waiting)


def test_search_holds_no_more_than_its_share_and_tells_what_it_would_hold_alone(search: Search) -> None:
    directed = search.direct(trials=5)
    directed.director.room = Room(slots=3, nodes=1)
    assert directed.director.wanted == 3
    for name in "ab":
        directed.start(name)
    directed.director.share = 1  # another search has come
    assert directed.next("c") == Wait() and directed.director.wanted == 3
    directed.finish("a")
    assert directed.next("c") == Wait() and directed.director.slots == 1
    directed.finish("b")
    directed.start("c")
    directed.finish("c")
    assert directed.director.wanted == 2  # of five trials
    directed.director.share = 0
    assert isinstance(directed.next("d"), Wait) and "turn of another search" in str(directed.director.waiting)
    directed.director.share = None
    directed.start("d")
    directed.start("e")
    directed.finish("d")
    assert directed.next("f") == Wait() and directed.director.wanted == 1


def test_search_without_room_on_its_disk_wants_no_slot(search: Search) -> None:
    directed = search.direct(min_free=10)
    assert isinstance(directed.next("a", free_bytes=9), Wait) and directed.director.wanted == 0
    directed.start("a")
    assert directed.director.wanted == directed.director.room.slots


def test_two_objectives_are_told_and_the_curve_is_kept(search: Search) -> None:
    directed = search.direct(objectives=2, trials=12)
    assert directed.use_up() == 12
    directed = search.direct(objectives=2, trials=14)
    directed.start("a")
    directed.finish("a", 0.3, 0.7)
    directed.start("b")
    directed.stop("b", 0.2)
    *_, complete, stopped = search.in_study
    assert complete.values == [0.7, search.records[-2].weights_bytes]
    assert (stopped.state, stopped.values) == (TrialState.PRUNED, None)
    assert [len(r.curve) for r in search.records[-2:]] == [2, 1]


def test_no_trial_starts_while_the_disk_is_below_the_floor(search: Search) -> None:
    directed = search.direct(min_free=1000)
    assert directed.next("a", free_bytes=999) == Wait(directed.director.waiting)
    assert "--min-free" in str(directed.director.waiting)
    assert search.in_study == []
    assert isinstance(directed.next("a", free_bytes=1000), Assignment)
    assert directed.director.waiting is None


# Killed between any two writes

FOUR = {"text.embedding": [8, 16, 24, 32]}


def eventful(search: Search) -> list[bytes]:
    """A search of all four configurations in which each kind of thing happens; the lines of its journal."""
    directed = search.direct(dimensions=FOUR, trials=4)
    directed.director.study.enqueue_trial({"text.embedding": 24})
    epochs = directed.start("a").config.train.epochs
    directed.start("b")
    directed.report("a", 1, 0.5)
    directed.stop("b", 0.2)
    directed.report("a", 2, 0.6)
    directed.start("c")
    directed.report("c", 1, 0.7)
    directed.end("c", DIED)
    directed.start("c again")
    for number in range(3, epochs + 1):
        directed.report("a", number, 0.7)
    directed.end("a", Completed())
    directed.report("c again", 2, 0.75)
    directed.start("d")
    directed.report("d", 1, math.nan, loss=math.nan)
    directed.end("d", Completed())
    directed.director.close(reason="interrupted", resumable=True)
    directed = search.direct(dimensions=FOUR, trials=4)
    directed.start("c again")
    directed.finish("c again", 0.7, 0.75, 0.8)
    return search.run.journal.read_bytes().splitlines(keepends=True)


def assert_goes_on(search: Search, last_line: object) -> None:
    """Resumes a search of four trials, and holds what comes of it against what must be."""
    directed = search.direct(dimensions=FOUR, trials=4)
    assert all(trial.state != TrialState.RUNNING for trial in search.in_study), last_line
    for record in search.records:
        trial = search.in_study[record.number]
        if record.fate == "stopped":
            assert (trial.state, trial.value) == (TrialState.PRUNED, record.curve[-1].mean_f1), last_line
        if record.fate == "diverged":
            assert trial.constraints["diverged"] > 0, last_line
    before = {record.number: record for record in search.records if record.fate in ("complete", "stopped", "diverged")}
    directed.use_up()
    records = search.records
    ends = Counter(r.origin for r in records if r.fate in ("complete", "stopped", "diverged"))
    assert set(ends.values()) == {1} and len(ends) == 4, (last_line, records)
    assert {record.origin for record in records} == set(ends), last_line
    assert len({record.config["text.embedding"] for record in records}) == 4, last_line
    assert before.items() <= {record.number: record for record in records}.items(), last_line


@pytest.mark.slow
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


@pytest.mark.soak
@pytest.mark.slow
def test_resume_killed_between_any_two_writes_goes_on_too(search: Search, data: PreparedData, tmp_path: Path) -> None:
    lines = eventful(search)
    for length in range(4, len(lines), 9):
        killed = Search(tmp_path / f"{length}", data)
        killed.run.journal.write_bytes(b"".join(lines[:length]))
        killed.direct(dimensions=FOUR, trials=4).start("x")
        resumed = killed.run.journal.read_bytes().splitlines(keepends=True)
        for cut in range(length + 1, len(resumed)):
            again = Search(tmp_path / f"{length}-{cut}", data)
            again.run.journal.write_bytes(b"".join(resumed[:cut]))
            assert_goes_on(again, resumed[cut - 1])


def test_trial_cut_by_the_time_limit_before_it_reported_again_keeps_what_it_had(search: Search) -> None:
    directed = search.direct(trials=1)
    directed.start("a")
    for number in (1, 2):
        directed.report("a", number, 0.5 + number / 100)
    directed.director.close(reason="interrupted", resumable=True)
    directed = search.direct(trials=1)
    directed.start("b")
    (ended,) = directed.director.close(reason="time limit", resumable=False)
    _, stopped = search.records
    assert (stopped.fate, stopped.mean_f1, stopped.epochs, stopped.reason) == ("stopped", 0.52, 2, "time limit")
    assert (search.in_study[1].state, search.in_study[1].value) == (TrialState.PRUNED, 0.52)
    assert (ended.origin, ended.score) == (0, 0.52)


def test_late_divergence_is_no_good_sign_for_the_sampler(search: Search) -> None:
    from optuna.samplers._tpe.sampler import _split_trials

    directed = search.direct()
    directed.start("a")
    directed.start("b")
    for number in range(1, 4):
        directed.report("a", number, 0.9)
    directed.report("a", 4, math.nan, loss=math.nan)
    directed.end("a", Completed())
    directed.stop("b", 0.6)
    good, _ = _split_trials(directed.director.study, directed.director.study.trials, 1)
    assert [trial.number for trial in good] == [1]


def test_trial_that_takes_too_long_is_ended_once_and_keeps_its_score(search: Search) -> None:
    directed = search.direct(timeout=60.0)
    directed.start("scored")
    directed.start("silent")
    directed.report("scored", 1, 0.6)
    directed.now = 61.0
    directed.start("young")
    assert sorted(directed.director.overdue(directed.now)) == ["scored", "silent"]
    assert directed.director.overdue(directed.now) == []
    directed.end("scored", DIED)
    directed.end("silent", DIED)
    assert [(r.fate, r.mean_f1) for r in search.records] == [("stopped", 0.6), ("failed", None), ("running", None)]
    assert search.records[0].reason == "not done after 60 s (--trial-timeout)"


def test_report_heard_twice_is_written_once_and_decided_alike(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.start("b")
    assert directed.report("a", 1, 0.9) and directed.report("a", 1, 0.9)
    assert not directed.report("b", 1, 0.1)
    lines = search.run.journal.read_bytes()
    assert not directed.report("b", 1, 0.1)
    assert search.run.journal.read_bytes() == lines


def test_trials_of_other_lengths_are_compared_at_the_same_share_and_a_resume_decides_alike(search: Search) -> None:
    """Trial 0 has 8 epochs, with a rung after 4: half-way is the second epoch of 4 and the eighth of 16."""
    dimensions = {"train.epochs": [4, 16], "text.embedding": [8, 16, 24, 32]}
    directed = search.direct(dimensions=dimensions)
    names: dict[int, str] = {}
    for name in "abcdef":
        directed.start(name)
        names.setdefault(directed.director.running[name].epochs, name)
    for number in (1, 2):
        assert directed.report(names[4], number, 0.9)
    for number in range(1, 8):
        assert directed.report(names[16], number, 0.95), number
    assert not directed.report(names[16], 8, 0.1)  # and then the driver was killed
    search.direct(dimensions=dimensions)
    fates = {r.config["train.epochs"]: (r.fate, r.reason) for r in search.records if r.epochs}
    assert fates[16] == ("stopped", "halving at epoch 8") and fates[4][0] == "lost"


def test_last_epoch_that_a_rung_would_cut_is_complete_and_counts_for_others(search: Search) -> None:
    directed = search.direct(dimensions={"train.epochs": [1], "text.embedding": [8, 16, 24]})
    for name, score in (("a", 0.9), ("b", 0.1)):
        directed.start(name)
        directed.report(name, 1, score)
        directed.end(name, Completed())
    assert [r.fate for r in search.records] == ["complete", "complete"]


def test_complaint_of_a_checkpoint_is_told_until_one_succeeds(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.director.report("a", Report(HERE, epoch(1), "no checkpoint: the disk is full"))
    assert directed.director.complaint == "no checkpoint: the disk is full"
    directed.report("a", 2, 0.5)
    assert directed.director.complaint is None


def test_configurations_of_a_request_come_before_the_samplers_own_and_once(search: Search) -> None:
    directed = search.direct(trials=5)
    chosen = [
        {"text.embedding": 16, "train.learning_rate": 0.002},
        {"text.embedding": 24, "train.learning_rate": 0.003},
    ]
    assert enqueue(directed.director.study, chosen, "first") == 2
    assert enqueue(directed.director.study, chosen, "first") == 0
    jobs = [directed.start(name) for name in "abc"]
    assert [job.config.model.text.embedding for job in jobs[:2]] == [16, 24]  # type: ignore[union-attr]
    resumed = search.direct(trials=5)
    assert enqueue(resumed.director.study, chosen, "first") == 0
    assert [resumed.start(name).config for name in "abc"] == [job.config for job in jobs]


@pytest.mark.slow
def test_request_is_granted_once_wherever_the_driver_was_killed(
    search: Search, data: PreparedData, tmp_path: Path
) -> None:
    chosen = [{"text.embedding": size} for size in (16, 24)]
    directed = search.direct(trials=4, dimensions=FOUR)
    enqueue(directed.director.study, chosen, "first")
    directed.start("a")
    directed.finish("a")
    directed.start("b")
    lines = search.run.journal.read_bytes().splitlines(keepends=True)
    for length in range(3, len(lines) + 1):
        killed = Search(tmp_path / f"{length}", data)
        killed.run.journal.write_bytes(b"".join(lines[:length]))
        resumed = killed.direct(trials=4, dimensions=FOUR)
        enqueue(resumed.director.study, chosen, "first")
        resumed.use_up()
        done = [r.config["text.embedding"] for r in killed.records if r.fate == "complete"]
        assert sorted(done) == [8, 16, 24, 32], lines[length - 1]
        assert set(done[:2]) == {16, 24}, lines[length - 1]


@pytest.mark.parametrize("end", [DIED, FAILED, Completed(), Preempted(HERE)], ids=lambda end: type(end).__name__)
def test_trial_that_a_person_ends_is_stopped_by_hand_however_its_worker_ends(search: Search, end: End) -> None:
    directed = search.direct()
    directed.start("scored")
    directed.start("silent")
    directed.report("scored", 1, 0.6)
    assert (directed.director.drop(0), directed.director.drop(1)) == ("scored", "silent")
    assert directed.director.drop(7) is None
    assert not directed.report("scored", 2, 0.7)
    for name in ("scored", "silent"):
        directed.end(name, end)
    assert [(r.fate, r.mean_f1, r.reason) for r in search.records] == [
        ("stopped", 0.7, "by hand"),
        ("stopped", None, "by hand"),
    ]
    assert directed.director.best == Best(0, 0.7, search.records[0].weights_bytes)
    assert directed.director.drop(0) is None


def test_trial_that_a_person_ended_stays_so_though_the_driver_was_killed(search: Search) -> None:
    directed = search.direct(trials=1)
    directed.start("a")
    directed.report("a", 1, 0.6)
    directed.director.drop(0)
    resumed = search.direct(trials=1)
    assert [(r.fate, r.mean_f1, r.reason) for r in search.records] == [("stopped", 0.6, "by hand")]
    assert resumed.use_up() == 0


@pytest.mark.parametrize("resumable", [True, False])
def test_trial_that_a_person_ended_stays_so_though_the_search_ends(search: Search, resumable: bool) -> None:
    directed = search.direct(trials=1)
    directed.start("a")
    directed.director.drop(0)
    directed.director.close("interrupted", resumable=resumable)
    assert [(r.fate, r.reason) for r in search.records] == [("stopped", "by hand")]


def test_trials_are_cut_and_compared_by_the_metric_of_the_search(search: Search) -> None:
    directed = search.direct()
    directed.director.metric = "micro_f1"
    assert {directed.start(name).metric for name in "ab"} == {"micro_f1"}
    assert directed.report("a", 1, 0.2, micro_f1=0.7, metric="micro_f1")
    assert not directed.report("b", 1, 0.9, micro_f1=0.3, metric="micro_f1")
    directed.end("b", Completed())
    directed.finish("a", 0.2, 0.1, micro_f1=0.7, metric="micro_f1")
    first, second = search.records
    assert (first.fate, first.score, first.mean_f1, first.best_epoch) == ("complete", 0.7, 0.2, 1)
    assert (second.fate, second.score, second.mean_f1) == ("stopped", 0.3, 0.9)
    assert search.in_study[0].value == 0.7
    assert directed.director.best == Best(0, 0.7, first.weights_bytes)


def test_slots_are_held_by_what_runs_and_what_has_ended(search: Search) -> None:
    directed = search.direct()
    directed.start("a")
    directed.now = 10.0
    directed.start("b")
    directed.now = 30.0
    directed.finish("a")
    assert directed.director.seconds(40.0) == 30.0 + 30.0


def test_trial_that_a_person_pins_trains_to_its_end_whatever_halving_says(search: Search) -> None:
    directed = search.direct()
    for name in "abc":
        directed.start(name)
    assert directed.director.pin(1) and not directed.director.pin(7)
    assert directed.report("a", 1, 0.9)
    assert directed.report("b", 1, 0.1)
    assert not directed.report("c", 1, 0.05)
    assert not directed.director.pin(2)  # too late
    assert not directed.report("b", 2, math.nan)
    assert [TrialAttributes.of(trial).pinned for trial in search.in_study[:3]] == [None, True, None]


def test_pinned_trial_stays_so_though_it_was_lost_and_the_driver_killed(search: Search) -> None:
    directed = search.direct(trials=2)
    for name in "ab":
        directed.start(name)
    directed.report("a", 1, 0.9)
    directed.director.pin(1)
    assert directed.report("b", 1, 0.1)
    resumed = search.direct(trials=2)
    assert search.records[1].fate == "lost"
    origins = {name: resumed.start(name).origin for name in "cd"}
    again = next(name for name, origin in origins.items() if origin == 1)
    assert resumed.report(again, 1, 0.1) and resumed.report(again, 2, 0.1)
