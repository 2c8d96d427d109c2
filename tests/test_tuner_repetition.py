"""A search decided again in the order of its record comes to the same, and tells what does not. No Ray, no network."""

import hashlib
import math
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from builders import SMALL, epoch, feasible

from captune.cluster.nodes.resources import Room
from captune.model.metrics import Epoch
from captune.results.history import Admitted, Began, Ended, Enqueued, Reported, history_of
from captune.results.journal import STUDY_NAME, changed_line, logs, open_storage
from captune.results.records import load_records
from captune.results.run_folder import RunFolder
from captune.tuner.decisions.director import Director
from captune.tuner.decisions.opening import open_search
from captune.tuner.decisions.repetition import repeat
from captune.tuner.decisions.steering import enqueue
from captune.tuner.decisions.trial_events import Assignment, Completed, Report, Worker, WorkerDied
from captune.tuner.space.config import HalvingConfig, SearchConfig

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

HERE = Worker("here", "0a1b")
EPOCHS = 4
DIMENSIONS = {
    "text.embedding": {"low": 8, "high": 64, "step": 8},
    "train.learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
}
FEASIBLE = feasible(DIMENSIONS, fixed={"train.epochs": EPOCHS})
CONFIG = SearchConfig(
    preset="compact",
    modality="both",
    trials=14,
    fixed={**SMALL, "train.epochs": EPOCHS},
    space=DIMENSIONS,
    halving=HalvingConfig(grace=1, reduction=2),
    first=[{"text.embedding": 40}],
)
Trained = dict[tuple[int, int], Epoch]


def begin(study: optuna.Study, config: SearchConfig = CONFIG) -> Director:
    return open_search(study, FEASIBLE, config, lambda _: None, threads=1, gpus=0.0, room=Room(slots=99, nodes=1))


def study_of(run: RunFolder) -> optuna.Study:
    """As each process that searches opens it."""
    return optuna.create_study(
        study_name=STUDY_NAME, storage=open_storage(run, wait=pytest.fail), direction="maximize", load_if_exists=True
    )


def trained(origin: int, number: int) -> Epoch:
    """What a trial reports, whichever attempt at it: one in four diverges at once."""
    chance = int(hashlib.sha256(f"{origin} {number}".encode()).hexdigest()[:8], 16) / 16**8
    if origin % 4 == 3:
        return epoch(number, math.nan, loss=math.nan)
    return epoch(number, 0.3 + 0.1 * chance + 0.1 * number)


class Workers:
    """Two slots whose trials report, end and die in a drawn order."""

    def __init__(self, random: Random) -> None:
        self.random, self.keys, self.trained = random, 0, Trained()

    def work(self, director: Director, steps: int) -> None:
        for _ in range(steps):
            while len(director.running) < 2:
                self.keys += 1
                if not isinstance(director.next(str(self.keys), now=0.0, free_bytes=2**40), Assignment):
                    break
            if not director.running:
                return
            key = self.random.choice(sorted(director.running))
            attempt = director.running[key]
            if self.random.random() < 0.06:
                director.end(key, WorkerDied("its worker died"), now=0.0)
                continue
            report = trained(attempt.origin, 1 if attempt.last is None else attempt.last.epoch + 1)
            self.trained[attempt.origin, report.epoch] = report
            goes_on = director.report(key, Report(HERE, report))
            if not goes_on or report.epoch == EPOCHS:
                director.end(key, Completed(), now=0.0)


