"""Between Ray Tune and the director, and what Ray Tune keeps of trials."""

import dataclasses
import gc
import pickle
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import epoch

from captune.data_prep.store import PreparedData
from captune.model.metrics import Epoch
from captune.model.part_of_epoch import PartOfEpoch
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.director import Ended
from captune.tuner.decisions.fates import Verdict
from captune.tuner.decisions.trial_events import (
    Assignment,
    CodeMissing,
    Completed,
    Done,
    Failed,
    Preempted,
    Report,
    Wait,
    Worker,
    WorkerDied,
)
from captune.tuner.run.settings import create
from captune.tuner.space.config import read_search

pytestmark = pytest.mark.cluster  # imports Ray; two tests start it

HERE = Worker("here", "0a1b")


class FakeDirector:
    """Answers as it is told to, and notes what it hears."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.goes_on = True
        self.verdict = Verdict("complete")
        self.heard: list[Any] = []
        self.running: dict[str, Any] = {}

    def next(self, key: str, *, now: float, free_bytes: int) -> Any:
        assert free_bytes > 0
        return self.steps.pop(0)

    def report(self, key: str, report: Report) -> bool:
        self.heard.append((key, report))
        return self.goes_on

    def end(self, key: str, end: Any, *, now: float) -> Ended:
        self.heard.append((key, end))
        return Ended(7, 5, self.verdict, 0.5)

    def overdue(self, now: float) -> list[str]:
        return ["late", "not placed"]

    def close(self, reason: str, *, resumable: bool) -> list[Ended]:
        return [Ended(8, 6, Verdict("stopped", reason), None)]


class Cleaner:
    """Of checkpoints."""

    def __init__(self) -> None:
        self.settled: list[tuple[int, float | None]] = []

    def settle(self, origin: int, score: float | None) -> None:
        self.settled.append((origin, score))


@pytest.fixture
def director() -> FakeDirector:
    return FakeDirector()


@pytest.fixture
def cleaner() -> Cleaner:
    return Cleaner()


class Parts:
    """Of epochs, as workers told them."""

    def __init__(self) -> None:
        self.told: dict[str, PartOfEpoch] = {}

    def of(self, trial_ids: Collection[str]) -> dict[str, PartOfEpoch]:
        return {trial_id: self.told[trial_id] for trial_id in trial_ids if trial_id in self.told}

    def forget(self, trial_id: str) -> None:
        self.told.pop(trial_id, None)


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def adapter(director: FakeDirector, cleaner: Cleaner, parts: Parts, tmp_path: Path) -> Any:
    from captune.tuner.ray_tune.adapter import Adapter

    return Adapter(director, RunFolder(tmp_path), cleaner, lambda: False, parts)  # type: ignore[arg-type]


def trial(name: str, **more: Any) -> Any:
    return SimpleNamespace(trial_id=name, **more)


def test_searcher_hands_out_waits_and_finishes_as_the_director_says(adapter: Any, director: FakeDirector) -> None:
    from ray.tune.search import Searcher

    assignment: Any = Assignment(job="job")  # type: ignore[arg-type]
    director.steps = [assignment, Wait(), Done()]
    searcher = adapter.searcher
    assert [searcher.suggest(name) for name in "abc"] == [{"assignment": assignment}, None, Searcher.FINISHED]


def test_search_that_is_over_finishes_while_nothing_runs_and_only_then(adapter: Any, director: FakeDirector) -> None:
    from ray.tune.search import Searcher

    adapter._over = lambda: True
    director.steps = [Wait("no node is left"), Wait("no node is left")]
    director.running = {"a": object()}
    assert adapter.searcher.suggest("b") is None
    director.running = {}
    assert adapter.searcher.suggest("b") == Searcher.FINISHED


def test_epoch_goes_to_the_director_who_says_whether_its_trial_goes_on(adapter: Any, director: FakeDirector) -> None:
    report = Report(HERE, epoch(1))
    decisions = []
    for director.goes_on in (True, False):
        decisions.append(adapter.on_trial_result(None, trial("a"), {"message": report}))
    assert decisions == ["CONTINUE", "STOP"]
    adapter.on_trial_complete(None, trial("a"), {"message": report})
    assert director.heard == [("a", report)] * 3 + [("a", Completed())]


def test_other_last_messages_are_ends_as_they_are(adapter: Any, director: FakeDirector) -> None:
    adapter.on_trial_complete(None, trial("a"), {"message": Preempted(HERE)})
    assert director.heard == [("a", Preempted(HERE))]


@pytest.mark.parametrize(
    ("fate", "settled"), [("complete", [(5, 0.5)]), ("failed", [(5, 0.5)]), ("lost", []), (None, [])]
)
def test_checkpoints_of_what_is_finished_are_given_up(
    adapter: Any, director: FakeDirector, cleaner: Cleaner, fate: Any, settled: list[Any]
) -> None:
    director.verdict = Verdict(fate, "why")
    adapter.on_trial_complete(None, trial("a"), {"message": Preempted(HERE)})
    assert cleaner.settled == settled
    adapter.close("time limit", resumable=False)
    assert cleaner.settled == [*settled, (6, None)]


def test_traceback_is_kept_and_a_disk_that_refuses_it_ends_nothing(
    adapter: Any, director: FakeDirector, cleaner: Cleaner, tmp_path: Path
) -> None:
    director.verdict = Verdict("failed", "ValueError: no", traceback="Traceback")
    adapter.on_trial_complete(None, trial("a"), {"message": Failed("ValueError: no", "Traceback")})
    assert (tmp_path / "tracebacks" / "trial-7.txt").read_text() == "Traceback"
    adapter._run = RunFolder(tmp_path / "gone")
    adapter.on_trial_complete(None, trial("b"), {"message": Failed("ValueError: no", "Traceback")})
    assert len(cleaner.settled) == 2


def test_workers_of_trials_that_take_too_long_are_ended_where_there_is_one(
    adapter: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    parts.told = {"late": PartOfEpoch(1, 0.5)}
    monkeypatch.setattr("captune.tuner.ray_tune.adapter.ray.kill", ended.append)
    for name, actor in (("late", "actor of late"), ("not placed", None)):
        adapter._trials[name] = trial(name, temporary_state=SimpleNamespace(ray_actor=actor))
    adapter.end_overdue()
    assert ended == ["actor of late"]
    adapter.close("time limit", resumable=False)
    assert ended == ["actor of late"] * 2, "it could write a checkpoint of a trial that is done"
    assert not parts.told, "nothing is left at the head of a cluster that goes on"


class Controller:
    """What is asked of Ray's: the trials, and which of their workers a node has taken in."""

    def __init__(self, *trials: Any, placed: str) -> None:
        self._trials = list(trials)
        self._stopped_trials: set[Any] = set()
        self._failed_trials: set[Any] = set()
        self._trials_to_cache: set[Any] = set()
        self._trial_to_actor = {each: each.trial_id for each in trials if each.trial_id != "none"}
        self._actor_manager = SimpleNamespace(is_actor_started=placed.split().__contains__)

    def get_trials(self) -> list[Any]:
        return self._trials


