"""What is written in a space is taken as it is meant, and refused where it can mean nothing; by file and in Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused
from hypothesis import assume, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

import captune
from captune.model.config import TrialConfig
from captune.model.effects import idle, key_of
from captune.model.flat import flatten, replace
from captune.model.presets import PRESETS
from captune.model.size import size
from captune.tuner.space.config import read_search, read_trial_config
from captune.tuner.space.dimensions import Choice, Number, parse_dimension
from captune.tuner.space.meaning import check
from captune.tuner.space.space import Space
from captune.tuner.space.yaml_file import ConfigError

Settings = dict[str, Any]
Read = Callable[..., Space]


def by_file(folder: Path) -> Read:
    def read(space: Settings, *, preset: str = "captions", fixed: Settings | None = None, **overrides: Any) -> Space:
        path = folder / "search.yaml"
        yaml = YAML(typ="safe")
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump({"preset": preset, "trials": 3, "fixed": fixed or {}, "space": space}, path)
        return read_search(path, preset=None, default_preset="compact", overrides=overrides).build_space()

    return read


def in_python(space: Settings, *, preset: str = "captions", fixed: Settings | None = None, **overrides: Any) -> Space:
    made = captune.space(preset, {n: dimension_of(d) for n, d in space.items()}, fixed=fixed)
    drawn = {"space": dict(made.dimensions), "fixed": dict(made.fixed), "trials": 3, **overrides}
    return read_search(None, preset=preset, default_preset=preset, overrides=drawn).build_space()


def dimension_of(value: Any) -> Any:
    if isinstance(value, list):
        return value
    if "choices" in value:
        return captune.Choice(value["choices"], value.get("when"))
    return (captune.Float if isinstance(value["low"], float) else captune.Int)(**value)


@pytest.fixture(params=["file", "python"])
def read(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    return by_file(tmp_path) if request.param == "file" else in_python


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("text.units", {"low": 64.0, "high": 1e2}, Number(64, 100)),
        ("text.units", {"low": 64, "high": "128", "step": 32.0}, Number(64, 128, step=32)),
        ("train.epochs", {"low": 1e0, "high": 1e3, "log": True}, Number(1, 1000, log=True)),
        ("text.units", [64.0, "128", 256], Choice((64, 128, 256))),
        ("train.gamma", {"low": 1, "high": 3, "step": 0.5}, Number(1, 3, step=0.5)),
        ("train.learning_rate", ["1e-3", 1], Choice((1e-3, 1))),
        ("train.augment.flip", [True, False], Choice((True, False))),
        ("storage", ["int8", "float16"], Choice(("int8", "float16"))),
    ],
)
def test_value_is_read_as_its_setting_has_it(read: Read, name: str, written: Any, meant: Any) -> None:
    drawn = read({name: written}, preset="compact").dimensions[name]
    assert drawn == meant
    for value in drawn.values():
        assert type(value) is type(next(v for v in meant.values() if v == value))


def test_fixed_values_are_read_as_their_settings_have_them(read: Read, tmp_path: Path) -> None:
    base = read({}, fixed={"train.epochs": 1e1, "text.units": "16", "train.learning_rate": 1}).base
    assert (base.train.epochs, base.train.learning_rate, base.model.text and base.model.text.units) == (10, 1, 16)
    (tmp_path / "one.yaml").write_text("preset: captions\ntext.units: 1e2\n")
    assert flatten(read_trial_config(tmp_path / "one.yaml"))["text.units"] == 100


def test_numbers_of_numpy_are_numbers() -> None:
    space = in_python(
        {"text.units": list(np.array([8, 16])), "text.dropout": {"low": np.float32(0.25), "high": np.float64(0.5)}},
        fixed={"train.epochs": np.int64(3)},
    )
    assert space.dimensions == {"text.units": Choice((8, 16)), "text.dropout": Number(0.25, 0.5)}
    assert space.base.train.epochs == 3


OF_ANOTHER_KIND: list[tuple[str, Any, str]] = [
    ("text.kernel", {"low": 1, "high": 3, "step": 0.5}, "0.5"),
    ("text.units", {"low": 64, "high": 66.5}, "66.5"),
    ("text.units", [8, 16.25], "16.25"),
    ("text.units", [8, True], "True"),
    ("text.units", [8, "many"], "many"),
    ("text.units", [8, float("inf")], "inf"),
    ("text.units", {"low": 8, "high": float("nan")}, "nan"),
    ("train.augment.flip", [0, 1], "0"),
    ("train.augment.flip", ["true"], "true"),
    ("train.learning_rate", [True], "True"),
    ("fusion", [1, 2], "1"),
    ("text.units", [64, 64.0], "twice"),
]


@pytest.mark.parametrize(("name", "written", "value"), OF_ANOTHER_KIND)
def test_value_of_another_kind_is_refused_with_its_key(read: Read, name: str, written: Any, value: str) -> None:
    refused(lambda: read({name: written}, preset="compact"), name, value, error=ConfigError)


@pytest.mark.parametrize("value", [None, [8], {"low": 8}, True, "few", 8.5, 10**400, "9" * 5000])
def test_fixed_value_of_another_kind_is_refused_with_its_key(read: Read, value: Any) -> None:
    if value == 10**400 and read is not in_python:
        return  # no number that YAML would write
    message = refused(lambda: read({}, fixed={"text.units": value}), "text.units", error=ConfigError)
    assert len(message) < 400


ENCODER = {"text.encoder": ["convolution", "average"]}
CLOSED: dict[str, tuple[Settings, Settings, Settings, str]] = {
    "misspelt": (ENCODER, {"text.encoder": "convolutional"}, {}, "convolutional"),
    "one of two misspelt": (ENCODER, {"text.encoder": ["convolution", "avrage"]}, {}, "avrage"),
    "outside the choices": (ENCODER, {"text.encoder": "gru"}, {}, "gru"),
    "outside the range": ({"text.units": {"low": 8, "high": 16}}, {"text.units": 17}, {}, "17"),
    "between the steps": ({"text.units": {"low": 8, "high": 16, "step": 4}}, {"text.units": 10}, {}, "10"),
    "between all numbers": ({"text.dropout": {"low": 0.1, "high": 0.5}}, {"text.dropout": 0.3}, {}, "0.3"),
    "of another type": ({"text.units": [8, 16]}, {"text.units": "some"}, {}, "some"),
    "as in no preset": ({}, {"text.encoder": "gru"}, {}, "convolution"),
    "fixed otherwise": ({}, {"text.encoder": "convolution"}, {"text.encoder": "average"}, "average"),
    "of nothing": (ENCODER, {"text.encoder": []}, {}, "text.encoder"),
    "of null": (ENCODER, {"text.encoder": None}, {}, "text.encoder"),
    "of the data": ({}, {"num_labels": 18}, {}, "prepared data"),
    "unknown": (ENCODER, {"text.encode": "average"}, {}, "text.encoder"),
    "on what is closed with it": (
        {**ENCODER, "text.units": {"choices": [8, 16], "when": {"text.encoder": "average"}}},
        {"text.encoder": "convolution", "text.units": 16},
        {},
        "together",
    ),
    "on what is never open": (
        {**ENCODER, "text.units": {"choices": [8, 16], "when": {"text.encoder": "convolution"}}},
        {"text.encoder": "average", "text.units": 8},
        {"text.units": 64},
        "together",
    ),
}


@pytest.mark.parametrize("case", CLOSED)
def test_condition_that_never_holds_is_refused_with_its_key_and_why(read: Read, case: str) -> None:
    before, when, fixed, why = CLOSED[case]
    space = {**before, "text.kernel": {"low": 1, "high": 3, "when": when}}
    refused(lambda: read(space, fixed=fixed), "text.kernel", "when", why, error=ConfigError)


OPEN: dict[str, tuple[Settings, Settings, Settings]] = {
    "one of several": (ENCODER, {"text.encoder": ["convolution", "gru"]}, {}),
    "number as text": ({"text.units": [8, 16]}, {"text.units": "8"}, {}),
    "number with a point": ({"text.units": {"low": 8, "high": 16}}, {"text.units": 9.0}, {}),
    "as fixed": ({}, {"text.encoder": "gru"}, {"text.encoder": "gru"}),
    "as in the preset": ({}, {"text.encoder": "convolution"}, {}),
    "of what is closed, as the preset has it": (
        {**ENCODER, "text.units": {"choices": [8, 16], "when": {"text.encoder": "average"}}},
        {"text.encoder": "convolution", "text.units": 24},
        {"text.units": 24},
    ),
    "of what is open with it": (
        {**ENCODER, "text.units": {"choices": [8, 16], "when": {"text.encoder": "average"}}},
        {"text.units": 16},
        {},
    ),
}


@pytest.mark.parametrize("case", OPEN)
def test_condition_that_may_hold_is_taken(read: Read, case: str) -> None:
    before, when, fixed = OPEN[case]
    space = read({**before, "text.kernel": {"low": 1, "high": 3, "when": when}}, fixed=fixed)
    options = {name: list(dimension.values()) for name, dimension in space.dimensions.items()}
    assert any("text.kernel" in way for way in space.combinations(options))


NAMES = ["text.encoder", "text.units", "text.dense", "text.kernel"]
OPTIONS: dict[str, list[Any]] = {
    "text.encoder": ["convolution", "average", "gru"], "text.units": [8, 16], "text.dense": [0, 16],
    "text.kernel": [1, 2, 3],
}  # fmt: skip


@st.composite
def conditional(draw: st.DrawFn) -> Settings:
    space: Settings = {}
    for name in NAMES:
        others = st.sampled_from(sorted(space.keys() - {name}) or NAMES[:1])
        when = {
            o: draw(st.lists(st.sampled_from(OPTIONS[o]), min_size=1, max_size=2))
            for o in draw(st.sets(others, max_size=2))
        }
        options = draw(st.lists(st.sampled_from(OPTIONS[name]), min_size=1, unique=True))
        space[name] = {"choices": options, **({"when": when} if when and name != NAMES[0] else {})}
    return space


@given(conditional())
def test_space_is_refused_exactly_where_some_dimension_is_in_no_way_to_draw(written: Settings) -> None:
    parsed = {name: parse_dimension(name, dimension) for name, dimension in written.items()}
    space = Space.around(PRESETS["captions"], fixed={}, dimensions=parsed, modality="caption")
    ways = list(space.combinations({name: list(dimension.values()) for name, dimension in parsed.items()}))
    never = [name for name in written if not any(name in way for way in ways)]
    try:
        check(space, {})
    except ValueError as error:
        assert never and str(error).endswith(f"{never[0]} is never drawn")
    else:
        assert not never


def test_fixed_value_of_a_searched_name_is_where_it_starts_or_refused(read: Read) -> None:
    assert read({"text.units": [8, 16]}, fixed={"text.units": 16}).base.model.text.units == 16  # type: ignore[union-attr]
    refused(lambda: read({"text.units": [8, 16]}, fixed={"text.units": 24}), "text.units", "24", error=ConfigError)
    closed = {**ENCODER, "text.units": {"choices": [8, 16], "when": {"text.encoder": "convolution"}}}
    assert read(closed, fixed={"text.units": 24}).dimensions.keys() == closed.keys()


def test_condition_on_what_the_command_line_fixes_is_the_affair_of_the_file(tmp_path: Path) -> None:
    space = {"storage": ["float32", "int8"], "text.units": {"choices": [8], "when": {"storage": "int8"}}}
    assert list(by_file(tmp_path)(space, storage="float16").dimensions) == ["text.units"]


CONFIGS = st.builds(
    lambda preset, changes: (preset, changes),
    st.sampled_from(sorted(PRESETS)),
    st.fixed_dictionaries(
        {},
        optional={
            "text.encoder": st.sampled_from(["bilstm", "gru", "convolution", "average"]),
            "image.backbone": st.sampled_from(["compact", "VGG16", "MobileNetV3Small"]),
            "image.weights": st.just("none"),
            "image.frozen": st.just(False),
            "train.loss": st.sampled_from(["focal", "asymmetric", "binary_crossentropy"]),
            "train.optimizer": st.sampled_from(["adam", "adamw"]),
            "train.weight_decay": st.sampled_from([0.0, 0.1]),
        },
    ),
)
OTHER = {
    "train.teacher_share": 0.75,
    "image.width": 12, "image.stages": 2, "image.blocks": 2, "image.scaling": "unit", "text.kernel": 5,
    "text.units": 24, "fusion": "gated", "train.gamma": 3.5, "train.weight_decay": 0.25, "train.augment.flip": None,
    "train.augment.zoom": 0.25, "train.group_by_length": None, "train.optimizer": None, "text.dense": 48,
    "head_units": 24,
}  # fmt: skip


def changed(config: TrialConfig, changes: Settings) -> TrialConfig:
    try:
        return replace(config, {name: value for name, value in changes.items() if name in flatten(config)})
    except ValueError:
        assume(False)
        raise


@given(CONFIGS, st.sampled_from(sorted(OTHER)))
def test_setting_without_effect_changes_neither_the_key_nor_a_byte(drawn: tuple[str, Settings], name: str) -> None:
    config = changed(PRESETS[drawn[0]], drawn[1])
    values = flatten(config)
    assume(name in values)
    opposite = "adam" if values[name] == "adamw" else "adamw" if name == "train.optimizer" else not values[name]
    other = changed(config, {name: opposite if OTHER[name] is None else OTHER[name]})
    assume(other != config)
    if name not in idle(config):
        assert key_of(other) != key_of(config)
    else:
        assert name in idle(other) and key_of(other) == key_of(config)
        assert size(other.model).weights_bytes == size(config.model).weights_bytes


def test_place_that_is_there_is_named_from_anywhere_and_one_that_is_not_stays_as_written(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers, and a resume, are in other folders; a name may be one of the folder of weights."""
    monkeypatch.chdir(tmp_path)
    for name in ("teacher", "none", "weights.npz"):
        (tmp_path / name).mkdir()
    here = str(tmp_path.resolve() / "teacher")
    share = {"choices": [0.25, 0.75], "when": {"train.teacher": "teacher"}}
    space = read({"train.teacher": ["none", "teacher", "elsewhere"], "train.teacher_share": share})
    assert list(space.dimensions["train.teacher"].values()) == ["none", here, "elsewhere"]
    assert space.dimensions["train.teacher_share"].when[0].values == (here,)
    fixed = read(
        {},
        preset="compact",
        fixed={"train.teacher": "teacher", "image.weights": "weights.npz"},
        first=[{"train.teacher": "teacher"}],
    ).base
    assert fixed.train.teacher == here and fixed.model.image is not None
