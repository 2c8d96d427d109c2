"""The best trials trained again with other seeds: who runs, for how long, and what is left of a race that was cut."""

import math
from typing import Any

import numpy as np
import pytest
from builders import epoch
from builders import record as a_record

from captune.model.config import TITLES, Metric
from captune.model.metrics import score, standard_error
from captune.model.rule import cross_fitted
from captune.model.size import Budget
from captune.results.records import Record
from captune.tuner.winner import confirm as module
from captune.tuner.winner.confirm import confirm, finalists, searched_seconds
from captune.tuner.winner.proof import Confirmation, FinalistScores, HeldOutScores

BUDGET = Budget(1_000)
ROWS, LABELS = 400, 4


def trial(number: int, value: float, weights_bytes: int = 500, **changes: Any) -> Record:
    metric = changes.pop("metric", "mean_f1")
    curve = (epoch(1, standard_error=0.01, metric=metric, **{metric: value}),)
    return a_record(number, curve=curve, weights_bytes=weights_bytes, **changes)


class Rows:
    """Validation rows on which each trial is right about a share of labels; a network takes a second of the clock."""

    def __init__(self, shares: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.truth = np.random.default_rng(0).random((ROWS, LABELS)) < 0.4
        self.shares, self.clock = shares, 0.0
        self.trained: list[tuple[int, int]] = []
        self.said: list[str] = []
        self.say = self.said.append
        monkeypatch.setattr(module.time, "monotonic", lambda: self.clock)

    def probabilities(self, record: Record, turn: int = 0) -> Any:
        self.clock += 1
        self.trained.append((record.number, turn))
        share = self.shares[record.number]
        if math.isnan(share):
            return None
        right = np.random.default_rng((round(100 * share), turn)).random(self.truth.shape) < share
        return np.where(right == self.truth, 0.9, 0.1)


def test_finalists_are_the_best_few_within_a_standard_error_that_can_be_trained_again() -> None:
    records = [trial(number, 0.9 - number / 1000) for number in range(8)]
    able = [record.number for record in finalists(records, BUDGET)]
    assert able == [0, 1, 2, 3, 4]
    unfit = [trial(10, 0.99, 1_001), trial(11, 0.99, fate="failed"), trial(12, 0.99, seed=None)]
    assert [record.number for record in finalists([*unfit, trial(1, 0.9), trial(2, 0.88)], BUDGET)] == [1]
    assert finalists([], BUDGET) == []


def test_race_ends_when_one_is_the_best_and_seeds_are_not_those_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows({0: 0.7, 1: 0.9}, monkeypatch)
    done = confirm([trial(0, 0.8), trial(1, 0.799)], rows, BUDGET, 1000)  # type: ignore[arg-type]
    assert done is not None and done.record.number == 1
    assert (done.confirmation.how, len(rows.trained)) == ("best", 4)
    assert {turn for _, turn in rows.trained} == {1, 2}
    assert "trial 1 is the best with probability 1.00; expected" in rows.said[-1]
    assert [finalist.trial for finalist in done.confirmation.finalists] == [0, 1]


def test_equal_ones_run_to_the_last_seed_and_the_smallest_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows({0: 0.8, 1: 0.8}, monkeypatch)
    done = confirm([trial(0, 0.8, 900), trial(1, 0.799, 100)], rows, BUDGET, 1000)  # type: ignore[arg-type]
    assert done is not None and len(rows.trained) == 10
    assert done.confirmation.how == "smallest" and done.record.number == 1


@pytest.mark.parametrize(("seconds", "trained"), [(0.5, 1), (2, 2), (3.5, 3)])
def test_no_network_is_begun_for_which_there_is_no_time(
    monkeypatch: pytest.MonkeyPatch, seconds: float, trained: int
) -> None:
    rows = Rows({0: 0.8, 1: 0.8}, monkeypatch)
    done = confirm([trial(0, 0.8), trial(1, 0.799)], rows, BUDGET, seconds)  # type: ignore[arg-type]
    assert len(rows.trained) == trained and done is not None


def test_trial_that_comes_to_no_number_is_out_and_none_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows({0: math.nan, 1: 0.9}, monkeypatch)
    done = confirm([trial(0, 0.8), trial(1, 0.799)], rows, BUDGET, 1000)  # type: ignore[arg-type]
    assert done is not None and done.record.number == 1
    assert [finalist.trial for finalist in done.confirmation.finalists] == [1]
    rows = Rows({0: math.nan}, monkeypatch)
    assert confirm([trial(0, 0.8)], rows, BUDGET, 1000) is None  # type: ignore[arg-type]
    assert "nothing is confirmed" in rows.said[-1]


def test_a_fifth_of_the_search_is_of_its_wall_time() -> None:
    records = [trial(0, 0.8, began=1000.0, seconds=50.0), trial(1, 0.8, began=1010.0, seconds=90.0), trial(2, 0.8)]
    assert searched_seconds(records) == 100.0
    assert searched_seconds([trial(0, 0.8)]) == 0.0


@pytest.mark.parametrize("metric", ["micro_f1", "macro_f1", "map"])
def test_race_is_by_the_metric_of_the_search(monkeypatch: pytest.MonkeyPatch, metric: Metric) -> None:
    rows = Rows({0: 0.7, 1: 0.9}, monkeypatch)
    of_another = trial(2, 0.99, metric=metric, mean_f1=0.1)
    records = [trial(0, 0.8, metric=metric), trial(1, 0.799, metric=metric)]
    assert [record.number for record in finalists([*records, of_another], BUDGET)] == [2]
    done = confirm(records, rows, BUDGET, 1000)  # type: ignore[arg-type]
    assert done is not None and done.record.number == 1
    assert done.confirmation.metric == metric and TITLES[metric] in rows.said[-1]
    answers = cross_fitted(rows.truth, rows.probabilities(records[1], 1), metric=metric)
    scored = getattr(score(rows.truth, answers), metric)
    assert done.confirmation.finalists[1].seeds[0] == pytest.approx(scored, abs=0.002)
    error = standard_error(metric, rows.truth, answers)
    assert 0.5 * error < done.confirmation.standard_error < 2 * error
    test = HeldOutScores(
        **dict.fromkeys(("mean_f1", "micro_f1", "macro_f1", "map", "ece"), 0.1) | {metric: done.confirmation.expected},
        per_label={}, examples=100, low=0.0, high=0.2, standard_error=error,
    )  # fmt: skip
    assert done.confirmation.distance(test) == 0


def test_score_that_was_expected_is_held_against_test() -> None:
    expected = Confirmation(
        finalists=(FinalistScores(trial=3, seeds=(0.86, 0.87)), FinalistScores(trial=1, seeds=(0.85,))),
        how="best", probability=0.95, expected=0.865, standard_error=0.003,
    )  # fmt: skip
    scores = dict.fromkeys(("mean_f1", "micro_f1", "macro_f1", "map", "ece"), 0.87)
    test = HeldOutScores(**scores, per_label={}, examples=100, low=0.87 - 1.96 * 0.004, high=0.87 + 1.96 * 0.004)
    assert expected.distance(test) == pytest.approx(1.0)
    assert "mean F1 0.8650 was expected before test was read; test is +1.0 standard errors" in expected.check(test)
    assert "trials 3, 1 it is the best with probability 0.95" in str(expected)
    alone = expected.model_copy(update={"finalists": expected.finalists[:1]})
    assert str(alone) == "Trial 3, the only finalist, was trained again with other seeds"
