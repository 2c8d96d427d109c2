"""What of a space is of no use is told before anything starts, and nothing else is."""

from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError
from test_tuner_dimensions import manifest

from captune.model.size import Budget, Contents
from captune.tuner.decisions.notes import notes
from captune.tuner.space.config import read_search
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import bind


def told(
    space: dict[str, Any] | None = None, *, preset: str = "compact", limit: int = 10**12, **changes: Any
) -> list[str]:
    overrides = {"trials": 1, **({} if space is None else {"space": space}), **changes}
    config = read_search(None, preset=preset, default_preset=preset, overrides=overrides)
    feasible = FeasibleSpace(
        config.build_space(), partial(bind, manifest=manifest(side=48)), Budget(limit), Contents.typical(3)
    )
    random = Random(0)
    draws = []
    for _ in range(60):
        with suppress(ValidationError):  # impossible together
            draws.append(feasible.space.draw(random))
    return list(notes(config, feasible, [(draw, feasible.bind(draw)) for draw in draws]))


@pytest.mark.parametrize("preset", ["captions", "compact", "paper"])
def test_shipped_space_gives_no_occasion(preset: str) -> None:
    assert told(preset=preset, trials=50) == []


@pytest.mark.parametrize(
    ("space", "fixed", "preset", "words"),
    [
        ({"text.units": [8, 16]}, {"text.units": 16}, "compact", ("text.units", "fixed and searched", "16")),
        (
            {"text.units": {"choices": [8, 16], "when": {"fusion": "summed"}}}, {"text.units": 32}, "compact",
            ("text.units", "one of 8, 16", "without 32: trial 0 has 16"),
        ),
        ({"text.units": [8, 16]}, {}, "compact", ("text.units", "one of 8, 16", "without 384: trial 0 has 16")),
        ({"text.kernel": [1, 2]}, {"text.encoder": "gru"}, "compact", ("text.kernel", "changes nothing")),
        ({"text.units": [8, 16]}, {"text.encoder": "average"}, "compact", ("text.units", "changes nothing")),
        ({"train.gamma": {"low": 1.0, "high": 5.0}}, {}, "compact", ("train.gamma", "changes nothing", "focal")),
        ({"train.weight_decay": [0.0, 0.1]}, {}, "captions", ("train.weight_decay", "changes nothing", "adamw")),
        ({"train.optimizer": ["adam", "adamw"]}, {}, "captions", ("train.optimizer", "changes nothing")),
        ({"image.scaling": ["unit", "backbone"]}, {}, "compact", ("image.scaling", "changes nothing")),
        ({"fusion": ["gated", "concatenation"]}, {}, "captions", ("fusion", "changes nothing")),
        ({"train.augment.zoom": [0.0, 0.5]}, {}, "captions", ("train.augment.zoom", "changes nothing")),
        ({"image.blocks": [1, 2]}, {}, "paper", ("image.blocks", "changes nothing", "compact")),
        (
            {"text.encoder": ["convolution", "average"], "text.kernel": [1, 2]}, {}, "compact",
            ("text.kernel", "% of its draws", "`when`"),
        ),
        ({"text.vocabulary_size": [400, 5000, 9000]}, {}, "compact", ("text.vocabulary_size is 500", "5000, 9000")),
        ({"image.max_side": [0, 32, 48, 64]}, {}, "compact", ("image.max_side shows pictures at 48", "0, 48, 64")),
        ({"image.min_side": [0, 40]}, {}, "compact", ("image.min_side shows pictures at 48", "0, 40")),
    ],
)  # fmt: skip
def test_what_is_of_no_use_is_told(space: Any, fixed: Any, preset: str, words: tuple[str, ...]) -> None:
    (note,) = told(space, fixed=fixed, preset=preset)
    assert all(word in note for word in words), note


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({"text.weights": "MiniLM"}, "text.weights is fixed and changes nothing (transformer only"),
        ({"image.layers": 3}, "image.layers is fixed and changes nothing (transformer only"),
        ({"train.gamma": 3.0}, "train.gamma is fixed and changes nothing (focal"),
    ],
)
def test_fixed_value_that_changes_nothing_is_told(fixed: dict[str, Any], words: str) -> None:
    (note,) = told({"train.learning_rate": [0.006, 0.02]}, fixed=fixed)
    assert note.startswith(words)


def test_preset_that_is_impossible_in_the_space_is_told() -> None:
    (note,) = told({"fusion": ["concatenation", "gated"], "image.head": ["positions", "pooled"]})
    assert "impossible together: there is no trial 0" in note


