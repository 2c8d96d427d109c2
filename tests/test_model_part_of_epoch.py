"""How far an epoch is, and what its calls tell of how long it takes."""

import pytest

from captune.model.part_of_epoch import PartOfEpoch


def test_pace_is_that_of_the_calls_after_the_first_which_compiles() -> None:
    calls = [(100.0, 16), (102.0, 32), (104.0, 48), (106.0, 64)]
    assert PartOfEpoch.after(3, calls, 256) == PartOfEpoch(3, 0.25, 32.0)
    assert PartOfEpoch.after(1, calls[:1], 256) == PartOfEpoch(1, 0.0625, None)


def test_pace_counts_steps_and_one_call_that_compiles_again_does_not_change_it() -> None:
    assert PartOfEpoch.after(1, [(0.0, 16), (2.0, 32), (2.5, 36)], 36).seconds == pytest.approx(4.5)
    assert PartOfEpoch.after(1, [(0.0, 16), (2.0, 32), (4.0, 48), (13.0, 50)], 50).seconds == pytest.approx(6.25)


def test_epoch_goes_on_while_nothing_is_told_but_not_to_its_end() -> None:
    part = PartOfEpoch(2, 0.5, 60.0)
    assert part.seconds_left == 30.0
    assert part.later(15.0) == PartOfEpoch(2, 0.75, 60.0) and part.later(100.0).share == 0.99
    whole, unknown = PartOfEpoch(2, 1.0, 60.0), PartOfEpoch(2, 0.5)
    assert whole.later(5.0) == whole and unknown.later(5.0) == unknown and unknown.seconds_left is None
