"""What many trials cost: whether the driver's memory and its time per trial stay flat, and how they compare.

    python tests/benchmarks/scale.py [TRIALS [SEARCHES]]

Trials do nothing, as many at once as there are cores, drawn from the space of preset captions. First one search of
TRIALS (10,000) trials, then the same number by Ray Tune alone as its tutorials have it: OptunaSearch over the same
dimensions, ASHA, workers that live on. Then SEARCHES (10) searches of a tenth of TRIALS each, one after another in one
process. Each in a process of its own; memory is what the driver has for itself, resident without shared. A search
counts from its first result; `all` is from the call to its return, the start of Ray included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import worker

from captune.tuner.space.config import SearchConfig

PARTS = 10  # of a search, each a line
Mark = tuple[int, float, float]  # results so far, seconds since the call, MiB of the driver


class Clock:
    """Notes how a search stands whenever another part of it is done."""

    def __init__(self, trials: int) -> None:
        self._part = max(1, trials // PARTS)
        self._called = time.perf_counter()
        self._marks: list[Mark] = []

    def note(self, results: int) -> None:
        """To be told after each result how many there were."""
        if results and (not self._marks or results >= (self._marks[-1][0] // self._part + 1) * self._part):
            self._mark(results)

    def done(self, results: int) -> list[Mark]:
        """All marks, the last one when the call has returned."""
        self._mark(results)
        return self._marks

    def _mark(self, results: int) -> None:
        from captune.tuner.ray_tune.worker import private_bytes

        self._marks.append((results, time.perf_counter() - self._called, private_bytes() / 2**20))


def settings(trials: int) -> SearchConfig:
    one_epoch = {"text.max_tokens": 16, "train.epochs": 1}
    return worker.settings(trials=trials, modality="caption", fixed=one_epoch, cpus_per_trial=1)


def with_captune(data: str, folder: Path, trials: int) -> list[Mark]:
    from captune.data_prep.store import PreparedData
    from captune.results.run_folder import RunFolder
    from captune.tuner.ray_tune.search import run_search
    from captune.tuner.run.settings import create

    run, config, prepared, clock = RunFolder(folder), settings(trials), PreparedData.open(data), Clock(trials)
    create(run, config, prepared)
    summary = run_search(
        run, config, prepared, address=None, worker=worker.nothing(), say=lambda _: None,
        show=lambda progress: clock.note(progress.fates.get("complete", 0)),
    )  # fmt: skip
    return clock.done(summary.trials["complete"])


def domains() -> dict[str, Any]:
    """The dimensions of the space as Ray Tune has them, all of them open."""
    from ray import tune

    from captune.tuner.space.dimensions import Choice

    domains = {}
    for name, dimension in settings(1).build_space().dimensions.items():
        if isinstance(dimension, Choice):
            domains[name] = tune.choice(list(dimension.options))
        elif dimension.whole and dimension.step:
            domains[name] = tune.qrandint(int(dimension.low), int(dimension.high), int(dimension.step))
        elif dimension.whole:
            domains[name] = tune.randint(int(dimension.low), int(dimension.high) + 1)
        elif dimension.step:
            domains[name] = tune.quniform(dimension.low, dimension.high, dimension.step)
        else:
            domains[name] = (tune.loguniform if dimension.log else tune.uniform)(dimension.low, dimension.high)
    return domains


def with_ray(folder: Path, trials: int) -> list[Mark]:
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self._config = config

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._config = new_config
            return True

        def step(self) -> dict[str, Any]:
            score = 1 / (1 + hash(repr(self._config)) % 1000)
            return {"mean_f1": score, "done": True}

    class Note(tune.Stopper):
        def __init__(self) -> None:
            self._results = 0

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            self._results += 1
            clock.note(self._results)
            return False

        def stop_all(self) -> bool:
            return False

        def __getstate__(self) -> dict[str, Any]:
            return {}

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    clock = Clock(trials)
    ray.init(include_dashboard=False, logging_level="ERROR")
    results = tune.Tuner(
        tune.with_resources(Nothing, {"cpu": 1}),
        param_space=domains(),
        tune_config=tune.TuneConfig(
            metric="mean_f1", mode="max", num_samples=trials, max_concurrent_trials=os.cpu_count(), reuse_actors=True,
            search_alg=OptunaSearch(seed=0), scheduler=ASHAScheduler(),
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder), stop=Note(), verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()  # fmt: skip
    ray.shutdown()
    return clock.done(len(results))


def apart(*arguments: str) -> list[list[Mark]]:
    """What this file finds with these arguments in a process of its own."""
    out = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE).stdout
    marks: list[list[Mark]] = json.loads(out.decode().splitlines()[-1])
    return marks


def per_trial(marks: list[Mark]) -> float:
    """Milliseconds from the first result to the last."""
    (first, start, _), (last, end, _) = marks[0], marks[-2]
    return 1000 * (end - start) / max(1, last - first)


def main(trials: int, searches: int) -> None:
    from captune.data_prep.demo import draw
    from captune.data_prep.store import prepare

    with tempfile.TemporaryDirectory(prefix="captune-bench-") as name:
        folder = Path(name)
        draw(folder / "drawn", count=400, unlabelled=1, seed=0)
        data = str(prepare(folder / "drawn" / "train.csv", None, folder / "data").path)
        (ours,) = apart("captune", data, str(folder / "one"), str(trials), "1")
        (theirs,) = apart("ray", data, str(folder / "ray"), str(trials), "1")
        print(f"{'trials':>8} {'captune: ms each':>17} {'MiB':>6} {'Ray Tune: ms each':>18} {'MiB':>6}")
        for here, before, there, earlier in zip(ours[1:-1], ours, theirs[1:-1], theirs, strict=False):
            ms, theirs_ms = per_trial([before, here, here]), per_trial([earlier, there, there])
            print(f"{here[0]:8} {ms:17.1f} {here[2]:6.0f} {theirs_ms:18.1f} {there[2]:6.0f}", flush=True)
        print(f"{'mean':>8} {per_trial(ours):17.1f} {'':6} {per_trial(theirs):18.1f}")
        whole, their_whole = (1000 * marks[-1][1] / trials for marks in (ours, theirs))
        print(f"{'all':>8} {whole:17.1f} {ours[-1][2]:6.0f} {their_whole:18.1f} {theirs[-1][2]:6.0f}")
        print(
            f"captune takes {per_trial(ours) / per_trial(theirs):.2f} of the time, all in all {whole / their_whole:.2f}"
        )
        if searches:
            print(f"{'search':>8} {'captune: ms each':>17} {'MiB':>6}")
            many = apart("captune", data, str(folder / "many"), str(max(1, trials // 10)), str(searches))
            for number, marks in enumerate(many, 1):
                print(f"{number:8} {per_trial(marks):17.1f} {marks[-1][2]:6.0f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ("captune", "ray"):
        side, where, place, size, times = arguments
        found = [
            with_captune(where, Path(f"{place}-{turn}"), int(size))
            if side == "captune"
            else with_ray(Path(place), int(size))
            for turn in range(int(times))
        ]
        print(json.dumps(found))
    else:
        main(int(arguments[0]) if arguments else 10_000, int(arguments[1]) if len(arguments) > 1 else 10)
