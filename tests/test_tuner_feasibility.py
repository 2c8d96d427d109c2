"""What a space can reach: held against all of its configurations, one by one."""

import dataclasses
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig
from captune.model.flat import Flat, flatten, replace, unflatten
from captune.model.presets import PRESETS
from captune.model.size import Budget, Contents, Measure, MiB, show_bytes, size
from captune.tuner.run.settings import contents_of
from captune.tuner.space.config import read_search
from captune.tuner.space.dimensions import Choice, Dimension, parse_dimension
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import Space, bind

CONTENTS = Contents.typical(18)
MEASURES: list[Measure] = ["weights", "bundle"]

# Every setting that has bytes, and some that decide what is possible; with each, ways to search it.
WAYS: dict[str, list[Any]] = {
    "image.backbone": [["compact", "MobileNetV3Small"], ["VGG16", "compact", "ResNet50"]],
    "image.weights": [["none", "imagenet"]],
    "image.units": [[0, 16, 128], {"low": 0, "high": 64, "step": 32}, {"low": 8, "high": 16, "step": 8}],
    "image.pooling": [["both", "average"]],
    "image.stem": [[4, 0], {"low": 0, "high": 8, "step": 4}],
    "image.width": [[8, 4], {"low": 4, "high": 16, "step": 4}],
    "image.max_side": [[8, 0, 16], {"low": 8, "high": 40, "step": 8}],
    "image.min_side": [[0, 64, 100]],
    "image.stages": [[1, 2, 3], {"low": 2, "high": 3}],
    "text.encoder": [["convolution", "average"], ["gru", "average"], ["bilstm", "convolution", "lstm"]],
    "text.embedding": [{"low": 8, "high": 64, "step": 28}, [200, 16]],
    "text.units": [{"low": 8, "high": 512, "step": 504}, {"low": 8, "high": 40, "step": 16}],
    "text.kernel": [{"low": 1, "high": 3}],
    "text.dense": [[0, 16, 128], {"low": 0, "high": 64, "step": 32}],
    "fusion": [["gated", "concatenation"]],
    "head_units": [{"low": 0, "high": 64, "step": 16}, [0, 64, 512]],
    "storage": [["float32", "float16"], ["float16", "int8", "int4"]],
    "train.learning_rate": [{"low": 1e-3, "high": 1e-3}],
    "image.frozen": [[False, True]],
    "train.cached_features": [[False, True]],
    "train.augment.flip": [[True, False]],
}
# Under what another makes sense.
SENSE: dict[str, dict[str, list[str]]] = {
    "image.weights": {"image.backbone": ["MobileNetV3Small", "ResNet50", "VGG16"]},
    "image.stem": {"image.backbone": ["compact"]},
    "image.width": {"image.backbone": ["compact"]},
    "image.stages": {"image.backbone": ["compact"]},
    "text.units": {"text.encoder": ["convolution", "gru", "bilstm", "lstm"]},
    "text.kernel": {"text.encoder": ["convolution"]},
    "text.dense": {"text.encoder": ["gru", "bilstm", "lstm"]},
    "head_units": {"fusion": ["gated"]},
}
MOST = 1500  # configurations of a space that is gone through


def space_of(dimensions: dict[str, Any], **fixed: Any) -> Space:
    parsed = {name: parse_dimension(name, value) for name, value in dimensions.items()}
    pooled = {"image.head": "pooled", "fusion": "gated", "image.stem": 0, **fixed}  # as every fusion suits it
    return Space.around(PRESETS["compact"], fixed=pooled, dimensions=parsed, modality="both")


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    names = draw(st.sets(st.sampled_from(list(WAYS)), min_size=1, max_size=8))
    dimensions: dict[str, Any] = {}
    for name in filter(names.__contains__, WAYS):
        way = draw(st.sampled_from(WAYS[name]))
        dimension = dict(way) if isinstance(way, dict) else {"choices": way}
        for parent, sensible in SENSE.get(name, {}).items():
            options = [option for option in dimensions.get(parent, {}).get("choices", ()) if option in sensible]
            if options and draw(st.booleans()):
                dimension["when"] = {parent: options}
        dimensions[name] = dimension
    space = space_of(dimensions)
    assume(sum(1 for _ in everything(space)) <= MOST)
    return space


def options_of(dimension: Dimension) -> list[Any]:
    if isinstance(dimension, Choice):
        return list(dimension.options)
    step = dimension.step or 1
    return [dimension.low + step * place for place in range(round((dimension.high - dimension.low) / step) + 1)]


def everything(space: Space) -> Iterator[tuple[Flat, TrialConfig | None]]:
    """All that can be drawn, with the configuration that comes of it; None where the values are impossible together."""

    def go(names: list[str], values: Flat, drawn: Flat) -> Iterator[tuple[Flat, TrialConfig | None]]:
        if not names:
            try:
                yield drawn, unflatten(values)
            except ValidationError:
                yield drawn, None
            return
        name, *others = names
        dimension = space.dimensions[name]
        if all(values[condition.name] in condition.values for condition in dimension.when):
            for option in options_of(dimension):
                yield from go(others, {**values, name: option}, {**drawn, name: option})
        else:
            yield from go(others, values, drawn)

    return go(list(space.dimensions), flatten(space.base), {})


