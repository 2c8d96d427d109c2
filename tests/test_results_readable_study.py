"""A run's study as Optuna's plots and other tools read it."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from study_runs import begin, fill, new_run, report, study_of

from captune.cluster.object_storage.mirror import Mirror
from captune.results.run_folder import RunError
from captune.tuner.api.comparisons import compare
from captune.tuner.api.runs import Run

OBJECTIVES = [("mean_f1",), ("mean_f1", "bytes")]


@pytest.mark.parametrize("objectives", OBJECTIVES, ids=len)
def test_study_has_names_and_attributes_of_the_run(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    fill(new_run(tmp_path / "first", objectives))
    study = Run(str(tmp_path / "first")).study()
    assert study.study_name == "first"
    assert study.metric_names == list(objectives)
    assert study.user_attrs["preset"] == "captions" and "weights" in study.user_attrs["budget"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"][: len(objectives)]


@pytest.mark.parametrize("objectives", OBJECTIVES, ids=len)
def test_trials_have_fate_size_and_constraints_and_keep_their_numbers(
    tmp_path: Path, objectives: tuple[str, ...]
) -> None:
    run = fill(new_run(tmp_path / "run", objectives))
    with run.writing():
        trials = Run(str(run.path)).study().trials
    assert [trial.number for trial in trials] == [0, 1, 2, 4, 5]  # 3 is no trial
    fates = ["complete", "stopped", "over_budget", "diverged", "running"]
    assert [trial.user_attrs["fate"] for trial in trials] == fates
    assert [trial.user_attrs["MiB"] for trial in trials] == [0.954, 0.477, 2.861, 0.954, 0.954]
    assert trials[0].values == [0.8, 1_000_000][: len(objectives)] and trials[0].user_attrs["mean_f1"] == 0.8
    assert trials[0].intermediate_values == {1: 0.5, 2: 0.8, 3: 0.7}
    assert [trial.system_attrs["constraints"] for trial in trials] == [[-0.5], [-0.75], [0.5], [-0.5, 1.0], [-0.5]]
    assert not any(isinstance(value, dict | list) for trial in trials for value in trial.user_attrs.values())


def test_what_a_killed_search_left_running_is_lost(tmp_path: Path) -> None:
    trial = Run(str(fill(new_run(tmp_path / "run")).path)).study().trials[-1]
    assert trial.user_attrs["fate"] == "lost" and trial.state == TrialState.FAIL


def test_study_follows_a_running_search(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with run.writing():
        reader = Run(str(run.path)).study()
        assert reader.trials == []  # nor is there a journal
        study = study_of(run)
        trial = begin(study, 0.1)
        assert reader.trials[0].intermediate_values == {}
        report(study, trial, 1, 0.3)
        assert reader.trials[0].intermediate_values == {1: 0.3}


def test_nothing_can_be_written(tmp_path: Path) -> None:
    run = fill(new_run(tmp_path / "run"))
    before = run.journal.read_bytes()
    study = Run(str(run.path)).study()
    for write in (study.ask, lambda: study.set_user_attr("a", 1), lambda: study.add_trials(study.trials)):
        with pytest.raises(RunError, match="not written"):
            write()
    with pytest.raises(RunError, match="not written"):
        optuna.create_study(storage=study._storage, study_name="another")
    assert run.journal.read_bytes() == before


@pytest.mark.parametrize("objectives", OBJECTIVES, ids=len)
def test_plots_of_optuna_render(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    pytest.importorskip("plotly", reason="no plotly here; pip install 'captune[dashboard]'")
    run = new_run(tmp_path / "run", objectives)
    study = study_of(run)
    for number in range(4):
        trial = study.ask()
        trial.suggest_int("text.units", 8, 64)
        trial.suggest_categorical("fusion", ("gated", "summed"))
        for place in (1, 2):
            report(study, trial, place, 0.1 * number + 0.1 * place)
        study.tell(trial, [0.1 * number + 0.2, 1000 + number][: len(objectives)])
    readable = Run(str(run.path)).study()
    drawn = optuna.visualization
    whole = {} if len(objectives) == 1 else {"target": lambda trial: trial.values[0], "target_name": "mean_f1"}
    for plot in (
        drawn.plot_contour, drawn.plot_edf, drawn.plot_optimization_history, drawn.plot_parallel_coordinate,
        drawn.plot_param_importances, drawn.plot_rank, drawn.plot_slice,
    ):  # fmt: skip
        assert plot(readable, **whole).data, plot.__name__
    assert len(drawn.plot_intermediate_values(readable).data) == 4
    assert drawn.plot_timeline(readable).data
    if len(objectives) == 2:
        assert drawn.plot_pareto_front(readable).data
        assert drawn.plot_hypervolume_history(readable, [0.0, 1e6]).data


def test_run_at_an_address_is_read_as_it_was_then(tmp_path: Path, url: str) -> None:
    run = fill(new_run(tmp_path / "run"))
    with Mirror(run.path, url):
        pass
    there = Run(url)
    study = there.study()
    assert study.study_name == url.rpartition("/")[2]
    assert [trial.user_attrs["fate"] for trial in study.trials][:2] == ["complete", "stopped"]
    assert there.log("tensorboard", tmp_path / "board") == tmp_path / "board"
    assert (tmp_path / "board" / "tensorboard" / "trial-0001").is_dir()
    one, other = compare([url, run.path]).runs
    assert (one.mean_f1, one.slot_hours) == (other.mean_f1, other.slot_hours)