def test_fixed_value_of_an_encoder_that_is_left_out_is_told() -> None:
    (note,) = told({"train.learning_rate": [0.006, 0.02]}, fixed={"text.units": 64}, modality="image")
    assert note.startswith("text.units is fixed and changes nothing")


def test_fixed_value_that_some_draw_has_a_use_for_is_no_occasion() -> None:
    assert told({"train.loss": ["focal", "binary_crossentropy"]}, fixed={"train.gamma": 3.0}) == []
    assert told({"train.learning_rate": [0.006, 0.02]}, fixed={"train.gamma": 2.0}) == []  # as it is anyway


def test_condition_under_which_it_has_an_effect_is_no_occasion() -> None:
    space = {
        "text.encoder": ["convolution", "average"],
        "text.kernel": {"choices": [1, 2], "when": {"text.encoder": "convolution"}},
        "train.optimizer": ["adam", "adamw"],
        "train.weight_decay": {"choices": [0.1, 0.2], "when": {"train.optimizer": "adamw"}},
    }
    (note,) = told(space, fixed={"train.weight_decay": 0.1})
    assert note.startswith("train.weight_decay is fixed and searched") and "wherever it is not drawn" in note


@pytest.mark.parametrize(("trials", "fewer"), [(3, False), (4, True), (None, False)])
def test_space_with_fewer_networks_than_trials_is_told(trials: int | None, fewer: bool) -> None:
    """Of eight configurations two each are one network, and one network does not fit."""
    space = {"text.embedding": [8, 16, 32, 1024], "train.gamma": [1.0, 2.0]}
    few = [note for note in told(space, limit=5_000_000, trials=trials, time_limit="1h") if "trials can run" in note]
    assert few == (["only 3 of 4 trials can run: the space holds no other network that fits"] if fewer else [])


def test_side_that_counts_beside_the_other_is_no_occasion() -> None:
    assert told({"image.min_side": [0, 56, 80], "image.max_side": [0, 64]}) == []
    assert told({"image.max_side": [0, 48, 64]}, fixed={"image.min_side": 80}) == []


def test_value_nearest_to_the_preset_is_named_as_it_is_drawn() -> None:
    of_trial_0, of_all = told({"image.min_side": [0, 40]}, preset="photos")
    assert of_trial_0 == "image.min_side is searched as one of 0, 40, without 288: trial 0 has 40"
    assert of_all.startswith("image.min_side shows pictures at 48 pixels")


def test_side_that_is_drawn_alone_is_told_too() -> None:
    assert "enlarged to 128" in " ".join(told({"image.min_side": [0, 64, 128]}))


@pytest.mark.parametrize(("side", "said"), [(0, False), (95, False), (96, True)])
def test_pictures_that_are_enlarged_far_beyond_what_they_hold_are_told(side: int, said: bool) -> None:
    notes = told({"train.learning_rate": [0.006, 0.02]}, fixed={"image.min_side": side})
    assert [note.partition(",")[0] for note in notes] == ["pictures of 48 pixels a side are enlarged to 96"] * said


@pytest.mark.parametrize(("trials", "said"), [(2, True), (3, False), (None, False)])
def test_configurations_of_ones_own_that_no_trial_is_left_for_are_told(trials: int | None, said: bool) -> None:
    first = [{"train.learning_rate": rate} for rate in (0.01, 0.02)]
    space = {"train.learning_rate": {"low": 0.001, "high": 0.1}}
    notes = told(space, first=first, trials=trials, time_limit=60.0)
    assert (
        notes
        == [
            "trial 0 and first are 3 configurations for 2 trials: the last ones wait for "
            "`captune resume RUN --trials 3`"
        ]
        * said
    )


@pytest.mark.parametrize(("trials", "said"), [(1, False), (2, True), (None, True)])
def test_search_of_more_than_one_trial_without_a_space_is_told(trials: int | None, said: bool) -> None:
    told_of_it = told({}, preset="captions", trials=trials, time_limit="1h")
    found = ["nothing is searched, as there is no space; `captune space --preset captions` prints one to copy"]
    assert told_of_it == (found if said else [])


def test_choice_of_having_no_teacher_is_no_waste() -> None:
    space = {
        "train.teacher": ["none", "a"],
        "train.teacher_share": {"choices": [0.3, 0.9], "when": {"train.teacher": "a"}},
    }
    assert told(space) == []
