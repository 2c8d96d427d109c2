"""The table for people: whole in every width, the best marked, what does nothing blank, baselines below."""

import io
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from builders import epoch, record, refused
from rich.cells import cell_len
from rich.console import Console

from captune.model.flat import flatten
from captune.model.presets import CAPTIONS, PRESETS
from captune.results.baselines import COMMONEST, TFIDF, Baseline
from captune.results.explained_variance import explained
from captune.results.records import Record
from captune.results.run_folder import RunError
from captune.results.terminal_table import terminal
from captune.tuner.space.config import read_search
from captune.tuner.space.dimensions import Dimension

FATES = ("complete", "stopped", "over_budget", "diverged", "failed", "lost", "running", "waiting")
WIDTHS = (60, 80, 120)
BASELINES = [
    Baseline(name, "validation", score, score, score, (score,))
    for name, score in ((COMMONEST, 0.6319), (TFIDF, 0.8531))
]


def drawn(preset: str, count: int = 24) -> list[Record]:
    """Trials of the space that ships for a preset, of every fate, some with large numbers."""
    space = read_search(None, preset=preset, default_preset=preset, overrides={"trials": 3}).build_space()
    generator = random.Random(preset)
    base, records = flatten(space.base), []
    for number in range(count):
        fate = FATES[number % len(FATES)]
        scored = fate in ("complete", "stopped", "running")
        config = {**base, **{name: drawn_of(dimension, generator) for name, dimension in space.dimensions.items()}}
        records.append(
            record(
                number * 777,
                fate=fate,
                curve=(epoch(1, generator.random()),) * scored,
                epochs=number,
                config=config,
                weights_bytes=generator.randint(1, 10**9),
                seconds=generator.uniform(0, 99_999),
                margin_bytes=1 - number % 2 * 2,
            )
        )
    return records


def drawn_of(dimension: Dimension, generator: random.Random) -> Any:
    if dimension.countable:
        return generator.choice(list(islice(dimension.values(), 500)))
    return generator.uniform(dimension.low, dimension.high)  # type: ignore[union-attr]


