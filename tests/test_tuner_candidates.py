"""What trials answered on validation is kept for a refit that is begun again, and believed only as it was written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import epoch
from builders import record as a_record

from captune.data_prep.store import PreparedData
from captune.model.flat import flatten, replace
from captune.model.presets import PRESETS
from captune.results.records import Record
from captune.results.run_folder import RunFolder
from captune.tuner.space.space import bind
from captune.tuner.winner.candidates import Validation

pytestmark = pytest.mark.slow


class Trainings:
    """In the place of training: each network answers otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(Validation, "_trained", lambda validation, *_: self.answers(validation))

    def answers(self, validation: Validation) -> Any:
        self.count += 1
        return np.random.default_rng(self.count).random((len(validation.rows), 6), np.float32)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


@pytest.fixture
def validation(tmp_path: Path, captions_data: PreparedData) -> Validation:
    return Validation(RunFolder(tmp_path), captions_data, lambda _: None)


def trial(data: PreparedData, number: int = 0) -> Record:
    config = bind(replace(PRESETS["captions"], {"text.units": 8}), data.manifest)
    return a_record(number, curve=(epoch(1, 0.5),), config=flatten(config), seed=5)


def test_answers_are_computed_once_for_each_trial_and_seed(
    validation: Validation, trainings: Trainings, captions_data: PreparedData
) -> None:
    cases = [(trial(captions_data, number), turn) for number in (0, 1) for turn in (0, 1)]
    first = [validation.probabilities(*case) for case in cases]
    again = [validation.probabilities(*case) for case in cases]
    assert trainings.count == 4
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(first, again, strict=True))


def flipped(place: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return flip


def in_its_place(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.unlink()
        make(path)

    return put


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: path.write_bytes(path.read_bytes() + b"0"),
        *map(flipped, (0, 40, 60, 100, -1)),
        in_its_place(Path.mkdir),
        in_its_place(os.mkfifo),
    ],
)
def test_answers_that_are_not_as_they_were_written_are_computed_again(
    validation: Validation, trainings: Trainings, captions_data: PreparedData, damage: Callable[[Path], None]
) -> None:
    validation.probabilities(trial(captions_data))
    (kept,) = validation.run.finalists.iterdir()
    damage(kept)
    again = validation.probabilities(trial(captions_data))
    assert trainings.count == 2
    assert np.array_equal(again, np.random.default_rng(2).random(again.shape, np.float32))  # type: ignore[union-attr]


def test_answers_that_cannot_be_kept_are_given_all_the_same(
    validation: Validation, trainings: Trainings, captions_data: PreparedData
) -> None:
    validation.run.finalists.write_text("no folder")
    assert validation.probabilities(trial(captions_data)) is not None
