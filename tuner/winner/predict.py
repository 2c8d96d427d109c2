"""A bundle at work on captions and pictures that come as files: probabilities, labels, scores.

Probabilities are the network's own here: the bundle's rule calibrates them and makes labels of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from captune.data_prep.images import ImageError, Picture, square
from captune.data_prep.labels import Labels
from captune.data_prep.pixels import cores
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.model import metrics
from captune.model.average import Network
from captune.model.average_network import alone_of
from captune.model.baselines import commonest_label
from captune.model.bundle import Bundle
from captune.model.f1 import f1_per_example
from captune.model.training import predict
from captune.tuner.training.inference import Examples, probabilities_on, tokens_of, untold, usual_batch
from captune.tuner.winner.rows import Rows

MOST_IN_BATCH = 1024


def probabilities(
    bundle: Bundle, captions: Sequence[str] | None, images: Sequence[Picture] | None
) -> NDArray[np.float32]:
    """(n, num_labels) from 0 to 1 for n captions, n pictures, or both, in their order.

    Args:
        captions: of the pictures; left out where the bundle does not read captions.
        images: files, arrays of (height, width, 3) uint8 RGB, or Pillow's images; decoded a batch at a time. Left out
            where the bundle does not read pictures. Where its fusion is summed, one of both may be left out anyhow.

    Raises:
        DataError: what the bundle reads is missing, there are other numbers of captions and of pictures, or a picture
            cannot be used.
    """
    captions, images = _listed("captions", captions), _listed("images", images)
    answers_alone = bundle.config.has_parts and (captions is not None or images is not None)
    if bundle.config.text is not None and captions is None and not answers_alone:
        raise DataError("the bundle reads captions; give captions, one for each picture")
    if bundle.config.image is not None and images is None and not answers_alone:
        raise DataError("the bundle reads pictures; give images, one for each caption")
    if captions is not None and images is not None and len(captions) != len(images):
        raise DataError(f"{len(captions)} captions and {len(images)} images; each example has one of both")
    for place, caption in enumerate(captions or ()):
        if not isinstance(caption, str):
            raise DataError(f"captions[{place}] must be a text, got {caption!r}; give an empty one where there is none")

    def fault(place: int, reason: str) -> None:
        raise ImageError(f"images[{place}]: {reason}")

    return _probabilities(bundle, captions, images, fault)


def _listed(name: str, items: Any) -> list[Any] | None:
    """Items of a list, a column or an array: these have lengths too, but no truth, and columns places of their own.

    What is iterated over by its words, its column names or in no order is refused: the answers would be of others.
    """
    if items is None:
        return None
    of_others = isinstance(items, str | bytes | Mapping | set | frozenset) or hasattr(items, "columns")
    if of_others or not isinstance(items, Iterable) or getattr(items, "ndim", 1) == 0:
        kind = type(items).__name__
        raise DataError(f"{name}: a list or a column, one item an example, got {kind}; put a single one in [ ]")
    return list(items)


def _probabilities(
    bundle: Bundle,
    captions: Sequence[str] | None,
    images: Sequence[Picture] | None,
    fault: Callable[[int, str], None],
    progress: Callable[[int, int], None] = untold,
    batch: int | None = None,
) -> NDArray[np.float32]:
    """The same; a picture that cannot be decoded is black, after `fault` has been told its place and what is wrong."""
    image, count = bundle.config.image, len(captions if captions is not None else images or ())
    if not count:
        return np.empty((0, bundle.config.num_labels), np.float32)

    def decoded(rows: slice) -> NDArray[np.uint8]:
        assert image is not None and images is not None
        pictures, side = images[rows], image.side
        pixels = np.zeros((len(pictures), side, side, 3), np.uint8)

        def reason_against(place: int) -> str:
            try:
                pixels[place] = square(pictures[place], side)
            except ImageError as error:
                return str(error)
            return ""

        for place, reason in enumerate(threads.map(reason_against, range(len(pictures)))):
            if reason:
                fault(rows.start + place, reason)
        return pixels

    tokens = None if captions is None else tokens_of(bundle, captions)
    network = bundle.network
    if bundle.config.has_parts and (captions is None or images is None):
        network = _alone(network, bundle.config, "image" if captions is None else "caption")
    pixels = decoded if image is not None and images is not None else None
    with ThreadPoolExecutor(cores()) as threads:
        return predict(network, Examples(count, tokens, pixels, progress, batch or usual_batch(bundle)))


@lru_cache(maxsize=2)
def _alone(network: keras.Model, config: Network, part: Literal["image", "caption"]) -> keras.Model:
    """Kept, since a network takes a second for its first batch."""
    return alone_of(network, config, part)


def labels(bundle: Bundle, probabilities: NDArray[np.float32]) -> list[tuple[int, ...]]:
    """The ids of the labels that the bundle's rule makes of (n, num_labels) probabilities, in their order."""
    return Labels(bundle.label_ids, bundle.label_names).label_sets(bundle.rule.decide(probabilities))


