"""Runs read through the door, and searches checked without being begun."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import refused

import captune
from captune.data_prep.store import PreparedData
from captune.results.records import load_records
from captune.results.run_folder import RunError, RunFolder


@pytest.fixture
def run(old: Path) -> captune.Run:
    return captune.open_run(old / "run")


def test_trials_are_the_records_of_the_run(run: captune.Run) -> None:
    table, records = run.trials(), load_records(RunFolder(Path(run.where)))
    assert run.records() == records
    assert isinstance(table, pd.DataFrame)
    assert table["number"].tolist() == [0, 1, 2]
    assert table["mean_f1"].tolist() == [record.mean_f1 for record in records]
    assert table["text.embedding"].tolist() == [record.config["text.embedding"] for record in records]
    assert [run.trial(number) for number in range(3)] == records


def test_trials_are_chosen_sorted_and_cut(run: captune.Run) -> None:
    numbers = run.trials(sort="mean_f1")["number"].tolist()
    scores = run.trials(sort="mean_f1")["mean_f1"].tolist()
    assert scores == sorted(scores, reverse=True)
    assert run.trials(sort="mean_f1", limit=2)["number"].tolist() == numbers[:2]
    assert run.trials(where="number in (0, 2) and `text.units` > 0", sort="mean_f1")["number"].tolist() == [
        number for number in numbers if number != 1
    ]


def test_frontier_has_what_nothing_beats(run: captune.Run) -> None:
    unbeaten = run.trials(frontier=True)
    assert unbeaten["number"].tolist() == [point.number for point in run.summary.frontier]
    assert unbeaten["mean_f1"].iloc[-1] == run.trials()["mean_f1"].max()


def test_run_and_winner_are_values_that_show_where_they_are(run: captune.Run) -> None:
    assert captune.open_run(run.where) == run and hash(captune.open_run(run.where)) == hash(run)
    assert repr(run) == f"<captune run {run.where}>"
    assert run.winner.bundle == f"{run.where}/winner/bundle"
    assert repr(run.winner) == f"<captune winner of {run.where}>"


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (("no trial 3",), lambda run: run.trial(3)),
        (("no trial -1",), lambda run: run.trial(-1)),
        (("score",), lambda run: run.trials(sort="score")),
        (("where", "fate ="), lambda run: run.trials(where="fate = 1")),
        (("limit", "0"), lambda run: run.trials(limit=0)),
        (("budget", "fixed when"), lambda run: run.resume(budget="1MiB")),
        (("seeds", "0"), lambda run: run.refit(seeds=0)),
        (("gpus", "-1"), lambda run: run.refit(gpus=-1)),
        (("cpus", "address"), lambda run: run.refit(cpus=2)),
        (("storage", "float32"), lambda run: run.winner.export("x.keras", format="keras", storage="int8")),
    ],
)
def test_mistake_is_told_in_one_line(
    words: tuple[str, ...], call: Callable[[captune.Run], Any], run: captune.Run
) -> None:
    refused(lambda: call(run), *words, error=captune.UsageError)


def test_winner_that_is_not_there_yet_says_how_it_comes(run: captune.Run) -> None:
    (Path(run.where) / "winner" / "proof.json").unlink()
    refused(lambda: run.winner.proof, "captune refit", error=RunError)


def test_plan_reports_and_starts_nothing(old: Path) -> None:
    before = sorted(old.rglob("*"))
    data = captune.prepare(old / "train.csv", out=old / "data", split="60/20/20")
    planned = captune.plan(data, old / "new", captune.space("captions"), trials=3, budget="100MiB")
    assert (planned.config.trials, planned.config.budget, planned.run) == (3, 100 * 2**20, str(old / "new"))
    assert planned.report[0].startswith("budget     100.00 MiB")
    assert sum(line.startswith("runs ") for line in planned.report) == 3
    assert sorted(old.rglob("*")) == before


def test_plan_takes_a_file_and_what_is_named_beside_it_wins(old: Path) -> None:
    (old / "search.yaml").write_text("preset: captions\ntrials: 3\nhalving: {grace: 2}\n")
    planned = captune.plan(old / "data", old / "new", config=old / "search.yaml", trials=5)
    assert (planned.config.trials, planned.config.halving.grace, planned.config.preset) == (5, 2, "captions")


@pytest.mark.slow
def test_plan_says_what_it_takes_over_of_an_older_run(run: captune.Run, old: Path) -> None:
    then = {**run.settings.fixed, "text.dense": 0, "train.prior_start": False}  # as the preset had it
    same = captune.SearchSpace(run.settings.preset, run.settings.space, then)
    planned = captune.plan(old / "data", old / "new", same, trials=1, warm_start=run)
    assert planned.warm_start == run.where
    assert re.match(r"warm start ([1-9]\d*) of \1 finished trials of .* inform the sampler", planned.report[-1])
    (old / "other.csv").write_text("\n".join((old / "train.csv").read_text().splitlines()[:40]) + "\n")
    other = captune.prepare(old / "other.csv", out=old / "other")
    elsewhere = captune.plan(other, old / "new", same, trials=1, warm_start=run)
    assert "inform the sampler, as it had other data" in elsewhere.report[-1]


@pytest.mark.slow
def test_features_of_frozen_backbones_are_told_before_they_are_made_and_refused_over_their_limit(
    data: PreparedData, tmp_path: Path
) -> None:
    """Of two cuts, both ways round: 576 and 96 values of two bytes for each picture."""
    weights = tmp_path / "small.weights.h5"
    weights.touch()
    frozen = {"image.backbone": "MobileNetV3Small", "image.weights": str(weights), "image.frozen": True}
    frozen |= {"train.cached_features": True, "train.augment.shift": 0.0}  # type: ignore[dict-item]
    space = captune.space("compact", {"image.cut": ["final", "last_map"]}, fixed=frozen)
    count = 2 * 2 * (576 + 96) * data.num_pictures

    def planned(limit: int) -> captune.Plan:
        return captune.plan(data.path, tmp_path / "run", space, trials=3, cache_limit=f"{limit}B")

    (line,) = (line for line in planned(count).report if line.startswith("features"))
    assert f"({count / 1e6:.2f} MB) of frozen towers" in line
    refused(lambda: planned(count - 1), "features of frozen towers", "cache_limit", "--cache-limit", "cached_features")
    plain = captune.plan(data.path, tmp_path / "run", "compact", trials=3, cache_limit="1B")
    assert not [line for line in plain.report if line.startswith("features")]
