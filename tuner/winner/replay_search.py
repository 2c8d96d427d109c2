"""A whole search again: its trials trained one after another, its decisions taken anew in the order of its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from captune.cluster.nodes.resources import Room
from captune.data_prep.store import PreparedData
from captune.model.flat import unflatten
from captune.model.metrics import Epoch
from captune.results.history import history_of
from captune.results.journal import DIRECTIONS, logs
from captune.results.optuna_private import quiet_optuna
from captune.results.records import Record, load_records
from captune.results.run_folder import RunError
from captune.tuner.run.locations import open_data, reading
from captune.tuner.run.settings import RunSettings, check
from captune.tuner.training import runtime
from captune.tuner.training.job import Job
from captune.tuner.winner.replay import differences_of
from captune.tuner.winner.step import Message, Step

_ROOM = Room(slots=10**6, nodes=1)  # for as many as ran side by side


@dataclass(frozen=True)
class SearchReplay:
    """What the replay of a search found. differences: a line each, by trial and epoch; none where all is the same."""

    trials: int
    epochs: int
    differences: tuple[str, ...]


def replay_search(location: str, force: bool, *, say: Callable[[Message], None]) -> SearchReplay:
    """Trains every trial of a run again in this process, which is settled for it, and decides its search again.

    Args:
        location: path or address of the run.
        force: also where data or versions are not the same.

    Raises:
        RunError: no run, one that learnt from another, or it would not be the same.
    """
    with reading(location) as run:
        settings, records, events = RunSettings.of(run), load_records(run), history_of(logs(run))
    if settings.warm_start is not None:
        raise RunError(f"{location} was begun with what {settings.warm_start} knew, and cannot be replayed alone")
    data = open_data(settings.data, verify=True)
    changed = differences_of(settings, data)
    if changed and not force:
        raise RunError(f"the search would not be the same: {'; '.join(changed)}; --force replays it anyway")
    trained = [record for record in records if record.curve and record.seed is not None]
    threads = sorted({record.threads or 1 for record in trained}) or [1]
    notes = [*changed, *(["its trials had different threads, sums of which differ"] if len(threads) > 1 else [])]
    for note in notes:
        say(f"note: {note}")
    runtime.settle(threads[0], settings.search.backend)
    epochs = _trained(trained, data, say)
    with quiet_optuna():
        import optuna

        from captune.tuner.decisions.opening import open_search
        from captune.tuner.decisions.repetition import repeat

        config = settings.search.model_copy(update={"trials": None, "patience": None, "min_free": 0})
        feasible = check(config, data)
        study = optuna.create_study(directions=[DIRECTIONS[objective] for objective in config.objectives])
        differences = repeat(
            events,
            records,
            epochs,
            study,
            lambda: open_search(study, feasible, config, lambda _: None, threads=threads[0], gpus=0.0, room=_ROOM),
            config.limit,
        )
        return SearchReplay(len(trained), len(epochs), tuple(map(str, differences)))


def _trained(records: list[Record], data: PreparedData, say: Callable[[Message], None]) -> dict[tuple[int, int], Epoch]:
    """Every epoch that any attempt of a trial reported, by its first attempt and number."""
    from captune.tuner.training.trial import train_trial

    longest = {record.origin: record for record in sorted(records, key=lambda record: record.epochs)}
    count, epochs = sum(record.epochs for record in longest.values()), {}
    for origin, record in sorted(longest.items()):
        assert record.seed is not None
        job = Job(unflatten(record.config), record.seed, origin, metric=record.metric)
        for _, epoch in zip(range(record.epochs), train_trial(job, data), strict=False):
            epochs[origin, epoch.epoch] = epoch
            say(Step(f"replay of trial {origin}", len(epochs), count))
    return epochs
