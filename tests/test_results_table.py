"""Trials as tables: the same rows in every format, columns that programs can rely on, nothing evaluated but columns."""

import io
import json
import math
from dataclasses import fields
from typing import Any

import pandas as pd
import pytest
from builders import epoch, refused
from builders import record as a_record
from rich.console import Console

from captune.model.flat import flatten
from captune.model.metrics import METRICS
from captune.model.presets import CAPTIONS, COMPACT
from captune.results.records import Record
from captune.results.run_folder import RunError
from captune.results.table import frame, render
from captune.results.terminal_table import terminal
from captune.results.trial_page import trial
from captune.tuner.winner.proof import HeldOutScores

BYTES = ["weights_bytes", "bundle_bytes", "margin_bytes"]
KEYS = ["number", "fate", "mean_f1", "epochs", *BYTES, "seconds", "node", "reason", "config"]


def record(number: int, mean_f1: float | None, fate: str = "complete", **changes: Any) -> Record:
    scores = {
        "ece": 1 - (mean_f1 or 0),
        "micro_f1": (mean_f1 or 0) / 2,
        "macro_f1": (mean_f1 or 0) / 3,
        "map": (mean_f1 or 0) / 4,
    }
    plain = {
        "curve": () if mean_f1 is None else (epoch(1, mean_f1, **scores),),
        "weights_bytes": 1_000_000 + number,
        "bundle_bytes": 1_250_000 + number,
        "margin_bytes": number - 2,
        "seconds": 12.5,
        "config": flatten(CAPTIONS),
    }
    return a_record(number, fate=fate, **(plain | changes))


RECORDS = [
    record(0, 0.5),
    record(1, None, "failed", reason='ValueError: [/red] "a, b"\nsecond | line', node=None, config=flatten(COMPACT)),
    record(2, 0.9, "stopped", reason="halving at epoch 1", config=flatten(COMPACT)),
    record(3, None, "waiting", **dict.fromkeys(BYTES, 0), seconds=None, node=None, epochs=0, config={}),
    record(4, 0.7, config={**flatten(CAPTIONS), "train.learning_rate": 0.01}),
]


def numbers(**options: Any) -> list[int]:
    return frame(RECORDS, **options)["number"].tolist()


def rows(**options: Any) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads(render(RECORDS, "json", **options))
    return trials