class Known(SimpleNamespace):
    """A trial of Ray's, which is a key."""

    __hash__ = object.__hash__


def known(name: str, status: str = "PENDING") -> Known:
    actor = "actor" if status == "RUNNING" else None
    return Known(trial_id=name, status=status, temporary_state=SimpleNamespace(ray_actor=actor))


def test_trials_that_wait_long_for_a_node_and_those_whose_worker_starts_are_counted(
    adapter: Any, director: FakeDirector, parts: Parts
) -> None:
    trials = [known("waits"), known("starts"), known("runs", "RUNNING")]
    adapter.on_trial_add(Controller(*trials, placed="starts runs"), trials[-1])
    attempt = SimpleNamespace(started=0.0, running=lambda **state: state)
    director.running = {each.trial_id: attempt for each in trials}
    assert adapter.unplaced(-1.0) == 1
    assert adapter.unplaced(10**9) == 0
    parts.told = {"runs": (half := PartOfEpoch(1, 0.5))}
    states = ((False, False, None), (True, False, None), (True, True, half))
    assert adapter.running() == tuple({"placed": at, "ready": ready, "part": part} for at, ready, part in states)
    adapter.on_trial_error(None, trial("runs", pickled_error_file=None))
    assert not parts.told, "what is over is forgotten"


