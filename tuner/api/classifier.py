"""A bundle at work: labels and probabilities for captions and pictures, scores on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.tuner.api.caller import left_as_it_was
from captune.tuner.training.runtime import import_keras

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captune.data_prep.images import Picture
    from captune.model.bundle import Bundle


@dataclass(frozen=True)
class Classifier:
    """What `captune.load` gives.

    Example:
        >>> classifier = captune.load("run/winner/bundle")
        >>> classifier.reads, list(classifier.labels)
        (('captions',), [1, 2, 3, 5, 6, 8])
    """

    path: Path
    bundle: Bundle

    @cached_property
    def labels(self) -> dict[int, str]:
        """Names of the labels by their ids, in the order of the columns of `probabilities`."""
        return dict(zip(self.bundle.label_ids, self.bundle.label_names, strict=True))

    @property
    def reads(self) -> tuple[str, ...]:
        """Of "captions" and "images" what it needs."""
        config = self.bundle.config
        return tuple(name for name, part in (("captions", config.text), ("images", config.image)) if part is not None)

    def predict(
        self, captions: Sequence[str] | None = None, images: Sequence[Picture] | None = None
    ) -> list[tuple[int, ...]]:
        """The ids of the labels of each example, at least one; `labels` names them. Arguments: see `probabilities`.

        Example:
            >>> captune.load("run/winner/bundle").predict(captions=["a red ball"])
            [(2,)]
        """
        from captune.tuner.winner import predict

        return predict.labels(self.bundle, self.probabilities(captions, images))

    @left_as_it_was()
    def probabilities(
        self, captions: Sequence[str] | None = None, images: Sequence[Picture] | None = None
    ) -> NDArray[np.float32]:
        """(n, labels) from 0 to 1, float32.

        Args:
            captions: n texts; None where it does not read captions.
            images: n pictures: paths, arrays of (height, width, 3) uint8 RGB, or Pillow's images; None where it does
                not read pictures.

        Raises:
            DataError: what it reads is missing, or a picture cannot be read.

        Example:
            >>> captune.load("run/winner/bundle").probabilities(captions=["a red ball", "two stars"]).shape
            (2, 6)
        """
        from captune.tuner.winner import predict

        return predict.probabilities(self.bundle, captions, images)

    @left_as_it_was()
    def evaluate(self, csv: str | Path, images: str | Path | None = None) -> dict[str, Any]:
        """Scores on the labelled rows of a CSV: mean_f1, micro_f1, macro_f1, map, per_label (F1 by id), examples.

        Raises:
            DataError: a row cannot be used, with its line and value.

        Example:
            >>> scores = captune.load("run/winner/bundle").evaluate("train.csv")
            >>> round(scores["mean_f1"], 2), scores["examples"]
            (0.36, 59)
        """
        from captune.tuner.winner import predict

        rows = predict.read_rows(self.bundle, Path(csv), _path(images), need_labels=True)
        return predict.evaluate(self.bundle, *rows)

    @left_as_it_was()
    def predict_file(self, csv: str | Path, images: str | Path | None = None, *, out: str | Path) -> int:
        """Writes ImageID,Labels for every row of a CSV to `out`, which must not exist; the number of rows.

        Raises:
            DataError: a row cannot be used, or `out` cannot be written.

        Example:
            >>> captune.load("run/winner/bundle").predict_file("train.csv", out="submission.csv")
            59
        """
        from captune.tuner.winner import predict

        rows, pictures = predict.read_rows(self.bundle, Path(csv), _path(images), need_labels=False)
        predict.write_submission(self.bundle, rows, pictures, Path(out))
        return len(rows.examples)

    def __repr__(self) -> str:
        return f"<captune classifier {self.path}: {len(self.labels)} labels from {' and '.join(self.reads)}>"


@left_as_it_was()
def load(path: str | Path, *, backend: str | None = None) -> Classifier:
    """The classifier in a bundle: RUN/winner/bundle, or what `Winner.export` wrote.

    Args:
        backend: "tensorflow" or "jax" where Keras is not loaded yet; None for what Keras's own settings say.

    Raises:
        BundleError: no bundle, or a file that is not as it was written.

    Example:
        >>> captune.load("run/winner/bundle")
        <captune classifier run/winner/bundle: 6 labels from captions>
    """
    from captune.model.bundle_manifest import BundleManifest

    BundleManifest.read(Path(path))  # what is no bundle is told before seconds go into a framework
    import_keras(backend)
    from captune.model.bundle import Bundle

    return Classifier(Path(path), Bundle.load(Path(path)))


def _path(where: str | Path | None) -> Path | None:
    return None if where is None else Path(where)
