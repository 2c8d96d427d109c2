"""The proved winner once more, as another file or in another storage, proved again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from captune.data_prep.pieces import Pieces
from captune.data_prep.store import PreparedData
from captune.errors import shell_word
from captune.files import written_aside
from captune.model import metrics
from captune.model.bundle import Bundle
from captune.model.config import Storage
from captune.model.size import Budget, Contents, size
from captune.model.training import put_through
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.settings import contents_of
from captune.tuner.winner.formats.declarations import FORMATS, Kind, storage_of
from captune.tuner.winner.formats.fresh_process import answers_of, written_by_converter
from captune.tuner.winner.formats.target import check_target, not_written, portable_path
from captune.tuner.winner.portable import write_portable
from captune.tuner.winner.predict import probabilities_of_split
from captune.tuner.winner.proof import (
    TOLERANCE,
    Proof,
    check_bytes,
    largest_difference,
    probabilities_in_fresh_process,
)
from captune.tuner.winner.step import Step


@dataclass(frozen=True)
class Export:
    """A copy of the winner that was written and proved.

    bytes: of the file or folder. winner_mean_f1, mean_f1: on test, of the winner and of the copy as a fresh process
    loaded it. max_difference: of a probability between these two. milliseconds: of a call by the number of its rows,
    the median; on one thread but of a SavedModel; empty where Keras computes. Probabilities are the network's own:
    the rule in the bundle calibrates them and makes labels of them.
    """

    path: Path
    format: Kind
    storage: Storage
    bytes: int
    winner_mean_f1: float
    mean_f1: float
    max_difference: float
    milliseconds: dict[int, float]


_STEPS = ("the winner's answers", "writing", "the copy's answers", "loading it in a fresh process")


def export(
    run: RunFolder,
    data: PreparedData,
    budget: Budget,
    target: Path,
    kind: Kind,
    storage: Storage | None,
    *,
    say: Callable[[Step], None] = lambda _: None,
) -> Export:
    """Writes the proved winner to `target`, a file or a folder, and proves the copy.

    `target` is there once it is proved, and not before; beside it lies what programs in other languages need
    (captune.tuner.winner.portable).

    Args:
        storage: of the copy, one that its kind can hold; None for the winner's own, or float32 in place of it.

    Raises:
        RunError: no winner yet, or `target` exists, or what would lie beside it.
        UsageError: `target` is not named as its kind is, or what writes and reads it is not installed.
        FormatError: the network cannot be written so.
        WorkError: the disk refuses.
        ProofError: over the budget, or the file gives other probabilities than the weights that were written.
    """
    if not run.proof.is_file():
        raise RunError(f"{run} has no proved winner; run `captune refit {shell_word(run)}` first")
    Proof.read(run.proof)
    check_target(kind, target)
    beside, form = portable_path(target), FORMATS.get(kind)
    if form is not None:
        form.check_installed()
    step = iter([Step(what, done, len(_STEPS)) for done, what in enumerate(_STEPS)])
    say(next(step))
    bundle = Bundle.load(run.bundle)
    winner = probabilities_of_split(bundle, data, "test")
    stored = storage_of(kind, storage, bundle.config.storage)
    copy = replace(bundle, config=bundle.config.stored_as(stored))
    put_through(copy.network, stored)
    milliseconds: dict[int, float] = {}
    say(next(step))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(beside, replace=False) as documents, written_aside(target, replace=False) as aside:
            if form is not None:
                written_by_converter(copy, form, aside)
            elif kind == "keras":
                copy.network.save(aside)
            else:
                copy.save(aside)
            measured = check_bytes(aside, kind, size(copy.config, _contents(copy, data)), budget)
            say(next(step))
            expected = probabilities_of_split(copy, data, "test")
            say(next(step))
            if form is not None:
                shipped, milliseconds = answers_of(aside, form, copy, data, "test")
            else:
                shipped = probabilities_in_fresh_process(aside, run.bundle if kind == "keras" else aside, data, "test")
            largest_difference(shipped, expected, target.name, form.tolerances[stored] if form else TOLERANCE)
            write_portable(documents, copy, data)
    except FileExistsError:
        raise RunError(f"{target} or {beside} exists; name another --to") from None
    except OSError as error:
        raise not_written(target, error) from None
    truth = data.labels[data.rows("test")]
    return Export(
        path=target,
        format=kind,
        storage=stored,
        bytes=measured,
        winner_mean_f1=metrics.score(truth, bundle.rule.answers(winner)).mean_f1,
        mean_f1=metrics.score(truth, bundle.rule.answers(shipped)).mean_f1,
        max_difference=float(np.abs(shipped - winner).max()),
        milliseconds=milliseconds,
    )


def _contents(bundle: Bundle, data: PreparedData) -> Contents:
    """What a copy of the bundle holds besides weights. It knows its word pieces, and no longer the folder of them."""
    text = bundle.config.text
    if text is None or text.encoder != "transformer" or bundle.vocabulary is None:
        return contents_of(data)
    pieces = Pieces.from_json(bundle.vocabulary).pieces
    return Contents.of(bundle.label_ids, bundle.label_names, None, {text.weights: pieces})
