"""Halving as Ray Tune asks for it, and what Ray Tune keeps of trials."""

import gc
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from captune.data_prep.store import PreparedData
from captune.model.metrics import Epoch
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.halving import Rungs
from captune.tuner.ray_tune.search import Progress, run_search
from captune.tuner.run.settings import create
from captune.tuner.space.config import HalvingConfig, read_search

pytestmark = pytest.mark.cluster


def scheduler(**config: int) -> Any:
    from captune.tuner.ray_tune.scheduler import HalvingScheduler

    return HalvingScheduler(Rungs(HalvingConfig(**config)))


def trial(name: str, origin: int = 0, **more: Any) -> Any:
    return SimpleNamespace(trial_id=name, config={"origin": origin}, **more)


def test_what_a_rung_cuts_is_stopped_and_its_epoch_is_known() -> None:
    halving = scheduler(grace=1, reduction=2)
    reports: list[tuple[str, Any, Any]] = [
        ("a", 0.9, 0.1), ("b", 0.1, 0.1), ("c", math.nan, 0.1),
        ("d", 0.95, 0.1), ("e", 0.99, math.nan), ("f", None, 0.1),
    ]  # fmt: skip
    decisions = [
        halving.on_trial_result(None, trial(name, place), {"epoch": 1, "mean_f1": score, "loss": loss})
        for place, (name, score, loss) in enumerate(reports)
    ]
    assert decisions == ["CONTINUE", "STOP", "STOP", "CONTINUE", "STOP", "STOP"]
    assert halving.stopped == {"b": 1, "c": 1, "e": 1, "f": 1}


def test_last_epoch_of_a_trial_is_seen_by_its_rung() -> None:
    halving = scheduler(grace=2, reduction=2)
    halving.on_trial_complete(None, trial("a", 0), {"epoch": 2, "mean_f1": 0.9, "loss": 0.1})
    assert halving.on_trial_result(None, trial("b", 1), {"epoch": 2, "mean_f1": 0.8, "loss": 0.1}) == "STOP"


def test_failure_is_not_for_halving_to_judge() -> None:
    halving = scheduler(grace=1, reduction=2)
    assert halving.on_trial_result(None, trial("a"), {"failure": "no", "mean_f1": 0.0}) == "CONTINUE"
    assert halving.stopped == {}


def test_error_of_a_worker_is_kept_and_a_file_of_it_that_is_not_there_is_none(tmp_path: Path) -> None:
    from ray import cloudpickle

    halving = scheduler()
    there = tmp_path / "error.pkl"
    there.write_bytes(cloudpickle.dumps(ValueError("no")))
    halving.on_trial_error(None, trial("a", pickled_error_file=str(there)))
    halving.on_trial_error(None, trial("b", pickled_error_file=str(tmp_path / "none")))
    halving.on_trial_error(None, trial("c", pickled_error_file=None))
    assert list(halving.errors) == ["a"] and str(halving.errors["a"]) == "no"


def test_ray_keeps_of_a_long_search_the_trials_that_run_alone(tmp_path: Path, captions_data: PreparedData) -> None:
    from ray.tune.experiment import Trial

    from captune.tuner.ray_tune.worker import TrialWorker

    class Nothing(TrialWorker):
        def settle(self, threads: int, backend: str, gpus: float) -> None:
            """No framework."""

        def epochs_of(self, job: Any, keeper: Any) -> Iterator[Epoch]:
            yield Epoch(1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, train_seconds=0.0, evaluate_seconds=0.0)

    run, kept = RunFolder(tmp_path / "run"), []
    wanted = {"trials": 30, "cpus_per_trial": 1, "min_free": 0, "fixed": {"train.epochs": 1}}
    config = read_search(None, preset="captions", default_preset="captions", overrides=wanted)

    def show(progress: Progress) -> None:
        if sum(progress.fates.values()) >= 20 and not kept:
            kept.append(sum(isinstance(known, Trial) for known in gc.get_objects()))

    create(run, config, captions_data)
    summary = run_search(run, config, captions_data, address=None, worker=Nothing, show=show, say=lambda _: None)
    assert sum(summary.trials.values()) == 30
    assert kept[0] <= 3 * summary.slots  # with those whose end Ray is still busy with
