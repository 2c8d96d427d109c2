"""What a teacher adds to the labels that a network learns (distillation: Hinton et al., 2015, arXiv 1503.02531)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.errors import one_line
from captune.model.bundle_manifest import BundleError, BundleManifest
from captune.model.config import TrainConfig
from captune.model.layout import MANIFEST
from captune.reading import UnreadableError, json_object, sha256
from captune.tuner.training.inference import probabilities_on
from captune.tuner.training.kept_rows import KeptRows, folder_of

if TYPE_CHECKING:
    from captune.model.bundle import Bundle

_BATCH = 256


def check_teacher(name: str, data: PreparedData) -> None:
    """Holds the bundle that `train.teacher` names against the data.

    Raises:
        BundleError: it is no bundle, or one that was changed.
        DataError: it does not suit the data, or was trained on other rows, so that it may know those of test.
    """
    try:
        manifest = BundleManifest.read(Path(name))
    except (BundleError, ValueError) as error:  # the latter of a NUL in a path
        raise BundleError(f"train.teacher: {error}") from None
    image, side = manifest.config.image, data.manifest.side
    if manifest.label_ids != tuple(data.manifest.label_ids):
        raise DataError(f"train.teacher: {name} has other labels than {data.path}; name a winner of this data")
    if image is not None and image.side != side:
        has = "no pictures" if side is None else f"pictures of {side} pixels a side"
        raise DataError(f"train.teacher: {name} reads pictures of {image.side} pixels a side, {data.path} has {has}")
    if manifest.config.text is not None and not data.has_captions:
        raise DataError(f"train.teacher: {name} reads captions, {data.path} has none")
    proof = Path(name).resolve().parent / "proof.json"
    try:
        learned = json_object(proof).get("data") if proof.is_file() else None
    except UnreadableError as error:
        raise DataError(f"train.teacher: {one_line(error)}") from None
    if learned not in (None, data.manifest.fingerprint):
        raise DataError(
            f"train.teacher: {name} was trained on other rows than {data.path}, and may know those of its test; name "
            "a winner of this data"
        )


def targets(train: TrainConfig, data: PreparedData) -> NDArray[np.float32] | None:
    """What training is to learn of each row of the data, (rows, labels), with those of test as they are labelled.

    Returns:
        None without a teacher: the labels.

    Raises:
        BundleError, DataError: see `check_teacher`; or its answers cannot be kept beside the data.
    """
    if not train.has_teacher:
        return None
    answers = TeacherAnswers(data, train.teacher)
    mixed = data.labels.astype(np.float32)
    probabilities = answers.computed()[np.arange(answers.count)]
    mixed[answers.rows] += train.teacher_share * (probabilities - mixed[answers.rows])
    return mixed


class TeacherAnswers(KeptRows):
    """Calibrated probabilities of a bundle for the rows of train and validation, in this order; test is not read."""

    what = "answers of the teacher"
    otherwise = "search with train.teacher: none"

    def __init__(self, data: PreparedData, name: str) -> None:
        self.data, self.path = data, Path(name)
        self.rows = np.concatenate([data.rows("train"), data.rows("validation")])
        try:
            digest = sha256(self.path / MANIFEST)
        except UnreadableError as error:
            raise BundleError(f"train.teacher: {error}") from None
        folder = folder_of(data, "teacher", {"bundle": digest})
        super().__init__(folder, len(self.rows), (len(data.manifest.label_ids),))

    @cached_property
    def _bundle(self) -> Bundle:
        from captune.model.bundle import Bundle

        # Here alone, as answers that are there are of this bundle and this data, which suited each other.
        check_teacher(str(self.path), self.data)
        return Bundle.load(self.path)

    def values(self, first: int, count: int) -> Iterator[NDArray[np.floating]]:
        """Of `count` rows from `first` on."""
        for start in range(first, first + count, _BATCH):
            rows = self.rows[start : min(start + _BATCH, first + count)]
            yield self._bundle.rule.calibrated(probabilities_on(self._bundle, self.data, rows))
