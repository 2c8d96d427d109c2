"""One trial, and the worker that runs them one after another; no Ray process runs here."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig, flatten, replace
from captune.model.metrics import Epoch
from captune.model.presets import PRESETS
from captune.tuner.space.dimensions import bind

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

TINY = {
    "image.width": 4,
    "image.stages": 1,
    "text.units": 8,
    "text.embedding": 8,
    "head_units": 8,
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.augment.flip": False,
}


@pytest.fixture(scope="module")
def tiny(data: PreparedData) -> TrialConfig:
    return bind(replace(PRESETS["compact"], TINY), data.manifest)


def scored(epochs: Iterator[Epoch]) -> list[dict[str, float]]:
    """Everything that an epoch reports but the seconds."""
    return [{name: getattr(e, name) for name in ("epoch", "loss", "mean_f1", "map", "threshold")} for e in epochs]


def test_trial_reports_every_epoch_and_repeats_itself_with_its_seed(data: PreparedData, tiny: TrialConfig) -> None:
    from captune.tuner.training.trial import Job, train_trial

    first = list(train_trial(Job(tiny, 5, 0), data))
    assert [e.epoch for e in first] == [1, 2]
    for epoch in first:
        assert math.isfinite(epoch.loss)
        assert all(0 <= score <= 1 for score in (epoch.mean_f1, epoch.micro_f1, epoch.macro_f1, epoch.map))
        assert epoch.train_seconds > 0 and epoch.evaluate_seconds > 0
    other = scored(train_trial(Job(tiny, 6, 0), data))
    again = scored(train_trial(Job(tiny, 5, 0), data))
    assert again == scored(iter(first)), "also after another trial in the same process"
    assert other != again


ALL_THAT_IS_RANDOM = {
    "train.epochs": 4,
    "train.augment.flip": True,
    "train.augment.rotation": 20.0,
    "text.dropout": 0.3,
    "head_dropout": 0.3,
    "train.schedule": "cosine",
    "train.warmup": 0.1,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"image.max_side": 16},
        {"train.ema": 0.9, "storage": "int8"},
        {"train.optimizer": "adamw", "train.weight_decay": 0.1, "train.clip_norm": 1.0, "storage": "float16"},
    ],
)
def test_trial_cut_off_after_any_epoch_takes_the_same_course_from_its_checkpoint(
    data: PreparedData, tiny: TrialConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    from captune.tuner.training.checkpoints import LAST, CheckpointPolicy, CheckpointWriter
    from captune.tuner.training.trial import Job, train_trial

    job = Job(replace(tiny, ALL_THAT_IS_RANDOM | changes), 5, 3)
    policy = CheckpointPolicy(str(tmp_path), None, 1, 0)

    def keeper() -> CheckpointWriter:
        return CheckpointWriter(policy, job.origin, job.identity(data))

    whole = scored(train_trial(job, data))
    for cut in (1, 3):
        epochs = train_trial(job, data, keeper())
        before = scored(next(epochs) for _ in range(cut))
        epochs.close()  # dies while the next epoch trains: the report of the last has no checkpoint yet
        assert before == whole[:cut]
        for reported in (cut - 1, 0):  # what the record has: all that the checkpoint has, or nothing
            rest = scored(train_trial(dataclasses.replace(job, reported=reported), data, keeper()))
            assert rest == whole[reported:], cut
        (tmp_path / "3" / LAST).unlink()


def test_trial_that_diverges_reports_nan_and_ends(data: PreparedData, tiny: TrialConfig) -> None:
    from captune.model import training
    from captune.tuner.training.trial import Job, train_trial

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "epoch", lambda self, number: math.nan)
        (only,) = train_trial(Job(tiny, 0, 0), data)
    assert math.isnan(only.loss) and math.isnan(only.mean_f1)


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


def epoch(number: int, score: float = 0.5, loss: float = 0.1) -> Epoch:
    return Epoch(number, loss, score, score, score, score, 0.5, 1.0, 0.1)


def given(config: TrialConfig, seed: int = 3) -> dict[str, Any]:
    """As the gate hands it out."""
    return {
        "config": flatten(config),
        "seed": seed,
        "origin": 4,
        "gpus": 0.0,
        "best": 0.25,
        "reported": 0,
        "resting": {},
    }


def test_worker_gives_one_epoch_a_step_and_the_last_is_done(worker: Any, tiny: TrialConfig) -> None:
    worker.trial = lambda job: iter([epoch(1, 0.4), epoch(2, 0.6)])
    worker.reset_config(given(tiny))
    first, last = worker.step(), worker.step()
    assert (first["epoch"], first["mean_f1"], first["done"]) == (1, 0.4, False)
    assert (last["epoch"], last["mean_f1"], last["done"]) == (2, 0.6, True)
    assert first["node"]
    assert first.keys() >= set(Epoch.__dataclass_fields__)


def test_worker_is_worn_after_its_trials_or_when_it_has_grown(
    worker: Any, tiny: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.ray_tune.worker import WorkerLimits

    memory = [100]
    monkeypatch.setattr("captune.tuner.ray_tune.worker.private_bytes", lambda: memory[0])
    worker.trial = lambda job: iter([epoch(1), epoch(2)])

    def worn() -> list[bool]:
        worker.reset_config(given(tiny))
        return [worker.step()["worn"] for _ in range(2)]

    assert [worn() for _ in range(3)] == [[False, False], [False, False], [True, True]]  # WorkerLimits(3, ..)
    worker._wear, worker._trials, worker._at_first = WorkerLimits(1000, 50), 0, 0
    assert worn() == [False, False]
    memory[0] = 150
    assert worn() == [False, False]
    memory[0] = 151
    assert worn() == [True, True]


def test_worker_hands_configuration_and_seed_on_as_they_are(worker: Any, tiny: TrialConfig) -> None:
    seen = []
    worker.trial = lambda job: iter([seen.append((job.config, job.seed, job.origin, job.best)) or epoch(1)])
    assert worker.reset_config(given(tiny, seed=9)) is True
    worker.step()
    assert seen == [(tiny, 9, 4, 0.25)]


def test_worker_is_done_at_the_first_nan(worker: Any, tiny: TrialConfig) -> None:
    worker.trial = lambda job: iter([epoch(1, math.nan, math.nan)])
    worker.reset_config(given(tiny))
    assert worker.step()["done"] is True


@pytest.mark.parametrize("error", [ValueError("two\nlines"), RuntimeError(""), MemoryError(), KeyError("x")])
def test_worker_turns_an_exception_into_a_result_and_lives_on(worker: Any, tiny: TrialConfig, error: Exception) -> None:
    def broken(job: Any) -> Iterator[Epoch]:
        yield epoch(1)
        raise error

    worker.trial = broken
    worker.reset_config(given(tiny))
    assert worker.step()["done"] is False
    result = worker.step()
    assert result["done"] is True
    assert result["fatal"] is False
    assert result["failure"].startswith(type(error).__name__)
    assert "\n" not in result["failure"]
    assert result["traceback"].startswith("Traceback")
    worker.trial = lambda job: iter([epoch(1), epoch(2)])
    worker.reset_config(given(tiny))
    assert worker.step()["mean_f1"] == 0.5


def test_failure_of_weights_that_every_trial_would_meet_is_fatal(worker: Any, tiny: TrialConfig) -> None:
    from captune.model.image_encoder import WeightsError

    def broken(job: Any) -> Iterator[Epoch]:
        raise WeightsError("no network")
        yield epoch(1)

    worker.trial = broken
    worker.reset_config(given(tiny))
    assert worker.step()["fatal"] is True


def test_memory_that_ran_out_is_called_so(worker: Any, tiny: TrialConfig) -> None:
    class ResourceExhaustedError(Exception):
        """As TensorFlow names it."""

    def broken(job: Any) -> Iterator[Epoch]:
        raise ResourceExhaustedError("OOM when allocating " + "x" * 2000)
        yield epoch(1)

    worker.trial = broken
    worker.reset_config(given(tiny))
    failure = worker.step()["failure"]
    assert "out of memory" in failure
    assert len(failure) <= 500


def test_worker_on_a_resting_node_turns_its_trial_away_and_trains_nothing(
    worker: Any, tiny: TrialConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import captune.tuner.ray_tune.worker

    slept: list[float] = []
    monkeypatch.setattr(captune.tuner.ray_tune.worker.time, "sleep", slept.append)
    worker.trial = lambda job: (pytest.fail("trained on a node that rests") for _ in "1")
    worker.reset_config(given(tiny) | {"resting": {"0a1b": 4.0, "node-2": 9.0}})
    result = worker.step()
    assert (result["turned_away"], result["done"], result["node_id"]) == (True, True, "0a1b")
    assert slept == [4.0]
    worker.trial = lambda job: iter([epoch(1)])
    worker.reset_config(given(tiny) | {"resting": {"node-2": 9.0}})
    assert worker.step()["mean_f1"] == 0.5


def test_worker_that_cannot_open_the_data_loses_its_trial_and_tries_again_with_the_next(
    worker: Any, data: PreparedData, tiny: TrialConfig, tmp_path: Path
) -> None:
    worker.settle = lambda threads, backend, gpus: None
    there = tmp_path / "data"
    worker._open = lambda: worker._try(1, "tensorflow", 0.0, str(there))
    worker._broken = worker._open()
    worker.reset_config(given(tiny))
    result = worker.step()
    assert "not a prepared data set" in result["lost"]
    assert result["done"] is True
    there.symlink_to(data.path)  # the share is mounted
    worker.trial = lambda job: iter([epoch(1)])
    worker.reset_config(given(tiny))
    assert worker.step()["mean_f1"] == 0.5


@pytest.fixture
def at_work(data: PreparedData, tiny: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker as Ray sets it up, but for the runtime around it."""
    import captune.tuner.ray_tune.worker
    from captune.tuner.training.checkpoints import CheckpointPolicy

    class Context:
        gcs_address = "127.0.0.1:1"  # nobody is there, and a worker that never had an answer is never ended

        @staticmethod
        def get_node_id() -> str:
            return "0a1b"

    monkeypatch.setattr(captune.tuner.ray_tune.worker.ray, "get_runtime_context", Context)
    made = object.__new__(captune.tuner.ray_tune.worker.TrialWorker)
    made.setup(
        given(tiny) | {"best": -math.inf},
        data=str(data.path),
        threads=1,
        backend="tensorflow",
        worker_limits=captune.tuner.ray_tune.worker.WorkerLimits(1000, 10**12),
        policy=CheckpointPolicy(str(tmp_path), None, 1, 0),
    )
    return made


def test_worker_set_up_on_prepared_data_trains(at_work: Any) -> None:
    results = [at_work.step(), at_work.step()]
    assert [r["epoch"] for r in results] == [1, 2]
    assert [r["done"] for r in results] == [False, True]


def test_worker_keeps_the_best_network_as_the_bundle_that_scored(
    at_work: Any, data: PreparedData, tmp_path: Path
) -> None:
    from captune.model.bundle import Bundle
    from captune.model.metrics import mean_average_precision
    from captune.tuner.winner.predict import probabilities_of_split

    results = [at_work.step(), at_work.step()]
    best = max(results, key=lambda result: result["mean_f1"])
    (kept,) = (tmp_path / "4").glob("best-*")
    assert kept.name == f"best-{best['epoch']}"
    loaded = Bundle.load(kept)
    assert loaded.rule.threshold == best["threshold"]
    found = probabilities_of_split(loaded, data, "validation")
    assert mean_average_precision(data.labels[data.rows("validation")], found) == pytest.approx(best["map"])
