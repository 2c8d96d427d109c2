"""What a trial costs beside its training, and whether the memory of a worker stays where it is.

    python tests/benchmarks/worker.py [TRIALS]

First TRIALS (200) trials that do nothing, through Ray, Optuna and the study, on one slot: milliseconds from one's end
to the next one's, once the worker is warm; in turns without anything, with how the search stands on the terminal, and
logged by every sink that is installed. Then as many real ones in one process, one epoch each on drawn captions, every
network another: resident memory as it goes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from captune.data_prep.demo import draw
from captune.data_prep.store import PreparedData, prepare
from captune.model.flat import replace
from captune.model.metrics import Epoch
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.run_folder import RunFolder
from captune.results.sinks.sink import PACKAGES, SINKS, SinkName
from captune.tuner.api.logs import logging_to
from captune.tuner.api.progress import search_progress
from captune.tuner.decisions.progress import Progress
from captune.tuner.space.config import SearchConfig, read_search
from captune.tuner.space.space import bind

WARM = 10  # trials until then


def settings(**changes: Any) -> SearchConfig:
    plain = read_search(None, preset="captions", default_preset="captions", overrides={"trials": 1}).model_dump()
    del plain["space"]["train.epochs"]  # one each
    return SearchConfig.model_validate({**plain, **changes})


def nothing() -> type:
    from captune.tuner.ray_tune.worker import TrialWorker

    class Nothing(TrialWorker):
        def settle(self, threads: int, backend: str, gpus: float) -> None:
            """No framework."""

        def epochs_of(self, job: Any, keeper: Any) -> Iterator[Epoch]:
            score = 1 / (1 + job.seed % 1000)
            yield Epoch(1, 0.1, score, score, score, score, 0.0, None, train_seconds=0.0, evaluate_seconds=0.0)

    return Nothing


def overhead(
    data: PreparedData, folder: Path, trials: int, show: Callable[[Progress], None], sinks: Sequence[SinkName]
) -> list[float]:
    """Milliseconds from each trial's end to the next one's."""
    import optuna

    from captune.tuner.ray_tune.search import run_search
    from captune.tuner.run.settings import create

    run = RunFolder(folder)
    config = settings(trials=trials, fixed={"train.epochs": 1}, cpus_per_trial=os.cpu_count())
    create(run, config, data)
    with logging_to(run, sinks, lambda _: None):
        run_search(run, config, data, address=None, show=show, say=lambda _: None, worker=nothing())
    finished = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(run)).get_trials(deepcopy=False)
    ends = sorted(trial.datetime_complete.timestamp() for trial in finished if trial.datetime_complete is not None)
    return [1000 * (later - sooner) for sooner, later in pairwise(ends)]


def memory(data: PreparedData, trials: int) -> list[float]:
    """MiB that this process has in memory after each trial."""
    from captune.tuner.training.job import Job
    from captune.tuner.training.runtime import settle
    from captune.tuner.training.trial import train_trial

    settle(1)
    space, random, sizes = settings().build_space(), Random(0), []
    for number in range(trials):
        config = bind(replace(space.draw(random), {"train.epochs": 1}), data.manifest)
        for _ in train_trial(Job(config, number, number), data):
            pass
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    return sizes


def main(trials: int) -> None:
    with tempfile.TemporaryDirectory(prefix="captune-bench-") as name:
        folder = Path(name)
        draw(folder / "drawn", count=400, unlabelled=1, seed=0)
        data = prepare(folder / "drawn" / "train.csv", None, folder / "data")
        installed = tuple(name for name in SINKS if find_spec(PACKAGES[name]) is not None)
        logged = f"logged by {', '.join(installed)}"
        for turn, name in enumerate(("unseen", "seen", logged) * 2):  # seen on a terminal; elsewhere there is nothing
            cpu = time.process_time()
            with search_progress() if name == "seen" else nullcontext(lambda _: None) as show:
                sinks = installed if name == logged else ()
                between = overhead(data, folder / f"run-{turn}", trials, show, sinks)[WARM:]
            cpu = 1000 * (time.process_time() - cpu) / trials
            median, worst = statistics.median(between), statistics.quantiles(between, n=20)[-1]
            print(
                f"trials that do nothing, {name}: median {median:.1f} ms, 19 of 20 within {worst:.0f} ms, "
                f"{cpu:.1f} ms of the driver's CPU each, start and end included"
            )
        started = time.perf_counter()
        resident = memory(data, trials)
        print(f"real trials in one process, {(time.perf_counter() - started) / trials:.2f} s each")
        print(f"{'trial':>6} {'MiB':>7} {'of the tenth':>13}")
        for number in sorted({1, 10, *range(25, trials + 1, 25), trials}):
            print(f"{number:6} {resident[number - 1]:7.0f} {resident[number - 1] / resident[min(9, trials - 1)]:13.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
