"""The search space: what is open is drawn, the inverse brings it back, the preset is trial 0."""

from collections.abc import Mapping
from random import Random
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from captune.data_prep.captions import CaptionSettings
from captune.data_prep.manifest import Manifest
from captune.model.config import Modality, TrialConfig
from captune.model.flat import Flat, flatten
from captune.model.presets import PRESETS
from captune.tuner.space.config import read_search
from captune.tuner.space.dimensions import Choice, Condition, Dimension, Number, SpaceError, parse_dimension
from captune.tuner.space.space import Space, bind

SEEDS = st.integers(0, 2**31 - 1)

few = settings(max_examples=40, deadline=None)  # a study for each example costs milliseconds


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def manifest(
    *, side: int | None = 64, vocabulary: int | None = 500, tokens: int | None = 12, labels: int = 3
) -> Manifest:
    return Manifest(
        version=1,
        fingerprint="0" * 64,
        counts={"train": 8, "validation": 1, "test": 1},
        rows_read=10,
        rows_skipped=0,
        label_ids=tuple(range(labels)),
        label_names=tuple(map(str, range(labels))),
        label_counts=(4,) * labels,
        side=side,
        max_tokens=tokens,
        vocabulary_size=vocabulary,
        captions=None if tokens is None else CaptionSettings(),
        inputs={},
        files={},
    )


def shipped(preset: str, modality: Modality | None = None) -> Space:
    return read_search(
        None, preset=preset, default_preset=preset, overrides={"trials": 1, "modality": modality}
    ).build_space()


def around(
    dimensions: Mapping[str, Any], *, preset: str = "compact", modality: Modality = "both", **fixed: Any
) -> Space:
    parsed = {name: parse_dimension(name, value) for name, value in dimensions.items()}
    return Space.around(PRESETS[preset], fixed=fixed, dimensions=parsed, modality=modality)


def trial_of(seed: int = 0, enqueued: Flat | None = None) -> optuna.Trial:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    if enqueued is not None:
        study.enqueue_trial(enqueued)
    return study.ask()


@pytest.mark.parametrize("preset", PRESETS)
def test_trial_0_is_the_preset_bound_to_the_data(preset: str) -> None:
    space, data = shipped(preset), manifest()
    expected = bind(space.base, data)
    drawn = bind(space.suggest(trial_of(1, space.parameters(expected))), data)
    assert drawn == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_every_open_dimension_of_a_shipped_space_can_draw_its_preset(preset: str) -> None:
    space = shipped(preset)
    values = flatten(space.base)
    opened = {n for n, d in space.dimensions.items() if all(values[c.name] in c.values for c in d.when)}
    assert set(space.parameters(space.base)) == opened


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["captions", "compact", "full"])
@few
@given(seed=SEEDS)
def test_parameters_are_the_inverse_of_suggest(preset: str, seed: int) -> None:
    space = shipped(preset)
    trial = trial_of(seed)
    try:
        config = space.suggest(trial)
    except ValidationError:
        return  # impossible together: there is no configuration to bring back
    assert space.parameters(config) == pytest.approx(trial.params)
    assert space.suggest(trial_of(seed + 1, space.parameters(config))) == config


def conditional() -> Space:
    return around(
        {
            "text.encoder": ["convolution", "average", "gru"],
            "text.kernel": {"low": 1, "high": 3, "when": {"text.encoder": "convolution"}},
            "text.units": {"low": 8, "high": 64, "when": {"text.encoder": ["convolution", "gru"]}},
            "text.dense": {"choices": [0, 16], "when": {"text.encoder": "convolution", "text.kernel": [2, 3]}},
        }
    )


SPACES = {"conditional": conditional(), **{preset: shipped(preset) for preset in PRESETS}}


@pytest.mark.parametrize("name", SPACES)
@few
@given(seed=SEEDS)
def test_draw_takes_open_dimensions_from_their_range_and_all_else_from_the_base(name: str, seed: int) -> None:
    space = SPACES[name]
    try:
        values = flatten(space.draw(Random(seed)))
    except ValidationError:
        return  # impossible together
    base = flatten(space.base)
    for key, value in values.items():
        dimension = space.dimensions.get(key)
        if dimension is not None and all(values[c.name] in c.values for c in dimension.when):
            assert dimension.holds(value), key
        else:
            assert value == base[key], key