def shown(records: list[Record] = RECORDS, **options: Any) -> str:
    console = Console(width=400, file=io.StringIO())
    console.print(terminal(records, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_json_is_a_list_of_objects_with_the_promised_keys() -> None:
    trials = rows()
    assert [row["number"] for row in trials] == [0, 1, 2, 3, 4]
    for row, source in zip(trials, RECORDS, strict=True):
        assert set(KEYS) <= set(row)
        assert row["config"] == source.config
        assert row["reason"] == source.reason
    assert trials[1]["mean_f1"] is None
    assert [trials[3][name] for name in BYTES] == [None, None, None]
    assert [trials[0][name] for name in BYTES] == [1_000_000, 1_250_000, -2]
    assert trials[2]["margin_bytes"] == 0, "a margin of nothing is not an unknown one"


def test_json_holds_no_nan_where_a_trial_has_half_an_epoch() -> None:
    half = epoch(1, math.nan, loss=math.nan, rule=None, mean_f1=0.5)
    (trials,) = json.loads(render([record(0, 0.5, curve=(half,))], "json"), parse_constant=pytest.fail)
    assert trials["mean_f1"] == 0.5
    assert trials["map"] is None


def test_no_trials_are_an_empty_list_and_tables_with_a_heading() -> None:
    assert json.loads(render([], "json")) == []
    assert "number" in shown([])
    assert render([], "csv").decode().splitlines()[0].startswith("number,fate,mean_f1")
    assert pd.read_parquet(io.BytesIO(render([], "parquet"))).empty
    assert render([], "markdown").decode().startswith("| number | fate |")
    assert json.loads(render([], "json", where="mean_f1 > 0.5", sort="mean_f1")) == []


def test_csv_has_the_same_rows_with_the_configuration_flattened() -> None:
    table = pd.read_csv(io.BytesIO(render(RECORDS, "csv")))
    assert table["number"].tolist() == [0, 1, 2, 3, 4]
    assert set(KEYS) - {"config"} <= set(table.columns)
    assert "config" not in table.columns
    assert set(flatten(COMPACT)) <= set(table.columns)
    assert table["reason"][1] == RECORDS[1].reason
    assert table["text.units"].tolist()[:3] == [384, 384, 384]
    assert table["image.side"].isna().tolist() == [True, False, False, True, True]
    assert table["train.learning_rate"][4] == 0.01


def test_parquet_has_the_same_columns_and_rows_as_csv() -> None:
    from_csv = pd.read_csv(io.BytesIO(render(RECORDS, "csv")))
    table = pd.read_parquet(io.BytesIO(render(RECORDS, "parquet")))
    assert list(table.columns) == list(from_csv.columns)
    for name in ("number", "fate", "mean_f1", *BYTES, "text.encoder", "image.side"):
        assert table[name].isna().tolist() == from_csv[name].isna().tolist(), name
        assert table[name].dropna().tolist() == from_csv[name].dropna().tolist(), name


def test_setting_that_is_a_number_here_and_text_there_still_fits_parquet() -> None:
    records = [record(number, 0.5, config={"x": value}) for number, value in enumerate((1, "auto", None))]
    table = pd.read_parquet(io.BytesIO(render(records, "parquet")))
    assert table["x"].tolist()[:2] == ["1", "auto"]
    assert table["x"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("format_", ["json", "csv", "parquet", "markdown"])
def test_every_format_obeys_sort_where_and_limit(format_: str) -> None:
    options: dict[str, Any] = {"sort": "mean_f1", "where": "mean_f1 > 0.4", "limit": 2}
    content = render(RECORDS, format_, **options)
    match format_:
        case "json":
            trials = [row["number"] for row in json.loads(content)]
        case "csv":
            trials = pd.read_csv(io.BytesIO(content))["number"].tolist()
        case "parquet":
            trials = pd.read_parquet(io.BytesIO(content))["number"].tolist()
        case _:
            trials = [int(line.split("|")[1]) for line in content.decode().splitlines()[2:]]
    assert trials == [2, 4]


def test_scores_sort_best_first_and_others_rising_with_absent_ones_last() -> None:
    assert numbers(sort="mean_f1") == [2, 4, 0, 1, 3]
    assert numbers(sort="map") == [2, 4, 0, 1, 3]
    assert numbers(sort="weights_bytes") == [0, 1, 2, 4, 3]
    assert numbers(sort="margin_bytes") == [0, 1, 2, 4, 3]
    assert numbers(sort="train.learning_rate")[-2:] == [4, 3]
    assert numbers(sort="fate") == [0, 4, 1, 2, 3]
    assert numbers(sort="image.weights")[:2] == [1, 2]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("fate == 'complete'", [0, 4]),
        ("mean_f1 > 0.6", [2, 4]),
        ("mean_f1 > 0.6 and fate == 'complete'", [4]),
        ("not (fate == 'complete')", [1, 2, 3]),
        ("`train.learning_rate` > 0.007", [4]),
        ("fate in ['failed', 'stopped']", [1, 2]),
        ("node == 'machine-1'", [0, 2, 4]),
        ("mean_f1 != mean_f1", [1, 3]),
        ("margin_bytes < 0", [0, 1]),
        ("margin_bytes >= 0 and bundle_bytes <= 1250003", [2]),
        ("number > 99", []),
    ],
)
def test_where_keeps_the_rows_for_which_it_holds(where: str, expected: list[int]) -> None:
    assert numbers(where=where) == expected
    assert [row["number"] for row in rows(where=where)] == expected


def test_where_on_scores_finds_nothing_before_the_first_score() -> None:
    assert frame([RECORDS[1], RECORDS[3]], where="mean_f1 > 0.5").empty


@pytest.mark.parametrize("format_", ["json", "csv", "parquet", "markdown"])
def test_unknown_column_is_refused_with_the_closest_or_those_that_there_are(format_: str) -> None:
    refusal = ("no column second", "seconds")
    refused(lambda: render(RECORDS, format_, columns=["number", "second"]), *refusal, error=RunError)
    refused(lambda: render(RECORDS, format_, sort="second"), *refusal, error=RunError)
    refused(lambda: terminal(RECORDS, columns=["second"]), *refusal, error=RunError)
    refused(lambda: terminal([], columns=["x"]), "no column x; there are: number, fate, mean_f1", error=RunError)


def test_columns_are_those_named_in_that_order() -> None:
    assert list(rows(columns=["fate", "number"], limit=1)[0].items()) == [("fate", "complete"), ("number", 0)]
    table = pd.read_csv(io.BytesIO(render(RECORDS, "csv", columns=["train.learning_rate", "number"])))
    assert list(table.columns) == ["train.learning_rate", "number"]


def test_sorting_and_filtering_may_use_columns_that_are_not_shown() -> None:
    assert [row["number"] for row in rows(columns=["number"], sort="mean_f1", where="fate != 'failed'")] == [2, 4, 0, 3]


def test_markdown_has_one_line_a_trial_and_the_same_number_of_cells_in_each() -> None:
    columns = ["number", "reason", "weights_bytes", "margin_bytes"]
    lines = render(RECORDS, "markdown", columns=columns).decode().splitlines()
    assert lines[0] == "| number | reason | weights_bytes | margin_bytes |"
    assert len(lines) == 2 + len(RECORDS)
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines)
    assert lines[2] == "| 0 |  | 1000000 | -2 |"
    assert lines[5] == "| 3 |  |  |  |"


