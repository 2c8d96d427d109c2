"""What settings explain of the score, and when nothing can be said."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from captune.results.importance import LEAST_TRIALS, importance

RANGE = FloatDistribution(0.0, 1.0)


def trials(*params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution] | None = None) -> list[Any]:
    """Trials of these settings, numbered from 0."""
    made = []
    for number, values in enumerate(params):
        ranges = {name: (distributions or {}).get(name, RANGE) for name in values}
        trial = optuna.trial.create_trial(params=dict(values), distributions=ranges, value=0.0)
        trial.number = number
        made.append(trial)
    return made


def drawn(count: int) -> list[dict[str, float]]:
    source = random.Random(0)
    return [{"rate": source.random(), "noise": source.random()} for _ in range(count)]


def test_setting_that_makes_the_score_explains_most_of_it() -> None:
    settings = drawn(40)
    found = importance(trials(*settings), {place: each["rate"] for place, each in enumerate(settings)})
    assert next(iter(found.shares)) == "rate" and found.shares["rate"] > 0.7
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.trials == 40 and found.missing is None


def test_few_trials_equal_scores_and_constant_settings_are_told_instead_of_guessed() -> None:
    settings = drawn(LEAST_TRIALS)
    scores = {place: float(place) for place in range(LEAST_TRIALS)}
    assert "too few" in (importance(trials(*settings[1:]), scores).missing or "")
    assert importance([], {}).missing
    assert "same score" in (importance(trials(*settings), dict.fromkeys(scores, 0.5)).missing or "")
    assert "No setting differs" in (importance(trials(*[{"rate": 0.5}] * LEAST_TRIALS), scores).missing or "")


def test_setting_of_some_trials_is_named_beside_the_comparison() -> None:
    settings: list[dict[str, Any]] = [
        {**each, **({"kernel": 0.5} if i % 2 else {})} for i, each in enumerate(drawn(20))
    ]
    found = importance(trials(*settings), {place: each["rate"] for place, each in enumerate(settings)})
    assert found.conditional == ("kernel",) and "kernel" not in found.shares


def test_choices_and_a_constant_beside_them_are_compared() -> None:
    kinds = CategoricalDistribution(["a", "b", "c"])
    settings = [{"kind": "abc"[i % 3], "same": 0.5} for i in range(30)]
    found = importance(
        trials(*settings, distributions={"kind": kinds}),
        {i: float(each["kind"] == "a") for i, each in enumerate(settings)},
    )
    assert dict(found.shares) == {"kind": 1.0}
