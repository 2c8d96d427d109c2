"""The worker runs one trial after another, and says what goes wrong instead of raising. No Ray is started."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import epoch

from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig
from captune.model.metrics import Epoch
from captune.tuner.decisions.trial_events import Assignment, Failed, NodeBroken, TurnedAway
from captune.tuner.training.job import Job

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture
def worker(data: PreparedData, tmp_path: Path) -> Any:
    """A worker as Ray makes one, whose trials are what `worker.trial` yields."""
    from captune.tuner.ray_tune.worker import TrialWorker, WorkerLimits
    from captune.tuner.training.checkpoints import CheckpointPolicy

    class Worker(TrialWorker):
        def __init__(self) -> None:
            self.data = data
            self.trial: Any = lambda job: iter(())
            self._policy = CheckpointPolicy(str(tmp_path / "checkpoints"), None, 1, 0)
            self._node = "0a1b"
            self._broken = None
            self._starting = 0.0
            self._looked = math.inf  # no Ray here whose nodes could be taken away
            self._worker_limits, self._trials, self._at_first = WorkerLimits(3, 10**12), 0, 0

        def epochs_of(self, job: Any, keeper: Any) -> Iterator[Epoch]:
            return self.trial(job)

    return Worker()


def assigned(config: TrialConfig, seed: int = 3, **more: Any) -> dict[str, Any]:
    """A trial as Ray Tune carries it."""
    from captune.tuner.ray_tune.adapter import ASSIGNMENT

    return {ASSIGNMENT: Assignment(Job(config, seed, origin=4, best=0.25), **more)}


def step(worker: Any) -> tuple[Any, bool, bool]:
    """What a worker says, whether it is worn, and whether that was its trial's last."""
    result = worker.step()
    return result["message"], result["worn"], result["done"]


def test_worker_gives_one_epoch_a_step_and_the_last_is_done(worker: Any, tiny: TrialConfig) -> None:
    worker.trial = lambda job: iter([epoch(1, 0.4), epoch(2, 0.6)])
    worker.reset_config(assigned(tiny))
    reports = [step(worker), step(worker)]
    assert [(message.epoch.epoch, message.epoch.mean_f1, done) for message, _, done in reports] == [
        (1, 0.4, False),
        (2, 0.6, True),
    ]
    assert reports[0][0].worker.node and reports[0][0].worker.node_id == "0a1b"


