"""What a whole search came to."""

import dataclasses
import json
from typing import Any

import pytest

from captune.model.metrics import Epoch
from captune.model.size import Budget
from captune.results.records import Record
from captune.results.summary import halving_saved, summarise, trained_share


def record(number: int, scores: list[float], **changes: Any) -> Record:
    """Two seconds of training and one of evaluation an epoch; the first of the trial has four of other kinds."""
    curve = tuple(
        Epoch(
            epoch, 0.1, score, score, score, score, 0.5, train_seconds=2.0, evaluate_seconds=1.0,
            data_seconds=1.0 if epoch == 1 else 0.0, compile_seconds=3.0 if epoch == 1 else 0.0,
        )
        for epoch, score in enumerate(scores, 1)
    )  # fmt: skip
    plain = Record(
        number=number, fate="complete", mean_f1=max(scores, default=None), best_epoch=1, epochs=len(curve),
        weights_bytes=100 + number, bundle_bytes=200, margin_bytes=0, seconds=10.0, node=None, reason=None, seed=1,
        threads=1, origin=number, config={"train.epochs": 9}, curve=curve, order={},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def test_what_halving_saved_is_what_stopped_trials_did_not_train_at_their_own_rate() -> None:
    scores = [0.1, 0.2, 0.3]
    records = [
        record(0, scores, fate="stopped", reason="halving at epoch 3"),
        record(1, scores, fate="stopped", reason="time limit"),
        record(2, scores),
    ]
    assert halving_saved(records) == (6, 18.0)
    assert halving_saved([]) == (0, 0.0)


def test_share_is_of_the_time_that_trials_held_their_slot() -> None:
    assert trained_share([record(0, [0.5, 0.6])]) == 0.6
    assert trained_share([record(0, [0.5, 0.6]), record(1, [0.5], seconds=5.0)]) == 0.6
    # One that goes on has the curve of the attempt before, whose time is that one's.
    assert trained_share([record(0, [0.5], fate="lost"), record(1, [0.5, 0.6], origin=0)]) == 0.3
    assert trained_share([record(0, [], seconds=None)]) is None


def test_summary_counts_an_epoch_once_and_is_json() -> None:
    records = [record(0, [0.5], fate="lost"), record(1, [0.5, 0.7], origin=0), record(2, [], fate="over_budget")]
    found = summarise(records, Budget(1000), 2, 12.3456, interrupted=True)
    assert json.loads(json.dumps(found)) == found
    assert found["trials"] == {"lost": 1, "complete": 1, "over_budget": 1}
    assert (found["epochs"], found["slots"], found["wall_seconds"], found["interrupted"]) == (2, 2, 12.346, True)
    assert found["busy_seconds"] == {
        "start": 0.0, "data": 1.0, "compile": 3.0, "train": 4.0, "evaluate": 2.0, "checkpoint": 0.0
    }  # fmt: skip
    assert found["best"] == {"number": 1, "mean_f1": 0.7}
    assert found["frontier"] == [{"number": 1, "mean_f1": 0.7, "weights_bytes": 101}]


def test_summary_of_nothing_has_no_best() -> None:
    found = summarise([], Budget(), 1, 0.0, interrupted=False)
    assert (found["best"], found["frontier"], found["trained_share"]) == (None, [], {"all": None, "warm": None})


def test_warm_share_leaves_the_first_trial_of_each_worker_out() -> None:
    first = record(0, [0.5, 0.6])
    started = dataclasses.replace(first.curve[0], start_seconds=4.0)
    first = dataclasses.replace(first, curve=(started, *first.curve[1:]), seconds=20.0)
    found = summarise([first, record(1, [0.5, 0.6])], Budget(), 1, 30.0, interrupted=False)
    assert found["trained_share"] == {"all": 0.4, "warm": 0.6}
    assert found["busy_seconds"]["start"] == pytest.approx(4.0)
