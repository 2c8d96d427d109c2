"""The winner trained again without each of its parts, to see what they give.

All variants are trained alike, on the train split, for as many epochs as a refit would take, and scored on validation
as trials are. Test is not read: an ablation is looked at, and something may be chosen by what it shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.data_prep.store import PreparedData
from captune.errors import ArgumentError, WorkError
from captune.model.config import Metric, TrialConfig
from captune.model.flat import unflatten
from captune.model.metrics import shares
from captune.model.size import size
from captune.results.ablation import WHOLE, Ablation, Variant
from captune.results.records import load_records
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.locations import reading
from captune.tuner.run.settings import RunSettings, read, refuse_other_files
from captune.tuner.training import runtime
from captune.tuner.winner.ablations import ablations, note_on
from captune.tuner.winner.choose import choose, epoch_to_keep, epochs_of_refit
from captune.tuner.winner.step import EpochSteps, Message

if TYPE_CHECKING:
    from captune.results.records import Record


def ablate(
    location: str,
    number: int | None,
    parts: Sequence[str],
    seeds: int,
    threads: int,
    *,
    say: Callable[[Message], None],
) -> Ablation:
    """Trains what RUN/ablation.json lacks, in this process, which is settled for it; a variant is kept once it is done.

    Args:
        location: path or address of the run.
        number: of the trial to take apart instead of the best.
        parts: to be left out, one at a time; none for all that the network has.
        seeds: trainings of each variant, whose scores are averaged.
        threads: of one operation on the CPU.

    Raises:
        ArgumentError: the network lacks a part.
        RunError: no trial qualifies or it has no part; another process trains the winner; what is kept is of another.
        WorkError: a variant diverged.
    """
    with reading(location) as run, run.refitting(anyway=True):
        settings, data = read(run)
        refuse_other_files(RunSettings.of(run))
        record = choose(load_records(run), settings.limit, number=number)
        config = unflatten(record.config)
        variants = ablations(config)
        if not variants:
            raise RunError(f"trial {record.number} has no part to leave out; choose another with --trial")
        for part in parts:
            if part not in variants:
                raise ArgumentError(
                    "without", f"trial {record.number} can be tried without {', '.join(variants)}, got {part}"
                )
        ablation = _begun(run, record, data, seeds, settings.metric)
        runtime.settle(threads, settings.backend)
        wanted: dict[str, TrialConfig] = {WHOLE: config} | {part: variants[part] for part in parts or variants}
        left = {part: each for part, each in wanted.items() if ablation.without(part) is None}
        for place, (part, each) in enumerate(left.items()):
            epochs = ablation.epochs * seeds
            steps = partial(EpochSteps, say, f"without {part}", len(left) * epochs)
            variant = _trained(part, each, record, data, ablation, steps, place * epochs)
            ablation = ablation.model_copy(update={"variants": (*ablation.variants, variant)})
            ablation.write(run.ablation)
            if run.address is not None:
                RemoteFolder(run.address).upload(run.ablation, run.ablation.name)
        shown = tuple(variant for variant in ablation.variants if variant.without in wanted)
        return ablation.model_copy(update={"variants": shown})


def _begun(run: RunFolder, record: Record, data: PreparedData, seeds: int, metric: Metric) -> Ablation:
    new = Ablation(
        trial=record.number,
        config=dict(record.config),
        epochs=epochs_of_refit(record, epoch_to_keep(record)),
        seeds=seeds,
        data=data.manifest.fingerprint,
        metric=metric,
    )
    if not run.ablation.exists():
        return new
    old = Ablation.read(run.ablation)
    if old.model_copy(update={"variants": ()}) != new:
        raise RunError(
            f"{run}/{run.ablation.name} is of trial {old.trial} with {old.seeds} seeds, not of trial {new.trial} with "
            f"{new.seeds} on this data; move it away, or give what it is of"
        )
    return old


def _trained(
    part: str,
    config: TrialConfig,
    record: Record,
    data: PreparedData,
    ablation: Ablation,
    steps: Callable[[int], EpochSteps],
    before: int,
) -> Variant:
    """steps: told of all epochs, by how many came before a training. before: those of other variants."""
    from captune.model.held_out import answer
    from captune.tuner.training.trial import begin, features_for, to_answer, validation_rows

    assert record.seed is not None
    started = time.monotonic()
    features = features_for(config, data)
    held_out = validation_rows(data)
    validation = to_answer(data, held_out, config.model, features)
    truth, of_seeds = data.labels[held_out], []
    for turn in range(ablation.seeds):
        training = begin(data, data.rows("train"), config, seed=record.seed + turn, features=features)
        told = steps(before + turn * ablation.epochs)
        for number in range(1, ablation.epochs + 1):
            told.train(training, number)
        answered = answer(training, validation, truth, metric=ablation.metric)
        if answered is None:
            raise WorkError(f"without {part} the network diverged: an output is not finite")
        of_seeds.append(shares(ablation.metric, truth, answered.answers))
    bytes_ = size(config.model).weights_bytes
    return Variant(
        without=part,
        shares=tuple(np.mean(of_seeds, axis=0).tolist()),
        weights_bytes=bytes_,
        seconds=round(time.monotonic() - started, 1),
        note=note_on(config, unflatten(record.config)),
    )
