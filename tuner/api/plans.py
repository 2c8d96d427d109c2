"""A search checked beforehand, and begun."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import ArgumentError
from captune.model.latency import Latency, Speed
from captune.tuner.api.caller import left_as_it_was
from captune.tuner.api.datasets import DataSet, open_data_set
from captune.tuner.api.logs import check_sinks
from captune.tuner.api.progress import say
from captune.tuner.api.runs import Run
from captune.tuner.api.searching import drive
from captune.tuner.api.spaces import SearchSpace
from captune.tuner.run.locations import is_run, reading, searching
from captune.tuner.run.settings import RunSettings, check, create, discard
from captune.tuner.space.config import SearchConfig, read_search

if TYPE_CHECKING:
    from captune.tuner.decisions.warm_start import Findings
    from captune.tuner.space.feasibility import FeasibleSpace


@dataclass(frozen=True)
class Plan:
    """A search that was checked and not begun. report: what it is up against, lines for a person. speed: of this
    machine, where a latency is asked for.

    Example:
        >>> captune.plan("data", "new", "captions", trials=3).report[0]
        'budget     100.00 MiB (104.86 MB) of weights'
    """

    data: DataSet
    run: str
    config: SearchConfig
    warm_start: str | None
    report: tuple[str, ...]
    speed: Speed | None = None

    @left_as_it_was()
    def start(self, *, address: str | None = None, progress: bool = True, log: Sequence[str] = ()) -> Run:
        """Runs it, see `search`."""
        sinks = check_sinks(log)
        with searching(self.run, new=True) as (folder, mirror):
            # First: a folder that is taken is told in one line, as any other mistake.
            create(
                folder,
                self.config,
                self.data.prepared,
                source=self.data.where,
                warm_start=self.warm_start,
                speed=self.speed,
            )
            if progress:
                say("\n".join(self.report))
            try:
                drive(folder, mirror, self.config, self.data.prepared, address, progress, sinks)
            except Exception:
                discard(folder)
                raise
        return Run(self.run)


@left_as_it_was()
def plan(
    data: str | Path | DataSet,
    run: str | Path,
    space: SearchSpace | str | None = None,
    *,
    config: str | Path | None = None,
    warm_start: str | Path | Run | None = None,
    **settings: Any,
) -> Plan:
    """Checks a search and says what it is up against, without starting anything. Arguments and errors: see `search`.

    Example:
        >>> planned = captune.plan("data", "new", "captions", time_limit="30m", budget="10MB")
        >>> planned.config.time_limit, planned.config.budget
        (1800.0, 10000000)
        >>> run = planned.start()  # doctest: +SKIP
    """
    warnings.simplefilter("ignore")  # in a notebook without widgets, of the progress bars that Optuna imports
    from captune.tuner.decisions.preflight import inspect, lines

    if space is not None and config is not None:
        raise ArgumentError("space", "a search.yaml holds its own; give one of the two")
    prepared = open_data_set(data)
    overrides: Mapping[str, Any] = settings
    preset = settings.pop("preset", None)
    if isinstance(space, SearchSpace):
        preset = space.preset
        overrides = {**settings, "space": dict(space.dimensions), "fixed": dict(space.fixed)}
    elif space is not None:
        preset = space
    asked = read_search(
        None if config is None else Path(config),
        preset=preset,
        default_preset="compact" if prepared.prepared.has_images else "captions",
        overrides=overrides,
    )
    feasible, speed = check(asked, prepared.prepared, new=True), None
    if asked.latency is not None:
        from captune.tuner.winner.latency import timed_format
        from captune.tuner.winner.speed import speed_of_this_machine

        speed = speed_of_this_machine(timed_format(asked), say)
        feasible = replace(feasible, latency=Latency(asked.latency, speed))
    older = warm_start.where if isinstance(warm_start, Run) else None if warm_start is None else str(warm_start)
    of_older, learn = [], {}
    if older is not None:
        from captune.tuner.decisions.warm_start import take_over

        found = _of_older(older, asked, prepared, feasible)
        of_older, learn = [f"warm start {found}"], {"learn": partial(take_over, found=found)}
    of_data = prepared.prepared
    preflight = inspect(asked, feasible, of_data.num_pictures, of_data.manifest.counts, **learn)
    report = [*lines(preflight, str(run)), *of_older]
    return Plan(prepared, str(run), asked, older, tuple(report), speed)


def search(
    data: str | Path | DataSet,
    run: str | Path,
    space: SearchSpace | str | None = None,
    *,
    config: str | Path | None = None,
    address: str | None = None,
    warm_start: str | Path | Run | None = None,
    progress: bool = True,
    log: Sequence[str] = (),
    resume_if_there: bool = False,
    **settings: Any,
) -> Run:
    """Searches for the best configuration inside the budget. Ctrl-C, or a notebook's interrupt, ends it cleanly.

    Args:
        data: what `captune.prepare` gives, or its folder or address.
        run: folder or address of the run; nothing may be there yet, unless `resume_if_there`.
        space: what `captune.space` gives, or the name of a preset; None for `compact`, or `captions` without pictures.
        config: a search.yaml instead of a space.
        address: of a running Ray cluster, "auto" or "host:port"; None starts Ray on this machine for the while.
        warm_start: a run to learn from first: all that its trials say of this space where data, metric and objectives
            are the same, else its best configurations, which run again.
        progress: whether it is shown.
        log: tools to log to while it goes on: "tensorboard", "mlflow", "wandb". See `Run.log` for where.
        resume_if_there: a search that was begun in `run` goes on, with its own settings but for `trials`, a total, and
            `time_limit`, from now on.
        settings: each by its name as `captune.explain()` lists them, values or texts as people write them: `trials=50`,
            `time_limit="30m"`, `budget="100MiB"`, `gpus_per_trial=0.5`. They win over the file.

    Returns:
        The run. Where no trial has a score, `summary.best` is None; `summary.interrupted` says whether it was ended.

    Raises:
        ConfigError, BudgetError: a setting is wrong, or nothing in the space fits the budget.
        RunError: `run` holds something.
        SearchError: the trials cannot work.
        ClusterError, ResourceError: nowhere to run.

    Example:
        >>> run = captune.search("data", "new", "captions", trials=3)  # doctest: +SKIP
        >>> run.summary.best.mean_f1  # doctest: +SKIP
        0.3775510204081633
    """
    if resume_if_there and is_run(str(run)):
        if progress:
            say(f"{run} is there and goes on as it was begun")
        changes = {name: settings[name] for name in ("trials", "time_limit") if name in settings}
        return Run(str(run)).resume(address=address, progress=progress, log=log, **changes)
    asked = plan(data, run, space, config=config, warm_start=warm_start, **settings)
    return asked.start(address=address, progress=progress, log=log)


def _of_older(older: str, config: SearchConfig, data: DataSet, feasible: FeasibleSpace) -> Findings:
    """What is taken over of an earlier run."""
    from captune.tuner.decisions.warm_start import differing, findings

    with reading(older) as folder:
        before = RunSettings.of(folder)
        same_data = before.fingerprint == data.prepared.manifest.fingerprint
        return findings(folder, feasible, differing(before.search, config, same_data=same_data))
