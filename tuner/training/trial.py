"""One trial: configuration and data in, epochs out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.batches import Batches, Features, lengths
from captune.data_prep.captions import Vocabulary
from captune.data_prep.pieces import cut_pieces
from captune.data_prep.store import PreparedData
from captune.model.average import Network
from captune.model.config import TextConfig, TrialConfig
from captune.model.frozen_features import CaptionFeatures, FrozenFeatures
from captune.model.metrics import Epoch
from captune.model.part_of_epoch import Heard, unheard
from captune.model.rule import DecisionRule
from captune.model.transformers import weights_folder
from captune.tuner.training import runtime
from captune.tuner.training.checkpoints import CheckpointWriter
from captune.tuner.training.features import FeatureFiles, text_tower_ids, text_tower_rows
from captune.tuner.training.inference import rows_at_once
from captune.tuner.training.job import Job
from captune.tuner.training.teacher import targets

if TYPE_CHECKING:
    import keras

    from captune.model.bundle import Bundle
    from captune.model.training import Spread, Training


def train_trial(
    job: Job,
    data: PreparedData,
    checkpoints: CheckpointWriter | None = None,
    *,
    spread: Spread | None = None,
    heard: Heard = unheard,
) -> Iterator[Epoch]:
    """Trains on the train split, scores on validation, one report an epoch; goes on from a checkpoint if there is one.

    A checkpoint is written when the next epoch is asked for: by then whoever asks has kept the report before. It can
    still be ahead of the record, where that was lost with a machine and its mirror is older: then it has the reports.

    Args:
        heard: told how far each epoch is.
    """
    from captune.model.held_out import fit

    started = time.monotonic()
    config = job.config
    rows, held_out = data.rows("train"), validation_rows(data)
    features = features_for(config, data)
    validation = to_answer(data, held_out, config.model, features)
    opening = time.monotonic() - started
    trained = begin(data, rows, config, seed=job.seed, features=features, spread=spread)
    checkpoint = checkpoints.resume() if checkpoints is not None else None
    if checkpoint is not None:
        trained.restore(checkpoint)
        yield from checkpoint.reports_after(job.reported)
    after, earlier = (checkpoint.epoch, checkpoint.reports) if checkpoint is not None else (0, ())
    best, writing = max([job.best, *(report.score for report in earlier)]), 0.0
    truth = data.labels[held_out]
    epochs = fit(trained, config.train.epochs, validation, truth, after=after, metric=job.metric, heard=heard)
    for epoch in epochs:
        started = time.monotonic()
        if checkpoints is not None and epoch.rule is not None and epoch.score > best:
            best = epoch.score
            checkpoints.best(epoch.epoch, partial(_save, trained, config, epoch, data))
        report = replace(epoch, data_seconds=opening, checkpoint_seconds=writing + time.monotonic() - started)
        yield report
        opening = 0.0
        started = time.monotonic()
        if checkpoints is not None:
            checkpoints.checkpoint(report, trained.checkpoint)
            if checkpoints.leaving:
                return
        writing = time.monotonic() - started


def validation_rows(data: PreparedData) -> NDArray[np.int64]:
    """In the order in which trials are scored on them, and rules fitted on every other one.

    By length, so that captions of a batch are cut to little more than each.
    """
    rows = data.rows("validation")
    return rows if data.tokens is None else rows[np.argsort(lengths(data.tokens[rows]), kind="stable")]


def _save(training: Training, config: TrialConfig, epoch: Epoch, data: PreparedData, path: Path) -> None:
    assert epoch.rule is not None
    with training.averaged(), training.stacked(epoch.stack):
        make_bundle(training.network, config.model, epoch.rule, data).save(path)


def make_bundle(network: keras.Model, config: Network, rule: DecisionRule, data: PreparedData) -> Bundle:
    """The network as it stands, with the labels and the part of the vocabulary that it knows."""
    from captune.model.bundle import Bundle

    vocabulary = None if config.text is None else _vocabulary(config.text, data)
    return Bundle(network, config, rule, data.manifest.label_ids, data.manifest.label_names, vocabulary)


def _vocabulary(text: TextConfig, data: PreparedData) -> str | None:
    """As JSON, what of the data's words or word pieces an encoder knows."""
    if text.encoder == "transformer":
        return cut_pieces(data, weights_folder(text.weights, "text")).pieces.first(text.vocabulary_size).to_json()
    if data.vocabulary is None:
        return None
    return Vocabulary(data.vocabulary.words[: text.vocabulary_size - text.marks], data.vocabulary.settings).to_json()


def batches(
    data: PreparedData,
    rows: Any,
    config: Network,
    batch_size: int,
    *,
    seed: int | None = None,
    by_length: bool = False,
    features: Features | None = None,
    targets: NDArray[np.float32] | None = None,
) -> Batches:
    """The rows as the network reads them; shuffled every epoch where a seed is given. The rest: see Batches."""
    text = config.text
    return Batches(
        data,
        rows,
        batch_size,
        modality=config.modality,
        max_tokens=text.max_tokens if text else None,
        vocabulary_size=text.vocabulary_size if text else None,
        seed=seed,
        by_length=by_length,
        features=features,
        tokens=text_tower_ids(data, text) if text is not None and text.encoder == "transformer" else None,
        targets=targets,
    )


def to_answer(data: PreparedData, rows: Any, config: Network, features: Features | None = None) -> Batches:
    """The rows in their order, in the batches in which a network answers them without learning."""
    computed = features is not None and features.plain is not None
    return batches(data, rows, config, rows_at_once(None if computed else config.image), features=features)


def begin(
    data: PreparedData,
    rows: Any,
    config: TrialConfig,
    *,
    seed: int,
    features: Features | None,
    spread: Spread | None = None,
) -> Training:
    """A network that is to learn the rows as the configuration says. features: see Batches; the rest: see Training."""
    from captune.model.training import Training

    train = config.train
    examples = batches(
        data,
        rows,
        config.model,
        train.batch_size,
        seed=seed,
        by_length=train.group_by_length,
        features=features,
        targets=targets(train, data),
    )
    counts = data.labels[rows].sum(axis=0).tolist()
    bfloat16, text = runtime.in_bfloat16(train.precision), config.model.text
    pieces = text_tower_rows(data, text) if text is not None and text.encoder == "transformer" else None
    passes = train.passes(len(data.rows("train")))
    return Training(config, examples, counts, seed=seed, bfloat16=bfloat16, spread=spread, pieces=pieces, passes=passes)


def features_for(config: TrialConfig, data: PreparedData) -> Features | None:
    """What towers gave before, where the configuration asks for features that are computed once."""
    image, text, of_captions = config.model.image, config.model.text, CaptionFeatures.needed(config)
    ways = [FeatureFiles(data, image, features) for features in FrozenFeatures.needed(config) if image is not None]
    plain, mirrored = (*(files.computed() for files in ways), None, None)[:2]
    captions = None
    if text is not None and of_captions is not None:
        captions = FeatureFiles(data, text, of_captions).computed()
    return Features(plain, mirrored, captions) if ways or captions is not None else None