def probabilities_of_split(bundle: Bundle, data: PreparedData, split: str) -> NDArray[np.float32]:
    """(n, num_labels) for a split of a prepared data set, captions through the bundle's own vocabulary."""
    return probabilities_on(bundle, data, data.rows(split))


def tokens_of_split(bundle: Bundle, data: PreparedData, split: str) -> NDArray[np.int32] | None:
    """Token ids (n, max_tokens) of a split; None where the bundle reads no captions."""
    return tokens_of(bundle, [data.captions[row] for row in data.rows(split)]) if data.has_captions else None


def probabilities_of_rows(
    bundle: Bundle, rows: Rows, progress: Callable[[int, int], None] = untold, batch: int | None = None
) -> tuple[Rows, NDArray[np.float32]]:
    """The rows that can be used, now that their pictures have been decoded, and (n, num_labels) of them.

    Args:
        progress: told before each batch of (done, all) rows.
        batch: rows that go through the network together; None for `usual_batch`.

    Raises:
        DataError: a picture cannot be decoded, and no row may be left out.
    """
    reads_captions = bundle.config.text is not None and rows.records.has_captions
    captions = [example.caption for example in rows.records.examples] if reads_captions else None
    faults: dict[int, str] = {}

    def fault(place: int, reason: str) -> None:
        faults[place] = rows.fault(place, reason)

    raw = _probabilities(bundle, captions, rows.pictures, fault, progress, batch)
    return (rows.without(faults), np.delete(raw, list(faults), axis=0)) if faults else (rows, raw)


def multi_hot(bundle: Bundle, rows: Rows) -> NDArray[np.uint8]:
    """(n, num_labels) of the labels that rows have."""
    return Labels(bundle.label_ids, bundle.label_names).multi_hot([e.labels for e in rows.records.examples])


def evaluate(bundle: Bundle, truth: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """Scores of what the bundle's rule makes of (n, num_labels) probabilities: keys of `captune evaluate --json`.

    low, high: 95 % bootstrap interval of mean F1. rows_per_label: that have it. commonest_label: mean F1 of the label
    that these rows have most often, always given alone.
    """
    constant = commonest_label(truth, len(truth)) > 0
    rows = truth.astype(bool).sum(axis=0).tolist()
    answers = bundle.rule.answers(probabilities)
    low, high = metrics.bootstrap_interval(f1_per_example(truth, answers.labels), seed=0)
    return {
        **by_label(metrics.score(truth, answers), bundle.label_ids),
        "low": low,
        "high": high,
        "rows_per_label": {str(label): count for label, count in zip(bundle.label_ids, rows, strict=True)},
        "commonest_label": float(f1_per_example(truth, constant).mean()),
    }


def by_label(scores: metrics.Scores, label_ids: Sequence[int]) -> dict[str, Any]:
    """Every metric by its name, F1 of each label by its id, and the number of examples."""
    per_label = {str(label): f1 for label, f1 in zip(label_ids, scores.per_label, strict=True)}
    return {**scores.metrics(), "per_label": per_label, "examples": scores.examples}