def searched(folder: Path, seed: int) -> tuple[RunFolder, Trained]:
    """A search, stopped by hand in places, interrupted, and gone on with."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.settings.write_text("{}")
    workers = Workers(Random(seed))
    director = begin(study_of(run))
    workers.work(director, 12)
    enqueue(director.study, [{"text.embedding": 8, "train.learning_rate": 0.0033}], "0001-request.json")
    workers.work(director, 9)
    assert director.pin(next(iter(director.running.values())).trial.number)
    for key, attempt in list(director.running.items())[:1]:
        director.drop(attempt.trial.number)
        director.end(key, WorkerDied("killed"), now=0.0)
    workers.work(director, 4)
    director.close("interrupted", resumable=True)
    workers.work(begin(study_of(run)), 1000)
    return run, workers.trained


def differences(run: RunFolder, epochs: Trained, config: SearchConfig = CONFIG) -> list[str]:
    study = optuna.create_study(direction="maximize")
    endless = config.model_copy(update={"trials": None})
    begins: Callable[[], Director] = lambda: begin(study, endless)  # noqa: E731
    return list(map(str, repeat(history_of(logs(run)), load_records(run), epochs, study, begins, config.limit)))


@pytest.mark.parametrize("seed", range(3))
def test_search_of_two_slots_is_decided_again_to_the_last_bit(tmp_path: Path, seed: int) -> None:
    run, epochs = searched(tmp_path, seed)
    fates = {record.fate for record in load_records(run)}
    assert {"complete", "stopped", "diverged", "lost"} <= fates
    assert differences(run, epochs) == []


def test_history_is_every_event_in_its_order(tmp_path: Path) -> None:
    run, _ = searched(tmp_path, 0)
    events, records = history_of(logs(run)), load_records(run)
    assert events[:4] == [
        Began(),
        Enqueued("first:1", {"text.embedding": 40, "train.learning_rate": 0.006}),
        Admitted(0),
        Admitted(1),
    ]
    assert sum(isinstance(event, Began) for event in events) == 2
    assert {event.trial for event in events if isinstance(event, Ended)} == {
        r.number for r in records if r.seed is not None
    }
    own = {(record.number, order) for record in records for order in record.order.values()}
    assert sum(isinstance(event, Reported) for event in events) == len({order for _, order in own})


@pytest.mark.parametrize("name", ["loss", "mean_f1", "map"])
def test_score_that_differs_by_the_last_bit_is_told_with_its_trial_and_epoch(tmp_path: Path, name: str) -> None:
    run, epochs = searched(tmp_path, 0)
    place = max(place for place in epochs if place[1] == EPOCHS)
    old: float = getattr(epochs[place], name)
    changes: dict[str, Any] = {name: math.nextafter(old, 1)}
    epochs[place] = replace(epochs[place], **changes)
    (told,) = differences(run, epochs)
    assert told.endswith(f"epoch {EPOCHS}: {name} was {old!r}, and is {math.nextafter(old, 1)!r}")


def test_other_proposal_ends_the_repetition_and_is_told(tmp_path: Path) -> None:
    run, epochs = searched(tmp_path, 0)
    told = differences(run, epochs, CONFIG.model_copy(update={"seed": 1}))
    assert "was proposed as" in told[-1] or "its seed was" in told[-1]
    assert all(line.startswith("trial 0") for line in told)


def test_other_stop_and_other_winner_are_told(tmp_path: Path) -> None:
    run, epochs = searched(tmp_path, 0)
    told = differences(run, epochs, CONFIG.model_copy(update={"halving": HalvingConfig(grace=4, reduction=2)}))
    assert any("it was stopped, and is" in line for line in told)


def test_record_that_was_changed_or_lacks_a_line_is_told_by_its_line(tmp_path: Path) -> None:
    run, _ = searched(tmp_path, 0)
    assert changed_line(run) is None
    lines = run.journal.read_bytes().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if b'"epoch:1"' in line)
    text, _, _ = lines[place].replace(b'"mean_f1":0.', b'"mean_f1":0.9').rpartition(b',"crc32":')
    forged = b'%b,"crc32":%d}\n' % (text, zlib.crc32(text + b"}"))
    for changed in ([*lines[:place], forged, *lines[place + 1 :]], [*lines[:place], *lines[place + 1 :]]):
        run.journal.write_bytes(b"".join(changed))
        load_records(run)
        assert changed_line(run) == (place + 2 if len(changed) == len(lines) else place + 1)
    run.journal.write_bytes(b"".join(lines) + b'{"op_code":')
    begin(study_of(run))  # which removes the half of a line
    assert changed_line(run) is None
