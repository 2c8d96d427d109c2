"""Milliseconds of exported files, measured on this machine: one row, one thread, the runtime that is installed."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captune.errors import UsageError
from captune.files import scratch
from captune.model.config import ModelConfig
from captune.model.flat import unflatten
from captune.model.latency import Speed
from captune.results.records import Record
from captune.results.run_folder import RunError
from captune.tuner.run.settings import RunSettings
from captune.tuner.space.config import SearchConfig
from captune.tuner.winner.formats.declarations import FORMATS, Format, storage_of
from captune.tuner.winner.formats.timing import ROW
from captune.tuner.winner.formats.write import write, write_untrained
from captune.tuner.winner.own_process import in_own_process
from captune.tuner.winner.proof import LatencyProof, ProofError, run_fresh

_RUNTIMES = {"onnx": "ONNX Runtime", "litert": "LiteRT"}  # the first that is installed
_TRIES = 3  # of a file that is over the limit: what disturbs a measurement makes it longer, never shorter


def timed_format(search: SearchConfig) -> Format:
    """The format whose files are written and timed. Raises UsageError where what that needs is not installed."""
    names = list(_RUNTIMES) if search.latency_format is None else [search.latency_format]
    for name in names:
        if FORMATS[name].is_installed:
            return FORMATS[name]
    ways = " or ".join(f"pip install 'captune[{FORMATS[name].extra}]'" for name in names)
    runtimes = " or ".join(_RUNTIMES[name] for name in names)
    raise UsageError(f"--latency needs {runtimes} to measure with, not installed here; {ways}")


def processor() -> str:
    """What this machine computes with, for people."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def milliseconds_of(configs: Sequence[ModelConfig], form: Format) -> list[float]:
    """Of networks with random weights: what they have learned does not change how long they take.

    Raises:
        FormatError: one cannot be written so.
    """
    with scratch() as folder:
        files = [folder / f"{place}{form.suffix}" for place in range(len(configs))]
        in_own_process(write_untrained, configs, form.name, files, say=lambda _: None)
        return _timed(files, configs, form)


@dataclass(frozen=True)
class LatencyLimit:
    """What a winner's file may take. limit: milliseconds a row. speed: by which the search predicted."""

    limit: float
    form: Format
    speed: Speed | None

    @classmethod
    def of(cls, settings: RunSettings) -> LatencyLimit | None:
        """Of a run; None where it has no limit. Raises UsageError where nothing is installed to measure with."""
        limit = settings.search.latency
        return None if limit is None else cls(limit, timed_format(settings.search), settings.speed)

    def first_within(self, candidates: Iterable[Record], say: Callable[[str], None]) -> Record:
        """The first whose network keeps the limit, measured before anything is trained.

        Args:
            candidates: best first.

        Raises:
            RunError: none does.
            FormatError: one cannot be written.
        """
        measured: dict[ModelConfig, float] = {}
        for record in candidates:
            config = unflatten(record.config).model
            if config not in measured:
                measured[config] = self._least(partial(self._of_untrained, config))
            if measured[config] <= self.limit:
                return record
            say(f"trial {record.number} takes {measured[config]:.3g} ms a row, over the {self.limit:g} ms of --latency")
        raise RunError(
            f"no trial that may win keeps the {self.limit:g} ms of --latency, the fastest takes "
            f"{min(measured.values(), default=0):.3g} ms; search again with smaller models or a higher --latency"
        )

    def proof(self, bundle: Path, config: ModelConfig) -> LatencyProof:
        """Of the file that is made of a bundle.

        Raises:
            ProofError: it is over the limit.
            FormatError: it cannot be written.
        """
        storage = storage_of(self.form.name, None, config.storage)
        with scratch() as folder:
            file = folder / f"winner{self.form.suffix}"
            in_own_process(write, bundle, self.form.name, file, storage, say=lambda _: None)
            milliseconds = self._least(lambda: _timed([file], [config], self.form)[0])
        if milliseconds > self.limit:
            raise ProofError(
                f"the winner takes {milliseconds:.3g} ms a row as {self.form.name}, over the {self.limit:g} ms of "
                "--latency; it was removed: refit a smaller one with --trial, or search with a higher --latency"
            )
        same = self.speed is not None and self.speed.runtime == self.form.name
        return LatencyProof(
            limit=self.limit,
            milliseconds=milliseconds,
            predicted=self.speed.milliseconds(config) if same and self.speed is not None else None,
            format=self.form.name,
            storage=storage,
            machine=processor(),
        )

    def _of_untrained(self, config: ModelConfig) -> float:
        return milliseconds_of([config], self.form)[0]

    def _least(self, measure: Callable[[], float]) -> float:
        least = measure()
        for _ in range(_TRIES - 1):
            if least <= self.limit:
                break
            least = min(least, measure())
        return least


def _timed(files: Sequence[Path], configs: Sequence[ModelConfig], form: Format) -> list[float]:
    """Median milliseconds of each file, in a fresh process."""
    for file, config in zip(files, configs, strict=True):
        np.savez(file.with_name(file.name + ROW), **_row(config))  # type: ignore[arg-type]
    facts = files[0].with_name("milliseconds.json")
    run_fresh("captune.tuner.winner.formats.timing", (form.name, facts, *files), files[0])
    medians: list[float] = json.loads(facts.read_text())
    return medians


def _row(config: ModelConfig) -> dict[str, NDArray[np.generic]]:
    """Inputs of one row: any picture, and a caption as long as can be."""
    draw, row = np.random.default_rng(0), dict[str, NDArray[np.generic]]()
    if config.image is not None:
        row["image"] = draw.integers(0, 256, (1, config.image.side, config.image.side, 3), np.uint8)
    if config.text is not None:
        row["caption"] = draw.integers(1, config.text.vocabulary_size, (1, config.text.max_tokens), np.int32)
    return row