def test_draws_reach_every_option_and_every_condition() -> None:
    space, random = conditional(), Random(0)
    seen = {tuple(sorted(space.parameters(space.draw(random)).items())) for _ in range(3000)}
    values = {name: {dict(one).get(name, "closed") for one in seen} for name in space.dimensions}
    assert values["text.encoder"] == {"convolution", "average", "gru"}
    assert values["text.kernel"] == {1, 2, 3, "closed"}
    assert values["text.units"] == {*range(8, 65), "closed"}
    assert values["text.dense"] == {0, 16, "closed"}


@pytest.mark.parametrize("name", SPACES)
@few
@given(seed=SEEDS)
def test_at_is_the_inverse_of_parameters(name: str, seed: int) -> None:
    space = SPACES[name]
    try:
        config = space.draw(Random(seed))
    except ValidationError:
        return
    assert space.at(space.parameters(config)) == config


def test_values_of_closed_dimensions_do_not_count() -> None:
    space = conditional()
    values = {"text.encoder": "gru", "text.kernel": 3, "text.units": 8, "text.dense": 0}
    config = space.at(values)
    assert config == space.at({"text.encoder": "gru", "text.units": 8})
    assert config == space.at({**values, "text.kernel": 1, "text.dense": 16})
    assert space.parameters(config) == {"text.encoder": "gru", "text.units": 8}


def test_open_dimension_without_a_value_is_an_error_that_names_it() -> None:
    with pytest.raises(KeyError, match=r"text\.units"):
        conditional().at({"text.encoder": "gru"})


def test_values_impossible_together_are_refused_at_their_place() -> None:
    space = around({"image.backbone": ["compact", "ResNet50"], "image.weights": ["none", "imagenet"]})
    with pytest.raises(ValidationError, match="ImageNet"):
        space.at({"image.backbone": "compact", "image.weights": "imagenet"})
    with pytest.raises(ValidationError, match="ImageNet"):
        space.suggest(trial_of(0, {"image.backbone": "compact", "image.weights": "imagenet"}))
    assert space.at({"image.backbone": "ResNet50", "image.weights": "imagenet"}).model.image is not None


def test_combinations_leave_closed_dimensions_out() -> None:
    space = around(
        {"text.encoder": ["average", "gru"], "text.units": {"choices": [8, 16], "when": {"text.encoder": "gru"}}}
    )
    ways = list(space.combinations({"text.encoder": ["gru", "average"], "text.units": [8, 16]}))
    assert ways == [
        {"text.encoder": "gru", "text.units": 8},
        {"text.encoder": "gru", "text.units": 16},
        {"text.encoder": "average"},
    ]


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        ({"low": 2, "high": 4}, [2, 3, 4]),
        ({"low": 2, "high": 8, "step": 3}, [2, 5, 8]),
        ({"low": 1, "high": 4, "log": True}, [1, 2, 3, 4]),
        ({"low": 0.5, "high": 0.5}, [0.5]),
        ({"low": 0.1, "high": 0.5}, [0.1, 0.5]),
        ([16, 4, 8], [4, 8, 16]),
        (["b", "a"], ["b", "a"]),
    ],
)
def test_values_of_a_dimension_rise_and_of_a_continuous_one_are_its_ends(dimension: Any, values: list[Any]) -> None:
    assert list(parse_dimension("x", dimension).values()) == values


@pytest.mark.parametrize("name", ["image.side", "num_labels"])
def test_what_comes_from_the_data_is_no_dimension(name: str) -> None:
    with pytest.raises(SpaceError, match="comes from the prepared data") as caught:
        around({name: {"low": 32, "high": 64}})
    assert caught.value.location == ("space", name)


def test_condition_on_something_fixed_holds_or_not() -> None:
    dimension = {"text.kernel": {"low": 1, "high": 3, "when": {"text.encoder": "gru"}}}
    assert "text.kernel" not in around(dimension).parameters(PRESETS["compact"])
    opened = around(dimension, **{"text.encoder": "gru", "text.kernel": 2})
    assert opened.parameters(opened.base) == {"text.kernel": 2}


