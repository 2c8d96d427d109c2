"""The winner of a run: trained again, proved, shipped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from captune.errors import ArgumentError, shell_word
from captune.model.config import Storage
from captune.results.run_folder import RunError
from captune.tuner.api.caller import left_as_it_was
from captune.tuner.api.progress import steps
from captune.tuner.run.locations import ALL_BUT_RECORDS, reading

if TYPE_CHECKING:
    from captune.tuner.api.classifier import Classifier
    from captune.tuner.winner.export import Export
    from captune.tuner.winner.formats.declarations import Kind
    from captune.tuner.winner.plan import RefitPlan
    from captune.tuner.winner.proof import Proof
    from captune.tuner.winner.step import Message


@dataclass(frozen=True)
class Winner:
    """What a refit left in a run. where: folder or address of the run.

    Example:
        >>> winner = captune.open_run("run").winner
        >>> winner.bundle, winner.proof.trial, round(winner.proof.test.mean_f1, 3)
        ('run/winner/bundle', 0, 0.359)
    """

    where: str

    @property
    def proof(self) -> Proof:
        """Its scores in the search, on test, reloaded; its bytes, its configuration. Raises RunError before a refit."""
        from captune.tuner.winner.proof import Proof

        with reading(self.where, leave=ALL_BUT_RECORDS) as folder:
            if not folder.proof.is_file():
                raise RunError(f"{self.where} has no proved winner; run `captune refit {shell_word(self.where)}` first")
            return Proof.read(folder.proof)

    @property
    def bundle(self) -> str:
        """Path or address of what is shipped."""
        return f"{self.where.rstrip('/')}/winner/bundle"

    def load(self) -> Classifier:
        """The classifier itself. A run at an address has to be exported first."""
        from captune.tuner.api.classifier import load

        return load(self.bundle)

    @left_as_it_was()
    def export(
        self,
        to: str | Path,
        *,
        format: Kind = "bundle",  # noqa: A002 - the word of the command
        storage: Storage | None = None,
        progress: bool = True,
    ) -> Export:
        """Copies the winner, loads the copy in a fresh process, and compares what it answers on test.

        Args:
            to: what is written; it must not exist.
            format: "bundle" and "savedmodel" are folders; "keras", "litert" and "onnx" are files named *.keras,
                *.tflite and *.onnx. What "savedmodel", "litert" and "onnx" make is loaded by its own runtime alone,
                without Keras, reads `image` and `caption`, and gives `probabilities`.
            storage: of the copy; if None that of the winner, or float32 where the format cannot hold that: Keras and
                SavedModel hold float32, LiteRT and ONNX float16 and int8, too.
            progress: whether it is shown.

        Raises:
            RunError: no winner yet, or `to` exists.
            UsageError: a package for the format is missing, or `to` has another ending.
            WorkError: the disk refuses.
            FormatError: the format cannot hold the network.
            ProofError: over the budget, or the copy answers otherwise.

        Example:
            >>> captune.open_run("run").winner.export("winner.keras", format="keras").bytes  # doctest: +SKIP
            21532
        """
        from captune.tuner.winner.formats.declarations import FORMATS, check_storage
        from captune.tuner.winner.formats.target import check_target

        check_storage(format, storage)
        check_target(format, Path(to))
        if format in FORMATS:
            FORMATS[format].check_installed()
        from captune.tuner.run.settings import read
        from captune.tuner.training.runtime import import_keras

        opening = steps("opening the run", unit="steps", shown=progress)
        with reading(self.where, leave=frozenset()) as folder, opening as say:
            config, data = read(folder)
            import_keras(config.backend)
            from captune.tuner.winner.export import export

            return export(folder, data, config.limit, Path(to), format, storage, say=say)

    def __repr__(self) -> str:
        return f"<captune winner of {self.where}>"


def time_to_confirm(confirm: str | float) -> float | Literal["auto"]:
    """Seconds of it, or "auto". Raises ArgumentError where it is neither."""
    from captune.tuner.space.units import parse_duration

    if confirm == "auto":
        return "auto"
    try:
        seconds = parse_duration(confirm) if isinstance(confirm, str) else confirm
    except ValueError as error:
        raise ArgumentError("confirm", f"auto, or {error}") from None
    if not 0 <= seconds < math.inf:
        raise ArgumentError("confirm", f"seconds, 0 or more, got {confirm}")
    return seconds


def refit_of(
    where: str,
    plan: RefitPlan,
    address: str | None,
    gpus: int | None,
    cpus: float | None,
    *,
    say: Callable[[Message], None],
) -> Proof:
    """See `Run.refit`."""
    number = 1 if plan.average == "auto" else plan.average
    for name, value, least in (("seeds", plan.seeds, 1), ("average", number, 1), ("gpus", gpus, 0)):
        if value is not None and value < least:
            raise ArgumentError(name, f"{least} or more, got {value}")
    if plan.confirm and plan.trial is not None:
        raise ArgumentError("confirm", f"chooses among the best trials; leave it out to refit trial {plan.trial}")
    if address is not None:
        from captune.tuner.winner.refit_on_cluster import refit_on_cluster

        return refit_on_cluster(address, where, plan, cpus, gpus, say=say)
    if cpus is not None:
        raise ArgumentError("cpus", "of a node of a cluster; name one by `address`, or leave it out")
    from captune.tuner.winner.own_process import in_own_process
    from captune.tuner.winner.refit_run import refit_run

    return in_own_process(refit_run, where, plan, os.cpu_count() or 1, gpus or 0, say=say)
