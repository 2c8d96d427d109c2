"""The line that says how a search stands."""

from types import SimpleNamespace
from typing import Any

import pytest

from captune.tuner.api.progress import in_words


@pytest.mark.parametrize(
    ("running", "starting", "words"),
    [(3, 1, "; 3 of 4 slots, 1 starting"), (4, 0, "; 4 of 4 slots"), (0, 2, "; 0 of 4 slots, 2 starting")],
)
def test_slots_that_start_are_told_as_starting(running: int, starting: int, words: str) -> None:
    progress: Any = SimpleNamespace(
        fates={}, running=running, starting=starting, best=None, slots=4, wanted=None, seconds_left=None, trouble=None
    )
    assert in_words(progress).endswith(words)
