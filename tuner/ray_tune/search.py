"""Runs a search: wires study, director and Ray Tune together, and writes down what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from captune.cluster.nodes.claims import Sharing
from captune.cluster.nodes.inspection import NodeRequirements, check_nodes, versions
from captune.cluster.nodes.resources import Request, Room, default_request, limits, slots
from captune.cluster.nodes.session import alive, session
from captune.cluster.object_storage.addresses import StorageError, join
from captune.cluster.object_storage.mirror import Mirror
from captune.data_prep.store import PreparedData
from captune.errors import one_line
from captune.files import scratch
from captune.interrupt import Interrupt
from captune.results.baselines import ensure
from captune.results.journal import DIRECTIONS, STUDY_NAME, open_storage
from captune.results.optuna_private import quiet_optuna
from captune.results.records import Record, load_records, records_of
from captune.results.run_folder import RunError, RunFolder
from captune.results.summary import Session, Summary, slot_hours, summarise
from captune.tuner.decisions.features_pace import Features, FeaturesPace
from captune.tuner.decisions.progress import Progress, RunningTrial
from captune.tuner.ray_tune.memory import measured_share
from captune.tuner.ray_tune.rounds import Rounds
from captune.tuner.run.locations import reading
from captune.tuner.run.settings import RunSettings, check, refuse_other_files, remember
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.units import parse_interval
from captune.tuner.training.kept_rows import under_way

if TYPE_CHECKING:
    import optuna


_SHOW_SECONDS = 0.25  # between two times that is told how things stand


def run_search(
    run: RunFolder,
    config: SearchConfig,
    data: PreparedData,
    *,
    address: str | None,
    show: Callable[[Progress], None],
    say: Callable[[str], None],
    worker: type | None = None,
    mirror: Mirror | None = None,
) -> Summary:
    """Searches until the trials or the time are used up, and returns what summary.json holds.

    What an earlier search of the same folder left unfinished goes on first, from its checkpoints. The first signal
    (see Interrupt) ends it cleanly; a second Ctrl-C at once.

    Args:
        run: a folder made by `create`.
        address: of a running Ray cluster; None starts one on this machine.
        show: told how things stand, from the start on and then up to four times a second.
        say: told what a person should know.
        worker: a TrialWorker that trains in another way; None for the usual one.
        mirror: of `run`, where it is at home at an address: checkpoints are kept there, and the search ends when
            another takes it over.

    Raises:
        RunError: another process searches in this folder.
        BudgetError: the space has nothing that fits the budget.
        SearchError: the trials cannot work.
        ClusterError, ResourceError: nowhere to run.
    """
    started = time.monotonic()

    def wait_for(what: str) -> None:
        show(Progress(time.monotonic() - started, (what,)))

    # From here on: a signal in the middle of an import or of Ray's start would come out as any kind of error.
    with Interrupt() as interrupt, run.writing(), quiet_optuna():
        begun = RunSettings.of(run)
        if run.journal.exists():  # else they have just been looked at
            refuse_other_files(begun)
        feasible = check(config, data, begun.speed)
        settings = remember(run, config)
        ensure(run, data, say, captions=config.modality != "image")
        if mirror is not None:
            mirror.flush()  # from here on there is something to resume
        wait_for("starting Ray on this machine" if address is None else f"joining Ray at {address}")
        requirements = NodeRequirements(
            settings.data,
            data.manifest.fingerprint,
            join(mirror.url, run.checkpoints.name) if mirror is not None else str(run.checkpoints.resolve()),
            versions(),
        )
        with session(address) as nodes:
            wait_for("looking at the nodes")
            gpus = config.gpus_per_trial
            if gpus == "auto":
                wait_for("measuring the memory that the largest configuration takes of a GPU")
                gpus = measured_share(config, feasible, requirements.data, nodes, say)
            request = default_request(nodes, cpus=config.cpus_per_trial, gpus=gpus)
            at_once = config.slots or slots(nodes, request)
            if address is not None:
                say(limits(nodes, request))
                for note in check_nodes(nodes, requirements):
                    say(note)
            sharing = Sharing(mirror.url if mirror is not None else str(run.path.resolve()), config.share)
            search = _Search(
                run, config, requirements, feasible, request, at_once, sharing, started, interrupt, show, say, mirror
            )
            try:
                wait_for("opening the study")
                search.open()
                if not search.is_over:
                    search.drive(worker)
            finally:
                wall = time.monotonic() - started
                # Of the study at hand: reading a long journal again would take as much memory once more.
                records = load_records(run) if search.study is None else records_of(search.study)
                before = records if search.study is None else search.records
                most = at_once if search.study is None else search.rounds.most_slots
                own = Session(most, wall, None if interrupt.cause is None else interrupt.cause.name)
                summary = summarise(records, config.limit, own, before=before, price=config.price)
                if records == before:  # nothing was left to do
                    with suppress(RunError):
                        summary = summary.of_session(Summary.read(run.summary))
                summary.write(run.summary)
    return summary


@dataclass
class _Search:
    """A search while it runs."""

    run: RunFolder
    config: SearchConfig
    requirements: NodeRequirements
    feasible: FeasibleSpace
    request: Request
    at_once: int  # trials, as the nodes are at the start
    sharing: Sharing
    started: float
    interrupt: Interrupt
    show: Callable[[Progress], None]
    say: Callable[[str], None]
    mirror: Mirror | None
    study: optuna.Study | None = None  # once it is open
    records: Sequence[Record] = ()  # as they were then
    shown: float = 0.0  # second of the clock, as the next
    at_work: float | None = None  # since when
    began: float = field(default_factory=time.time)
    spent: float = 0.0  # seconds for which trials of earlier searches held a slot
    features_pace: FeaturesPace = field(default_factory=FeaturesPace)

    def open(self) -> None:
        """The run's study, new with the preset as trial 0, or as an earlier search left it, put right."""
        import optuna

        from captune.tuner.decisions.opening import open_search

        study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=open_storage(self.run, wait=self.say),
            directions=[DIRECTIONS[objective] for objective in self.config.objectives],
            load_if_exists=True,
        )
        threads, room = max(1, int(self.request.cpus)), Room.of(alive(), self.request)
        self.director = director = open_search(
            study,
            self.feasible,
            self.config,
            self._learn,
            threads=threads,
            gpus=self.request.gpus,
            room=replace(room, slots=self.config.slots or room.slots),
        )
        self.rounds = Rounds(
            self.run,
            self.config,
            self.feasible,
            director,
            self.request,
            self.sharing,
            self.mirror,
            self.say,
            most_slots=self.at_once,
            fitting=room.slots,
        )
        self.study, self.records = study, director.records
        self.spent = 3600 * slot_hours(self.records)
        self.rounds.take_up_requests(lambda _: False)

    def _learn(self, study: optuna.Study) -> None:
        """From the run that this one was begun with, as far as it is there."""
        from captune.tuner.decisions.warm_start import differing, findings, take_over

        own = RunSettings.of(self.run)
        if own.warm_start is not None:
            try:
                with reading(own.warm_start) as older:
                    before = RunSettings.of(older)
                    same_data = before.fingerprint == own.fingerprint
                    found = findings(older, self.feasible, differing(before.search, self.config, same_data=same_data))
                take_over(study, found)
                self.say(str(found))
            except (RunError, StorageError) as error:
                self.say(f"note: the sampler learns no more from the earlier run: {error}")

    def drive(self, worker: type | None) -> None:
        """Ray Tune's part."""
        from ray import tune

        from captune.tuner.decisions.director import SearchError
        from captune.tuner.ray_tune.adapter import ASSIGNMENT, Adapter, Over
        from captune.tuner.ray_tune.parts_of_epochs import PartsOfEpochs
        from captune.tuner.ray_tune.private import NoReporter, Silence, mended_tune
        from captune.tuner.ray_tune.worker import TrialWorker, WorkerLimits
        from captune.tuner.training.checkpoints import CheckpointCleaner, CheckpointPolicy, checkpoints_at

        def resources(configuration: dict[str, Any]) -> Any:
            """What a trial asks Ray for: one that ran out of memory in its share of a GPU is given more of it."""
            return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": configuration[ASSIGNMENT].gpus}])

        config, director, folder = self.config, self.director, self.requirements.folder
        cpus = self.request.cpus
        seconds, epochs = parse_interval(config.checkpoint_every)
        recorded = (lambda: True) if self.mirror is None else self.mirror.flush
        cleaner = CheckpointCleaner(checkpoints_at(folder), config.keep, director.records, recorded)
        self.adapter = adapter = Adapter(director, self.run, cleaner, self._tick, PartsOfEpochs())
        trainable = tune.with_parameters(
            worker or TrialWorker,
            data=self.requirements.data,
            threads=director.threads,
            backend=config.backend,
            worker_limits=WorkerLimits(config.worker_trials, config.worker_growth),
            policy=CheckpointPolicy(folder, seconds, epochs, config.min_free),
        )
        placed = tune.with_resources(trainable, resources)
        placed.__qualname__ = TrialWorker.__name__  # as lists of actors show it; Ray's wrapper has a name of its own
        # Ray's own record of the experiment is thrown away: the study is the record.
        with scratch() as folder_of_tune, mended_tune():
            tuner = tune.Tuner(
                placed,
                tune_config=tune.TuneConfig(
                    search_alg=adapter.searcher,
                    scheduler=adapter,
                    num_samples=-1,  # the director says when it is enough
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name="experiment",
                    storage_path=str(folder_of_tune),
                    stop=adapter.stopper,
                    verbose=0,
                    callbacks=[Silence()],
                    progress_reporter=NoReporter(),
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            fault: Exception | None = None
            self.rounds.share()
            try:
                tuner.fit()
            except Over:
                pass
            except Exception as error:
                if not adapter.done and not self.is_over:  # else it is Ray Tune's own summary, which nobody reads
                    fault = _fault(error)
        if self._taken_over:
            assert self.mirror is not None
            fault = SearchError(str(self.mirror.complaint))
        fault = director.fault or fault
        interrupted = self.interrupt.is_set()
        if interrupted and fault is None:
            self.say("the search ends: running trials save where they are, in seconds; another Ctrl-C ends it at once")
        reason = "the search ended by a fault" if fault else "interrupted" if interrupted else "time limit"
        adapter.close(reason, resumable=interrupted or fault is not None)
        self.show(self._progress())
        if fault is not None:
            raise fault
        if director.patience_is_over:
            self.say(f"the last {director.patience} trials were no better than the best before: the search ends")
        if director.gate.used_up:
            self.say("the space is used up: every network in it that fits was tried; widen it for more trials")

    @property
    def _taken_over(self) -> bool:
        return self.mirror is not None and self.mirror.usurped

    def _tick(self) -> bool:
        """Whether the run is over; asked by Ray about once a second, so the place for what is to be done that often."""
        self.adapter.end_overdue()
        self.rounds.look(self.adapter)
        if time.monotonic() - self.shown >= _SHOW_SECONDS:
            self.shown = time.monotonic()
            self.show(self._progress())
        return self.is_over

    def _progress(self) -> Progress:
        director, now = self.director, time.monotonic()
        running = self.adapter.running()
        if self.at_work is None:  # features and compiling come once, and tell nothing of the rest
            last = (attempt.last.seconds() for attempt in director.running.values() if attempt.last is not None)
            spent = [seconds["train"] + seconds["evaluate"] for seconds in last]
            spent += [trial.part.share * trial.part.seconds for trial in running if trial.part and trial.part.seconds]
            if spent or director.epochs:
                self.at_work = now - max(spent, default=0.0)
        mirrored = None if self.mirror is None else self.mirror.complaint
        waits = (director.waiting, director.complaint, mirrored)
        return Progress(
            seconds=now - self.started,
            waits=tuple(str(what) for what in waits if what),
            fates=dict(director.fates),
            impossible=director.gate.impossible,
            counted=director.counted,
            counted_before=director.counted_before,
            wanted=self.config.trials,
            seconds_left=self._seconds_left(),
            running=running,
            seconds_at_work=0.0 if self.at_work is None else now - self.at_work,
            epochs=director.epochs,
            slots=director.slots,
            nodes=director.room.nodes,
            best=director.best,
            metric=self.config.metric,
            slot_hours=(self.spent + director.seconds(now)) / 3600,
            price=self.config.price,
            features=self._features(running, now),
        )

    def _features(self, running: Sequence[RunningTrial], now: float) -> Features | None:
        """How far what trials wait for is computed, where that can be seen from here."""
        waiting = any(trial.phase == "features, first epoch" for trial in running)
        counts = under_way(Path(self.requirements.data), self.began) if waiting else None
        return None if counts is None else self.features_pace.look(*counts, now)

    @property
    def is_over(self) -> bool:
        """Whether it is to end, whatever runs."""
        ended = self._seconds_left() == 0 or self.interrupt.is_set() or self.director.fault is not None
        return ended or self._taken_over

    def _seconds_left(self) -> float | None:
        limit = self.config.time_limit
        return None if limit is None else max(0.0, self.started + limit - time.monotonic())


def _fault(error: Exception) -> Exception:
    """What ended Ray Tune, a full disk, say, or a lost cluster, in one line; a bug of ours as it is."""
    from ray.tune import TuneError

    from captune.tuner.decisions.director import SearchError

    root: BaseException = error
    while (inner := root.__cause__ or (root.__context__ if isinstance(root, TuneError) else None)) is not None:
        root = inner  # Ray Tune wraps what it meets, some of it twice
    called = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in walk_tb(root.__traceback__)]
    back_in_ours = "ray" in called and __name__.partition(".")[0] in called[called.index("ray") :]
    if back_in_ours and not isinstance(root, OSError):
        return error
    return SearchError(f"Ray ended the search: {type(root).__name__}: {one_line(root)}")