def lines(records: Sequence[Record], width: int, **options: Any) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(terminal(records, width=width, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_trial_has_one_line_in_which_number_fate_score_and_size_are_whole(preset: str, width: int) -> None:
    records = drawn(preset)
    heading, rule, *rows = lines(records, width, baselines=BASELINES)
    assert heading.split()[:4] == ["number", "fate", "mean_f1", "MiB"]
    assert all(cell_len(line) <= width for line in (heading, rule, *rows))
    for each, row in zip(records, rows, strict=False):
        words = row.split()
        expected = [str(each.number), each.fate, *([] if each.mean_f1 is None else [f"{each.mean_f1:.4f}"])]
        assert [words[0].removeprefix("*"), *words[1 : len(expected)]] == expected
        assert words[len(expected)] == f"{each.weights_bytes / 2**20:.2f}"


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_that_do_not_fit_are_counted_and_columns_all_goes_on_below(preset: str) -> None:
    records = drawn(preset)
    totals = set()
    for width in (*WIDTHS, 10_000):
        shown = lines(records, width)
        hidden = [int(match[1]) for line in shown if (match := re.match(r"\+(\d+) .*: --columns all", line))]
        totals.add(len(shown[0].split()) + sum(hidden))
        everything = lines(records, width, columns=["all"])
        assert all(cell_len(line) <= width for line in everything)
        headings = [line.split() for line in everything if line.lstrip().startswith("number")]
        names = [name for heading in headings for name in heading[1:]]
        assert len(set(names)) == len(names) and {"reason", "node"} & set(names) == {"node"}
    assert len(totals) == 1, "the same columns at every width, shown or counted"


def test_best_trial_inside_the_budget_is_marked_without_colour_and_named_below() -> None:
    records = [
        record(0, 0.8, margin_bytes=5, weights_bytes=2**20),
        record(1, 0.9, margin_bytes=-1),
        record(2, 0.8, "stopped", margin_bytes=7, weights_bytes=2**19),
        record(3, 0.95, "running", margin_bytes=9),
    ]
    shown = lines(records, 80)
    assert [line.split()[0] for line in shown[2:6]] == ["0", "1", "2", "*3"], "also one that still runs"
    assert lines(records[:3], 80)[4].startswith("    *2")
    assert "* best: trial 2, mean_f1 0.8000, 0.50 MiB; 1 more within one standard error" in lines(records[:3], 80)
    assert "4 trials: 2 complete, 1 stopped, 1 running" in shown


def test_lost_trials_that_were_tried_again_are_told() -> None:
    lost = [replace(record(number, None, "lost"), origin=origin) for number, origin in ((0, 0), (1, 1), (2, 0))]
    assert "3 trials: 3 lost (1 of them tried again)" in lines(lost, 80)
    assert "4 trials: 3 lost (2 of them tried again), 1 complete" in lines([*lost, replace(record(3), origin=0)], 80)
    assert "2 trials: 2 lost" in lines(lost[:2], 80)


def test_no_trial_is_best_before_a_score_and_an_empty_table_says_so() -> None:
    assert not any("*" in line for line in lines([record(0, None, "failed")], 80))
    assert lines([], 80)[-1] == "0 trials"


def test_setting_that_does_nothing_in_a_trial_is_blank() -> None:
    base = flatten(CAPTIONS)
    configs = [
        {**base, "text.encoder": kind, "text.kernel": kernel}
        for kind, kernel in (("average", 2), ("convolution", 3), ("convolution", 1))
    ]
    shown = lines([record(n, 0.5, config=config) for n, config in enumerate(configs)], 120)
    kernel = shown[0].index("text.kernel") + len("text.kernel") - 1
    assert [line[kernel : kernel + 1].strip() for line in shown[2:5]] == ["", "3", "1"]


def test_points_of_a_column_stand_below_each_other() -> None:
    rates = (0.003, 0.0012345, 0.01)
    records = [
        record(n, 0.5, config={**flatten(CAPTIONS), "train.learning_rate": rate}) for n, rate in enumerate(rates)
    ]
    shown = lines(records, 80, columns=["number", "learning_rate"])
    assert len({line.index(".") for line in shown[2:5]}) == 1


def test_end_of_the_best_trial_is_told_and_how_many_are_as_good() -> None:
    epochs = [replace(epoch(1, score), standard_error=0.01) for score in (0.8, 0.795, 0.785, 0.791)]
    records = [record(number, curve=(each,)) for number, each in enumerate(epochs)]
    cut = [replace(records[0], fate="stopped", reason="time limit after epoch 1"), *records[1:]]
    size = "* best: trial 0, mean_f1 0.8000, 0.95 MiB"
    assert f"{size}; 2 more within one standard error" in lines(records, 120)
    assert f"{size}, time limit after epoch 1; 2 more within one standard error" in lines(cut, 120)
    assert size in lines(records[:1], 120)


def test_baselines_of_validation_are_named_below_the_trials() -> None:
    of_test = Baseline(TFIDF, "test", 0.1234, 0.1, 0.1, (0.1,))
    shown = lines([record(0, 0.5)], 80, baselines=[*BASELINES, of_test])
    assert shown[-1] == "baselines: commonest label 0.6319, TF-IDF + logistic regression 0.8531"
    assert "0.1234" not in "".join(shown)


@pytest.mark.parametrize("width", WIDTHS)
def test_metric_of_the_search_and_what_is_sorted_by_are_shown_and_baselines_are_in_it(width: int) -> None:
    curves = [replace(epoch(1, 0.5 + number / 10), metric="macro_f1") for number in range(3)]
    records = [record(number, curve=(curve,)) for number, curve in enumerate(curves)]
    known = [Baseline(COMMONEST, "validation", 0.6, 0.5, 0.0478, (0.1,))]
    heading, *rows = lines(records, width, baselines=known, sort="-ece")
    assert heading.split()[:6] == ["number", "fate", "mean_f1", "macro_f1", "ece", "MiB"]
    assert rows[-1] == f"baselines, macro_f1: {COMMONEST} 0.0478"
    of_map = [record(curve=(replace(epoch(1, 0.5), metric="map"),))]
    assert "baselines" not in lines(of_map, width, baselines=known)[-1]


def test_reason_of_the_first_trial_that_failed_is_told() -> None:
    failed = [record(number, None, "failed", reason=f"ValueError: {number}") for number in (4, 5)]
    assert lines(failed[:1], 80)[-1] == "trial 4 failed: ValueError: 4"
    assert lines(failed, 80)[-1] == "trial 4 failed: ValueError: 4; the others: --columns number,fate,reason"


def test_setting_that_moves_the_score_stands_before_one_that_does_not() -> None:
    base = flatten(CAPTIONS)
    records = [
        record(
            n,
            0.5 + 0.1 * (n % 3),
            config={**base, "text.units": 64 * (1 + n // 4), "text.dropout": 0.3 + 0.1 * (n % 3)},
        )
        for n in range(24)
    ]
    heading = lines(records, 120)[0].split()
    assert heading.index("text.dropout") < heading.index("text.units")


def test_share_explained_sees_peaks_kinds_and_blanks_and_is_0_of_few_or_equal_scores() -> None:
    peak = [-abs(n - 10) / 10 for n in range(21)]
    shares = explained({"noise": [n % 2 for n in range(21)], "peak": list(range(21))}, peak)
    assert list(shares) == ["peak", "noise"]
    assert shares["peak"] > 0.5 > shares["noise"] >= 0
    assert explained({"kind": ["a", "b", None] * 4}, [1.0, 2.0, 3.0] * 4)["kind"] == pytest.approx(1)
    assert explained({"x": [1, 2]}, [0.1, 0.9]) == {"x": 0}
    assert explained({"x": [1, 2] * 5}, [0.5] * 10) == {"x": 0}
    assert explained({"each": list("abcdefgh")}, [float(n) for n in range(8)]) == {"each": 0}, "a value for each trial"


@pytest.mark.parametrize("name", ["learning_rate", "train.learning_rate"])
def test_what_the_heading_says_can_be_typed(name: str) -> None:
    records = [record(n, 0.5, config={**flatten(CAPTIONS), "train.learning_rate": 0.001 * (3 - n)}) for n in range(3)]
    assert [line.split()[0] for line in lines(records, 80, sort=name, columns=["number"])[2:5]] == ["2", "1", "*0"]
    assert [line.split()[0] for line in lines(records, 80, sort=f"-{name}", columns=["number"])[2:5]] == [
        "*0",
        "1",
        "2",
    ]
    assert lines(records, 80, where=f"{name} > 0.0025", columns=["number"])[2].split() == ["*0"]


def test_bytes_are_filtered_in_the_unit_of_their_heading() -> None:
    records = [record(n, 0.5, weights_bytes=(n + 1) * 2**20, config=flatten(CAPTIONS)) for n in range(3)]
    assert lines(records, 80, where="MiB >= 2 and MiB < 3")[2].split()[:4] == ["1", "complete", "0.5000", "2.00"]


def test_name_of_several_columns_or_of_none_is_refused_with_those_that_may_be_meant() -> None:
    config = {"image.dropout": 0.1, "text.dropout": 0.2, "train.learning_rate": 0.1}
    records = [record(0, 0.5, config=config)]
    refused(lambda: terminal(records, sort="dropout"), "image.dropout or text.dropout", error=RunError)
    refused(
        lambda: terminal(records, columns=["learning_rat"]),
        "no column learning_rat",
        "train.learning_rate",
        error=RunError,
    )
    refused(lambda: terminal(records, columns=["mib"]), "MiB", error=RunError)
    refused(lambda: terminal(records, columns=["MiB", "weights_bytes"]), "once", error=RunError)