@few
@given(
    low=st.integers(1, 50), width=st.integers(0, 50), log=st.booleans(), step=st.none() | st.integers(1, 7), seed=SEEDS
)
def test_whole_range_draws_whole_numbers_that_it_holds(
    low: int, width: int, log: bool, step: int | None, seed: int
) -> None:
    step = None if log else step
    number = Number(low, low + width * (step or 1), log, step)
    for value in (number.suggest(trial_of(seed), "x"), number.draw(Random(seed))):
        assert isinstance(value, int)
        assert number.holds(value)


@few
@given(low=st.floats(1e-6, 1), width=st.floats(0, 10), log=st.booleans(), seed=SEEDS)
def test_range_draws_numbers_that_it_holds(low: float, width: float, log: bool, seed: int) -> None:
    number = Number(low, low + width, log)
    assert number.holds(number.suggest(trial_of(seed), "x"))
    assert number.holds(number.draw(Random(seed)))


@few
@given(low=st.integers(0, 20), steps=st.integers(0, 20), size=st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.5]), seed=SEEDS)
def test_fractional_steps_end_inside_the_range(low: int, steps: int, size: float, seed: int) -> None:
    number = Number(round(low * size, 2), round((low + steps) * size, 2), step=size)
    random = Random(seed)
    assert all(map(number.holds, (number.draw(random) for _ in range(20))))
    assert number.holds(number.suggest(trial_of(seed), "x"))


