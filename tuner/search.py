"""Runs a search: wires study, gate, halving and Ray Tune together, and writes down what happened."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.resources import Request, default_request, slots
from data_prep.manifest import Manifest
from data_prep.store import PreparedData
from model.config import complaint
from model.size import refusal, show_bytes, size
from results.study import STUDY_NAME, RunError, RunFolder, load_records, open_storage
from tuner.config import ConfigError, SearchConfig
from tuner.space import Space, SpaceError, bind

_PACKAGES = ("captune", "keras", "tensorflow", "ray", "optuna", "numpy")


@dataclass(frozen=True)
class Progress:
    """Where a running search stands, for the live line."""

    fates: dict[str, int]
    running: int
    best: float | None
    slots: int
    wanted: int | None  # feasible trials
    seconds_left: float | None


def check(config: SearchConfig, data: PreparedData) -> Space:
    """The space of a search, held against its data.

    Raises:
        ConfigError: the data lacks what the search reads.
    """
    if not len(data.rows("validation")):
        raise ConfigError(f"{data.path} has no validation rows to score trials on; prepare it with --split 80/10/10")
    space = config.build_space()
    try:
        bind(space.base, data.manifest)
    except SpaceError as error:
        raise ConfigError(str(error)) from None
    except ValidationError as error:  # the preset on this data, such as pictures too small for its stages
        raise ConfigError(f"{data.path} does not suit preset {config.preset}: {complaint(error)}") from None
    return space


def create(run: RunFolder, config: SearchConfig, data: PreparedData) -> None:
    """Makes the run folder and writes run.json, its mark.

    Raises:
        RunError: the folder already holds something.
    """
    if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
        raise RunError(f"{run.path} exists; give another --run, or go on with `captune resume {run.path}`")
    run.path.mkdir(parents=True, exist_ok=True)
    settings = {
        "search": config.model_dump(),
        "data": str(data.path.resolve()),
        "fingerprint": data.manifest.fingerprint,
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "git_commit": _git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(run.settings, settings)


def discard(run: RunFolder) -> None:
    """Takes back what `create` made where no search came of it, so that the same command can be given again."""
    if not run.journal.exists():
        run.settings.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: something else is in it
            run.path.rmdir()


def read(run: RunFolder) -> tuple[SearchConfig, PreparedData]:
    """Settings and data of a run.

    Raises:
        RunError: no run, or its data is no longer the same.
        data_prep.records.DataError: its data is gone.
    """
    settings = run.read_settings()
    try:
        path, fingerprint = Path(settings["data"]), settings["fingerprint"]
        config = SearchConfig.model_validate(settings["search"])
    except (KeyError, TypeError, ValidationError) as error:
        raise RunError(f"{run.settings} is not as search wrote it ({str(error).splitlines()[0]})") from None
    data = PreparedData.open(path)
    if data.manifest.fingerprint != fingerprint:
        raise RunError(f"the data in {data.path} is not what the run was searched on; prepare it again as it was")
    return config, data


def run_search(
    run: RunFolder,
    config: SearchConfig,
    data: PreparedData,
    *,
    address: str | None,
    show: Callable[[Progress], None],
) -> dict[str, Any]:
    """Searches until the trials or the time are used up, and returns what summary.json holds.

    Trials that an earlier search of the same folder left unfinished are handed out again first. Ctrl-C ends it
    cleanly; a second one at once.

    Args:
        run: a folder made by `create`.
        address: of a running Ray cluster; None starts one on this machine.
        show: told how things stand, about once a second.

    Raises:
        tuner.gate.SearchError: the space has nothing that fits the budget.
        cluster.session.ClusterError, cluster.resources.ResourceError: nowhere to run.
    """
    # Read by Ray Tune when it is imported: it must leave Ctrl-C to us, and not wait minutes for a stopped trial.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = "5"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    started = time.monotonic()
    # From here on: Ctrl-C in the middle of an import or of Ray's start would come out as any kind of error.
    with _interruptible() as interrupt:
        import optuna

        from cluster.session import session

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = check(config, data)
        with session(address) as nodes:
            request = default_request(nodes, cpus=config.cpus_per_trial, gpus=config.gpus_per_trial)
            at_once = slots(nodes, request)
            study = _open_study(run, config, space, data.manifest)
            interrupted = interrupt.is_set() or _drive(
                run, config, data, study, space, request, at_once, started, interrupt, show
            )
    return _summarise(run, at_once, time.monotonic() - started, interrupted)


def preview(config: SearchConfig, space: Space, data: PreparedData, *, draws: int = 200) -> list[str]:
    """What a search would do, as lines: trial 0, and how much of the space fits the budget, from random draws."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
    sizes: list[int] = []
    for _ in range(draws):
        with suppress(ValidationError):  # values that are impossible together
            sizes.append(size(bind(space.suggest(study.ask()), data.manifest).model).weights_bytes)
    first = bind(space.base, data.manifest)
    found = size(first.model)
    why = refusal(found, config.budget)
    rows = ", ".join(f"{count} {name}" for name, count in data.manifest.counts.items())
    lines = [
        f"data       {data.path}: {rows}; {len(data.manifest.label_ids)} labels",
        f"space      {len(space.dimensions)} dimensions around preset {config.preset}, reading {first.model.modality}",
        f"trial 0    {show_bytes(found.weights_bytes)}: {'fits' if why is None else why}",
    ]
    if sizes:
        fitting = sum(count <= config.budget for count in sizes)
        lines.append(
            f"budget     {show_bytes(config.budget)}: {fitting} of {draws} random draws fit, "
            f"smallest {show_bytes(min(sizes))}, largest {show_bytes(max(sizes))}"
        )
    return lines


