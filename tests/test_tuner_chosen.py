"""Configurations that people choose: what they draw, and each thing wrong with them told with its place."""

from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from builders import SMALL, feasible, refused
from hypothesis import given
from hypothesis import strategies as st

from captune.model.flat import flatten, replace
from captune.model.presets import PRESETS
from captune.tuner.space.chosen import parameters_of
from captune.tuner.space.config import SearchConfig, SettingError, read_configurations, read_search
from captune.tuner.space.dimensions import SpaceError, parse_dimension
from captune.tuner.space.space import Space
from captune.tuner.space.yaml_file import ConfigError

DIMENSIONS: dict[str, Any] = {
    "text.encoder": ["average", "convolution"],
    "text.kernel": {"low": 1, "high": 3, "when": {"text.encoder": "convolution"}},
    "text.embedding": {"low": 8, "high": 64, "step": 8},
    "train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
}
SEARCH = """\
preset: compact
trials: 3
space:
  text.embedding: {low: 8, high: 64, step: 8}
  train.batch_size: [32, 64]
first:
  - text.embedding: 16
  - train.batch_size: 32
    text.embedding: 24
"""


def space(modality: Any = "both") -> Space:
    parsed = {name: parse_dimension(name, value) for name, value in DIMENSIONS.items()}
    return Space.around(PRESETS["compact"], fixed=SMALL, dimensions=parsed, modality=modality)


@given(st.integers())
def test_any_configuration_of_the_space_is_drawn_as_it_was_written(seed: int) -> None:
    drawn = space().draw(Random(seed))
    assert space().at(parameters_of(space(), flatten(drawn))) == drawn


def test_what_is_not_named_is_as_in_the_preset() -> None:
    chosen = space().at(parameters_of(space(), {"text.encoder": "convolution", "text.kernel": 3}))
    assert chosen == replace(space().base, {"text.encoder": "convolution", "text.kernel": 3})


def test_setting_that_is_not_searched_may_be_named_with_its_value() -> None:
    assert parameters_of(space(), {"image.width": 4}) == parameters_of(space(), {})


def test_settings_of_an_encoder_that_is_left_out_do_not_count() -> None:
    assert parameters_of(space("caption"), {"image.width": 9, "text.embedding": 16})["text.embedding"] == 16


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text.embeding": 16}, ("unknown name", "text.embedding")),
        ({"text.embedding": 12}, ("from 8 to 64 by 8", "got 12")),
        ({"text.embedding": 72}, ("from 8 to 64 by 8", "got 72")),
        ({"text.encoder": "transformer"}, ("one of average, convolution", "got 'transformer'")),
        ({"text.encoder": "average", "text.kernel": 3}, ("only where text.encoder is convolution", "leave it out")),
        ({"image.width": 8}, ("not searched and 4 in every trial", "got 8")),
        ({"train.learning_rate": None}, ("from 0.001 to 0.01", "got None")),
    ],
    ids=str,
)
def test_value_that_no_draw_can_have_is_refused_by_its_name(values: dict[str, Any], words: tuple[str, ...]) -> None:
    refused(lambda: parameters_of(space(), values), *words, error=SpaceError)
    with pytest.raises(SpaceError) as caught:
        parameters_of(space(), values)
    assert caught.value.location == (list(values)[-1],)


def test_configuration_over_the_budget_or_tried_already_is_refused_by_its_place() -> None:
    roomy = feasible({"text.embedding": {"low": 8, "high": 64, "step": 8}})
    embedded = [{"text.embedding": 16}, {"text.embedding": 64}]
    assert [each["text.embedding"] for each in roomy.new(embedded, {})] == [16, 64]
    assert len(roomy.chosen([*embedded, *embedded])) == 4, "of a search that was begun so"
    limit = roomy.size_of(replace(roomy.space.base, embedded[0])).weights_bytes
    tight = feasible({"text.embedding": {"low": 8, "high": 64, "step": 8}}, limit)
    for configurations, words in (
        (embedded, "weights"),
        ([{"text.embedding": 16}, {"text.embedding": 16}], "the same as configuration 1"),
        ([{"text.embedding": 16}, {}], "the same as trial 0"),
    ):
        with pytest.raises(SpaceError, match=words) as caught:
            tight.new(configurations, {})
        assert caught.value.location == ("2",)


def read(path: Path, text: str) -> SearchConfig:
    path.write_text(text)
    return read_search(path, preset=None, default_preset="compact", overrides={})


def test_first_of_a_search_is_read_and_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    first = [{"text.embedding": 16}, {"train.batch_size": 32, "text.embedding": 24}]
    assert read(path, SEARCH).first == first
    assert read(path, SEARCH.replace(": 24", ": 24.0")).first == first
    for old, new, line, words in (
        ("32\n    text.embedding: 24", "32\n    text.embedding: 25", 9, "first: 2: text.embedding: the space has"),
        ("- text.embedding: 16", "- text.embeddin: 16", 7, "first: 1: text.embeddin: unknown name"),
        ("- train.batch_size: 32\n", "- train.batch_size: many\n", 8, "first: 2: train.batch_size: a whole number"),
        ("- text.embedding: 16", "- 16", 7, "got 16"),
    ):
        assert old in SEARCH
        refused(partial(read, path, SEARCH.replace(old, new)), f"line {line}: ", words, error=ConfigError)


def test_first_in_python_is_told_by_its_name() -> None:
    overrides = {"trials": 1, "first": [{"train.learning_rate": 0.004}]}
    config = read_search(None, preset="captions", default_preset="captions", overrides=overrides)
    assert SearchConfig.model_validate_json(config.model_dump_json()) == config
    overrides["first"] = [{"train.learning_rate": 7}]
    refused(
        lambda: read_search(None, preset="captions", default_preset="captions", overrides=overrides),
        "first: 1: train.learning_rate: ",
        error=SettingError,
    )


@pytest.mark.parametrize(
    "text",
    ['[{"a": 1}, {"b": 2.5}]', "- a: 1\n- b: 2.5\n", "- {a: 1}\n- {b: 2.5}\n"],
)
def test_file_of_several_configurations_is_yaml_or_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chosen"
    path.write_text(text)
    assert read_configurations(path)[1] == [{"a": 1}, {"b": 2.5}]


def test_file_of_one_configuration_tells_its_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "chosen.yaml"
    path.write_text("train.epochs: 3\ntrain.batch_size: few\n")
    refused(lambda: read_configurations(path), "chosen.yaml line 2: ", "train.batch_size", error=ConfigError)
    for text in ("", "[]", "- 3\n", "three", "- a: 1\n- []\n"):
        path.write_text(text)
        refused(lambda: read_configurations(path), str(path), error=ConfigError)