@pytest.mark.parametrize(
    ("trials", "placed", "chosen"),
    [
        ("runs starts none", "runs starts", "none"),
        ("runs starts waits none", "runs starts", "waits"),  # the older one
        ("runs starts begins", "runs starts begins", "starts"),  # nobody else is left for a free worker
        ("runs", "runs", None),
        ("", "", None),
    ],
)
def test_free_worker_goes_to_the_first_trial_whose_own_does_not_start_yet(
    adapter: Any, trials: str, placed: str, chosen: str | None
) -> None:
    each = [known(name, "RUNNING" if name == "runs" else "PENDING") for name in trials.split()]
    choice = adapter.choose_trial_to_run(Controller(*each, placed=placed))
    assert (choice and choice.trial_id) == chosen


@pytest.mark.parametrize(("told", "work", "expected"), [(3.0, 2.0, 8.0), (9.0, 2.0, 9.0), (0.0, 2.0, 0.0)])
def test_start_of_a_worker_counts_from_the_moment_at_which_its_slot_was_given_to_the_trial(
    adapter: Any, director: FakeDirector, monkeypatch: pytest.MonkeyPatch, told: float, work: float, expected: float
) -> None:
    monkeypatch.setattr("captune.tuner.ray_tune.adapter.time.monotonic", lambda: 110.0)
    director.running = {"a": SimpleNamespace(started=100.0)}
    report = Report(HERE, dataclasses.replace(epoch(1), train_seconds=work, evaluate_seconds=0.0, start_seconds=told))
    adapter.on_trial_result(None, trial("a"), {"message": report})
    ((_, heard),) = director.heard
    assert heard.epoch == dataclasses.replace(report.epoch, start_seconds=expected)


