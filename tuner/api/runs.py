"""A search that was begun: read, gone on with, refitted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from captune.errors import ArgumentError, shell_word
from captune.results.run_folder import RunError
from captune.tuner.api.caller import left_as_it_was
from captune.tuner.api.logs import check_sinks
from captune.tuner.api.progress import bar, steps
from captune.tuner.api.searching import drive
from captune.tuner.run.locations import ALL_BUT_RECORDS, reading, searching
from captune.tuner.run.settings import RunSettings
from captune.tuner.run.settings import read as read_run
from captune.tuner.space.config import SearchConfig, check_overrides

if TYPE_CHECKING:
    import optuna
    import pandas as pd

    from captune.results.baselines import Baseline
    from captune.results.records import Record
    from captune.results.summary import Summary
    from captune.tuner.api.winners import Winner
    from captune.tuner.winner.replay import Replay
    from captune.tuner.winner.replay_search import SearchReplay


@dataclass(frozen=True)
class Run:
    """A search that was begun: what it came to, and what comes of it.

    where: its folder or its address (s3://, gs://, abfss://). The study in it is read anew each time, also while the
    search goes on elsewhere.

    Example:
        >>> run = captune.open_run("run")
        >>> run.settings.trials, run.summary.trials
        (3, {'complete': 3})
    """

    where: str

    @property
    def settings(self) -> SearchConfig:
        """What it was asked to do."""
        with reading(self.where) as folder:
            return RunSettings.of(folder).search

    @property
    def summary(self) -> Summary:
        """What the last search of it came to. Raises RunError before its end."""
        from captune.results.summary import Summary

        with reading(self.where) as folder:
            return Summary.read(folder.summary)

    @left_as_it_was()
    def records(self, *, frontier: bool = False) -> list[Record]:
        """Every trial as a value, in the order of their numbers.

        Args:
            frontier: only the best score for each size, smallest first.

        Example:
            >>> [record.fate for record in captune.open_run("run").records()]
            ['complete', 'complete', 'complete']
        """
        from captune.results.frontier import frontier as unbeaten
        from captune.results.records import left_behind, load_records

        with reading(self.where) as folder, bar("reading the study", "MiB") as show:
            is_written = folder.is_written
            records = load_records(folder, progress=lambda done, total: show(done >> 20, total >> 20))
            if not is_written and not folder.is_written:  # neither before nor after it was read
                records = [left_behind(record) for record in records]
            return unbeaten(records, RunSettings.of(folder).search.limit) if frontier else records

    @property
    def altered(self) -> str | None:
        """What is wrong with its record where lines of it were changed or taken out, in a line; None where none was."""
        from captune.results.journal import changed_line

        with reading(self.where) as folder:
            line = changed_line(folder) if folder.journal.is_file() else None
            name = f"{folder}/{folder.journal.name}"
        return None if line is None else f"the record was changed: line {line} of {name} does not follow the one before"

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """Scores that no search is needed for: on validation, and after a refit on test. None of an earlier captune."""
        from captune.results.baselines import read

        with reading(self.where, leave=ALL_BUT_RECORDS) as folder:
            return read(folder)

    @property
    def is_running(self) -> bool:
        """Whether a process searches in it, or refits while none does."""
        with reading(self.where) as folder:
            return folder.is_written

    @property
    def best(self) -> Record | None:
        """The trial that `refit` would choose, None before the first score inside the budget."""
        return next(iter(self.records(frontier=True)[::-1]), None)

    @left_as_it_was()
    def trials(
        self, *, where: str | None = None, sort: str | None = None, limit: int | None = None, frontier: bool = False
    ) -> pd.DataFrame:
        """The table of trials: one row each, configurations flattened to columns of dotted names.

        Args:
            where: a condition on columns, as "fate == 'complete' and train.learning_rate > 1e-3".
            sort: a column; scores best first.
            limit: rows at most.
            frontier: only the best score for each size.

        Raises:
            RunError: no run, or an unknown column.
            ArgumentError: `where` is no condition, or `limit` below 1.

        Example:
            >>> captune.open_run("run").trials(where="epochs > 0", sort="mean_f1", limit=2)[["number", "epochs"]]
               number  epochs
            0       0       2
            1       1       2
        """
        from captune.results.table import frame

        return frame(self.records(frontier=frontier), sort=sort, where=where, limit=limit)

    def trial(self, number: int) -> Record:
        """One trial: configuration, curve, cost, fate. Raises RunError for a number that the run has not.

        Example:
            >>> record = captune.open_run("run").trial(1)
            >>> record.fate, record.weights_bytes, [round(epoch.mean_f1, 2) for epoch in record.curve]
            ('complete', 1368, [0.38, 0.38])
        """
        record = next((r for r in self.records() if r.number == number), None)
        if record is None:
            raise RunError(f"the run has no trial {number}; `captune trials {shell_word(self.where)}` lists them")
        return record

    def study(self) -> optuna.Study:
        """The study for Optuna's own plots and tools, to be read only: named after the run, with the names of what is
        optimised, each trial's fate, MiB and scores as attributes, and its constraints. It follows a running search;
        of a run at an address it stays as it is now.

        Example:
            >>> study = captune.open_run("run").study()
            >>> study.metric_names, [trial.user_attrs["fate"] for trial in study.trials]
            (['mean_f1'], ['complete', 'complete', 'complete'])
        """
        from captune.tuner.api.studies import open_study

        return open_study(self.where)

    @left_as_it_was()
    def report(self, out: str | Path = "report.html") -> Path:
        """Writes the run as one offline page of HTML, also while the search goes on.

        Args:
            out: the file; one that is there gives way.

        Returns:
            Its path.

        Raises:
            RunError: no run, a file of it is damaged, or there is no folder for `out`.

        Example:
            >>> captune.open_run("run").report("report.html").name
            'report.html'
        """
        from captune.files import written_aside
        from captune.tuner.winner.report_page import page_of

        path = page_to_write(out)
        with reading(self.where, leave=ALL_BUT_RECORDS) as folder, bar("reading the study", "MiB") as show:
            progress = lambda done, total: show(done >> 20, total >> 20)  # noqa: E731
            text = page_of(folder, running=folder.is_written, progress=progress)
        with written_aside(path) as aside:
            aside.write_text(text, encoding="utf-8")
        return path

    @left_as_it_was()
    def log(self, to: str, out: str | Path | None = None) -> Path:
        """Writes the trials for TensorBoard, MLflow or Weights & Biases, as `search(log=...)` does while it goes on.

        Args:
            to: "tensorboard", "mlflow" or "wandb".
            out: a folder; None for `logs` in the run's, or `captune-logs` here for a run at an address.

        Returns:
            The folder. MLFLOW_TRACKING_URI and WANDB_MODE=online send to servers instead.

        Raises:
            ArgumentError, UsageError: no such tool, or it is not installed.
            SinkError: it cannot be written.

        Example:
            >>> captune.open_run("run").log("tensorboard", "board")
            PosixPath('board')
        """
        from captune.tuner.api.logs import log

        return log(self.where, to, out)[1]

    @left_as_it_was()
    def resume(
        self, *, address: str | None = None, progress: bool = True, log: Sequence[str] = (), **settings: Any
    ) -> Run:
        """Goes on with the search: unfinished trials first, from their checkpoints.

        Args:
            address: of a running Ray cluster, "auto" or "host:port"; None for this machine alone.
            progress: whether it is shown.
            log: as `captune.search` takes it.
            settings: `trials`, a new total, and `time_limit`, from now on.

        Raises:
            RunError, SearchError, ClusterError: as `captune.search` does.

        Example:
            >>> captune.open_run("run").resume(trials=10, time_limit="10m")  # doctest: +SKIP
            <captune run run>
        """
        if unknown := settings.keys() - {"trials", "time_limit"}:
            raise ArgumentError(min(unknown), "fixed when the search began; a resume takes trials and time_limit")
        changes, sinks = dict(check_overrides(settings)), check_sinks(log)
        with searching(self.where) as (folder, mirror):
            config, data = read_run(folder)
            drive(folder, mirror, config.model_copy(update=changes), data, address, progress, sinks)
        return self

    @left_as_it_was()
    def enqueue(self, configurations: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> int:
        """Has the search try configurations next, while it runs or when it is resumed.

        Args:
            configurations: one or several of dotted names to values, what is not named as in the preset; or a file of
                YAML or JSON that holds such.

        Returns:
            How many.

        Raises:
            ConfigError, ArgumentError: a value that the space does not have, a configuration over the budget, or one
                that was tried or waits; file, line and name are in the message.
            RunError, StorageError: no run, or it cannot be written to.

        Example:
            >>> captune.open_run("run").enqueue({"train.learning_rate": 0.004})  # doctest: +SKIP
            1
        """
        from captune.tuner.api.steering import enqueue

        return enqueue(self.where, configurations)

    @property
    def trials_needed(self) -> int | None:
        """Trials in all with which every configuration that waits is tried; None where the search has as many."""
        from captune.tuner.api.steering import trials_needed

        return trials_needed(self.where)

    @left_as_it_was()
    def stop(self, number: int) -> None:
        """Has the search end a trial that runs: it is `stopped`, by hand, with the best score that it has.

        Raises:
            RunError, StorageError: it does not run, or the run cannot be written to.

        Example:
            >>> captune.open_run("run").stop(7)  # doctest: +SKIP
        """
        from captune.tuner.api.steering import stop

        stop(self.where, self.trial(number))

    @left_as_it_was()
    def pin(self, number: int) -> None:
        """Has the search train a trial that runs to its end, whatever halving says.

        Raises:
            RunError, StorageError: it does not run, or the run cannot be written to.

        Example:
            >>> captune.open_run("run").pin(7)  # doctest: +SKIP
        """
        from captune.tuner.api.steering import pin

        pin(self.where, self.trial(number))

    @left_as_it_was()
    def replay(self, number: int, *, force: bool = False, progress: bool = True) -> Replay:
        """Trains a trial again as it was and compares epoch by epoch: on the same machine's CPU nothing differs.

        Args:
            force: also where data or versions are not the same.

        Raises:
            RunError: no such trial, or it would not be the same and `force` is not given.

        Example:
            >>> captune.open_run("run").replay(1)  # doctest: +SKIP
        """
        from captune.tuner.winner.own_process import in_own_process
        from captune.tuner.winner.replay import replay

        with steps(f"replay of trial {number}", shown=progress) as tell:
            return in_own_process(replay, self.where, number, force, say=tell)

    @left_as_it_was()
    def replay_search(self, *, force: bool = False, progress: bool = True) -> SearchReplay:
        """Trains every trial again and decides the search anew in the order of its record, whatever slots it had.

        On the same machine's CPU proposals, stops, scores and the best are the same to the last bit.

        Args:
            force: also where data or versions are not the same.

        Raises:
            RunError: it learnt from another run, or would not be the same and `force` is not given.

        Example:
            >>> captune.open_run("run").replay_search().differences  # doctest: +SKIP
            ()
        """
        from captune.tuner.winner.own_process import in_own_process
        from captune.tuner.winner.replay_search import replay_search

        with steps("replay of the search", shown=progress) as tell:
            return in_own_process(replay_search, self.where, force, say=tell)

    @left_as_it_was()
    def refit(
        self,
        *,
        trial: int | None = None,
        seeds: int = 1,
        average: int | Literal["auto"] = 1,
        confirm: str | float = 0,
        address: str | None = None,
        gpus: int | None = None,
        cpus: float | None = None,
        anyway: bool = False,
        progress: bool = True,
    ) -> Winner:
        """Trains the winner on train + validation, reads test once, and writes RUN/winner with its proof.

        Args:
            trial: to be refitted instead of the best.
            seeds: repeats with further seeds, 1 or more, which show how far the score moves.
            average: networks of so many trials whose calibrated probabilities are averaged, chosen by validation under
                the budget; "auto" takes each only if it gains more than may be chance.
            confirm: time, as "5m" or seconds, in which the best trials are trained again with other seeds, on train
                alone; "auto" for a fifth of the search's. The one that is clearly the best wins, or of equal ones the
                smallest. 0 takes the best of the search.
            address: of a running Ray cluster, on a node of which it is done; None for this machine.
            gpus: that share each batch between them.
            cpus: of a cluster's node, also its threads.
            anyway: also while the run is searched, though test is read once: the best of the trials so far is chosen.

        Raises:
            RunError: no trial qualifies, the run was refitted before, or it is being searched or refitted.
            ProofError: what was exported is not what was scored, or over the budget.

        Example:
            >>> captune.open_run("run").refit(seeds=3).proof.seeds  # doctest: +SKIP
            (0.35898, 0.35129, 0.36304)
        """
        from captune.tuner.api.winners import Winner, refit_of, time_to_confirm
        from captune.tuner.winner.plan import RefitPlan

        first = "opening the run" if address is None else "finding room on the cluster"
        with steps(first, shown=progress) as tell:
            refit_of(
                self.where,
                RefitPlan(trial, seeds, anyway, average, time_to_confirm(confirm)),
                address,
                gpus,
                cpus,
                say=tell,
            )
        return Winner(self.where)

    @left_as_it_was()
    def ablate(
        self, *, without: Sequence[str] = (), trial: int | None = None, seeds: int = 1, progress: bool = True
    ) -> pd.DataFrame:
        """Trains the winner again without each of its parts, all alike on train, and scores it on validation.

        What is done is kept in RUN/ablation.json: one that was interrupted goes on where it was.

        Args:
            without: "captions", "pictures", "augmentation", "alignment", "teacher", "image.weights", "text.weights",
                "text.wide", "image.head" or "fusion", as many as are to be tried, each by itself; none for all that the
                network has.
            trial: to take apart instead of the best.
            seeds: trainings of each, whose scores are averaged.

        Returns:
            A row for the whole network (without "nothing") and for each part: its score, in a column that is named
            after the metric of the search (`mean_f1`), `difference` from the whole with its 95 % interval `low` to
            `high`, over the examples in pairs (of `map` over twenty blocks of them), `weights_bytes`, `seconds`, and a
            `note` where more than the part is otherwise.

        Raises:
            ArgumentError: the network has no such part.
            RunError: no trial qualifies, or an ablation of another trial is there.

        Example:
            >>> captune.open_run("run").ablate(without=["captions"], seeds=3)  # doctest: +SKIP
        """
        from dataclasses import asdict

        import pandas as pd

        from captune.tuner.winner.ablate import ablate
        from captune.tuner.winner.own_process import in_own_process

        if seeds < 1:
            raise ArgumentError("seeds", f"1 or more, got {seeds}")
        with steps("opening the run", shown=progress) as tell:
            threads = os.cpu_count() or 1
            ablation = in_own_process(ablate, self.where, trial, tuple(without), seeds, threads, say=tell)
        return pd.DataFrame(map(asdict, ablation.rows())).rename(columns={"score": ablation.metric})

    @property
    def winner(self) -> Winner:
        """What `refit` left. Its attributes raise RunError before that."""
        from captune.tuner.api.winners import Winner

        return Winner(self.where)

    def __repr__(self) -> str:
        return f"<captune run {self.where}>"


def open_run(where: str | Path) -> Run:
    """A run that was begun before.

    Raises:
        RunError, StorageError: there is none, or its address cannot be reached.

    Example:
        >>> captune.open_run("run").summary.best.number
        0
    """
    with reading(str(where)) as folder:
        RunSettings.of(folder)
    return Run(str(where))


def page_to_write(out: str | Path) -> Path:
    """`out`. Raises RunError where no page of HTML can be written there."""
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"{path} would hold HTML; name it *.html")
    if path.is_dir() or not path.parent.is_dir():
        raise RunError(f"{path} cannot be written: name a file in a folder that exists")
    return path
