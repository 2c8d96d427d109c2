"""A bundle at work: labels and probabilities for captions and pictures, scores on labelled rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.data_prep.records import BadRow, DataError, OnBad
from captune.errors import ArgumentError
from captune.tuner.api.caller import left_as_it_was
from captune.tuner.api.progress import bar, say
from captune.tuner.training.runtime import import_keras

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captune.data_prep.images import Picture
    from captune.model.bundle import Bundle
    from captune.tuner.winner.answers import Answer
    from captune.tuner.winner.rows import Rows


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

    @left_as_it_was()
    def predict(
        self, captions: Sequence[str] | None = None, images: Sequence[Picture] | None = None
    ) -> list[tuple[int, ...]]:
        """The ids of the labels of each example, at least one; `labels` names them. Arguments: see `probabilities`.

        They are what the bundle's rule makes of calibrated probabilities: a threshold, a share of each example's
        largest, or the set with the highest expected F1.

        Example:
            >>> captune.load("run/winner/bundle").predict(captions=["a red ball"])
            [(2,)]
        """
        from captune.tuner.winner import predict

        return predict.labels(self.bundle, self._raw(captions, images))

    @left_as_it_was()
    def probabilities(
        self, captions: Sequence[str] | None = None, images: Sequence[Picture] | None = None
    ) -> NDArray[np.float32]:
        """(n, labels) from 0 to 1, float32, calibrated: of labels at 0.8 four in five are right, as on validation.

        Args:
            captions: n texts; None where it does not read captions.
            images: n pictures: paths, arrays of (height, width, 3) uint8 RGB, or Pillow's images; None where it does
                not read pictures. Where it sums logits of both (`fusion: summed`), either may be None.

        Raises:
            DataError: what it reads is missing, or a picture cannot be used: the error has its place in `images`.

        Example:
            >>> captune.load("run/winner/bundle").probabilities(captions=["a red ball", "two stars"]).shape
            (2, 6)
        """
        return self.bundle.rule.calibrated(self._raw(captions, images))

    @left_as_it_was()
    def answers(
        self,
        captions: Sequence[str] | None = None,
        images: Sequence[Picture] | None = None,
        *,
        top: int | None = None,
    ) -> list[tuple[Answer, ...]]:
        """The labels of each example, likeliest first: id, name, calibrated probability, and whether the rule gives it.

        Args:
            captions, images: see `probabilities`.
            top: how many labels, those that the rule does not give as well; None for those that it gives.

        Example:
            >>> [(label.name, label.decided) for label in captune.load("run/winner/bundle").answers(["a red ball"])[0]]
            [('2', True)]
        """
        from captune.tuner.winner.answers import answers

        return answers(self.bundle, self._raw(captions, images), top)

    def _raw(self, captions: Sequence[str] | None, images: Sequence[Picture] | None) -> NDArray[np.float32]:
        """The network's own probabilities."""
        from captune.tuner.winner import predict

        return predict.probabilities(self.bundle, captions, images)

    @left_as_it_was()
    def evaluate(
        self, csv: str | Path, images: str | Path | None = None, *, on_bad: OnBad = "error", progress: bool = True
    ) -> dict[str, Any]:
        """Scores on the labelled rows of a CSV: mean_f1, micro_f1, macro_f1, map, ece, per_label (F1 by id),
        rows_per_label, examples.

        low and high are a 95 % interval of mean_f1 by the bootstrap; ece is the expected calibration error of the
        probabilities, less is better; commonest_label the mean F1 of the label that the rows have most often, always
        given alone.

        Args:
            on_bad: at a row that cannot be used, also for a label that the classifier does not know, "error" stops;
                "skip" leaves it out, says so on stderr, and lists it as `skipped`: line, image_id, reason.
            progress: whether it is shown.

        Raises:
            DataError: a row cannot be used, with its line and value.

        Example:
            >>> scores = captune.load("run/winner/bundle").evaluate("train.csv")
            >>> round(scores["mean_f1"], 2), scores["examples"]
            (0.36, 59)
        """
        import numpy as np

        from captune.tuner.winner import predict

        truth, raw, bad = [], [], list[BadRow]()
        for rows, some in self._of_rows(csv, images, need_labels=True, on_bad=on_bad, batch=None, progress=progress):
            truth.append(predict.multi_hot(self.bundle, rows))
            raw.append(some)
            bad += rows.records.bad
        scores = predict.evaluate(self.bundle, np.concatenate(truth), np.concatenate(raw))
        return scores if on_bad == "error" else {**scores, "skipped": [asdict(row) for row in bad]}

    @left_as_it_was()
    def predict_file(
        self,
        csv: str | Path,
        images: str | Path | None = None,
        *,
        out: str | Path,
        probabilities: bool = False,
        top: int | None = None,
        names: bool = False,
        batch: int | None = None,
        on_bad: OnBad = "error",
        progress: bool = True,
    ) -> int:
        """Writes ImageID,Labels for every row of a CSV to `out`, which must not exist; the number of rows.

        A column Labels is not looked at, and an ImageID may stand in several rows. Rows are answered and written some
        thousand at a time, so that any number of them fits. The file appears when all is done.

        Args:
            out: a CSV, or a Parquet file where it ends in .parquet, whose Labels are lists.
            probabilities: a further column for each label, named by its id: its calibrated probability. With `top` one
                column Probabilities, of the labels in their order.
            top: how many of the likeliest labels each row gets, likeliest first, instead of those that the rule gives.
            names: names of labels instead of their ids; in a CSV semicolons are between them.
            batch: rows that go through the network together, 1 to 1024; None for 256, fewer of larger
                pictures: 32 of 224 pixels.
            on_bad: at a row that cannot be used "error" stops; "skip" leaves it out and says so on stderr.
            progress: whether it is shown.

        Raises:
            DataError: a row cannot be used, or `out` cannot be written.
            ArgumentError: `top` or `batch` is out of its range; or names of labels cannot be told apart.

        Example:
            >>> captune.load("run/winner/bundle").predict_file("train.csv", out="submission.csv")
            59
        """
        from captune.tuner.winner.submission import SubmissionForm, submission

        out = Path(out)
        check_new(out)
        form, count = SubmissionForm(probabilities, top, names), 0
        form.check(self.bundle)
        with submission(self.bundle, out, form) as write:
            for rows, raw in self._of_rows(
                csv, images, need_labels=False, on_bad=on_bad, batch=batch, progress=progress
            ):
                write([example.image_id for example in rows.records.examples], raw)
                count += len(raw)
        return count

    def _of_rows(
        self,
        csv: str | Path,
        images: str | Path | None,
        *,
        need_labels: bool,
        on_bad: OnBad,
        batch: int | None,
        progress: bool,
    ) -> Iterator[tuple[Rows, NDArray[np.float32]]]:
        """The rows of a CSV that can be used, some at a time, and the network's probabilities; others are told."""
        from captune.tuner.training.inference import usual_batch
        from captune.tuner.winner import predict
        from captune.tuner.winner.rows import CHUNK, open_rows

        if on_bad not in ("error", "skip"):
            raise ArgumentError("on_bad", f"error or skip, got {on_bad!r}")
        batch = usual_batch(self.bundle) if batch is None else batch
        if not (isinstance(batch, Integral) and 1 <= batch <= predict.MOST_IN_BATCH):
            raise ArgumentError("batch", f"from 1 to {predict.MOST_IN_BATCH} rows, got {batch}")
        folder = None if images is None else Path(images)
        file = open_rows(self.bundle, Path(csv), folder, need_labels=need_labels, on_bad=on_bad)
        notes, bad, read, answered = list(file.notes), list[BadRow](), 0, 0
        with bar("predicting", "rows", shown=progress) as show:
            total = file.check()
            for rows in file.chunks(max(1, CHUNK // batch) * batch):

                def progressed(done: int, _: int, before: int = read) -> None:
                    show(before + done, total)

                read += len(rows.records.examples)
                rows, raw = predict.probabilities_of_rows(self.bundle, rows, progressed, batch)
                answered += len(raw)
                notes += rows.records.notes
                bad += rows.records.bad
                yield rows, raw
        if not answered:
            raise DataError(f"{csv} has no usable row; the first, line {bad[0].line}: {bad[0].reason}")
        for note in notes:
            say(f"note: {csv}: {note}")
        for row in bad:
            say(f"{csv}, line {row.line} is left out: {row.reason}")
        if bad:
            say(f"{len(bad)} of {len(bad) + answered} rows are left out")

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


def check_new(out: Path) -> None:
    """Raises DataError unless a file can be made at `out`."""
    if os.path.lexists(out):
        raise DataError(f"{out} exists; name a file that does not")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is not a folder; make it, or name another place for {out.name}")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise DataError(f"{out.parent} may not be written to; name another place for {out.name}")
