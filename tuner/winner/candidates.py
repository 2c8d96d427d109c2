"""What trials answer on validation when they are trained again, or by the network that the search kept of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.store import PreparedData
from captune.files import remove_leftovers, written_aside
from captune.model.f1 import Floats
from captune.model.flat import unflatten
from captune.model.rule import fit_rule
from captune.reading import NotReadError, UnreadableError, regular
from captune.results.records import Record
from captune.results.run_folder import RunFolder
from captune.tuner.training.checkpoints import best_name
from captune.tuner.training.job import Job
from captune.tuner.training.trial import begin, features_for, to_answer, validation_rows
from captune.tuner.winner.step import EpochSteps, Message

if TYPE_CHECKING:
    from captune.model.training import Spread

_SEAL = sha256().digest_size


@dataclass(frozen=True)
class Validation:
    """The validation rows of a run's data, and what trials answer on them.

    spread: devices that train together; None for one.
    """

    run: RunFolder
    data: PreparedData
    say: Callable[[Message], None]
    spread: Spread | None = None

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """In the order in which trials were scored on them."""
        return validation_rows(self.data)

    @property
    def truth(self) -> NDArray[np.uint8]:
        """(n, labels)."""
        return self.data.labels[self.rows]

    def probabilities(self, record: Record, turn: int = 0) -> Floats | None:
        """(n, labels), calibrated, after a trial's best epoch; None where it comes to no number.

        They are of the network that was kept, or of one that is trained for it on the train rows. What was computed
        once is kept beside the run: a refit that was killed goes on from there.

        Args:
            turn: added to the trial's seed; 0 for the trial as it was.
        """
        assert record.best_epoch is not None and record.seed is not None
        job = Job(unflatten(record.config), record.seed + turn, record.origin)
        identity = job.identity(self.data.manifest.fingerprint)
        path = self.run.finalists / f"{record.number}-{turn}-{record.best_epoch}-{identity[:16]}.answers"
        if (known := _read(path)) is not None:
            return known
        answers = self._of_kept(record) if turn == 0 else None
        if answers is None:
            self.say(f"trial {record.number} is trained again on train{'' if turn else ': its network was not kept'}")
            answers = self._trained(record, job)
        if answers is not None:
            self._keep(path, answers)
        return answers

    def _keep(self, path: Path, answers: Floats) -> None:
        with suppress(OSError):  # on a full disk it is computed again
            path.parent.mkdir(exist_ok=True)
            remove_leftovers(path.parent)
            with written_aside(path) as aside:
                aside.write_bytes(_sealed(answers))

    def _of_kept(self, record: Record) -> Floats | None:
        from captune.model.bundle import Bundle
        from captune.model.bundle_manifest import BundleError
        from captune.model.training import predict

        assert record.best_epoch is not None
        path = self.run.checkpoints / str(record.origin) / best_name(record.best_epoch)
        if not path.is_dir():
            return None
        try:
            bundle = Bundle.load(path)
        except BundleError:  # it is trained again
            return None
        raw = predict(bundle.network, to_answer(self.data, self.rows, bundle.config))
        return fit_rule(self.truth, raw).calibrated(raw)

    def _trained(self, record: Record, job: Job) -> Floats | None:
        from captune.model.stack import fit_stack

        data, config, epochs = self.data, job.config, record.best_epoch or 0
        features = features_for(config, data)
        training = begin(data, data.rows("train"), config, seed=job.seed, features=features, spread=self.spread)
        steps = EpochSteps(self.say, f"trial {record.number} again, seed {job.seed}", epochs)
        for number in range(1, epochs + 1):
            if not math.isfinite(steps.train(training, number)):
                return None
        rows = to_answer(data, self.rows, config.model, features)
        parts = training.parts(rows)
        if parts is None:
            raw = training.predict(rows)
        elif np.isfinite(parts).all():
            raw = fit_stack(self.truth, parts).probabilities(parts)
        else:
            return None
        return fit_rule(self.truth, raw).calibrated(raw) if np.isfinite(raw).all() else None


def _sealed(answers: Floats) -> bytes:
    """An array as numpy writes it, after its digest: who wins hangs on these numbers."""
    content = io.BytesIO()
    np.save(content, answers)
    return sha256(content.getvalue()).digest() + content.getvalue()


def _read(path: Path) -> Floats | None:
    """What lies there, if it is as it was written."""
    try:
        with regular(path) as file:
            seal, content = file.read(_SEAL), file.read()
    except (UnreadableError, NotReadError):
        return None
    if sha256(content).digest() != seal:
        return None
    answers: Floats = np.load(io.BytesIO(content), allow_pickle=False)
    return answers
