"""Weights & Biases: a run for each trial in a group of the search, kept here (offline) or sent to its server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from captune.results.records import Record
from captune.results.run_facts import RunFacts
from captune.results.sinks.sink import Point, outcome_of, settings_of, words_of

_INIT_SECONDS = 30.0  # for a server to answer


class WeightsAndBiases:
    """Writes below `folder`/wandb, offline unless WANDB_MODE says otherwise.

    What it wrote there of a trial before is written anew; on a server it is gone on with.
    """

    def __init__(self, folder: Path, facts: RunFacts) -> None:
        self._folder, self._facts = folder, facts
        self._mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._runs: dict[int, Any] = {}  # of trials that go on

    def report(self, record: Record, points: Sequence[Point]) -> None:
        run = self._runs.get(record.number) or self._begin(record)
        for point in points:
            run.log({**point.values, "epoch": point.epoch, "_timestamp": point.second}, step=point.epoch)

    def end(self, record: Record) -> None:
        run = self._runs.pop(record.number)
        for name, value in (outcome_of(record) | words_of(record)).items():
            run.summary[name] = value
        run.finish(exit_code=0 if record.fate in ("complete", "stopped") else 1)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()

    def _begin(self, record: Record) -> Any:
        name = f"{self._facts.identity}-{record.number}"
        self._folder.mkdir(parents=True, exist_ok=True)
        for earlier in (self._folder / "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(earlier)
        self._runs[record.number] = run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "captune"),
            group=self._facts.name,
            id=name,
            name=f"trial {record.number}",
            dir=str(self._folder),
            config=settings_of(record) | {f"run.{key}": text for key, text in self._facts.attributes().items()},
            mode=self._mode,
            resume="allow" if self._mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, init_timeout=_INIT_SECONDS
            ),
        )
        return run
