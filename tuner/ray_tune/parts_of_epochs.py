"""How far the epochs that train are: workers tell it at the head of the cluster, the driver reads it there.

Ray Tune carries what a step of a worker returns, and a step is an epoch; one may take an hour. Neither a worker that
trains nor the driver that reads waits for the head: what cannot be told or read now is left out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict
from threading import Thread

import ray

from captune.cluster.nodes import ray_private
from captune.model.part_of_epoch import PartOfEpoch

_NAMESPACE = b"captune.parts_of_epochs.1"  # another number for another form
_SECONDS = 2.0  # between two times that all are read
_A_SECOND = 20  # are read at most: each is a question to the head


class _Aside:
    """Does one thing at a time in a thread; what comes meanwhile, and what fails, is left out."""

    def __init__(self) -> None:
        self._thread: Thread | None = None

    def do(self, what: Callable[[], None]) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = Thread(target=self._quietly, args=(what,), daemon=True)
            self._thread.start()

    @staticmethod
    def _quietly(what: Callable[[], None]) -> None:
        with suppress(Exception):
            what()


class Teller:
    """Tells how far the epochs of this process's trials are."""

    def __init__(self) -> None:
        self._job = ray.get_runtime_context().get_job_id()
        self._aside = _Aside()

    def tell(self, trial_id: str, part: PartOfEpoch) -> None:
        """Of a trial, by Ray Tune's id."""
        value = json.dumps(asdict(part)).encode()
        self._aside.do(lambda: ray_private.store(_NAMESPACE, _key(self._job, trial_id), value))


class PartsOfEpochs:
    """What the workers of this driver have told, as it was read a few seconds ago at most."""

    def __init__(self) -> None:
        self._job = ray.get_runtime_context().get_job_id()
        self._aside = _Aside()
        self._told: dict[str, tuple[bytes, float]] = {}  # what, and when it was read first
        self._next = 0.0  # second of the clock

    def of(self, trial_ids: Collection[str]) -> dict[str, PartOfEpoch]:
        """Of these trials, by their ids: those of which anything was told, maybe of an epoch that is over.

        Since it was told an epoch has gone on at the pace that it had.
        """
        now = time.monotonic()
        if now >= self._next:
            self._next, ids = now + max(_SECONDS, len(trial_ids) / _A_SECOND), tuple(trial_ids)
            self._aside.do(lambda: self._read(ids))
        told = self._told  # the thread puts another one in its place
        return {
            trial_id: PartOfEpoch(**json.loads(told[trial_id][0])).later(now - told[trial_id][1])
            for trial_id in trial_ids
            if trial_id in told
        }

    def _read(self, trial_ids: Collection[str]) -> None:
        values = {trial_id: ray_private.value(_NAMESPACE, _key(self._job, trial_id)) for trial_id in trial_ids}
        now, before = time.monotonic(), self._told
        self._told = {
            trial_id: before[trial_id] if trial_id in before and before[trial_id][0] == value else (value, now)
            for trial_id, value in values.items()
            if value is not None
        }

    def forget(self, trial_id: str) -> None:
        """Takes away what a trial told that has ended."""
        with suppress(Exception):
            ray_private.remove(_NAMESPACE, _key(self._job, trial_id))


def _key(job: str, trial_id: str) -> str:
    return f"{job}.{trial_id}"
