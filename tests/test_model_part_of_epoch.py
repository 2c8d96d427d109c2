"""How far an epoch is, and what its calls tell of how long it takes."""

import pytest

from captune.model.part_of_epoch import PartOfEpoch


def test_pace_is_that_of_the_calls_after_the_first_which_compiles() -> None:
    assert PartOfEpoch.after(3, 0.25, [100.0, 102.0, 104.0, 106.0]) == PartOfEpoch(3, 0.25, pytest.approx(32.0))
    assert PartOfEpoch.after(1, 0.125, [100.0]) == PartOfEpoch(1, 0.125, None)
