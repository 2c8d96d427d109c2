"""How far the epochs that train are: workers tell it at the head of the cluster, the driver reads it there.

Ray Tune carries what a step of a worker returns, and a step is an epoch; one may take an hour.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict

import ray

from captune.cluster.nodes import ray_private
from captune.model.part_of_epoch import PartOfEpoch

_NAMESPACE = b"captune.parts_of_epochs.1"  # another number for another form
_SECONDS = 2.0  # between two times that all are read
_A_SECOND = 20  # are read at most: each is a question to the head


def tell(trial_id: str, part: PartOfEpoch) -> None:
    """Puts down how far a trial's epoch is. That it cannot is no fault of the trial's."""
    with suppress(Exception):
        ray_private.store(_NAMESPACE, _key(trial_id), json.dumps(asdict(part)).encode())


class PartsOfEpochs:
    """What workers have told, as it was read a few seconds ago at most."""

    def __init__(self) -> None:
        self._parts: dict[str, PartOfEpoch] = {}
        self._next = 0.0  # second of the clock

    def of(self, trial_ids: Collection[str]) -> dict[str, PartOfEpoch]:
        """Of these trials, by their ids: those of which anything was told, maybe of an epoch that is over."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + max(_SECONDS, len(trial_ids) / _A_SECOND)
            with suppress(Exception):  # a head that does not answer is the business of others
                told = {trial_id: ray_private.value(_NAMESPACE, _key(trial_id)) for trial_id in trial_ids}
                self._parts = {id_: PartOfEpoch(**json.loads(text)) for id_, text in told.items() if text is not None}
        return self._parts

    def forget(self, trial_id: str) -> None:
        """Takes away what a trial told that has ended."""
        with suppress(Exception):
            ray_private.remove(_NAMESPACE, _key(trial_id))


def _key(trial_id: str) -> str:
    return f"{ray.get_runtime_context().get_job_id()}.{trial_id}"
