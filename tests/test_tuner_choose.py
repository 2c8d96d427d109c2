"""The winner and the frontier: the best scores that fit, decided the same way every time."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from math import nan
from typing import Any

import pytest
from builders import epoch
from builders import record as a_record
from hypothesis import given
from hypothesis import strategies as st

from captune.model.size import Budget
from captune.results.attributes import FATES, SCORED
from captune.results.frontier import frontier
from captune.results.records import Record
from captune.results.run_folder import RunError
from captune.tuner.winner.choose import choose, epoch_to_keep, epochs_of_refit

LIMIT = 1_000
BUDGET = Budget(LIMIT)
OF_BUNDLE = Budget(LIMIT, "bundle")


def record(
    number: int, mean_f1: float | None, weights_bytes: int = 500, fate: str = "complete", **sizes: int
) -> Record:
    return a_record(
        number, mean_f1, fate, **{"weights_bytes": weights_bytes, "bundle_bytes": weights_bytes + 300, **sizes}
    )


def trained(*scores: float, standard_error: float) -> Record:
    """A trial with these scores, one an epoch."""
    curve = tuple(epoch(number, score, standard_error=standard_error) for number, score in enumerate(scores, 1))
    return a_record(0, curve=curve)


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


@pytest.mark.parametrize(
    ("scores", "schedule", "epochs"),
    [
        ((0.80, 0.85), "cosine", 6),
        ((0.80, 0.85, 0.849), "cosine", 6),
        ((0.80, 0.85, 0.80), "cosine", 2),
        ((0.80, 0.85, nan), "cosine", 2),
        ((0.80, 0.85), "constant", 2),
        ((0.80, 0.82, 0.84, 0.85, 0.86, 0.859), "cosine", 6),
        ((0.80, 0.82, 0.84, 0.86, 0.85, 0.85), "cosine", 4),
    ],
    ids=[
        "early",
        "early, after its best",
        "past its best",
        "diverged",
        "constant rate",
        "complete",
        "complete, past best",
    ],
)
def test_trial_that_the_search_ended_early_is_refitted_to_the_end_of_its_schedule(
    scores: Sequence[float], schedule: str, epochs: int
) -> None:
    curve = tuple(epoch(number, score, standard_error=0.005) for number, score in enumerate(scores, 1))
    ended = a_record(0, curve=curve, config={"train.epochs": 6, "train.schedule": schedule})
    assert epochs_of_refit(ended, epoch_to_keep(ended)) == epochs


@pytest.mark.parametrize(
    ("records", "winner"),
    [
        ([record(0, 0.2), record(1, 0.9), record(2, 0.5)], 1),
        ([record(0, 0.5), record(1, 0.9, LIMIT + 1)], 0),
        ([record(0, 0.5), record(1, 0.9, LIMIT)], 1),
        ([record(0, 0.7, 600), record(1, 0.7, 400), record(2, 0.7, 400), record(3, 0.6, 1)], 1),
        ([record(0, 0.0)], 0),
    ],
    ids=["best score", "better over the budget", "exactly the budget", "equal: smaller, then earlier", "score of zero"],
)
def test_best_score_inside_the_budget_wins_in_any_order(records: list[Record], winner: int) -> None:
    for order in permutations(records):
        assert choose(order, BUDGET).number == winner


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


@pytest.mark.parametrize("fate", sorted({*FATES, "running", "waiting"} - {"complete", "stopped"}))
def test_only_complete_and_stopped_trials_win(fate: str) -> None:
    assert choose([record(0, 0.1, fate="stopped"), record(1, 0.9, fate=fate)], BUDGET).number == 0
    with pytest.raises(RunError):
        choose([record(1, 0.9, fate=fate)], BUDGET)


@pytest.mark.parametrize("records", [[], [record(0, None)], [record(0, 0.9, LIMIT + 1)]])
def test_none_that_qualifies_says_so_with_the_number_of_trials(records: list[Record]) -> None:
    with pytest.raises(RunError, match=rf"no trial .* \({len(records)} trials\)"):
        choose(records, BUDGET)


def test_none_with_a_score_says_why_the_first_has_none() -> None:
    failed = record(3, None, fate="failed", reason="out of memory")
    late = replace(failed, fate="lost", reason="time limit before its first epoch")
    for records, why in (
        ([record(0, None), failed], "trial 3 is failed: out of memory$"),
        ([late], "time limit before its first epoch; give `captune resume` a longer --time-limit"),
        ([], "search longer"),
    ):
        with pytest.raises(RunError, match=why):
            choose(records, BUDGET)


def test_number_asked_for_wins_over_a_better_score() -> None:
    assert choose([record(0, 0.2), record(7, 0.9)], BUDGET, number=0).number == 0


def test_unknown_number_is_refused() -> None:
    with pytest.raises(RunError, match="no trial 3"):
        choose([record(0, 0.2)], BUDGET, number=3)


@pytest.mark.parametrize(
    ("unfit", "words"),
    [
        (record(0, 0.9, 2**20), "1.00 MiB"),
        (record(0, None, fate="failed"), "fate failed"),
        (record(0, None), "mean F1 None"),
    ],
)
def test_number_asked_for_that_does_not_qualify_says_why(unfit: Record, words: Any) -> None:
    with pytest.raises(RunError, match=words) as caught:
        choose([unfit, record(1, 0.5)], BUDGET, number=0)
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
    scored = [r for r in records if r.fate in ("complete", "stopped") and r.mean_f1 is not None]
    inside = [r for r in scored if (r.weights_bytes if budget is BUDGET else r.bundle_bytes) <= LIMIT]
    expected = {r.number for r in inside if not beaten(r, inside, budget)}
    shuffled = list(records)
    order.shuffle(shuffled)
    unbeaten = frontier(shuffled, budget)
    assert {r.number for r in unbeaten} == expected
    sizes = [budget.bytes_of(r) for r in unbeaten]
    best = [r.mean_f1 for r in unbeaten]
    assert sizes == sorted(set(sizes)), "smallest first, one of each size"
    assert best == sorted(set(best), key=float), "each better than the one before"
    if inside:
        assert unbeaten[-1] == choose(records, budget), "the frontier ends with the winner"


def test_frontier_depends_on_which_bytes_count() -> None:
    records = [record(0, 0.5, 100, bundle_bytes=900), record(1, 0.7, 200, bundle_bytes=800)]
    assert [r.number for r in frontier(records, BUDGET)] == [0, 1]
    assert [r.number for r in frontier(records, OF_BUNDLE)] == [1]


def test_frontier_of_nothing_scored_is_empty() -> None:
    assert frontier([], BUDGET) == []
    assert frontier([record(0, None), record(1, 0.9, LIMIT + 1), record(2, 0.9, fate="diverged")], BUDGET) == []


def test_score_of_zero_may_stand_on_the_frontier() -> None:
    assert [r.number for r in frontier([record(0, 0.0, 100), record(1, 0.0, 200)], BUDGET)] == [0]
