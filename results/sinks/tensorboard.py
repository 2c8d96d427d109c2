"""TensorBoard: a folder of event files for each trial, with its row in the table of hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from captune.results.records import Record
from captune.results.sinks.sink import Point, outcome_of, settings_of, words_of

_OURS = ".captune"  # with which the names of our files end
_FLUSH_SECONDS = 5


class TensorBoard:
    """Writes below `folder`; what it wrote there of a trial before is written anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[int, Any] = {}  # of trials that go on

    def report(self, record: Record, points: Sequence[Point]) -> None:
        writer = self._writers.get(record.number) or self._begin(record.number)
        for point in points:
            for name, value in point.values.items():
                writer.add_scalar(name, value, point.epoch, walltime=point.second)

    def end(self, record: Record) -> None:
        writer = self._writers.pop(record.number)
        outcome = outcome_of(record)
        for name, value in outcome.items():
            writer.add_scalar(name, value, record.epochs)
        # In the trial's own files: `SummaryWriter.add_hparams` would make it a second row, of another name.
        settings = settings_of(record) | {"fate": words_of(record)["fate"]}
        for summary in hparams(settings, outcome):
            writer.file_writer.add_summary(summary)
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _begin(self, number: int) -> Any:
        folder = self._folder / f"trial-{number:04}"
        for earlier in folder.glob(f"events.out.tfevents.*{_OURS}"):
            earlier.unlink()
        self._writers[number] = SummaryWriter(str(folder), filename_suffix=_OURS, flush_secs=_FLUSH_SECONDS)
        return self._writers[number]