def _drive(
    run: RunFolder,
    config: SearchConfig,
    data: PreparedData,
    study: Any,
    space: Space,
    request: Request,
    at_once: int,
    started: float,
    interrupt: threading.Event,
    show: Callable[[Progress], None],
) -> bool:
    """Ray Tune's part; returns whether Ctrl-C ended it."""
    from ray import tune

    from tuner.gate import Ending, Gate
    from tuner.halving import HalvingScheduler
    from tuner.trial import TrialWorker

    deadline = None if config.time_limit is None else started + config.time_limit
    halving = HalvingScheduler(config.halving)
    gate = Gate(
        study,
        space,
        bind=lambda drawn: bind(drawn, data.manifest),
        budget=config.budget,
        trials=config.trials,
        seed=config.seed,
        halving=halving,
        run=run,
    )

    def ended() -> bool:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        show(Progress(dict(gate.fates), gate.running, gate.best, at_once, config.trials, left))
        return left == 0 or interrupt.is_set() or gate.fault is not None

    worker = tune.with_parameters(TrialWorker, data=str(data.path.resolve()), threads=max(1, int(request.cpus)))
    tune.Tuner(
        tune.with_resources(worker, {"cpu": request.cpus, "gpu": request.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=gate,
            scheduler=halving,
            num_samples=-1,  # the gate says when it is enough
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            storage_path=str(run.ray.resolve()),
            stop=Ending(ended),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()
    interrupted = interrupt.is_set()
    if gate.fault is not None:
        gate.close(reason="the search ended by a fault", resumable=True)
        raise gate.fault
    gate.close(reason="interrupted" if interrupted else "time limit", resumable=interrupted)
    return interrupted


def _open_study(run: RunFolder, config: SearchConfig, space: Space, manifest: Manifest) -> Any:
    """The run's study: new with the preset as trial 0, or as an earlier search left it, its loose ends tied."""
    import optuna

    from tuner.gate import hand_out_again

    known = load_records(run)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPE's group
    sampler = optuna.samplers.TPESampler(
        # After a resume the same stream of random numbers would draw the same start-up trials again.
        seed=config.seed + len(known),
        multivariate=True,
        group=True,
        constant_liar=True,
    )
    study = optuna.create_study(
        study_name=STUDY_NAME,
        storage=open_storage(run, write=True),
        sampler=sampler,
        direction="maximize",
        load_if_exists=True,
    )
    if known:
        hand_out_again(study)
    else:
        study.enqueue_trial(space.parameters(bind(space.base, manifest)))
    return study


def _summarise(run: RunFolder, at_once: int, wall: float, interrupted: bool) -> dict[str, Any]:
    records = load_records(run)
    best = max((r for r in records if r.mean_f1 is not None), key=lambda r: r.mean_f1 or 0.0, default=None)
    epochs = [epoch for record in records for epoch in record.curve]
    summary = {
        "trials": dict(Counter(r.fate for r in records)),
        "epochs": len(epochs),
        "slots": at_once,
        "wall_seconds": round(wall, 3),
        "busy_seconds": {
            "train": round(sum(e.train_seconds for e in epochs), 3),
            "evaluate": round(sum(e.evaluate_seconds for e in epochs), 3),
        },
        "best": None if best is None else {"number": best.number, "mean_f1": best.mean_f1},
        "interrupted": interrupted,
    }
    write_json(run.summary, summary)
    return summary


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes aside, then renames: a reader never meets half a file."""
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(path)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one does what it always does."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread only
        return
    before = signal.getsignal(signal.SIGINT)

    def first(_number: int, _frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _git_commit() -> str | None:
    """The commit of captune's own checkout; None where it is installed without one."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
