"""search.yaml: what is right is read, what is wrong is told with file, line and key, in one line."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
from builders import refused

from captune.model.flat import flatten
from captune.model.presets import PRESETS
from captune.model.size import DEFAULT_BUDGET, Budget, MiB
from captune.tuner.space.config import (
    SearchConfig,
    read_search,
    read_trial_config,
    shipped_space,
)
from captune.tuner.space.dimensions import Number
from captune.tuner.space.yaml_file import ConfigError


def read(path: Path | None, *, preset: str | None = None, **overrides: Any) -> SearchConfig:
    return read_search(path, preset=preset, default_preset="compact", overrides=overrides)


def written(folder: Path, text: str) -> Path:
    path = folder / "search.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_shipped_space_builds(preset: str) -> None:
    config = read(None, preset=preset, trials=3)
    assert config.preset == preset
    assert config.build_space().dimensions
    assert config.modality == PRESETS[preset].model.modality


@pytest.mark.parametrize("preset", PRESETS)
def test_shipped_space_read_from_a_file_is_the_same_search(tmp_path: Path, preset: str) -> None:
    assert read(written(tmp_path, shipped_space(preset)), trials=3) == read(None, preset=preset, trials=3)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_shipped_number_is_drawn_as_its_field_wants(preset: str) -> None:
    for name, dimension in read(None, preset=preset, trials=1).build_space().dimensions.items():
        if isinstance(dimension, Number):
            assert isinstance(flatten(PRESETS[preset])[name], int) == dimension.whole, name


BAD = {
    # name: (search.yaml, line, key, more of the message)
    "unknown key": ("preset: compact\ntrails: 3\n", 2, "trails", "unknown key"),
    "unknown key of halving": ("trials: 3\nhalving:\n  grace: 1\n  rungs: 2\n", 4, "halving: rungs", "reduction"),
    "duplicate key": ("trials: 3\npreset: compact\ntrials: 4\n", 3, "trials", "second time"),
    "duplicate dimension": (
        "trials: 3\nspace:\n  fusion: [gated]\n  fusion: [concatenation]\n",
        4,
        "space.fusion",
        "second time",
    ),
    "low above high": ("trials: 3\nspace:\n  text.units: {low: 9, high: 8}\n", 3, "text.units", "low 9 and high 8"),
    "NaN as a bound": ("trials: 3\nspace:\n  head_dropout: {low: .nan, high: 0.5}\n", 3, "head_dropout", "finite"),
    "infinite bound": ("trials: 3\nspace:\n  head_dropout: {low: 0.1, high: .inf}\n", 3, "head_dropout", "finite"),
    "low without high": ("trials: 3\nspace:\n  text.units: {low: 9}\n", 3, "text.units", "low and high"),
    "bound of words": ("trials: 3\nspace:\n  text.units: {low: few, high: 8}\n", 3, "text.units", "few"),
    "log from 0": ("trials: 3\nspace:\n  train.gamma: {low: 0, high: 8, log: true}\n", 3, "train.gamma", "above 0"),
    "log and step": (
        "trials: 3\nspace:\n  text.units: {low: 1, high: 8, log: true, step: 2}\n",
        3,
        "text.units",
        "step",
    ),
    "step beside the end": ("trials: 3\nspace:\n  text.units: {low: 2, high: 37, step: 2}\n", 3, "text.units", "by 2"),
    "step of 0": ("trials: 3\nspace:\n  text.units: {low: 1, high: 8, step: 0}\n", 3, "text.units", "step"),
    "log of a word": ("trials: 3\nspace:\n  text.units: {low: 1, high: 8, log: much}\n", 3, "text.units", "log"),
    "no choices": ("trials: 3\nspace:\n  fusion: []\n", 3, "fusion", "one or more"),
    "doubled choice": ("trials: 3\nspace:\n  fusion: [gated, gated]\n", 3, "fusion", "none twice"),
    "choice of a list": ("trials: 3\nspace:\n  fusion: [[gated]]\n", 3, "fusion", "gated"),
    "choice the field refuses": ("trials: 3\nspace:\n  fusion: [gated, sum]\n", 3, "fusion", "sum"),
    "range the field refuses": (
        "trials: 3\nspace:\n  head_dropout: {low: 0.0, high: 1.5}\n",
        3,
        "head_dropout",
        "1.5",
    ),
    "fraction where whole numbers belong": (
        "trials: 3\nspace:\n  text.units: {low: 8.5, high: 64.5}\n",
        3,
        "text.units",
        "8.5",
    ),
    "single value in space": ("trials: 3\nspace:\n  fusion: gated\n", 3, "fusion", "fixed"),
    "unknown key of a dimension": (
        "trials: 3\nspace:\n  text.units:\n    low: 8\n    high: 64\n    size: 3\n",
        6,
        "text.units: size",
        "step",
    ),
    "unknown name in space": ("trials: 3\nspace:\n  text.unit: [8]\n", 3, "text.unit", "text.units"),
    "name of what the preset does not read": (
        "preset: captions\ntrials: 3\nfixed:\n  image.stem: 4\n",
        4,
        "image.stem",
        "the preset reads captions alone",
    ),
    "unknown name in fixed": ("trials: 3\nfixed:\n  epochs: 3\n", 3, "epochs", "train.epochs"),
    "fixed value the field refuses": ("trials: 3\nfixed:\n  train.epochs: 0\n", 3, "train.epochs", "0"),
    "fixed word for a number": ("trials: 3\nfixed:\n  train.epochs: many\n", 3, "train.epochs", "many"),
    "when on an unknown name": (
        "trials: 3\nspace:\n  text.units:\n    low: 8\n    high: 64\n    when: {encoder: gru}\n",
        6,
        "text.units: when",
        "encoder",
    ),
    "when on a later name": (
        "trials: 3\nspace:\n  text.units: {low: 8, high: 64, when: {text.encoder: gru}}\n  text.encoder: [gru]\n",
        3,
        "text.units: when",
        "before",
    ),
    "when of a word": ("trials: 3\nspace:\n  fusion: {choices: [gated], when: gru}\n", 3, "fusion: when", "gru"),
    "no trials": ("trials: 0\n", 1, "trials", "0"),
    "trials of a word": ("trials: many\n", 1, "trials", "many"),
    "unknown preset": ("trials: 3\npreset: papers\n", 2, "preset", "papers"),
    "bad duration": ("trials: 3\ntime_limit: soon\n", 2, "time_limit", "30m"),
    "duration without a unit": ("trials: 3\ntime_limit: 30\n", 2, "time_limit", "30m"),
    "budget without unit": ("trials: 3\nbudget: 100\n", 2, "budget", "MiB"),
    "unknown measure": ("trials: 3\nmeasure: file\n", 2, "measure", "'weights' or 'bundle'"),
    "objectives without the score": ("trials: 3\nobjectives: [bytes]\n", 2, "objectives", "'bytes'"),
    "unknown objective": ("trials: 3\nobjectives: [mean_f1, seconds]\n", 2, "objectives", "seconds"),
    "objectives of a word": ("trials: 3\nobjectives: bytes\n", 2, "objectives", "'bytes'"),
    "storage at the top": ("trials: 3\nstorage: int8\n", 2, "storage", "write storage under fixed"),
    "setting of trials at the top": (
        "trials: 3\ntrain.epochs: 3\n",
        2,
        "train.epochs",
        "write train.epochs under fixed",
    ),
    "settings of trials at the top": ("trials: 3\ntrain:\n  warmup: 0\n", 2, "train", "write train.warmup under"),
    "settings inside each other at the top": (
        "trials: 3\ntrain:\n  augment:\n    flip: true\n",
        2,
        "train",
        "write train.augment.flip under",
    ),
    "part of the settings at the top": ("trials: 3\ntrain: 5\n", 2, "train", "dotted names such as train.epochs"),
    "nothing under an unknown key": ("trials: 3\ntrain:\n", 2, "train", "dotted names such as train.epochs"),
    "end of a name at the top": ("trials: 3\nwarmup: 0\n", 2, "warmup", "write train.warmup under fixed"),
    "end of several names": ("trials: 3\nfrozen: 0\n", 2, "frozen", "write image.frozen or text.frozen under"),
    "misspelt setting of trials": ("trials: 3\ntrain.epoch: 3\n", 2, "train.epoch", "closest: train.epochs"),
    "range at the top": ("trials: 3\ntrain.epochs: {low: 2, high: 4}\n", 2, "train.epochs", "write train.epochs under"),
    "end of a name with a range": ("trials: 3\nepochs: {low: 2, high: 4}\n", 2, "epochs", "write train.epochs under"),
    "range inside a part": (
        "trials: 3\nspace:\n  train: {epochs: {low: 1, high: 2}}\n",
        3,
        "train",
        "write train.epochs",
    ),
    "end of a name in fixed": (
        "trials: 3\nfixed:\n  augment: {shift: 0.1}\n",
        3,
        "augment",
        "write train.augment.shift",
    ),
    "halving in fixed": (
        "trials: 3\nfixed:\n  halving: {grace: 2}\n",
        3,
        "halving",
        "write halving: {grace: ...} at the",
    ),
    "dotted halving in space": (
        "trials: 3\nspace:\n  halving.grace: [1]\n",
        3,
        "halving.grace",
        "halving: {grace: ...}",
    ),
    "setting of the search behind its place": ("trials: 3\nfixed.seed: 3\n", 2, "fixed.seed", "as seed: ..."),
    "place before the name": ("trials: 3\nfixed.train.warmup: 0\n", 2, "fixed.train.warmup", "write train.warmup"),
    "setting of halving at the top": ("trials: 3\ngrace: 1\n", 2, "grace", "as halving: {grace: ...}"),
    "dotted setting of halving": ("trials: 3\nhalving.grace: 1\n", 2, "halving.grace", "as halving: {grace: ...}"),
    "setting of the search in fixed": (
        "trials: 3\nfixed:\n  budget: 1MB\n",
        3,
        "fixed: budget",
        "at the top of the file",
    ),
    "setting of the search in space": ("trials: 3\nspace:\n  seed: [1]\n", 3, "space: seed", "at the top of the file"),
    "names inside each other in fixed": ("trials: 3\nfixed:\n  train: {warmup: 0}\n", 3, "train", "write train.warmup"),
    "names inside each other in space": ("trials: 3\nspace:\n  text: {dense: [0]}\n", 3, "text", "write text.dense"),
    "unknown storage in fixed": ("trials: 3\nfixed:\n  storage: int2\n", 3, "storage", "'int4', got 'int2'"),
    "unknown storage in space": ("trials: 3\nspace:\n  storage: [int8, int2]\n", 3, "storage", "'int4', got 'int2'"),
    "unknown modality": ("trials: 3\nmodality: sound\n", 2, "modality", "sound"),
    "modality the preset lacks": ("trials: 3\npreset: captions\nmodality: image\n", 3, "modality", "image"),
    "negative seed": ("trials: 3\nseed: -1\n", 2, "seed", "-1"),
    "negative CPUs": ("trials: 3\ncpus_per_trial: -1\n", 2, "cpus_per_trial", "-1"),
    "infinite GPUs": ("trials: 3\ngpus_per_trial: .inf\n", 2, "gpus_per_trial", "inf"),
    "grace of 0": ("trials: 3\nhalving: {grace: 0}\n", 2, "halving: grace", "0"),
    "reduction of 1": ("trials: 3\nhalving: {reduction: 1}\n", 2, "halving: reduction", "1"),
    "halving of a number": ("trials: 3\nhalving: 3\n", 2, "halving", "3"),
    "number as a name": ("trials: 3\nspace:\n  3: [1, 2]\n", 3, "3", "must be a name"),
    "truth as a name": ("trials: 3\ntrue: [1, 2]\n", 2, "true", "must be a name"),
    "truth of another YAML": ("trials: 3\nfixed:\n  train.augment.flip: yes\n", 3, "yes", "true or false"),
    "no such day": ("seed: 2001-02-30\n", 1, "seed", "2001-02-30"),
    "number of letters": ("seed: !!int abc\n", 1, "int", "tag"),
    "number of 5000 digits": (f"trials: {'9' * 5000}\n", 1, "digits", "not YAML"),
    "duration of 5000 digits": (f"time_limit: {'9' * 5000}s\n", 1, "time_limit", "5003 characters"),
    "list of a program": ("space: !!python/object/apply:os.system [ls]\n", 1, "python", "tag"),
    "anchor inside itself": ("trials: 3\nspace: &again\n  fusion: *again\n", 2, "alias", "levels"),
    "space of a list": ("trials: 3\nspace: [fusion]\n", 2, "space", "fusion"),
}


NO_SETTINGS = {
    # search.yaml: the line
    "trials: 3\nspace: [\n": " line 3: ",
    "a: b: c\n": " line 1: ",
    "trials: 3\n\tseed: 0\n": " line 2: ",
    "trials: !!python/name:os.system\n": " line 1: ",
    "trials: 3\n---\ntrials: 4\n": " line 2",
    **dict.fromkeys(["- trials\n- 3\n", "trials\n", "3\n", "? [a, b]\n: 3\n", "3: 4\n", "~: 4\n"], " line 1"),
    **dict.fromkeys(["preset: \x00\x01\n", 'preset: "\\U00110000"\n'], "not YAML"),
}


@pytest.mark.parametrize("text", NO_SETTINGS)
def test_file_that_holds_no_settings_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    refused(lambda: read(written(tmp_path, text)), NO_SETTINGS[text], error=ConfigError)


@pytest.mark.parametrize("name", BAD)
def test_fault_is_told_in_one_line_with_file_line_and_key(tmp_path: Path, name: str) -> None:
    text, line, key, more = BAD[name]
    path = written(tmp_path, text)
    message = refused(lambda: read(path), key, error=ConfigError)
    assert message.startswith(f"{path} line {line}: "), message
    assert more in message.removeprefix(str(path)), message


BOMBS = {
    "lists": "  a0: &a0 [1, 1]\n" + "".join(f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
    "merge keys": "  a0: &a0 {x: 1}\n"
    + "".join(f"  a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)),
    "levels": "  a: " + "[" * 3000,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.timeout(10)
def test_file_that_would_never_end_is_refused_at_once(tmp_path: Path, bomb: str) -> None:
    path = written(tmp_path, f"trials: 3\nfixed:\n{BOMBS[bomb]}")
    message = refused(lambda: read(path), "more than", error=ConfigError)
    assert message.startswith(str(path)) and len(message) < 300 + len(str(path))


def test_aliases_and_merge_keys_that_people_use_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "trials: 3\nspace:\n  head_dropout: &share {low: 0.1, high: 0.5}\n  text.dropout: *share\n"
        "  image.dropout: {<<: *share, low: 0.0}\n",
    )
    space = read(path).build_space()
    assert space.dimensions["text.dropout"] == space.dimensions["head_dropout"] == Number(0.1, 0.5)
    assert space.dimensions["image.dropout"] == Number(0.0, 0.5)


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_bytes(b"preset: compact # caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read"):
            read(path)


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "---\n"])
def test_empty_file_searches_nothing_but_the_default_preset(tmp_path: Path, content: str) -> None:
    config = read(written(tmp_path, content), trials=1)
    assert config.preset == "compact"
    assert config.build_space().dimensions == {}


@pytest.mark.parametrize("key", ["fixed", "space", "halving", "seed", "budget", "time_limit"])
def test_key_left_without_value_takes_its_default(tmp_path: Path, key: str) -> None:
    assert read(written(tmp_path, f"trials: 3\n{key}:\n")) == read(written(tmp_path, "trials: 3\n"))


def test_settings_are_read_as_people_write_them(tmp_path: Path) -> None:
    config = read(
        written(
            tmp_path,
            "preset: captions\ntrials: 7\ntime_limit: 1h30m\nbudget: 20MiB\nseed: 5\ncpus_per_trial: 0.5\n"
            "gpus_per_trial: 0.25\nhalving: {grace: 2, reduction: 4}\nmeasure: bundle\nobjectives: [mean_f1, bytes]\n",
        )
    )
    assert (config.limit, config.objectives) == (Budget(20 * MiB, "bundle"), ("mean_f1", "bytes"))
    assert (config.trials, config.time_limit, config.budget, config.seed) == (7, 5400.0, 20 * MiB, 5)
    assert (config.cpus_per_trial, config.gpus_per_trial) == (0.5, 0.25)
    assert (config.halving.grace, config.halving.reduction) == (2, 4)


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "preset: compact\ntrials: 3\ntime_limit: 1h\nbudget: 10MiB\nseed: 1\nmodality: both\ncpus_per_trial: 1\n"
        "measure: bundle\nobjectives: [mean_f1, bytes]\n",
    )
    overrides = {"preset": "captions", "measure": "weights", "objectives": ("mean_f1",)}
    overrides |= {
        "trials": 9,
        "time_limit": 5.0,
        "budget": MiB,
        "seed": 0,
        "modality": "caption",
        "cpus_per_trial": 2.0,
    }
    config = read(path, **overrides)
    assert {name: getattr(config, name) for name in overrides} == overrides


def test_what_the_command_line_leaves_out_stays_as_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "trials: 3\nbudget: 10MiB\n")
    assert read(path, trials=None, budget=None, seed=None) == read(path)


def test_defaults_are_100_mib_and_seed_0() -> None:
    config = read(None, trials=1)
    assert (config.budget, config.seed, config.time_limit) == (DEFAULT_BUDGET, 0, None)
    assert (config.measure, config.objectives) == ("weights", ("mean_f1",))
    assert DEFAULT_BUDGET == 100 * 2**20


@pytest.mark.parametrize("text", ["fixed:\n  storage: float16\n", "space:\n  storage: [float32, float16]\n", ""])
def test_storage_of_the_command_line_is_that_of_every_trial(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, f"trials: 3\n{text}")
    space = read(path, storage="int8").build_space()
    assert space.base.model.storage == "int8"
    assert space.dimensions == {}
    left = read(path, storage=None).build_space()
    assert (left.base.model.storage, list(left.dimensions)) == {
        "": ("float32", []),
        "fixed:": ("float16", []),
        "space:": ("float32", ["storage"]),
    }[text.partition("\n")[0]]


@pytest.mark.parametrize(("storage", "drawn"), [("float16", {8}), ("int8", {384})])
def test_dimension_that_hangs_on_storage_is_open_under_the_one_of_the_command_line(
    tmp_path: Path, storage: str, drawn: set[int]
) -> None:
    path = written(
        tmp_path,
        "trials: 3\nspace:\n  storage: [float32, float16]\n"
        "  text.units: {choices: [8], when: {storage: float16}}\n  head_units: [64]\n",
    )
    space = read(path, storage=storage).build_space()
    config = space.draw(Random(0))
    assert config.model.text is not None
    assert (config.model.storage, {config.model.text.units}) == (storage, drawn)


def test_bad_value_given_by_name_is_told_by_that_name() -> None:
    for override in ({"trials": 0}, {"seed": -1}, {"cpus_per_trial": -1.0}, {"measure": "file"}, {"storage": "int2"}):
        with pytest.raises(ConfigError, match=next(iter(override))):
            read(None, **{"trials": 1, **override})


def test_space_given_by_name_replaces_that_of_the_file_and_its_faults_are_told_without_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, "trials: 3\nspace:\n  fusion: [gated]\n")
    assert list(read(path, space={"head_units": [0, 64]}).build_space().dimensions) == ["head_units"]
    with pytest.raises(ConfigError, match=r"^space: head_unit: unknown name"):
        read(path, space={"head_unit": [0, 64]})


def test_search_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--trials N"):
        read(written(tmp_path, "preset: compact\n"))
    assert read(written(tmp_path, "preset: compact\n"), time_limit=60.0).trials is None


def test_unknown_preset_of_the_command_line_is_refused() -> None:
    with pytest.raises(ConfigError, match="paper, captions, compact, photos, full"):
        read(None, preset="papers", trials=1)


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "0.0001", '"1e-4"'])
def test_number_that_yaml_takes_for_text_is_a_number(tmp_path: Path, number: str) -> None:
    path = written(tmp_path, f"trials: 1\nspace:\n  train.learning_rate: {{low: {number}, high: 1e-2, log: true}}\n")
    assert read(path).build_space().dimensions["train.learning_rate"] == Number(1e-4, 1e-2, log=True)
    path = written(tmp_path, f"trials: 1\nfixed:\n  train.learning_rate: {number}\n")
    assert read(path).build_space().base.train.learning_rate == 1e-4


def test_settings_survive_json(tmp_path: Path) -> None:
    import json

    overrides = {"trials": 3, "measure": "bundle", "storage": "int8", "objectives": ("mean_f1", "bytes")}
    config = read(written(tmp_path, shipped_space("full")), **overrides)
    again = SearchConfig.model_validate(json.loads(json.dumps(config.model_dump())))
    assert again == config
    assert again.build_space() == config.build_space()


def test_trial_config_changes_its_preset_by_dotted_names(tmp_path: Path) -> None:
    config = read_trial_config(written(tmp_path, "preset: captions\ntext.units: 16\ntrain.learning_rate: 1e-4\n"))
    changed = flatten(PRESETS["captions"]) | {"text.units": 16, "train.learning_rate": 1e-4}
    assert flatten(config) == changed
    assert read_trial_config(written(tmp_path, "")) == PRESETS["paper"], "which an empty file is"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("preset: captions\ntext.unit: 16\n", 2, "text.unit: unknown name"),
        ("preset: captions\n\ntext.units: 0\n", 3, "text.units"),
        ("preset: captions\nimage.width: 8\n", 2, "image.width"),
        ("preset: captions\ntext:\n  units: 16\n", 2, "text"),
        ("text.units: 16\ntext.units: 17\n", 2, "text.units"),
        ("preset: papers\n", 1, "papers"),
        ("preset: [paper]\n", 1, "paper"),
        ("preset: captions\ntrials: 9\nspace: {text.units: [8]}\n", 2, "that is of a search.yaml"),
        ("- preset\n", 1, "keys"),
    ],
)
def test_fault_of_a_trial_config_is_told_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = written(tmp_path, text)
    message = refused(lambda: read_trial_config(path), error=ConfigError)
    assert message.startswith(f"{path} line {line}: "), message
    assert words in message.removeprefix(str(path))
    refused(lambda: read_trial_config(written(tmp_path, "preset: compact\nimage.frozen: true\n")), "frozen")
