"""Runs held beside each other."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from builders import record
from conftest import Captune, refused
from study_runs import fill, new_run

from captune.model.flat import flatten
from captune.model.presets import PRESETS
from captune.model.size import Budget
from captune.results.baselines import Baseline
from captune.results.comparison import RunResult, cells_of, compare, tables_of
from captune.results.records import Record
from captune.results.run_facts import RunFacts


def facts(name: str, fingerprint: str = "a", **settings: object) -> RunFacts:
    return RunFacts(name, "/data", fingerprint, Budget(2_000_000), ("mean_f1",), {"preset": "captions", **settings}, "")


def result(name: str, records: Sequence[Record], fingerprint: str = "a", **settings: object) -> RunResult:
    return RunResult(f"/there/{name}", facts(name, fingerprint, **settings), tuple(records))


def test_best_size_and_cost_stand_beside_each_other() -> None:
    records = [
        record(0, (0.5, 0.8), seconds=1800.0),
        record(1, 0.9, weights_bytes=3_000_000, fate="over_budget", seconds=900.0),
        record(2, 0.7, fate="stopped", seconds=None),
    ]
    one, other = compare([result("one", records), result("other", [])]).runs
    assert (one.best, one.mean_f1, one.weights_bytes, one.slot_hours) == (0, 0.8, 1_000_000, 0.5)
    assert one.trials == {"complete": 1, "over_budget": 1, "stopped": 1}
    assert (other.best, other.mean_f1, other.slot_hours, other.trials) == (None, None, 0.0, {})


def test_score_on_test_is_beside_what_it_is_of() -> None:
    """As is neither the best trial's alone nor of its size."""
    records = [record(0, 0.8), record(1, 0.7)]
    results = [
        replace(result(f"r{place}", records), test=0.75, shipped=shipped, shipped_bytes=3 * 2**20)
        for place, shipped in enumerate(((0,), (1,), (0, 1)))
    ]
    figures, *_ = tables_of(compare(results))
    assert ("shipped", "", "trial 1, 3.00 MiB", "average of 0, 1, 3.00 MiB") in figures.rows
    assert not any(row[0] == "shipped" for row in tables_of(compare(results[:1] * 2))[0].rows)


def test_trial_that_waits_is_none_yet() -> None:
    figures, *_ = tables_of(compare([result("a", [record(0, 0.8), record(1, None, fate="waiting")])] * 2))
    assert ("trials", "1", "1") in figures.rows


def test_only_settings_that_differ_are_told() -> None:
    """And have a use: Adam has none for a weight decay."""
    base = flatten(PRESETS["compact"])
    first = [record(0, 0.5, config={**base, "text.units": 8, "train.optimizer": "adam", "train.weight_decay": 0.5})]
    other = {"text.units": 16, "train.optimizer": "adamw", "train.weight_decay": 0.1}
    second = [record(0, 0.5, config={**base, **other})]
    comparison = compare([result("a", first, trials=3, seed=0), result("b", second, trials=4, seed=0)])
    assert comparison.settings == {"trials": (3, 4)}
    assert comparison.winners == {
        "text.units": (8, 16),
        "train.optimizer": ("adam", "adamw"),
        "train.weight_decay": (None, 0.1),
    }
    unknown = [record(0, 0.5, config={"text.future": 1})]
    assert compare([result("a", unknown), result("b", [])]).winners == {"text.future": (1, None)}


def test_course_rises_over_the_time_of_search() -> None:
    records = [record(n, score, began=100.0 + n, seconds=1.0) for n, score in enumerate((0.5, 0.4, 0.7))]
    (row, _) = compare([result("one", records), result("other", [])]).runs
    assert row.course == ((1.0, 0.5), (3.0, 0.7))


def test_page_holds_course_tables_and_nothing_that_names_say(tmp_path: Path, captune: Captune) -> None:
    name = "<script>alert(1)</script>"
    paths = [fill(new_run(tmp_path / "a")).path, fill(new_run(tmp_path / name.replace("/", "|"))).path]
    page = tmp_path / "page.html"
    assert captune("compare", *paths, "--out", page).code == 0
    text = page.read_text()
    assert "<script" not in text and "&lt;script" in text
    assert text.count("<svg") == 1 and "What differs in the search" not in text
    assert re.search(r'<th scope="row">mean F1</th><td class="n">0.8000</td><td class="n">0.8000</td>', text)
    refused(captune("compare", *paths, "--out", tmp_path / "none" / "page.html"), "folder that exists")
    refused(captune("compare", *paths, "--out", tmp_path / "page.txt"), "name it *.html")
    assert not (tmp_path / "page.txt").exists()


def test_best_baseline_of_validation_is_told() -> None:
    simple = tuple(
        Baseline(name, rows, score, score, score, ())
        for name, rows, score in [("a", "validation", 0.2), ("b", "validation", 0.6), ("b", "test", 0.9)]
    )  # type: ignore[arg-type]
    row = compare([RunResult("x", facts("x"), (), simple, test=0.7)]).runs[0]
    assert (row.baseline, row.test) == (0.6, 0.7)


def test_runs_of_one_name_are_told_by_where_they_are() -> None:
    assert [row.run for row in compare([result("run", []), result("run", []), result("b", [])]).runs] == [
        "/there/run", "/there/run", "b",
    ]  # fmt: skip


def test_range_of_a_dimension_is_written_as_people_say_it() -> None:
    dimension = {"low": 1e-4, "high": 0.01, "step": None, "log": True}
    assert cells_of([dimension, {"low": 0, "high": 4, "step": 2}, [1, 2], None, ""]) == [
        "0.0001 to 0.01, log", "0 to 4, step 2", "1, 2", "-", "-",
    ]  # fmt: skip
    first = [{"text.units": 8, "train.learning_rate": 0.01}, {"text.units": 16}]
    assert cells_of([first]) == ["text.units 8, train.learning_rate 0.01; text.units 16"]


def test_command_compares_in_every_format(tmp_path: Path, captune: Captune) -> None:
    paths = [fill(new_run(tmp_path / "a")).path, fill(new_run(tmp_path / "b", fingerprint="e" * 64)).path]
    shown = captune("compare", *paths)
    assert shown.code == 0 and "0.8000" in shown.out and "prepared apart" in shown.out
    content = json.loads(captune("compare", *paths, "--format", "json").out)
    assert content["same_data"] is False and [run["mean_f1"] for run in content["runs"]] == [0.8, 0.8]
    assert "| mean F1 | 0.8000 | 0.8000 |" in captune("compare", *paths, "--format", "markdown").out


def test_one_run_and_no_run_are_refused(tmp_path: Path, captune: Captune) -> None:
    run = new_run(tmp_path / "run").path
    refused(captune("compare", run), "two or more")
    refused(captune("compare", run, tmp_path / "none"), "none")


@pytest.mark.parametrize("name", ["[red]x[/red]", "a|b\x1b[31m"])
def test_markup_and_escapes_in_a_name_are_shown_and_not_obeyed(tmp_path: Path, captune: Captune, name: str) -> None:
    runs = [fill(new_run(tmp_path / name)).path, fill(new_run(tmp_path / "b")).path]
    for form in ("table", "markdown"):
        out = captune("compare", *runs, "--format", form).out
        assert "\x1b" not in out and ("[red]x" in out or "a" in out)