def test_whole_ends_with_a_fractional_step_make_a_fractional_range() -> None:
    number, random = Number(1, 3, step=0.5), Random(0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    halves = {1.0, 1.5, 2.0, 2.5, 3.0}
    assert {number.draw(random) for _ in range(100)} == halves
    assert {number.suggest(study.ask(), "x") for _ in range(100)} == halves
    assert Number(1, 3, step=1.0).whole


@pytest.mark.parametrize(
    "dimension",
    [
        Choice(("a", "b", "c")),
        Number(1, 4),
        Number(1, 4, log=True),
        Number(1, 1000, log=True),
        Number(8, 64, step=8),
        Number(0.0, 0.3, step=0.1),
        Number(1e-5, 1e-1, log=True),
        Number(-1.0, 2.0),
    ],
    ids=repr,
)
def test_draw_without_a_study_is_distributed_as_an_even_sampler_draws(dimension: Dimension) -> None:
    """Kolmogorov-Smirnov at 2,000 draws each: 0.06 is exceeded once in a thousand seeds, and these are fixed."""
    count, random = 2000, Random(3)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    ours = [dimension.draw(random) for _ in range(count)]
    theirs = [dimension.suggest(study.ask(), "x") for _ in range(count)]
    if isinstance(dimension, Choice):
        ours, theirs = ([dimension.options.index(value) for value in values] for values in (ours, theirs))
    edges = sorted({round(value, 9) for value in (*ours, *theirs)})[:: max(1, len({*ours, *theirs}) // 100)]
    gaps = [abs(sum(v <= edge + 1e-9 for v in ours) - sum(v <= edge + 1e-9 for v in theirs)) for edge in edges]
    assert max(gaps) / count < 0.06


def test_both_ends_of_a_whole_logarithmic_range_are_drawn() -> None:
    random = Random(0)
    drawn = [Number(2, 5, log=True).draw(random) for _ in range(400)]
    assert set(drawn) == {2, 3, 4, 5}
    # Each has the width of its own logarithm: ln(5.5 / 4.5) of ln(5.5 / 1.5) is 15 % for the last.
    assert 40 < drawn.count(5) < 80


def test_number_off_the_steps_outside_the_range_or_not_a_number_cannot_be_drawn() -> None:
    number = Number(0.1, 0.5, step=0.1)
    assert number.holds(0.3)
    assert not any(map(number.holds, (0.25, 0.0, 0.6, "0.3", True, None, float("nan"))))
    assert not Number(1, 9).holds(1.5)


def test_of_a_value_that_the_space_cannot_draw_a_trial_has_the_nearest() -> None:
    space = around({
        "head_units": [0, 64],  # the preset has 256
        "text.units": {"low": 8, "high": 64},  # and 384
        "text.encoder": ["gru", "average"],  # and a convolution
        "text.dense": {"choices": [0, 8], "when": {"text.encoder": "gru"}},
        "text.kernel": {"choices": [1], "when": {"text.encoder": "average"}},
        "train.learning_rate": {"low": 1e-5, "high": 1e-4},
    })  # fmt: skip
    parameters = space.parameters(space.base)
    assert list(parameters.values()) == [64, 64, "gru", 0, 1e-4], "a dimension is open beside what the trial has"
    assert space.parameters(space.suggest(trial_of(3, parameters))) == parameters


@given(value=st.floats(-20, 20), low=st.integers(-9, 9), count=st.integers(0, 9), step=st.sampled_from([0.1, 0.5, 3]))
def test_nearest_value_can_be_drawn_and_none_is_nearer(value: float, low: int, count: int, step: float) -> None:
    whole = isinstance(step, int)
    number = Number(low, low + count * step, step=step)
    for dimension in (number, Choice(tuple(number.values()))):
        nearest = dimension.nearest(value)
        assert dimension.holds(nearest) and (isinstance(nearest, int) == whole or nearest == value)
        assert dimension.nearest(nearest) == nearest
        assert all(abs(float(nearest) - value) <= abs(float(other) - value) + 1e-9 for other in dimension.values())
    assert Number(low, low + count + 0.5).nearest(value) == min(max(value, low), low + count + 0.5)


def test_nearest_to_no_limit_is_the_largest() -> None:
    space = around({"image.max_side": [24, 32, 40], "train.clip_norm": {"low": 0.5, "high": 2.0}})
    assert list(space.parameters(space.base).values()) == [40, 2.0], "the preset has 0 of both"
    assert around({"image.max_side": [0, 24]}).parameters(space.base) == {"image.max_side": 0}


def test_where_nothing_is_near_it_is_the_first() -> None:
    assert Choice(("gru", "lstm")).nearest("bilstm") == "gru"
    assert Choice((True, 4, 2)).nearest(3.4) == 4 and Choice((False, 4)).nearest(True) is False
    assert Number(2, 5).nearest("none") == 2 and Number(2, 5).nearest(True) == 2


@pytest.mark.parametrize("modality", ["both", "image", "caption"])
def test_modality_restricts_network_and_dimensions(modality: Modality) -> None:
    space = shipped("compact", modality)
    config = space.suggest(trial_of())
    assert config.model.modality == modality
    groups = {name.split(".")[0] for name in space.dimensions}
    assert ("image" in groups) == (modality != "caption")
    assert ("text" in groups) == (modality != "image")
    assert "train" in groups


def test_settings_that_count_by_what_is_fixed_are_searched_with_one_modality_too() -> None:
    dimensions = {"image.units": [0, 128], "image.pooling": ["average", "both"]}  # idle beside the preset's own head
    assert set(around(dimensions, modality="image", **{"image.head": "pooled"}).dimensions) == set(dimensions)


def test_features_of_an_absent_encoder_are_not_asked_for() -> None:
    space = shipped("photos", "caption")
    assert space.base.train.cached_features is False and space.base.model.image is None
    assert shipped("photos", "image").base.train.cached_features is True


def test_fixed_values_of_an_absent_encoder_are_left_out_but_checked_by_name() -> None:
    space = around({}, modality="caption", **{"image.width": 4, "text.units": 8})
    assert space.base.model.image is None
    assert space.base.model.text is not None and space.base.model.text.units == 8
    with pytest.raises(SpaceError, match="unknown name"):
        around({}, modality="caption", **{"image.girth": 4})


def test_dimension_whose_condition_needs_an_absent_encoder_is_refused_or_left_out_never_a_crash() -> None:
    dimensions = {"image.stages": [2, 3], "head_units": {"choices": [0, 8], "when": {"image.stages": 2}}}
    with pytest.raises(SpaceError, match=r"image\.stages") as caught:
        around(dimensions, modality="caption")
    assert caught.value.location == ("space", "head_units", "when")


def test_modality_that_the_preset_cannot_read_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"^both was asked for"):
        around({}, preset="captions", modality="both")


def test_fixed_values_impossible_together_are_refused_at_once() -> None:
    with pytest.raises(SpaceError, match="ImageNet") as caught:
        around({}, **{"image.weights": "imagenet"})
    assert caught.value.location[0] == "fixed"


def test_bind_takes_labels_side_vocabulary_and_tokens_from_the_data() -> None:
    flat = flatten(bind(PRESETS["compact"], manifest(side=64, vocabulary=500, tokens=12, labels=5)))
    assert (flat["num_labels"], flat["image.side"]) == (5, 64)
    assert (flat["text.vocabulary_size"], flat["text.max_tokens"]) == (500, 12)


def test_bind_cuts_to_the_data_but_never_enlarges() -> None:
    small = around({}, **{"text.vocabulary_size": 100, "text.max_tokens": 4}).base
    flat = flatten(bind(small, manifest(vocabulary=500, tokens=12)))
    assert (flat["text.vocabulary_size"], flat["text.max_tokens"]) == (100, 4)


@pytest.mark.parametrize(
    ("asked", "bound"),
    [
        ({"image.max_side": 48, "image.min_side": 48}, (0, 0)),
        ({"image.min_side": 64}, (0, 64)),
        ({"image.min_side": 64, "image.max_side": 64}, (0, 64)),
        ({"image.min_side": 64, "image.max_side": 56}, (0, 56)),
        ({"image.min_side": 64, "image.max_side": 48}, (0, 0)),
        ({"image.min_side": 40, "image.max_side": 32}, (32, 0)),
    ],
)
def test_sides_that_change_nothing_on_the_data_are_no_other_network(
    asked: dict[str, int], bound: tuple[int, int]
) -> None:
    flat = flatten(bind(around({}, **asked).base, manifest(side=48)))
    assert (flat["image.max_side"], flat["image.min_side"]) == bound


@pytest.mark.slow
@few
@given(seed=SEEDS)
def test_binding_twice_changes_nothing(seed: int) -> None:
    once = bind(shipped("compact").suggest(trial_of(seed)), manifest())
    assert bind(once, manifest()) == once


@pytest.mark.parametrize(
    ("data", "words"),
    [(manifest(side=None), "no pictures"), (manifest(vocabulary=None, tokens=None), "no captions")],
    ids=["no pictures", "no captions"],
)
def test_bind_refuses_data_without_what_the_network_reads(data: Manifest, words: str) -> None:
    with pytest.raises(SpaceError, match=words):
        bind(PRESETS["compact"], data)


def test_bind_of_captions_needs_no_pictures() -> None:
    assert bind(PRESETS["captions"], manifest(side=None)).model.modality == "caption"


def test_pictures_too_small_for_the_network_are_impossible_not_a_crash() -> None:
    config: TrialConfig = shipped("compact").base
    with pytest.raises(ValidationError, match="side"):
        bind(config, manifest(side=8))


@pytest.mark.parametrize("options", [(), ("a", "a"), (1, 1), ((1, 2),), (None,)])
def test_choice_of_nothing_twice_the_same_or_not_scalar_is_refused(options: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="choice"):
        Choice(options)


def test_short_and_long_form_of_a_choice_are_one() -> None:
    assert parse_dimension("x", ["a", "b"]) == parse_dimension("x", {"choices": ["a", "b"]}) == Choice(("a", "b"))


def test_condition_takes_one_value_or_several() -> None:
    one = parse_dimension("x", {"choices": [1], "when": {"y": "a"}})
    several = parse_dimension("x", {"choices": [1], "when": {"y": ["a", "b"]}})
    assert one.when == (Condition("y", ("a",)),)
    assert several.when == (Condition("y", ("a", "b")),)


def test_condition_without_a_value_is_refused() -> None:
    with pytest.raises(SpaceError, match="one value or more") as caught:
        parse_dimension("text.units", {"choices": [8, 16], "when": {"text.encoder": []}})
    assert caught.value.location == ("space", "text.units", "when", "text.encoder")