def reach_of(space: Space, limit: int = 10**9, measure: Measure = "weights") -> FeasibleSpace:
    return FeasibleSpace(space, lambda config: config, Budget(limit, measure), CONTENTS)


def counted(feasible: FeasibleSpace) -> list[tuple[Flat, int]]:
    """All possible configurations with the bytes that count."""
    return [
        (drawn, feasible.budget.bytes_of(size(config.model, CONTENTS)))
        for drawn, config in everything(feasible.space)
        if config is not None
    ]


gone_through = settings(max_examples=25, deadline=None)  # each goes through up to 1,500 configurations

# One at a time, no change makes these smaller, though two together do.
UNITS_OF_ANOTHER = space_of(
    {
        "text.encoder": ["convolution", "gru"],
        "text.units": {"low": 8, "high": 512, "step": 8, "when": {"text.encoder": "gru"}},
    }
)
HEAD_OR_DENSE = space_of({"text.dense": [0, 16], "fusion": ["concatenation"], "head_units": [0, 16]})
# Only with weights, which only the other backbone has.
FROZEN_ELSEWHERE = space_of(
    {
        "image.backbone": ["compact", "MobileNetV3Small"],
        "image.weights": ["none", "imagenet"],
        "image.frozen": [False, True],
    }
)


@pytest.mark.slow
@gone_through
@given(space=spaces(), measure=st.sampled_from(MEASURES))
@example(space=UNITS_OF_ANOTHER, measure="weights")
@example(space=HEAD_OR_DENSE, measure="weights")
def test_smallest_configuration_is_the_smallest_of_all(space: Space, measure: Measure) -> None:
    feasible = reach_of(space, measure=measure)
    least = feasible.smallest
    assert least is not None
    assert space.at(space.parameters(least)) == least, "one that can be drawn"
    assert feasible.budget.bytes_of(feasible.size_of(least)) == min(count for _, count in counted(feasible))


@pytest.mark.parametrize("name", ["image.units", "text.dense", "head_units"])
def test_narrow_layer_is_smaller_than_none_where_it_spares_what_follows(name: str) -> None:
    """Among widths from 0, neither end is the smallest."""
    space = space_of({name: {"low": 0, "high": 512, "step": 4}}, **{"head_units": 512, "image.width": 64} | {name: 512})
    feasible = reach_of(space)
    least = feasible.smallest
    assert least is not None
    assert flatten(least)[name] == 4
    assert feasible.size_of(least).weights_bytes == min(count for _, count in counted(feasible))


def fitting(feasible: FeasibleSpace) -> dict[str, tuple[list[Any], list[Any]]]:
    """Options of choices that can be drawn: those of some configuration inside the budget, and the others."""
    inside = [drawn for drawn, count in counted(feasible) if count <= feasible.budget.limit]
    offered = [drawn for drawn, _ in everything(feasible.space)]
    options: dict[str, tuple[list[Any], list[Any]]] = {}
    for name, dimension in feasible.space.dimensions.items():
        if isinstance(dimension, Choice):
            drawn = [option for option in dimension.options if any((name, option) in one.items() for one in offered)]
            fit = [option for option in drawn if any((name, option) in one.items() for one in inside)]
            options[name] = (fit, [option for option in drawn if option not in fit])
    return options


@st.composite
def reaches(draw: st.DrawFn) -> FeasibleSpace:
    """Spaces under budgets that some of their configurations fit."""
    space, measure = draw(spaces()), draw(st.sampled_from(MEASURES))
    sizes = sorted(count for _, count in counted(reach_of(space, measure=measure)))
    return reach_of(space, draw(st.sampled_from(sizes)), measure)


@pytest.mark.slow
@gone_through
@given(feasible=reaches())
def test_every_option_of_no_configuration_inside_the_budget_is_named(feasible: FeasibleSpace) -> None:
    never = feasible.never()
    for name, (_, others) in fitting(feasible).items():
        assert set(others) <= set(never.get(name, [])), name


@pytest.mark.slow
@gone_through
@given(feasible=reaches())
@example(feasible=reach_of(FROZEN_ELSEWHERE))
def test_no_option_of_a_configuration_inside_the_budget_is_named(feasible: FeasibleSpace) -> None:
    never = feasible.never()
    for name, (fit, _) in fitting(feasible).items():
        assert set(fit).isdisjoint(never.get(name, [])), name


def test_option_of_a_dimension_that_another_opens_is_tried_where_it_is_open() -> None:
    space = space_of(
        {
            "text.encoder": ["average", "convolution"],
            "text.units": {"choices": [8, 512], "when": {"text.encoder": "convolution"}},
        }
    )
    sizes = {tuple(drawn.values()): count for drawn, count in counted(reach_of(space))}
    assert sizes["convolution", 8] < sizes["average",] < sizes["convolution", 512]
    assert reach_of(space, sizes["convolution", 512]).never() == {}
    assert reach_of(space, sizes["average",]).never() == {"text.units": [512]}
    assert reach_of(space, sizes["convolution", 8]).never() == {"text.encoder": ["average"], "text.units": [512]}