def test_terminal_shows_the_usual_columns_and_only_the_settings_that_differ() -> None:
    text = shown([RECORDS[0], RECORDS[4]])
    heading = text.splitlines()[1] if not text.splitlines()[0].strip() else text.splitlines()[0]
    assert heading.split() == ["number", "fate", "mean_f1", "MiB", "epochs", "seconds", "learning_rate"]
    assert "0.95" in text
    assert "nan" not in text.lower()


def test_terminal_shows_bytes_in_mib_under_a_heading_that_says_so() -> None:
    over = record(0, None, "over_budget", weights_bytes=3 * 2**20, bundle_bytes=4 * 2**20, margin_bytes=-(2**19))
    heading, _, line = shown([over], columns=BYTES).splitlines()[:3]
    assert heading.split() == ["MiB", "bundle_MiB", "margin_MiB"]
    assert line.split() == ["3.00", "4.00", "-0.50"]


def test_terminal_shows_scores_with_four_decimals() -> None:
    few = record(0, 0.5, curve=(epoch(1, 0.5, ece=0.00312, map=1.0),))
    assert shown([few], columns=["mean_f1", "map", "ece"]).splitlines()[2].split() == ["0.5000", "1.0000", "0.0031"]


def test_terminal_shows_text_that_looks_like_markup_as_it_is() -> None:
    assert "[/red]" in shown(columns=["number", "reason"])


def test_terminal_leaves_absent_values_empty() -> None:
    text = shown()
    assert "nan" not in text.lower() and "none" not in text.lower().replace(" none ", "")


def test_scores_stand_beside_each_other_as_they_are_declared() -> None:
    """Whatever is declared: what is added there is shown everywhere."""
    columns = list(frame(RECORDS).columns)
    assert columns[2 : 2 + len(METRICS)] == list(METRICS)
    headings = [str(column.header) for part in trial(RECORDS[0]) for column in part.columns]
    assert headings[4 : 4 + len(METRICS)] == list(METRICS)
    assert [field.name for field in fields(HeldOutScores)][: len(METRICS)] == list(METRICS)
    for name in METRICS:
        assert numbers(sort=name)[:3] == [2, 4, 0], "best first"
