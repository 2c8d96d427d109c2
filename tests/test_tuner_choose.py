"""The winner and the frontier: the best scores that fit, decided the same way every time."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.model.metrics import Epoch
from captune.model.size import Budget
from captune.results.attributes import FATES, SCORED
from captune.results.frontier import frontier
from captune.results.records import Record
from captune.results.run_folder import RunError
from captune.tuner.winner.choose import choose, epoch_to_keep

LIMIT = 1_000
BUDGET = Budget(LIMIT)
OF_BUNDLE = Budget(LIMIT, "bundle")


def record(
    number: int,
    mean_f1: float | None,
    weights_bytes: int = 500,
    fate: str = "complete",
    *,
    bundle_bytes: int | None = None,
) -> Record:
    return Record(
        number=number,
        fate=fate,
        mean_f1=mean_f1,
        best_epoch=None if mean_f1 is None else 1,
        epochs=1,
        weights_bytes=weights_bytes,
        bundle_bytes=weights_bytes + 300 if bundle_bytes is None else bundle_bytes,
        margin_bytes=LIMIT - weights_bytes,
        seconds=1.0,
        node="n",
        reason=None,
        seed=0,
        threads=1,
        origin=number,
        config={},
        curve=(),
        order={},
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
    assert choose([record(0, 0.5), record(1, 0.9, LIMIT + 1)], BUDGET).number == 0


def test_trial_of_exactly_the_budget_wins() -> None:
    assert choose([record(0, 0.5), record(1, 0.9, LIMIT)], BUDGET).number == 1


def test_under_a_budget_of_the_bundle_the_bundle_counts() -> None:
    records = [record(0, 0.5, 900, bundle_bytes=LIMIT), record(1, 0.9, 400, bundle_bytes=LIMIT + 1)]
    assert choose(records, BUDGET).number == 1
    assert choose(records, OF_BUNDLE).number == 0
    with pytest.raises(RunError, match=r"trial 1 cannot win.* of bundle"):
        choose(records, OF_BUNDLE, number=1)
    with pytest.raises(RunError, match=r"within .* of bundle \(1 trials\)"):
        choose(records[1:], OF_BUNDLE)


def test_of_equal_scores_the_smaller_by_what_counts_wins() -> None:
    records = [record(0, 0.7, 400, bundle_bytes=800), record(1, 0.7, 500, bundle_bytes=700)]
    assert choose(records, BUDGET).number == 0
    assert choose(records, OF_BUNDLE).number == 1


def test_of_equal_scores_the_smaller_wins_then_the_earlier() -> None:
    for records in permutations([record(0, 0.7, 600), record(1, 0.7, 400), record(2, 0.7, 400), record(3, 0.6, 1)]):
        assert choose(records, BUDGET).number == 1


@pytest.mark.parametrize("fate", sorted({*FATES, "running", "waiting"} - {"complete", "stopped"}))
def test_only_complete_and_stopped_trials_win(fate: str) -> None:
    assert choose([record(0, 0.1, fate="stopped"), record(1, 0.9, fate=fate)], BUDGET).number == 0
    with pytest.raises(RunError):
        choose([record(1, 0.9, fate=fate)], BUDGET)


@pytest.mark.parametrize("unfit", [record(0, None), record(0, 0.9, LIMIT + 1)])
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
        (record(0, None), "mean F1 None"),
    ],
)
def test_chosen_number_that_does_not_qualify_says_why(chosen: Record, words: Any) -> None:
    with pytest.raises(RunError, match=words) as caught:
        choose([chosen, record(1, 0.5)], BUDGET, number=0)
    assert "trial 0 cannot win" in str(caught.value)


def beaten(one: Record, others: Sequence[Record], budget: Budget) -> bool:
    """Whether another is no larger and no worse, and better in one of them or, alike in both, the earlier."""

    def rank(r: Record) -> tuple[int, float]:
        assert r.mean_f1 is not None
        return budget.bytes_of(r), -r.mean_f1

    return any(
        all(a <= b for a, b in zip(rank(r), rank(one), strict=True)) and (rank(r) != rank(one) or r.number < one.number)
        for r in others
        if r is not one
    )


few = st.integers(1, 12).map(lambda hundreds: 100 * hundreds)  # few values, so that ties and the limit itself occur
scores = st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
rows = st.tuples(scores, few, few, st.sampled_from([*SCORED, *SCORED, "over_budget", "lost", "running", "failed"]))


@given(st.lists(rows, max_size=14), st.sampled_from([BUDGET, OF_BUNDLE]), st.randoms(use_true_random=False))
def test_frontier_is_what_no_other_scored_trial_inside_the_budget_beats(drawn: Any, budget: Budget, order: Any) -> None:
    records = [
        record(number, mean_f1, weights, fate, bundle_bytes=bundle)
        for number, (mean_f1, weights, bundle, fate) in enumerate(drawn)
    ]
    inside = [
        r
        for r in records
        if r.fate in ("complete", "stopped")
        and r.mean_f1 is not None
        and (r.weights_bytes if budget is BUDGET else r.bundle_bytes) <= LIMIT
    ]
    expected = {r.number for r in inside if not beaten(r, inside, budget)}
    shuffled = list(records)
    order.shuffle(shuffled)
    found = frontier(shuffled, budget)
    assert {r.number for r in found} == expected
    sizes = [budget.bytes_of(r) for r in found]
    best = [r.mean_f1 for r in found]
    assert sizes == sorted(set(sizes)), "smallest first, one of each size"
    assert best == sorted(set(best), key=float), "each better than the one before"
    if inside:
        assert found[-1] == choose(records, budget), "the frontier ends with the winner"


def test_frontier_depends_on_which_bytes_count() -> None:
    records = [record(0, 0.5, 100, bundle_bytes=900), record(1, 0.7, 200, bundle_bytes=800)]
    assert [r.number for r in frontier(records, BUDGET)] == [0, 1]
    assert [r.number for r in frontier(records, OF_BUNDLE)] == [1]


def test_frontier_of_nothing_scored_is_empty() -> None:
    assert frontier([], BUDGET) == []
    assert frontier([record(0, None), record(1, 0.9, LIMIT + 1), record(2, 0.9, fate="diverged")], BUDGET) == []


def test_score_of_zero_may_stand_on_the_frontier() -> None:
    assert [r.number for r in frontier([record(0, 0.0, 100), record(1, 0.0, 200)], BUDGET)] == [0]