def test_ray_finds_nothing_to_pickle(adapter: Any, tmp_path: Path) -> None:
    for face in (adapter, adapter.searcher, adapter.stopper):
        assert pickle.loads(pickle.dumps(face)).__dict__ == {}
    adapter.searcher.save_to_dir(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_run_ends_when_asked_to_and_no_single_trial_does(adapter: Any) -> None:
    from captune.tuner.ray_tune.adapter import Over

    assert adapter.stopper("a", {}) is False
    assert adapter.stopper.stop_all() is False
    adapter.stopper._over = lambda: True
    with pytest.raises(Over):
        adapter.stopper.stop_all()


def kept_error(error: Exception, folder: Path) -> Any:
    """What Ray Tune keeps of a worker's end."""
    from ray import cloudpickle

    file = folder / "error.pkl"
    file.write_bytes(cloudpickle.dumps(error))
    return trial("a", pickled_error_file=str(file))


def test_end_of_a_worker_is_told_by_its_error(adapter: Any, director: FakeDirector, tmp_path: Path) -> None:
    from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

    from captune.tuner.ray_tune.private import WorkerError

    memory = OutOfMemoryError("Task was killed due to the node running low on memory.")
    errors: list[tuple[Exception, Any]] = [
        (ActorDiedError(), WorkerDied),
        (WorkerError(memory), Failed),
        (RayTaskError("step", "Traceback", ValueError("two\nlines")), Failed),
        (RayTaskError("init", "Traceback", ImportError("No module named 'keras'")), CodeMissing),
        (
            RuntimeError("The actor failed to import on the worker:\n\n\x1b[36mModuleNotFoundError: keras\x1b[39m\n"),
            CodeMissing,
        ),
    ]
    for error, _ in errors:
        adapter.on_trial_error(None, kept_error(error, tmp_path))
    ends = [end for _, end in director.heard]
    assert [type(end) for end in ends] == [kind for _, kind in errors]
    assert all("\n" not in end.reason and "\x1b" not in end.reason for end in ends)
    assert ends[1].reason == "out of memory: Ray ended the worker to protect its node"
    assert ends[2].reason == "two lines"
    assert ends[4].reason == "ModuleNotFoundError: keras"


def test_worker_that_left_no_error_died(adapter: Any, director: FakeDirector, tmp_path: Path) -> None:
    for file in (str(tmp_path / "none"), None):
        adapter.on_trial_error(None, trial("a", pickled_error_file=file))
    assert director.heard == [("a", WorkerDied("its worker died: no reason given"))] * 2


def test_how_far_an_epoch_is_comes_from_the_worker_to_whoever_watches(
    tmp_path: Path, captions_data: PreparedData
) -> None:
    from captune.tuner.decisions.progress import Progress
    from captune.tuner.ray_tune.search import run_search
    from captune.tuner.ray_tune.worker import TrialWorker

    report, half, seen = epoch(1), PartOfEpoch(1, 0.5, 60.0), tmp_path / "seen"

    class Half(TrialWorker):
        def settle(self, threads: int, backend: str, gpus: float) -> None:
            """No framework."""

        def epochs_of(self, job: Any, checkpoints: Any) -> Iterator[Epoch]:
            from captune.tuner.ray_tune.parts_of_epochs import Teller

            Teller().tell(self.trial_id, half)
            ends = time.monotonic() + 60
            while not seen.exists() and time.monotonic() < ends:
                time.sleep(0.1)
            yield report

    def show(progress: Progress) -> None:
        parts = [trial.part for trial in progress.running if trial.part and trial.phase == "first epoch"]
        if parts and not seen.exists():
            assert parts[0].seconds == 60.0 and parts[0].share >= 0.5, "it has gone on since"
            assert progress.estimate == pytest.approx(progress.first_epoch_left, abs=5)
            seen.touch()

    wanted = {"trials": 1, "cpus_per_trial": 1, "min_free": 0, "fixed": {"train.epochs": 1}, "space": {}}
    config = read_search(None, preset="captions", default_preset="captions", overrides=wanted)
    create(run := RunFolder(tmp_path / "run"), config, captions_data)
    summary = run_search(run, config, captions_data, address=None, worker=Half, show=show, say=lambda _: None)
    assert summary.trials["complete"] == 1 and seen.exists()


@pytest.mark.soak
def test_ray_keeps_of_a_long_search_the_trials_that_run_alone(tmp_path: Path, captions_data: PreparedData) -> None:
    from ray.tune.experiment import Trial

    from captune.tuner.decisions.progress import Progress
    from captune.tuner.ray_tune.search import run_search
    from captune.tuner.ray_tune.worker import TrialWorker

    report = epoch(1, train_seconds=0.0, evaluate_seconds=0.0)  # made here: workers find no module of the tests

    class Nothing(TrialWorker):
        def settle(self, threads: int, backend: str, gpus: float) -> None:
            """No framework."""

        def epochs_of(self, job: Any, checkpoints: Any) -> Iterator[Epoch]:
            yield report

    run, alive = RunFolder(tmp_path / "run"), []
    space = {"text.embedding": {"low": 8, "high": 256, "step": 1}}
    wanted = {"trials": 30, "cpus_per_trial": 1, "min_free": 0, "fixed": {"train.epochs": 1}, "space": space}
    config = read_search(None, preset="captions", default_preset="captions", overrides=wanted)

    def show(progress: Progress) -> None:
        if sum(progress.fates.values()) >= 20 and not alive:
            alive.append(sum(isinstance(known, Trial) for known in gc.get_objects()))

    create(run, config, captions_data)
    summary = run_search(run, config, captions_data, address=None, worker=Nothing, show=show, say=lambda _: None)
    assert sum(summary.trials.values()) == 30
    assert alive[0] <= 3 * summary.slots  # with those whose end Ray is still busy with