def test_worker_is_worn_after_its_trials_or_when_it_has_grown(
    worker: Any, tiny: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.ray_tune.worker import WorkerLimits

    memory = [100]
    monkeypatch.setattr("captune.tuner.ray_tune.worker.private_bytes", lambda: memory[0])
    worker.trial = lambda job: iter([epoch(1), epoch(2)])

    def worn() -> list[bool]:
        worker.reset_config(assigned(tiny))
        return [step(worker)[1] for _ in range(2)]

    assert [worn() for _ in range(3)] == [[False, False], [False, False], [True, True]]  # WorkerLimits(3, ..)
    worker._worker_limits, worker._trials, worker._at_first = WorkerLimits(1000, 50), 0, 0
    assert worn() == [False, False]
    memory[0] = 150
    assert worn() == [False, False]
    memory[0] = 151
    assert worn() == [True, True]


def test_worker_hands_configuration_and_seed_on_as_they_are(worker: Any, tiny: TrialConfig) -> None:
    seen = []
    worker.trial = lambda job: iter([seen.append((job.config, job.seed, job.origin, job.best)) or epoch(1)])
    assert worker.reset_config(assigned(tiny, seed=9)) is True
    worker.step()
    assert seen == [(tiny, 9, 4, 0.25)]


def test_worker_is_done_at_the_first_nan(worker: Any, tiny: TrialConfig) -> None:
    worker.trial = lambda job: iter([epoch(1, math.nan, loss=math.nan)])
    worker.reset_config(assigned(tiny))
    assert step(worker)[2] is True


@pytest.mark.parametrize("error", [ValueError("two\nlines"), RuntimeError(""), MemoryError(), KeyError("x")])
def test_worker_turns_an_exception_into_a_result_and_lives_on(worker: Any, tiny: TrialConfig, error: Exception) -> None:
    def broken(job: Any) -> Iterator[Epoch]:
        yield epoch(1)
        raise error

    worker.trial = broken
    worker.reset_config(assigned(tiny))
    assert step(worker)[2] is False
    failed, worn, done = step(worker)
    assert (type(failed), failed.fatal, done) == (Failed, False, True)
    assert failed.out_of_memory == worn == isinstance(error, MemoryError)
    assert failed.reason.startswith(type(error).__name__)
    assert "\n" not in failed.reason
    assert failed.traceback.startswith("Traceback")
    worker.trial = lambda job: iter([epoch(1), epoch(2)])
    worker.reset_config(assigned(tiny))
    assert step(worker)[0].epoch.mean_f1 == 0.5


def test_failure_of_weights_that_every_trial_would_meet_is_fatal(worker: Any, tiny: TrialConfig) -> None:
    from captune.model.backbones import WeightsError

    def broken(job: Any) -> Iterator[Epoch]:
        raise WeightsError("no network")
        yield epoch(1)

    worker.trial = broken
    worker.reset_config(assigned(tiny))
    assert step(worker)[0].fatal is True


def test_memory_that_ran_out_is_called_so(worker: Any, tiny: TrialConfig) -> None:
    class ResourceExhaustedError(Exception):
        """As TensorFlow names it."""

    def broken(job: Any) -> Iterator[Epoch]:
        raise ResourceExhaustedError("OOM when allocating " + "x" * 2000)
        yield epoch(1)

    worker.trial = broken
    worker.reset_config(assigned(tiny))
    failed, worn, _ = step(worker)
    assert worn and failed.out_of_memory
    assert "out of memory" in failed.reason
    assert len(failed.reason) <= 500


def test_worker_on_a_resting_node_turns_its_trial_away_and_trains_nothing(
    worker: Any, tiny: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import captune.tuner.ray_tune.worker

    slept: list[float] = []
    monkeypatch.setattr(captune.tuner.ray_tune.worker.time, "sleep", slept.append)
    worker.trial = lambda job: (pytest.fail("trained on a node that rests") for _ in "1")
    worker.reset_config(assigned(tiny, resting={"0a1b": 4.0, "node-2": 9.0}))
    message, _, done = step(worker)
    assert isinstance(message, TurnedAway) and done and message.worker.node_id == "0a1b"
    assert slept == [4.0]
    worker.trial = lambda job: iter([epoch(1)])
    worker.reset_config(assigned(tiny, resting={"node-2": 9.0}))
    assert step(worker)[0].epoch.mean_f1 == 0.5


def test_worker_that_cannot_open_the_data_loses_its_trial_and_tries_again_with_the_next(
    worker: Any, data: PreparedData, tiny: TrialConfig, tmp_path: Path
) -> None:
    worker.settle = lambda threads, backend, gpus: None
    there = tmp_path / "data"
    worker._open = lambda: worker._try(1, "tensorflow", 0.0, str(there))
    worker._broken = worker._open()
    worker.reset_config(assigned(tiny))
    message, _, done = step(worker)
    assert isinstance(message, NodeBroken) and done
    assert "not a prepared data set" in message.reason
    there.symlink_to(data.path)  # the share is mounted
    worker.trial = lambda job: iter([epoch(1)])
    worker.reset_config(assigned(tiny))
    assert step(worker)[0].epoch.mean_f1 == 0.5


@pytest.fixture
def at_work(data: PreparedData, tiny: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker as Ray sets it up, but for the runtime around it."""
    import captune.tuner.ray_tune.worker
    from captune.tuner.ray_tune.adapter import ASSIGNMENT
    from captune.tuner.training.checkpoints import CheckpointPolicy

    class Context:
        gcs_address = "127.0.0.1:1"  # nobody is there, and a worker that never had an answer is never ended

        @staticmethod
        def get_node_id() -> str:
            return "0a1b"

        @staticmethod
        def get_job_id() -> str:
            return "01000000"

    monkeypatch.setattr(captune.tuner.ray_tune.worker.ray, "get_runtime_context", Context)
    made = object.__new__(captune.tuner.ray_tune.worker.TrialWorker)
    made._trial_info = None
    made.setup(
        {ASSIGNMENT: Assignment(Job(tiny, 3, origin=4))},
        data=str(data.path),
        threads=1,
        backend="tensorflow",
        worker_limits=captune.tuner.ray_tune.worker.WorkerLimits(1000, 10**12),
        policy=CheckpointPolicy(str(tmp_path), None, 1, 0),
    )
    return made


def test_worker_set_up_on_prepared_data_trains(at_work: Any) -> None:
    assert [(message.epoch.epoch, done) for message, _, done in (step(at_work), step(at_work))] == [
        (1, False),
        (2, True),
    ]


def test_worker_keeps_the_best_network_as_the_bundle_that_scored(
    at_work: Any, data: PreparedData, tmp_path: Path
) -> None:
    from captune.model.bundle import Bundle
    from captune.model.metrics import mean_average_precision
    from captune.tuner.winner.predict import probabilities_of_split

    best = max((step(at_work)[0].epoch for _ in range(2)), key=lambda epoch: epoch.mean_f1)
    (kept,) = (tmp_path / "4").glob("best-*")
    assert kept.name == f"best-{best.epoch}"
    loaded = Bundle.load(kept)
    assert loaded.rule == best.rule
    found = probabilities_of_split(loaded, data, "validation")
    assert mean_average_precision(data.labels[data.rows("validation")], found) == pytest.approx(best.map)
