"""The winner: the best score that fits, decided the same way every time."""

from dataclasses import replace
from itertools import permutations
from math import nan
from typing import Any

import pytest

from model.metrics import Epoch
from results.study import FATES, Record, RunError
from results.winner import choose, epoch_to_keep

BUDGET = 1_000


def record(number: int, mean_f1: float | None, weights_bytes: int | None = 500, fate: str = "complete") -> Record:
    return Record(
        number=number,
        fate=fate,
        mean_f1=mean_f1,
        best_epoch=None if mean_f1 is None else 1,
        epochs=1,
        weights_bytes=weights_bytes,
        seconds=1.0,
        node="n",
        reason=None,
        seed=0,
        config={},
        curve=(),
    )


def trained(*scores: float, standard_error: float) -> Record:
    """A trial with these scores, one an epoch."""
    curve = tuple(Epoch(n, 0.1, f1, 0, 0, 0, 0.5, 1, 1, standard_error) for n, f1 in enumerate(scores, 1))
    best = max((e for e in curve if e.mean_f1 == e.mean_f1), key=lambda e: e.mean_f1, default=None)
    values = {"mean_f1": best.mean_f1 if best else None, "best_epoch": best.epoch if best else None}
    return replace(record(0, None), **values, curve=curve, epochs=len(curve))


def test_last_epoch_within_a_standard_error_of_the_best_is_kept() -> None:
    assert epoch_to_keep(trained(0.70, 0.86, 0.85, 0.856, 0.84, standard_error=0.005)).epoch == 4


def test_trial_that_got_clearly_worse_is_kept_at_its_best() -> None:
    assert epoch_to_keep(trained(0.5, 0.9, 0.6, nan, standard_error=0.01)).epoch == 2


@pytest.mark.parametrize("unknown", [0.0, nan])
def test_without_a_standard_error_the_best_epoch_is_kept(unknown: float) -> None:
    assert epoch_to_keep(trained(0.5, 0.9, 0.89, standard_error=unknown)).epoch == 2


def test_trial_without_a_scored_epoch_has_none_to_keep() -> None:
    with pytest.raises(RunError, match="no scored epoch"):
        epoch_to_keep(trained(nan, standard_error=0.01))


def test_best_score_wins_in_any_order() -> None:
    for records in permutations([record(0, 0.2), record(1, 0.9), record(2, 0.5)]):
        assert choose(records, BUDGET).number == 1


def test_better_trial_over_the_budget_does_not_win() -> None:
    assert choose([record(0, 0.5), record(1, 0.9, BUDGET + 1)], BUDGET).number == 0


def test_trial_of_exactly_the_budget_wins() -> None:
    assert choose([record(0, 0.5), record(1, 0.9, BUDGET)], BUDGET).number == 1


def test_of_equal_scores_the_smaller_wins_then_the_earlier() -> None:
    for records in permutations([record(0, 0.7, 600), record(1, 0.7, 400), record(2, 0.7, 400), record(3, 0.6, 1)]):
        assert choose(records, BUDGET).number == 1


@pytest.mark.parametrize("fate", sorted({*FATES, "running", "waiting"} - {"complete", "stopped"}))
def test_only_complete_and_stopped_trials_win(fate: str) -> None:
    assert choose([record(0, 0.1, fate="stopped"), record(1, 0.9, fate=fate)], BUDGET).number == 0
    with pytest.raises(RunError):
        choose([record(1, 0.9, fate=fate)], BUDGET)


@pytest.mark.parametrize("unfit", [record(0, None), record(0, 0.9, None), record(0, 0.9, BUDGET + 1)])
def test_none_that_qualifies_says_so_with_the_number_of_trials(unfit: Record) -> None:
    with pytest.raises(RunError, match=r"no trial .* \(1 trials\)"):
        choose([unfit], BUDGET)


def test_empty_run_has_no_winner() -> None:
    with pytest.raises(RunError, match=r"\(0 trials\)"):
        choose([], BUDGET)


def test_score_of_zero_may_win() -> None:
    assert choose([record(0, 0.0)], BUDGET).number == 0


def test_chosen_number_wins_over_a_better_score() -> None:
    assert choose([record(0, 0.2), record(7, 0.9)], BUDGET, number=0).number == 0


def test_unknown_number_is_refused() -> None:
    with pytest.raises(RunError, match="no trial 3"):
        choose([record(0, 0.2)], BUDGET, number=3)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (record(0, 0.9, 2**20), "1.00 MiB"),
        (record(0, None, fate="failed"), "fate failed"),
        (record(0, None, None), "mean F1 None"),
    ],
)
def test_chosen_number_that_does_not_qualify_says_why(chosen: Record, words: Any) -> None:
    with pytest.raises(RunError, match=words) as caught:
        choose([chosen, record(1, 0.5)], BUDGET, number=0)
    assert "trial 0 cannot win" in str(caught.value)
