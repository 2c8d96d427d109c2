"""What is kept of a trial is read back as it was written, and nothing else is."""

from __future__ import annotations

import json
import math
from typing import Any

import optuna
import pytest
from builders import epoch as a_report
from hypothesis import given
from hypothesis import strategies as st

from captune.model.metrics import METRICS, Epoch
from captune.model.rule import DecisionRule
from captune.results.attributes import FATES, TrialAttributes, TrialSize, epoch_attribute, epochs_of, is_followed
from captune.results.run_folder import RunError

counts = st.integers(0, 2**40)
attributes = st.builds(
    TrialAttributes,
    config=st.none() | st.dictionaries(st.text(), st.none() | st.booleans() | st.floats(0, 1) | st.text()),
    size=st.none() | st.builds(TrialSize, counts, counts, st.integers(-(2**40), 2**40)),
    fate=st.none() | st.sampled_from(FATES),
    gpus=st.none() | st.floats(0, 8),
    **{name: st.none() | counts for name in ("seed", "threads", "replaces", "tries")},
    **{name: st.none() | st.text() for name in ("node", "reason", "void")},
)
numbers = st.floats(0, 1) | st.just(math.nan) | st.just(math.inf)


def frozen(**user_attrs: Any) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(value=0.5, user_attrs=user_attrs)


@given(attributes)
def test_attributes_are_read_as_they_were_written(written: TrialAttributes) -> None:
    assert TrialAttributes.of(frozen(**written.values(), of_another_tool=[1])) == written


def test_only_what_is_set_is_written_and_the_rest_stays() -> None:
    trial = optuna.create_study().ask()
    TrialAttributes(seed=3).write(trial)
    TrialAttributes(fate="lost", reason="its worker died").write(trial)
    assert trial.user_attrs == {"seed": 3, "reason": "its worker died", "fate": "lost"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fate", "won"),
        ("seed", "3"),
        ("seed", True),
        ("seed", 1.5),
        ("config", [1]),
        ("config", 5),
        ("size", {"weights_bytes": 1}),
        ("size", [1, 2, 3]),
        ("node", 5),
        ("replaces", "0"),
    ],
)
def test_attribute_of_another_type_is_refused_by_its_name_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(RunError, match=f"of the study has {name}") as error:
        TrialAttributes.of(frozen(**{name: value}))
    assert "\n" not in str(error.value)


@given(st.lists(st.tuples(numbers, numbers), max_size=12))
def test_epochs_are_read_in_their_order_with_the_places_of_their_reports(curve: list[tuple[float, float]]) -> None:
    epochs = [
        Epoch(number, loss, *[score] * len(METRICS), DecisionRule(0.5, "relative", 2.0, -1.0), 2.0, 1.0)
        for number, (loss, score) in enumerate(curve, 1)
    ]
    written = [epoch_attribute(epoch, 40 - epoch.epoch) for epoch in reversed(epochs)]
    json.dumps(written, allow_nan=False)
    reports = epochs_of(dict(written))
    assert list(reports.values()) == [40 - epoch.epoch for epoch in epochs]
    for epoch, read in zip(epochs, reports, strict=True):
        assert (read.epoch, read.rule) == (epoch.epoch, epoch.rule)
        for name in ("loss", *METRICS):
            before, now = getattr(epoch, name), getattr(read, name)
            assert now == before if math.isfinite(before) else math.isnan(now)


@pytest.mark.parametrize(
    "value",
    [[], 5, "x", {}, {"epoch": "x"}, {"epoch": 1, "loss": []}, {"epoch": 1, "order": "x"}, {"epoch": 1, "rule": "x"}],
)
def test_what_is_no_epoch_is_refused_by_its_name_in_one_line(value: Any) -> None:
    with pytest.raises(RunError, match="epoch:1 of the study is") as error:
        epochs_of({"epoch:1": value})
    assert "\n" not in str(error.value)


def test_metric_that_came_later_is_nan_in_what_was_written_before() -> None:
    (epoch,) = epochs_of({"epoch:1": {"epoch": 1, "loss": 0.5, "mean_f1": 0.25, "of_a_newer_version": "x"}})
    assert epoch.mean_f1 == 0.25 and math.isnan(epoch.macro_f1) and epoch.compile_seconds == 0.0
    assert epoch.rule is None


def test_threshold_of_an_epoch_of_before_is_its_rule() -> None:
    (epoch,) = epochs_of({"epoch:1": {"epoch": 1, "loss": 0.5, "mean_f1": 0.25, "threshold": 0.42}})
    assert epoch.rule == DecisionRule(0.42)


def test_a_seed_and_an_epoch_are_followed_by_something_outside() -> None:
    assert is_followed("seed") and is_followed(epoch_attribute(a_report(3), 0)[0])
    assert not any(map(is_followed, ("config", "size", "fate", "node", "epochs")))
