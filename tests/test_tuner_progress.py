"""How far a search is, and how long it still takes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.model.part_of_epoch import PartOfEpoch
from captune.tuner.decisions.features_pace import Features, FeaturesPace
from captune.tuner.decisions.progress import Best, Progress, RunningTrial, best_of


def trial(number: int, epochs: int, done: int, share: float = 0.0, seconds: float | None = None) -> RunningTrial:
    part = PartOfEpoch(done + 1, share, seconds) if share else None
    return RunningTrial(number, epochs, (0.5,) * done, None, "training" if done else "first epoch", part)


def test_trials_that_run_count_by_the_share_of_their_epochs() -> None:
    progress = Progress(60.0, counted=3, wanted=8, running=(trial(4, 10, 5), trial(5, 4, 1)), seconds_at_work=30.0)
    assert progress.trials_done == 3.75
    assert progress.estimate == pytest.approx((8 - 3.75) * 30.0 / 3.75)


def test_part_of_an_epoch_counts_so_that_something_is_foretold_within_the_first() -> None:
    running = (trial(0, 2, 0, 0.5, 60.0), trial(1, 4, 1, 0.5))
    progress = Progress(40.0, wanted=4, running=running, seconds_at_work=30.0)
    assert progress.trials_done == 0.25 + 1.5 / 4
    assert progress.estimate == pytest.approx((4 - 0.625) * 30.0 / 0.625)


def test_first_epoch_is_foretold_by_the_trial_that_has_least_left() -> None:
    running = (trial(0, 2, 0, 0.5, 60.0), trial(1, 2, 0, 0.1, 60.0), replace(trial(3, 2, 0), phase="waiting for room"))
    assert Progress(40.0, running=running).first_epoch_left == 30.0
    assert Progress(40.0, running=running, epochs=1).first_epoch_left is None
    for unknown in (trial(2, 2, 0, 0.9), trial(3, 2, 0)):
        assert Progress(40.0, running=(*running, unknown)).first_epoch_left is None, "it may be the first"


@pytest.mark.parametrize(
    ("left", "epochs", "best", "late"),
    [
        (29.0, 0, None, True), (30.0, 0, None, False), (None, 0, None, False), (29.0, 1, None, False),
        (29.0, 0, Best(0, 0.5, 1), False),
    ],
)  # fmt: skip
def test_limit_that_comes_before_the_first_score_is_told(
    left: float | None, epochs: int, best: Best | None, late: bool
) -> None:
    running = (trial(0, 2, 0, 0.5, 60.0),)
    progress = Progress(40.0, ("the disk is full",), seconds_left=left, running=running, epochs=epochs, best=best)
    assert progress.notes[0] == "the disk is full"
    assert [text[:32] for text in progress.notes[1:]] == ["the time limit ends the search b"] * late


def test_features_are_foretold_by_those_that_came_since_they_were_looked_at_first() -> None:
    pace = FeaturesPace()
    looks = [(0.0, 100, 1000), (5.0, 100, 1000), (10.0, 300, 1000), (15.0, 300, 1000), (90.0, 300, 1000)]
    left = [pace.look(rows, total, now).seconds_left for now, rows, total in looks]
    assert left == [None, None, 35.0, 30.0, None], "after a minute without rows nobody can say"
    assert pace.look(300, 1000, 25.0).seconds_left == 25.0, "no less than without the rows that are late"
    assert pace.look(0, 24_000, 91.0) == Features(0, 24_000), "other features"
    assert str(pace.look(12_000, 24_000, 161.0)) == "features: 12,000 of 24,000 rows are computed, about 1:10 left"
    assert pace.look(6_000, 24_000, 170.0).seconds_left is None, "some were given up"


def test_limit_that_comes_before_the_features_is_told() -> None:
    features = Features(10, 1000, 60.0)
    waiting = (replace(trial(0, 2, 0), phase="features, first epoch"),)
    said = Progress(40.0, seconds_left=50.0, features=features, running=waiting).notes
    assert said[0] == str(features) and said[1].startswith("the time limit ends the search before they are, ")
    assert Progress(40.0, seconds_left=60.0, features=features).notes == (str(features),)
    others = Progress(40.0, seconds_left=50.0, features=features, running=(trial(0, 2, 0), trial(1, 2, 0)))
    assert others.notes == (str(features),), "they may be done in time"
    assert Progress(40.0, seconds_left=50.0, features=features, epochs=1).notes == (str(features),)


def test_what_an_earlier_search_did_does_not_make_this_one_faster() -> None:
    progress = Progress(10.0, counted=12, counted_before=10, wanted=14, seconds_at_work=10.0)
    assert progress.estimate == pytest.approx(10.0)
    assert Progress(10.0, counted=10, counted_before=10, wanted=14, seconds_at_work=10.0).estimate is None
    assert Progress(10.0, running=(trial(4, 10, 5),), wanted=8).estimate is None, "all of it is of before"


def test_share_is_that_of_trials_or_time_whichever_is_further() -> None:
    assert Progress(30.0, counted=1, wanted=10, seconds_left=10.0).share == 0.75
    assert Progress(10.0, counted=9, wanted=10, seconds_left=90.0).share == 0.9
    assert Progress(10.0).share is None and Progress(10.0).estimate is None


def test_time_goes_on_while_nothing_is_heard() -> None:
    later = Progress(10.0, seconds_left=2.0, seconds_at_work=5.0).later(3.0)
    assert (later.seconds, later.seconds_left, later.seconds_at_work) == (13.0, 0.0, 8.0)
    assert Progress(10.0).later(3.0).seconds_at_work == 0.0, "nothing is trained yet"


def test_best_of_equal_scores_is_the_first() -> None:
    assert best_of([None, Best(3, 0.5, 1), Best(2, 0.5, 1)]) == Best(3, 0.5, 1)
    assert best_of([None]) is None


@given(
    counted=st.integers(0, 3000), before=st.integers(0, 3000), wanted=st.none() | st.integers(1, 2000),
    seconds=st.floats(0, 1e6), left=st.none() | st.floats(0, 1e6),
    running=st.lists(
        st.builds(
            trial, st.integers(0, 99), st.integers(1, 50), st.integers(0, 60), st.floats(0, 1),
            st.none() | st.floats(0, 1e6),
        ),
        max_size=5,
    ),
)  # fmt: skip
def test_share_stays_between_0_and_1_and_no_estimate_is_below_0(
    counted: int,
    before: int,
    wanted: int | None,
    seconds: float,
    left: float | None,
    running: list[RunningTrial],
) -> None:
    progress = Progress(
        seconds, counted=max(counted, before), counted_before=before, wanted=wanted, seconds_left=left,
        running=tuple(running), seconds_at_work=seconds / 2,
    )  # fmt: skip
    assert progress.share is None or 0 <= progress.share <= 1
    assert progress.estimate is None or progress.estimate >= 0
