"""One trial in full: nothing is lost on the way to the terminal, whatever its texts hold."""

import io
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from builders import epoch, record
from rich.console import Console

from captune.model.flat import flatten
from captune.model.presets import CAPTIONS
from captune.model.rule import DecisionRule
from captune.results import trial_page
from captune.results.records import Record

CURVE = (
    epoch(1, rule=DecisionRule(0.35)),
    epoch(2, 0.6125, rule=DecisionRule(0.45, "relative", 1.25, -0.5), ece=0.0123),
    epoch(3, math.nan, loss=math.nan, rule=None),
)
RECORD = record(
    17, fate="diverged", curve=CURVE, reason="loss nan in epoch 3", seconds=9.5,
    weights_bytes=123_456, bundle_bytes=234_567, margin_bytes=-34_567,
    config={**flatten(CAPTIONS), "train.learning_rate": 0.00123},
)  # fmt: skip


def shown(record: Record) -> str:
    console = Console(width=200, file=io.StringIO())
    for part in trial_page.trial(record):
        console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_trial_is_shown_with_fate_cost_curve_and_settings() -> None:
    text = shown(RECORD)
    for words in (
        "17",
        "diverged",
        "0.6125",
        "123456",
        "234567",
        "-34567",
        "machine-1",
        "loss nan in epoch 3",
        "threshold 0.35",
        "relative 0.45",
        "0.0123",
    ):
        assert words in text, words
    assert "0.00123" in text and "convolution" in text


def test_every_epoch_and_every_setting_has_a_line() -> None:
    text = shown(RECORD)
    for name, value in RECORD.config.items():
        assert (name in text) == (value is not None), name
    assert [part.row_count for part in trial_page.trial(RECORD)][1] == 3


def test_settings_that_do_nothing_are_named_alone_unless_they_do_something_in_the_best_trial() -> None:
    nothing = shown(RECORD).partition("without effect")[2]
    assert "train.gamma" in nothing and "train.weight_decay" in nothing and "train.learning_rate" not in nothing
    decaying = {**RECORD.config, "train.optimizer": "adamw", "train.weight_decay": 0.01}
    pictures = {name: value for name, value in decaying.items() if not name.startswith("text.")} | {"text": None}
    for best, without in ((decaying, "train.gamma"), (pictures, "text.weights")):
        *_, settings, nothing = trial_page.trial(RECORD, best=record(3, config=best))
        named = [str(cell) for cell in settings.columns[0]._cells]
        assert "train.weight_decay" in named and without not in named and without in str(nothing.columns[0]._cells[0])


@pytest.mark.parametrize("text", ["[/red]", "[bold]node[/bold]", "shape [batch,3]", "[link=x]"])
def test_text_that_looks_like_markup_is_shown_as_it_is(text: str) -> None:
    record = replace(RECORD, reason=text, config={"image.weights": f"/data/{text}/x.weights.h5"})
    assert shown(record).count(text) == 2


def test_trial_that_never_ran_is_shown_without_a_curve() -> None:
    text = shown(record(17, fate="over_budget", epochs=0, node=None, seconds=None))
    assert "over_budget" in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        ([1.0, math.inf, [-math.inf]], [1.0, None, [None]]),
        ({"a": {"b": math.nan, "c": 2}}, {"a": {"b": None, "c": 2}}),
        ((1, math.nan), [1, None]),
        ("nan", "nan"),
        (None, None),
        (0.0, 0.0),
        (True, True),
    ],
)
def test_nan_and_infinity_become_null_and_nothing_else_changes(value: Any, expected: Any) -> None:
    content = trial_page.without_nan(value)
    assert content == expected
    json.dumps(content, allow_nan=False)
