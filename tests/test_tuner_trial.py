"""One trial, and the worker that runs them one after another; no Ray process runs here."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from data_prep.store import PreparedData
from model.config import TrialConfig, flatten, replace
from model.metrics import Epoch
from model.presets import PRESETS
from tuner.space import bind

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
    from tuner.trial import train_trial

    first = list(train_trial(tiny, data, seed=5))
    assert [e.epoch for e in first] == [1, 2]
    for epoch in first:
        assert math.isfinite(epoch.loss)
        assert all(0 <= score <= 1 for score in (epoch.mean_f1, epoch.micro_f1, epoch.macro_f1, epoch.map))
        assert epoch.train_seconds > 0 and epoch.evaluate_seconds > 0
    other = scored(train_trial(tiny, data, seed=6))
    again = scored(train_trial(tiny, data, seed=5))
    assert again == scored(iter(first)), "also after another trial in the same process"
    assert other != again


def test_trial_that_diverges_reports_nan_and_ends(data: PreparedData, tiny: TrialConfig) -> None:
    from model import training
    from tuner.trial import train_trial

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Training, "epoch", lambda self, number: math.nan)
        (only,) = train_trial(tiny, data, seed=0)
    assert math.isnan(only.loss) and math.isnan(only.mean_f1)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker as Ray makes one, whose trials are what `worker.trial` yields."""
    import tuner.trial

    made = object.__new__(tuner.trial.TrialWorker)
    made._data = None
    made.trial = lambda config, seed: iter(())
    monkeypatch.setattr(tuner.trial, "train_trial", lambda config, data, *, seed: made.trial(config, seed))
    return made


def epoch(number: int, score: float = 0.5, loss: float = 0.1) -> Epoch:
    return Epoch(number, loss, score, score, score, score, 0.5, 1.0, 0.1)


def given(config: TrialConfig, seed: int = 3) -> dict[str, Any]:
    """As the gate hands it out."""
    return {"config": flatten(config), "seed": seed, "number": 0}


def test_worker_gives_one_epoch_a_step_and_the_last_is_done(worker: Any, tiny: TrialConfig) -> None:
    worker.trial = lambda config, seed: iter([epoch(1, 0.4), epoch(2, 0.6)])
    worker.reset_config(given(tiny))
    first, last = worker.step(), worker.step()
    assert (first["epoch"], first["mean_f1"], first["done"]) == (1, 0.4, False)
    assert (last["epoch"], last["mean_f1"], last["done"]) == (2, 0.6, True)
    assert first["node"]
    assert first.keys() >= set(Epoch.__dataclass_fields__)


def test_worker_hands_configuration_and_seed_on_as_they_are(worker: Any, tiny: TrialConfig) -> None:
    seen = []
    worker.trial = lambda config, seed: iter([seen.append((config, seed)) or epoch(1)])
    assert worker.reset_config(given(tiny, seed=9)) is True
    worker.step()
    assert seen == [(tiny, 9)]


def test_worker_is_done_at_the_first_nan(worker: Any, tiny: TrialConfig) -> None:
    worker.trial = lambda config, seed: iter([epoch(1, math.nan, math.nan)])
    worker.reset_config(given(tiny))
    assert worker.step()["done"] is True


@pytest.mark.parametrize("error", [ValueError("two\nlines"), RuntimeError(""), MemoryError(), KeyError("x")])
def test_worker_turns_an_exception_into_a_result_and_lives_on(worker: Any, tiny: TrialConfig, error: Exception) -> None:
    def broken(config: TrialConfig, seed: int) -> Iterator[Epoch]:
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
    worker.trial = lambda config, seed: iter([epoch(1), epoch(2)])
    worker.reset_config(given(tiny))
    assert worker.step()["mean_f1"] == 0.5


def test_failure_of_weights_that_every_trial_would_meet_is_fatal(worker: Any, tiny: TrialConfig) -> None:
    from model.image_encoder import WeightsError

    def broken(config: TrialConfig, seed: int) -> Iterator[Epoch]:
        raise WeightsError("no network")
        yield epoch(1)

    worker.trial = broken
    worker.reset_config(given(tiny))
    assert worker.step()["fatal"] is True


def test_memory_that_ran_out_is_called_so(worker: Any, tiny: TrialConfig) -> None:
    class ResourceExhaustedError(Exception):
        """As TensorFlow names it."""

    def broken(config: TrialConfig, seed: int) -> Iterator[Epoch]:
        raise ResourceExhaustedError("OOM when allocating " + "x" * 2000)
        yield epoch(1)

    worker.trial = broken
    worker.reset_config(given(tiny))
    failure = worker.step()["failure"]
    assert "out of memory" in failure
    assert len(failure) <= 500


def test_worker_set_up_on_prepared_data_trains(data: PreparedData, tiny: TrialConfig) -> None:
    from tuner.trial import TrialWorker

    worker = object.__new__(TrialWorker)
    worker.setup(given(tiny), data=str(data.path), threads=1)
    results = [worker.step(), worker.step()]
    assert [r["epoch"] for r in results] == [1, 2]
    assert [r["done"] for r in results] == [False, True]
