"""MLflow: an experiment for the search and a run for each trial, on a server or in a database of SQLite."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from captune.results.records import Record
from captune.results.run_facts import RunFacts
from captune.results.sinks.sink import Point, outcome_of, settings_of, words_of

_MOST = 1000  # metrics in one request, as MLflow allows
_LONGEST = 5000  # characters of a parameter or a tag
_STATUS = {"complete": "FINISHED", "stopped": "FINISHED", "lost": "KILLED"}
_IDENTITY, _NUMBER = "captune.run", "captune.trial"


class MLflow:
    """Writes to MLFLOW_TRACKING_URI, else to the database `file`. What is there of the same run is gone on with."""

    def __init__(self, file: Path, facts: RunFacts) -> None:
        self._file, self._facts = file, facts
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)

    def report(self, record: Record, points: Sequence[Point]) -> None:
        run = self._runs.get(record.number) or self._begin(record)
        metrics = [
            Metric(name, value, int(point.second * 1000), point.epoch)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), _MOST):
            self._client.log_batch(run, metrics=metrics[start : start + _MOST])

    def end(self, record: Record) -> None:
        run = self._runs[record.number]
        millisecond = int((record.began + (record.seconds or 0.0)) * 1000)
        self._client.log_batch(
            run,
            metrics=[Metric(name, value, millisecond, record.epochs) for name, value in outcome_of(record).items()],
            tags=[RunTag(name, text[:_LONGEST]) for name, text in words_of(record).items()],
        )
        self._client.set_terminated(run, _STATUS.get(record.fate, "FAILED"), end_time=millisecond)

    def close(self) -> None:
        """What was sent is written."""

    @cached_property
    def _client(self) -> MlflowClient:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{self._file.resolve()}"
        return MlflowClient(tracking_uri=uri)

    @cached_property
    def _experiment(self) -> str:
        known = self._client.get_experiment_by_name(self._facts.name)
        if known is not None:
            return str(known.experiment_id)
        return str(self._client.create_experiment(self._facts.name, tags=self._facts.attributes()))

    @cached_property
    def _runs(self) -> dict[int, str]:
        """Of this run's trials that are there, by number."""
        runs: dict[int, str] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.`{_IDENTITY}` = '{self._facts.identity}'", page_token=token
            )
            runs |= {int(run.data.tags[_NUMBER]): run.info.run_id for run in page}
            token = page.token
            if not token:
                return runs

    def _begin(self, record: Record) -> str:
        run = self._client.create_run(
            self._experiment,
            start_time=int(record.began * 1000),
            tags={_IDENTITY: self._facts.identity, _NUMBER: str(record.number)},
            run_name=f"trial {record.number}",
        ).info.run_id
        settings = [Param(name, str(value)[:_LONGEST]) for name, value in settings_of(record).items()]
        self._client.log_batch(run, params=settings)
        self._runs[record.number] = run
        return str(run)
