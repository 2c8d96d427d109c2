"""The worker: a Ray actor that runs trials one after another."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from captune.cluster.nodes.cut_off import end_without_head
from captune.cluster.nodes.session import draining
from captune.errors import one_line
from captune.model.backbones import WeightsError
from captune.model.metrics import Epoch
from captune.tuner.decisions.halving import is_finite
from captune.tuner.decisions.trial_events import (
    Assignment,
    Failed,
    Message,
    NodeBroken,
    Preempted,
    Report,
    TurnedAway,
    Worker,
)
from captune.tuner.ray_tune.adapter import ASSIGNMENT, MESSAGE
from captune.tuner.ray_tune.parts_of_epochs import Teller
from captune.tuner.run.locations import open_data
from captune.tuner.training import runtime
from captune.tuner.training.checkpoints import CheckpointPolicy, CheckpointWriter
from captune.tuner.training.job import Job
from captune.tuner.training.trial import train_trial

_REST_SECONDS = 15.0
_LOOK_SECONDS = 1.0  # between two looks whether the node is about to go


@dataclass(frozen=True)
class WorkerLimits:
    """When a worker is worn out: after so many trials, or grown by more than so many bytes since its first one."""

    trials: int
    growth: int


class TrialWorker(tune.Trainable):
    """A Ray actor that runs trials one after another: imports and data are paid for once.

    What a trial itself does wrong, and what its machine does, are messages: an actor that raised would have to be
    started anew. An actor that dies is the machine's fault.
    """

    _epochs: Iterator[Epoch]
    _checkpoints: CheckpointWriter
    _assignment: Assignment
    _reported: bool  # an epoch of this trial

    def setup(
        self,
        config: dict[str, Any],
        *,
        data: str,
        threads: int,
        backend: str,
        worker_limits: WorkerLimits,
        policy: CheckpointPolicy,
    ) -> None:
        """Opens the data and begins the first trial.

        Args:
            config: the assignment, as Ray Tune carries it.
            data: path of the prepared data set, readable on this node, or its address.
            threads: CPUs of this worker.
            backend: what Keras computes with.
            worker_limits: after which another worker is to take its place.
            policy: of checkpoints.
        """
        self._worker_limits, self._trials, self._at_first = worker_limits, 0, 0
        self._policy = policy
        self._looked = -_LOOK_SECONDS
        self._node = ray.get_runtime_context().get_node_id()
        end_without_head(self._node)
        self._open = partial(self._try, threads, backend, config[ASSIGNMENT].gpus, data)
        started = time.monotonic()
        self._broken = self._open()
        self._starting = time.monotonic() - started
        self._begin(config[ASSIGNMENT])

    def settle(self, threads: int, backend: str, gpus: float) -> None:
        """Settles this process before its first trial. What has several GPUs trains each trial on all of them."""
        runtime.settle(threads, backend, gpus)
        self._spread = runtime.spread(int(gpus))
        self._teller = Teller()

    def epochs_of(self, job: Job, checkpoints: CheckpointWriter) -> Iterator[Epoch]:
        """The epochs of one trial."""
        return train_trial(
            job, self.data, checkpoints, spread=self._spread, heard=partial(self._teller.tell, self.trial_id)
        )

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the next trial in this process; where nothing worked before, once more from the beginning."""
        if self._broken is not None:
            self._broken = self._open()
        self._begin(new_config[ASSIGNMENT])
        return True

    def step(self) -> dict[str, Any]:
        """One epoch, as Ray Tune carries it."""
        message = self._message()
        last = not isinstance(message, Report) or self._is_last(message.epoch)
        return {MESSAGE: message, "worn": self._is_worn(message), "done": last}

    def _is_last(self, epoch: Epoch) -> bool:
        return epoch.epoch >= self._assignment.job.config.train.epochs or not is_finite(epoch.score)

    def _message(self) -> Message:
        worker = Worker(platform.node(), self._node)
        rest = self._assignment.resting.get(self._node, 0.0)
        if rest > 0:
            time.sleep(min(rest, _REST_SECONDS))  # other nodes get the chance to take the trial
            return TurnedAway(worker)
        if self._broken is not None:
            return NodeBroken(worker, self._broken)
        if self._is_drained():
            self._checkpoints.leaving = True
            if self._reported:
                next(self._epochs, None)  # writes its checkpoint
            return Preempted(worker)
        try:
            epoch = next(self._epochs)
        except Exception as error:  # whatever a configuration does wrong is recorded, and the next one runs
            fatal = isinstance(error, WeightsError)  # it would meet every trial alike
            return Failed(_reason(error), traceback.format_exc(), fatal=fatal, out_of_memory=_is_memory(error))
        self._reported = True
        epoch, self._starting = replace(epoch, start_seconds=self._starting), 0.0
        return Report(worker, epoch, self._checkpoints.complaint)

    def _is_drained(self) -> bool:
        """Whether this node is about to be taken away, as clouds and autoscalers announce it."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        return self._node in draining()

    def _is_worn(self, message: Message) -> bool:
        """Whether another worker is to take its place after this message."""
        if isinstance(message, Preempted) or (isinstance(message, Failed) and message.out_of_memory):
            return True
        memory = private_bytes()
        self._at_first = self._at_first or memory
        return self._trials >= self._worker_limits.trials or memory - self._at_first > self._worker_limits.growth

    def _try(self, threads: int, backend: str, gpus: float, data: str) -> str | None:
        """Makes this process ready; says what keeps its node from working."""
        try:
            self.settle(threads, backend, gpus)
            self.data = open_data(data, verify=False)
        except Exception as error:
            return f"node {platform.node()}: {_reason(error)}"
        return None

    def _begin(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._trials += 1
        self._reported = False
        if self._broken is not None:
            return
        job = assignment.job
        identity = job.identity(self.data.manifest.fingerprint)
        self._checkpoints = CheckpointWriter(self._policy, job.origin, identity)
        self._epochs = self.epochs_of(job, self._checkpoints)


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


def _reason(error: Exception) -> str:
    memory = "out of memory: " if _is_memory(error) else ""
    return one_line(f"{type(error).__name__}: {memory}{error}", 500)
