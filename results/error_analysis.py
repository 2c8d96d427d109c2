"""What a winner gets right and wrong on test, label by label and row by row: RUN/winner/error_analysis.json."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captune.model.config import Settings
from captune.model.f1 import Bits, f1_per_example
from captune.model.rule import Answers
from captune.results.documents import Document

if TYPE_CHECKING:
    from captune.data_prep.store import PreparedData

BINS = 15  # of equal width, as those of the expected calibration error
EXAMPLES = 12  # of a kind
LONGEST_CAPTION = 400  # characters
PICTURE_SIDE = 112  # pixels
_JPEG_QUALITY = 70


class LabelScores(Settings):
    """One label on test. support: rows that have it. given: rows that were given it."""

    id: int
    name: str
    f1: float
    precision: float
    recall: float
    support: int
    given: int


class Bin(Settings):
    """Pairs of row and label whose probabilities are alike: how many, their mean, the share that is true."""

    pairs: int
    probability: float
    share: float


class Doubt(Settings):
    """The label of a row about which network and row differ most, and its probability."""

    label: int
    probability: float


class Example(Settings):
    """A row. true, given: ids of its labels. picture: a small JPEG in base64; empty where the data has none."""

    row: int
    image_id: str
    caption: str
    true: tuple[int, ...]
    given: tuple[int, ...]
    f1: float
    doubt: Doubt
    picture: str


class ErrorAnalysis(Document):
    """What refit keeps of the winner's answers on test."""

    examples: int
    labels: tuple[LabelScores, ...]
    bins: tuple[Bin, ...]
    """Of calibrated probabilities, rising; those without pairs are left out."""
    right: tuple[Example, ...]
    """Rows with all labels right, at equal distances among all such."""
    worst: tuple[Example, ...]
    """Rows with the lowest F1; of equal ones those whose probabilities are furthest from the truth."""
    suspects: tuple[Example, ...]
    """Rows that the network contradicts most surely: their own labels may be wrong."""


def analyse(data: PreparedData, rows: NDArray[np.int64], answers: Answers) -> ErrorAnalysis:
    """What answers to these rows, at least one, show."""
    truth = data.labels[rows].astype(bool)
    correct = f1_per_example(truth, answers.labels)
    doubts = np.abs(answers.probabilities - truth)
    furthest = doubts.max(axis=1)

    def example(place: int) -> Example:
        label = int(doubts[place].argmax())
        return Example(
            row=int(rows[place]),
            image_id=data.image_ids[rows[place]],
            caption=data.captions[rows[place]][:LONGEST_CAPTION],
            true=tuple(ids[truth[place]].tolist()),
            given=tuple(ids[answers.labels[place]].tolist()),
            f1=float(correct[place]),
            doubt=Doubt(label=int(ids[label]), probability=float(answers.probabilities[place, label])),
            picture=_picture(data, int(rows[place])),
        )

    ids = np.array(data.manifest.label_ids)
    right = np.flatnonzero(correct == 1)
    right = right[np.unique(np.linspace(0, len(right) - 1, min(EXAMPLES, len(right))).astype(int))]
    worst = np.lexsort((-furthest, correct))[:EXAMPLES]
    return ErrorAnalysis(
        examples=len(rows),
        labels=_labels(data, truth, answers.labels),
        bins=_bins(truth, answers),
        right=tuple(map(example, right)),
        worst=tuple(example(place) for place in worst if correct[place] < 1),
        suspects=tuple(
            example(place) for place in np.argsort(-furthest, kind="stable")[:EXAMPLES] if furthest[place] > 0.5
        ),
    )


def _labels(data: PreparedData, truth: Bits, given: Bits) -> tuple[LabelScores, ...]:
    hits, support, count = (truth & given).sum(axis=0), truth.sum(axis=0), given.sum(axis=0)
    # 0 where there is nothing to divide by, as the F1 of `metrics.score`.
    precision, recall, f1 = (
        hits / np.maximum(count, 1),
        hits / np.maximum(support, 1),
        2 * hits / np.maximum(support + count, 1),
    )
    return tuple(
        LabelScores(
            id=label, name=name, f1=float(f1[i]), precision=float(precision[i]), recall=float(recall[i]),
            support=int(support[i]), given=int(count[i]),
        )
        for i, (label, name) in enumerate(zip(data.manifest.label_ids, data.manifest.label_names, strict=True))
    )  # fmt: skip


def _bins(truth: Bits, answers: Answers) -> tuple[Bin, ...]:
    probabilities = answers.probabilities.ravel()
    places = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    pairs = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, weights=probabilities, minlength=BINS)
    hits = np.bincount(places, weights=truth.ravel(), minlength=BINS)
    return tuple(
        Bin(pairs=int(n), probability=float(total / n), share=float(true / n))
        for n, total, true in zip(pairs, sums, hits, strict=True)
        if n
    )


def _picture(data: PreparedData, row: int) -> str:
    if not data.has_images:
        return ""
    from PIL import Image

    picture, file = Image.fromarray(data.pixels(np.array([row]))[0]), io.BytesIO()
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")
