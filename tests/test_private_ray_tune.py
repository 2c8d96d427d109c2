"""What tuner/ray_tune/private.py takes of Ray Tune that no version promises: a new Ray is told what it lacks."""

import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import captune

pytestmark = pytest.mark.cluster  # imports Ray, starts none of it

ATTRIBUTES = [
    ("ray.air.execution._internal.actor_manager", "RayActorManager._actor_task_failed"),
    ("ray.air.execution._internal.actor_manager", "RayActorManager.is_actor_started"),
    ("ray.air.execution._internal.actor_manager", "RayActorManager.num_total_actors"),
    ("ray.air.execution._internal.actor_manager", "RayActorManager.next"),
    ("ray.tune.execution.tune_controller", "TuneController._maybe_cache_trial_actor"),
    ("ray.tune.execution.tune_controller", "TuneController._cleanup_cached_actors"),
    ("ray.tune.execution.tune_controller", "TuneController.get_trials"),
    ("ray.tune.progress_reporter", "TrialProgressCallback.on_trial_complete"),
    ("ray.tune.progress_reporter", "TrialProgressCallback.log_result"),
    ("ray.tune.experiment.trial", "Trial.pickled_error_file"),
    ("ray.tune.experiment.trial", "_TemporaryTrialState.__init__"),
]
OF_A_CONTROLLER = (
    "_stopped_trials",
    "_failed_trials",
    "_pending_trials",
    "_trials",
    "_trials_to_cache",
    "_trial_to_actor",
    "_actor_manager",
)


@pytest.mark.parametrize(("module", "path"), ATTRIBUTES, ids=[path for _, path in ATTRIBUTES])
def test_ray_tune_has(module: str, path: str) -> None:
    value: Any = import_module(module)
    for name in path.split("."):
        assert hasattr(value, name), f"Ray Tune has no {module}.{path} any more: see tuner/ray_tune/private.py"
        value = getattr(value, name)


@pytest.mark.parametrize("name", OF_A_CONTROLLER)
def test_controller_keeps_its_trials_in(name: str) -> None:
    from ray.tune.execution.tune_controller import TuneController

    assert f"self.{name}" in inspect.getsource(TuneController), f"Ray Tune's controller has no {name} any more"


def test_trial_knows_its_worker() -> None:
    from ray.tune.experiment.trial import _TemporaryTrialState

    assert hasattr(_TemporaryTrialState(), "ray_actor")


def test_settings_of_ray_tune_are_read_by_it_and_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.tune

    from captune.tuner.ray_tune import private

    sources = "".join(path.read_text() for path in Path(ray.tune.__file__).parent.rglob("*.py"))
    assert [name for name in private._ENVIRONMENT if f'"{name}"' not in sources] == []
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "mine")
    before = dict(os.environ)
    with private.mended_tune():
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
    assert dict(os.environ) == before


def test_nothing_else_of_tuner_takes_what_is_private_of_ray() -> None:
    folder = Path(captune.__file__).parent / "tuner"
    names = (
        "ray._",
        "_internal",
        "_stopped_trials",
        "_trials_to_cache",
        "_trial_to_actor",
        "_cleanup_cached_actors",
        "ray_actor",
        "pickled_error_file",
    )
    others = [path for path in folder.rglob("*.py") if path.name != "private.py"]
    assert [(path.name, name) for path in others for name in names if name in path.read_text()] == []
