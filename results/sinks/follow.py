"""Writes the trials of a run into a sink: those that there are, and on while a search goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from captune.errors import one_line
from captune.results.attributes import FATES
from captune.results.journal import study_reader
from captune.results.records import left_behind, record_of
from captune.results.run_folder import RunError, RunFolder
from captune.results.sinks.sink import Sink, SinkError, points_of


def follow(run: RunFolder, sink: Sink, over: Callable[[], bool]) -> int:
    """Tells a sink of each trial that was given a worker, each report and each end once; how many trials these are.

    Args:
        over: asked before each look at the study; after a True there is one more look, and that is the last.

    Raises:
        SinkError: the sink failed, in one line.
        RunError: the study cannot be read.
    """
    read = study_reader(run)
    told: Counter[int] = Counter()  # epochs by trial
    trials: set[int] = set()
    ended: set[int] = set()
    try:
        while True:
            last, is_written = over(), run.is_written
            for trial in read():
                if trial.number in ended:
                    continue
                record = record_of(trial)
                if record is None or record.fate == "over_budget":
                    if trial.state.is_finished():
                        ended.add(trial.number)
                    continue
                if not is_written:
                    record = left_behind(record)
                points = points_of(record)[told[record.number] :]
                if points or record.fate in FATES:
                    trials.add(record.number)
                    sink.report(record, points)
                    told[record.number] += len(points)
                if record.fate in FATES:
                    sink.end(record)
                    ended.add(record.number)
            if last:
                sink.close()
                return len(trials)
    except RunError:
        raise
    except Exception as error:  # of a library that is not ours: nothing of it may end a search
        raise SinkError(one_line(error) or type(error).__name__) from error
