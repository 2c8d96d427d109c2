"""One trial: configuration and data in, epochs out; and the worker that runs trials one after another."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import tune

from cluster.session import draining, end_without_head
from data_prep.batches import Batches, lengths
from data_prep.captions import Vocabulary
from data_prep.store import PreparedData
from model.config import ModelConfig, TrialConfig, flatten, unflatten
from model.metrics import DecisionRule, Epoch
from tuner import process
from tuner.features import backbone_features
from tuner.halving import is_finite
from tuner.places import open_data
from tuner.retention import Keeper, Policy

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.training import Training

EVALUATION_BATCH = 256
_REST_SECONDS = 15.0
_LOOK_SECONDS = 1.0  # between two looks whether the node is about to go


@dataclass(frozen=True)
class Job:
    """One trial as its worker gets it.

    config: bound to the data. origin: number of its first attempt. best: score of the best epoch of earlier attempts.
    reported: epochs of these that the record has, from the first on.
    """

    config: TrialConfig
    seed: int
    origin: int
    best: float = -math.inf
    reported: int = 0

    def identity(self, data: PreparedData) -> str:
        """The same for two jobs only if they take the same course."""
        text = json.dumps([flatten(self.config), self.seed, data.manifest.fingerprint], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def train_trial(job: Job, data: PreparedData, keeper: Keeper | None = None) -> Iterator[Epoch]:
    """Trains on the train split, scores on validation, one report an epoch; goes on from a checkpoint if there is one.

    A checkpoint is written when the next epoch is asked for: by then whoever asks has kept the report before. It can
    still be ahead of the record, where that was lost with a machine and its mirror is older: then it has the reports.
    """
    from model import training

    started = time.monotonic()
    config = job.config
    rows, held_out = data.rows("train"), data.rows("validation")
    if data.tokens is not None:  # by length, so that captions of a batch are cut to little more than each
        held_out = held_out[np.argsort(lengths(data.tokens[held_out]), kind="stable")]
    features = features_for(config, data)
    examples = shuffled(data, rows, config, job.seed, features)
    validation = batches(data, held_out, config.model, EVALUATION_BATCH, features=features)
    opening = time.monotonic() - started
    trained = training.Training(
        config,
        examples,
        data.labels[rows].sum(axis=0).tolist(),
        seed=job.seed,
        bfloat16=process.in_bfloat16(config.train.precision),
    )
    checkpoint = keeper.resume() if keeper is not None else None
    if checkpoint is not None:
        trained.restore(checkpoint)
        yield from checkpoint.reports_after(job.reported)
    after, earlier = (checkpoint.epoch, checkpoint.reports) if checkpoint is not None else (0, ())
    best, writing = max([job.best, *(report.mean_f1 for report in earlier)]), 0.0
    for epoch in training.fit(trained, config.train.epochs, validation, data.labels[held_out], after=after):
        started = time.monotonic()
        if keeper is not None and epoch.mean_f1 > best:
            best = epoch.mean_f1
            keeper.best(epoch.epoch, partial(_save, trained, config, DecisionRule(epoch.threshold), data))
        report = replace(epoch, data_seconds=opening, checkpoint_seconds=writing + time.monotonic() - started)
        yield report
        opening = 0.0
        started = time.monotonic()
        if keeper is not None:
            keeper.checkpoint(report, trained.checkpoint)
            if keeper.leaving:
                return
        writing = time.monotonic() - started


def _save(training: Training, config: TrialConfig, rule: DecisionRule, data: PreparedData, path: Path) -> None:
    with training.averaged():
        make_bundle(training, config, rule, data).save(path)


def make_bundle(training: Training, config: TrialConfig, rule: DecisionRule, data: PreparedData) -> Bundle:
    """The network as it stands, with the labels and the part of the vocabulary that it knows."""
    from model.bundle import Bundle

    vocabulary: str | None = None
    if config.model.text is not None and data.vocabulary is not None:
        known = Vocabulary(data.vocabulary.words[: config.model.text.vocabulary_size - 2], data.vocabulary.settings)
        vocabulary = known.to_json()
    return Bundle(training.network, config.model, rule, data.manifest.label_ids, data.manifest.label_names, vocabulary)


def batches(
    data: PreparedData,
    rows: Any,
    config: ModelConfig,
    batch_size: int,
    *,
    seed: int | None = None,
    by_length: bool = False,
    features: NDArray[np.float32] | None = None,
) -> Batches:
    """The rows as the network reads them; shuffled every epoch where a seed is given. features: see Batches."""
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
    )


def shuffled(
    data: PreparedData, rows: Any, config: TrialConfig, seed: int, features: NDArray[np.float32] | None
) -> Batches:
    """The rows as the configuration trains on them. features: see Batches."""
    train = config.train
    return batches(
        data, rows, config.model, train.batch_size, seed=seed, by_length=train.group_by_length, features=features
    )


def features_for(config: TrialConfig, data: PreparedData) -> NDArray[np.float32] | None:
    """What stands in for pictures, where the configuration asks for features that were computed before."""
    if not config.train.cached_features or config.model.image is None:
        return None
    return backbone_features(data, config.model.image, config.model.storage)


@dataclass(frozen=True)
class Wear:
    """When a worker is worn out: after so many trials, or grown by more than so many bytes since its first one."""

    trials: int
    growth: int


class TrialWorker(tune.Trainable):
    """A Ray actor that runs trials one after another: imports and data are paid for once.

    What a trial itself does wrong is a result with `failure`, what its machine does a result with `lost`: an actor
    that raised would have to be started anew. An actor that dies is the machine's fault.
    """

    _epochs: Iterator[Epoch]
    _keeper: Keeper
    _length: int
    _reported: bool  # an epoch of this trial

    def setup(
        self, config: dict[str, Any], *, data: str, threads: int, backend: str, wear: Wear, policy: Policy
    ) -> None:
        """Opens the data and begins the first trial.

        Args:
            config: as `StudySearcher.suggest` gives it.
            data: path of the prepared data set, readable on this node, or its address.
            threads: CPUs of this worker.
            backend: what Keras computes with.
            wear: says when another worker is to take its place.
            policy: of checkpoints.
        """
        self._wear, self._trials, self._at_first = wear, 0, 0
        self._policy = policy
        self._looked = -_LOOK_SECONDS
        self._node = ray.get_runtime_context().get_node_id()
        end_without_head(self._node)
        self._open = partial(self._try, threads, backend, config["gpus"], data)
        started = time.monotonic()
        self._broken = self._open()
        self._starting = time.monotonic() - started
        self._begin(config)

    def settle(self, threads: int, backend: str, gpus: float) -> None:
        """Settles this process before its first trial."""
        process.settle(threads, backend, gpus)

    def epochs_of(self, job: Job, keeper: Keeper) -> Iterator[Epoch]:
        """The epochs of one trial."""
        return train_trial(job, self.data, keeper)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the next trial in this process; where nothing worked before, once more from the beginning."""
        if self._broken is not None:
            self._broken = self._open()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        where = {"node": platform.node(), "node_id": self._node}
        rest = self._resting.get(self._node, 0.0)
        if rest > 0:
            time.sleep(min(rest, _REST_SECONDS))  # other nodes get the chance to take the trial
            return {**where, "turned_away": True, "mean_f1": 0.0, "done": True}
        if self._broken is not None:
            return {**where, "lost": self._broken, "mean_f1": 0.0, "done": True}
        if self._is_drained():
            self._keeper.leaving = True
            if self._reported:
                next(self._epochs, None)  # writes its checkpoint
            return {**where, "preempted": True, "worn": True, "mean_f1": 0.0, "done": True}
        try:
            epoch = next(self._epochs)
        except Exception as error:  # whatever a configuration does wrong is recorded, and the next one runs
            return {
                **where,
                "failure": _one_line(error),
                "traceback": traceback.format_exc(),
                "fatal": type(error).__name__ == "WeightsError",  # it would meet every trial alike
                "memory": _is_memory(error),
                "worn": self._is_worn() or _is_memory(error),
                "mean_f1": 0.0,
                "done": True,
            }
        self._reported = True
        last = epoch.epoch >= self._length or not is_finite(epoch.mean_f1)
        epoch, self._starting = replace(epoch, start_seconds=self._starting), 0.0
        return {**asdict(epoch), **where, "complaint": self._keeper.complaint, "worn": self._is_worn(), "done": last}

    def _is_drained(self) -> bool:
        """Whether this node is about to be taken away, as clouds and autoscalers announce it."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        return self._node in draining()

    def _is_worn(self) -> bool:
        memory = private_bytes()
        self._at_first = self._at_first or memory
        return self._trials >= self._wear.trials or memory - self._at_first > self._wear.growth

    def _try(self, threads: int, backend: str, gpus: float, data: str) -> str | None:
        """Makes this process ready; says what keeps its node from working."""
        try:
            self.settle(threads, backend, gpus)
            self.data = open_data(data)
        except Exception as error:
            return f"node {platform.node()}: {_one_line(error)}"
        return None

    def _begin(self, config: dict[str, Any]) -> None:
        self._trials += 1
        self._reported = False
        self._resting: dict[str, float] = config["resting"]
        if self._broken is not None:
            return
        job = Job(unflatten(config["config"]), *(config[name] for name in ("seed", "origin", "best", "reported")))
        self._length = job.config.train.epochs
        self._keeper = Keeper(self._policy, job.origin, job.identity(self.data))
        self._epochs = self.epochs_of(job, self._keeper)


def private_bytes() -> int:
    """Memory of this process without what it maps of files, such as the pictures; 0 where there is no /proc to tell."""
    try:
        _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    except OSError:
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _is_memory(error: Exception) -> bool:
    names = (type(error).__name__, str(error)[:100])  # TensorFlow's has a class of its own, JAX's only a text
    return isinstance(error, MemoryError) or "ResourceExhaustedError" in names[0] or "RESOURCE_EXHAUSTED" in names[1]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if _is_memory(error):
        text = f"out of memory: {text}"
    return f"{type(error).__name__}: {text}"[:500]
