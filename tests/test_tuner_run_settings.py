"""What a search writes down before it starts, and what it is held against."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import refused

from captune.data_prep.store import PreparedData
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.settings import RunSettings, check, create, read, remember
from captune.tuner.space.config import SearchConfig, read_search
from captune.tuner.space.feasibility import BudgetError
from captune.tuner.space.yaml_file import ConfigError


def settings(preset: str = "compact", **overrides: Any) -> SearchConfig:
    return read_search(None, preset=preset, default_preset=preset, overrides={"trials": 2, **overrides})


def test_run_is_read_as_it_was_created(data: PreparedData, tmp_path: Path) -> None:
    run, config = RunFolder(tmp_path / "deep" / "run"), settings(seed=4, modality="caption")
    create(run, config, data)
    again, same = read(run)
    assert again == config
    assert again.build_space() == config.build_space()
    assert same.manifest == data.manifest
    content = json.loads(run.settings.read_text())
    assert content["versions"].keys() >= {"captune", "keras", "tensorflow", "ray", "optuna", "numpy", "python"}
    assert content["created"].endswith("+00:00")


def test_run_keeps_the_preset_that_it_was_begun_with(data: PreparedData, tmp_path: Path) -> None:
    """As where another version of captune has other values, and a setting more."""
    run, config = (
        RunFolder(tmp_path / "run"),
        settings(space={"text.kernel": [1, 2]}).model_copy(update={"fixed": {"image.width": 4}}),
    )
    create(run, config, data)
    content = json.loads(run.settings.read_text())
    content["preset"] |= {"image.width": 7, "train.epochs": 3, "text.kernel": 1, "no.more": 5}
    assert content["preset"].pop("image.stem") == 8
    run.settings.write_text(json.dumps(content))
    for _ in range(2):
        again = read(run)[0]
        assert again.fixed == {"image.width": 4, "train.epochs": 3, "text.kernel": 1, "image.stem": 0}
        assert again.build_space().base.model.image.stem == 0
        remember(run, again)  # as a resume does


def test_facts_of_a_run_have_its_settings_as_they_are_written(data: PreparedData, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    create(run, settings(budget="1536KiB", time_limit="90s"), data)
    written = RunSettings.of(run).facts(run).settings
    assert (written["budget"], written["time_limit"], written["seed"]) == ("1536KiB", "1m30s", 0)


def test_run_in_an_empty_folder_is_made_and_in_any_other_refused(data: PreparedData, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    create(RunFolder(tmp_path / "empty"), settings(), data)
    with pytest.raises(RunError, match="captune resume"):
        create(RunFolder(tmp_path / "empty"), settings(), data)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="exists"):
        create(RunFolder(tmp_path / "file"), settings(), data)


def test_run_finds_its_data_from_another_folder(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.path.parent)
    create(RunFolder(tmp_path / "run"), settings(), PreparedData.open(data.path.name))
    monkeypatch.chdir(tmp_path)
    assert read(RunFolder(tmp_path / "run"))[1].manifest == data.manifest


def test_check_refuses_what_the_data_lacks(captions_data: PreparedData, pictures_data: PreparedData) -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        check(settings("compact"), captions_data)
    with pytest.raises(ConfigError, match="no captions"):
        check(settings("compact"), pictures_data)
    assert check(settings("compact", modality="image"), pictures_data).space.base.model.text is None
    assert check(settings("captions"), captions_data).space.base.model.image is None


def test_space_in_which_nothing_fits_is_refused_before_anything_starts(data: PreparedData) -> None:
    with pytest.raises(BudgetError, match="nothing in the space fits") as caught:
        check(settings(budget=1000), data)
    assert "KiB" not in str(caught.value) and "MiB" in str(caught.value) and "--budget" in str(caught.value)
    assert check(settings(budget=10**8), data).complaint() is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"data": 5}, "data"),
        ({"search": {"preset": "compact", "trials": "many"}}, "search.trials"),
        ({"search": []}, "search"),
        ({"versions": {"ray": 2}}, "versions.ray"),
        ({"fingerprint": None}, "fingerprint"),
        ({"version": 2}, "newer"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"preset": {"image.width": "many"}}, "preset"),
        ({"preset": {"image.width": 7}}, "preset: it has no text."),
    ],
)
def test_damaged_run_json_is_refused_by_field_in_one_line(
    data: PreparedData, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    run = RunFolder(tmp_path / "run")
    create(run, settings(), data)
    run.settings.write_text(json.dumps(json.loads(run.settings.read_text()) | changes))
    refused(lambda: read(run), "run.json", word, error=RunError)


def test_run_json_without_a_version_is_of_the_first(data: PreparedData, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    create(run, settings(), data)
    content = json.loads(run.settings.read_text())
    assert content.pop("version") == 1
    content.pop("warm_start")
    run.settings.write_text(json.dumps(content))
    assert RunSettings.of(run).version == 1 and RunSettings.of(run).warm_start is None


def test_what_a_resume_changes_is_remembered_with_all_the_rest(data: PreparedData, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    create(run, settings(), data)
    before = RunSettings.of(run)
    changed = before.search.model_copy(update={"trials": 7})
    assert remember(run, changed) == RunSettings.of(run) == before.model_copy(update={"search": changed})
