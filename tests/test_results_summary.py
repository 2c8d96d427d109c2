"""What a whole search came to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from builders import epoch, refused
from builders import record as plain_record

from captune.model.size import Budget
from captune.results.records import Record
from captune.results.run_folder import RunError
from captune.results.summary import Session, Summary, halving_saved, summarise, trained_share


def record(number: int, scores: list[float], **changes: Any) -> Record:
    """Two seconds of training and one of evaluation an epoch; the first of the trial has four of other kinds."""
    first = {"data_seconds": 1.0, "compile_seconds": 3.0}
    curve = tuple(epoch(place, score, **(first if place == 1 else {})) for place, score in enumerate(scores, 1))
    return plain_record(
        number, curve=curve, weights_bytes=100 + number, bundle_bytes=200, config={"train.epochs": 9}, **changes
    )


def test_what_halving_saved_is_what_stopped_trials_did_not_train_at_their_own_rate() -> None:
    scores = [0.1, 0.2, 0.3]
    records = [
        record(0, scores, fate="stopped", reason="halving at epoch 3"),
        record(1, scores, fate="stopped", reason="time limit"),
        record(2, scores),
    ]
    assert dict(halving_saved(records)) == {"epochs": 6, "seconds": 18.0}
    assert dict(halving_saved([])) == {"epochs": 0, "seconds": 0.0}


def test_share_is_of_the_time_that_trials_held_their_slot() -> None:
    assert trained_share([record(0, [0.5, 0.6])]) == 0.6
    assert trained_share([record(0, [0.5, 0.6]), record(1, [0.5], seconds=5.0)]) == 0.6
    # One that goes on has the curve of the attempt before, whose time is that one's.
    assert trained_share([record(0, [0.5], fate="lost"), record(1, [0.5, 0.6], origin=0)]) == 0.3
    assert trained_share([record(0, [], seconds=None)]) is None


def test_summary_counts_an_epoch_once_and_is_json(tmp_path: Path) -> None:
    records = [record(0, [0.5], fate="lost"), record(1, [0.5, 0.7], origin=0), record(2, [], fate="over_budget")]
    summary = summarise(records, Budget(1000), Session(2, 12.3456, "SIGTERM"), before=records[:1])
    summary.write(tmp_path / "summary.json")
    assert Summary.read(tmp_path / "summary.json") == summary
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content.pop("halving_saved") == {"epochs": 0, "seconds": 0.0}
    assert content.pop("trained_share").keys() == {"all", "warm"}
    assert content == {
        "version": 1,
        "trials": {"lost": 1, "complete": 1, "over_budget": 1},
        "epochs": 2,
        "session_epochs": 1,
        "slots": 2,
        "wall_seconds": 12.346,
        "busy_seconds": {
            "start": 0.0, "data": 1.0, "compile": 3.0, "train": 4.0, "evaluate": 2.0, "checkpoint": 0.0
        },
        "best": {"number": 1, "mean_f1": 0.7, "score": 0.7},
        "frontier": [{"number": 1, "mean_f1": 0.7, "score": 0.7, "weights_bytes": 101, "bundle_bytes": 200}],
        "metric": "mean_f1",
        "slot_hours": 0.0056,
        "cost": None,
        "interrupted": True,
        "signal": "SIGTERM",
    }  # fmt: skip


def test_session_with_nothing_to_do_leaves_the_numbers_of_the_one_before() -> None:
    records = [record(0, [0.5, 0.7])]
    earlier = summarise(records, Budget(), Session(2, 30.0, "SIGINT"))
    again = summarise(records, Budget(), Session(4, 3.0), before=records).of_session(earlier)
    assert (again.epochs, again.session_epochs, again.slots, again.wall_seconds) == (2, 2, 2, 30.0)
    assert (again.interrupted, again.signal) == (False, None)


def test_summary_of_nothing_has_no_best() -> None:
    summary = summarise([], Budget(), Session(1, 0.0))
    assert (summary.best, summary.frontier) == (None, ())
    assert (summary.trained_share.all, summary.trained_share.warm) == (None, None)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"version": 2}, "use a newer one"),
        ({"epochs": "many"}, "epochs"),
        ({"wall_seconds": None}, "wall_seconds"),
        ({"best": {"number": 1}}, "best.mean_f1"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_damaged_summary_is_refused_by_field_in_one_line(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    content = json.loads(summarise([], Budget(), Session(1, 0.0)).to_json()) | changes
    (tmp_path / "summary.json").write_text(json.dumps(content))
    refused(lambda: Summary.read(tmp_path / "summary.json"), "summary.json", word, error=RunError)


@pytest.mark.parametrize("content", [b"", b"[]", b"5", b"[" * 100_000, b"\xff\xfe", b'{"a":'])
def test_file_that_is_no_json_object_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "summary.json").write_bytes(content)
    refused(lambda: Summary.read(tmp_path / "summary.json"), "summary.json", "no JSON object", error=RunError)


def test_warm_share_leaves_the_first_trial_of_each_worker_out() -> None:
    first = record(0, [0.5, 0.6])
    started = dataclasses.replace(first.curve[0], start_seconds=4.0)
    first = dataclasses.replace(first, curve=(started, *first.curve[1:]), seconds=20.0)
    found = summarise([first, record(1, [0.5, 0.6])], Budget(), Session(1, 30.0))
    assert (found.trained_share.all, found.trained_share.warm) == (0.4, 0.6)
    assert found.busy_seconds["start"] == pytest.approx(4.0)


def test_cost_is_that_of_the_time_for_which_trials_held_slots() -> None:
    records = [record(0, [0.5], seconds=5400.0), record(1, [0.5], seconds=1800.0), record(2, [], fate="over_budget")]
    priced = summarise(records, Budget(10**9), Session(2, 3600.0), price=2.5)
    assert (priced.slot_hours, priced.cost) == (2.0, 5.0)
    assert summarise(records, Budget(10**9), Session(2, 3600.0)).cost is None
