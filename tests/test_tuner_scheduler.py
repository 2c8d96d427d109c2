"""Halving as Ray Tune asks for it. No Ray runs here."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner.config import HalvingConfig
from tuner.halving import Rungs

pytestmark = pytest.mark.cluster  # imports Ray, starts none of it


def scheduler(**config: int) -> Any:
    from tuner.scheduler import HalvingScheduler

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


def test_ended_trials_are_emptied_when_ray_is_done_with_them_and_no_sooner() -> None:
    halving = scheduler()
    first, second = (
        trial(
            name, status="PENDING", evaluated_params={"x": 1},
            run_metadata=SimpleNamespace(metric_analysis={"a": 1}, metric_n_steps={"a": 1}, last_result={"worn": True}),
        )
        for name in ("a", "b")
    )  # fmt: skip
    halving.on_trial_add(None, first)
    assert halving.choose_trial_to_run(None) is first
    first.status = "RUNNING"
    assert halving.choose_trial_to_run(None) is None
    halving.on_trial_complete(None, first, {"epoch": 1, "mean_f1": 0.5, "loss": 0.1})
    assert first.run_metadata.last_result, "Ray is not done with it"
    first.status = "TERMINATED"
    halving.on_trial_add(None, second)
    assert not (first.run_metadata.last_result or first.run_metadata.metric_n_steps)
    assert second.run_metadata.last_result and halving.choose_trial_to_run(None) is second