def test_space_too_wide_to_go_through_is_refused_nothing_and_its_smallest_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = space_of({"text.embedding": [8, 64], "text.dense": [0, 16], "fusion": ["gated", "concatenation"]})
    exact = reach_of(space).smallest
    monkeypatch.setattr("captune.tuner.space.feasibility.MOST", 1)
    feasible = reach_of(space, 10)
    assert feasible.complaint() is None and feasible.never() == {}
    assert exact is not None and feasible.smallest is not None
    monkeypatch.setattr("captune.tuner.space.feasibility.MOST", 4)
    feasible = reach_of(space, 10)
    assert feasible.complaint() is not None and feasible.never().keys() == space.dimensions.keys()


def test_space_of_cached_features_beside_a_preset_that_augments_is_possible_without() -> None:
    feasible = reach_of(space_of({"train.cached_features": [True, False]}))
    least = feasible.smallest
    assert least is not None and not least.train.cached_features
    assert feasible.never() == {"train.cached_features": [True]}


# In words


@pytest.mark.slow
@gone_through
@given(space=spaces(), measure=st.sampled_from(MEASURES), short=st.integers(1, 10**6))
def test_complaint_names_the_smallest_size_and_changes_that_fit(space: Space, measure: Measure, short: int) -> None:
    least = reach_of(space, measure=measure).smallest
    assert least is not None
    count = Budget(10**9, measure).bytes_of(size(least.model, CONTENTS))
    assert reach_of(space, count, measure).complaint() is None, "something fits, the limit included"
    assume(short < count)
    feasible = reach_of(space, count - short, measure)
    told = feasible.complaint()
    assert told is not None and "\n" not in told
    assert f"needs {show_bytes(count)}" in told and f"budget is {show_bytes(count - short)}" in told
    assert told.endswith("or raise --budget")
    changes = re.findall(r"([a-z_]+(?:\.[a-z_]+)?): (\w+)(?: or less)?", told.split("allow ")[1])
    assert changes or "several smaller settings together" in told
    for name, value in changes:
        changed = replace(least, {name: int(value) if value.isdigit() else value})
        assert feasible.budget.holds(size(changed.model, CONTENTS)), name


def test_complaint_under_a_budget_that_no_single_change_reaches_asks_for_several() -> None:
    told = reach_of(space_of({"text.embedding": [128, 64]}), 10).complaint()
    assert told is not None and "several smaller settings together" in told


def test_space_in_which_all_is_impossible_says_so() -> None:
    feasible = reach_of(space_of({"image.weights": ["imagenet"]}))  # the compact backbone has none
    assert feasible.smallest is None
    assert feasible.complaint() == "no configuration of the space is possible; widen its choices"
    assert feasible.never() == {"image.weights": ["imagenet"]}


# On data


def test_sizes_and_preset_are_those_of_the_configuration_on_its_data(data: PreparedData) -> None:
    config = read_search(None, preset="compact", default_preset="compact", overrides={"trials": 1})
    space = config.build_space()
    feasible = FeasibleSpace(space, partial(bind, manifest=data.manifest), config.limit, contents_of(data))
    least = feasible.smallest
    assert least is not None and least.model.text is not None
    assert least.model.text.vocabulary_size == data.manifest.vocabulary_size
    assert least.model.num_labels == len(data.manifest.label_ids)
    assert feasible.size_of(least) == size(least.model, contents_of(data))
    bound = bind(space.base, data.manifest)
    assert bind(space.at(feasible.preset()), data.manifest) == bound


@pytest.mark.slow
def test_options_too_large_for_a_small_budget_are_found_in_the_space_of_preset_full(data: PreparedData) -> None:
    config = read_search(None, preset="full", default_preset="full", overrides={"trials": 1, "budget": 32 * MiB})
    space = config.build_space()
    feasible = FeasibleSpace(space, partial(bind, manifest=data.manifest), config.limit, contents_of(data))
    assert feasible.complaint() is None
    others = {name: dimension for name, dimension in space.dimensions.items() if name != "image.backbone"}
    backbones = space.dimensions["image.backbone"]
    assert isinstance(backbones, Choice)
    too_large = [
        name
        for name in backbones.options
        if dataclasses.replace(feasible, space=Space(replace(space.base, {"image.backbone": name}), others)).complaint()
        is not None
    ]
    assert {"ResNet50", "VGG16", "ConvNeXtTiny"} <= set(too_large) < set(backbones.options)
    assert feasible.never() == {"image.backbone": too_large}


@pytest.mark.parametrize("name", ["train.learning_rate", "text.dropout"])
def test_step_of_half_a_billion_values_is_not_gone_through(name: str) -> None:
    space = space_of({name: {"low": 0.125, "high": 0.625, "step": 2**-30}})
    started = time.process_time()
    feasible = FeasibleSpace(space, lambda config: config, Budget(100 * MiB, "bundle"), CONTENTS)
    assert feasible.smallest is not None and feasible.fitting() is None
    assert time.process_time() - started < 2
