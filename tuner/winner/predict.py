"""A bundle at work on captions and pictures that come as files: scores, and labels for new rows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.captions import Vocabulary
from captune.data_prep.images import image_path, read_image
from captune.data_prep.labels import Labels
from captune.data_prep.records import DataError, Records, read_csv
from captune.data_prep.store import PreparedData
from captune.model import metrics
from captune.model.bundle import Bundle
from captune.model.training import predict

BATCH = 256


@dataclass(frozen=True)
class _Examples:
    """Captions and pictures turned into batches one at a time: any number of rows fits."""

    count: int
    tokens: NDArray[np.int32] | None  # (count, max_tokens)
    pixels: Callable[[slice], NDArray[np.uint8]] | None  # pictures of a range of rows

    def __len__(self) -> int:
        return -(-self.count // BATCH)

    def batch(self, number: int, index: int) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
        """Inputs of batch `index`. Rows keep their order, so the epoch `number` means nothing; nor are there labels."""
        chosen = slice(index * BATCH, (index + 1) * BATCH)
        inputs: dict[str, NDArray[Any]] = {}
        if self.tokens is not None:
            inputs["caption"] = self.tokens[chosen]
        if self.pixels is not None:
            inputs["image"] = self.pixels(chosen)
        return inputs, np.empty(0, np.float32)


def read_rows(bundle: Bundle, source: Path, images: Path | None, *, need_labels: bool) -> tuple[Records, list[Path]]:
    """The rows of a CSV, and the picture of each where the bundle reads pictures.

    Raises:
        DataError: the CSV is bad, has a label unknown to the bundle, or lacks what the bundle reads.
    """
    known = frozenset(bundle.label_ids) if need_labels else None
    records = read_csv(source, need_labels=need_labels, known_labels=known)
    if bundle.config.text is not None and not records.has_captions:
        raise DataError(f"the bundle reads captions, {source} has no column Caption; add it")
    if bundle.config.image is None:
        return records, []
    if images is None:
        raise DataError(f"the bundle reads pictures; name their folder after {source}")
    return records, [image_path(images, example.image_id) for example in records.examples]


def probabilities(bundle: Bundle, records: Records, pictures: Sequence[Path]) -> NDArray[np.float32]:
    """(n, num_labels) for all rows, in their order."""
    image = bundle.config.image

    def decoded(chosen: slice) -> NDArray[np.uint8]:
        assert image is not None
        return np.stack([read_image(path, image.side) for path in pictures[chosen]])

    tokens = _tokens(bundle, [example.caption for example in records.examples])
    return predict(bundle.network, _Examples(len(records.examples), tokens, decoded if image else None))


def probabilities_of_split(bundle: Bundle, data: PreparedData, split: str) -> NDArray[np.float32]:
    """(n, num_labels) for a split of a prepared data set, captions through the bundle's own vocabulary."""
    rows = data.rows(split)
    tokens = _tokens(bundle, [data.captions[row] for row in rows]) if data.has_captions else None
    pixels = (lambda chosen: data.pixels(rows[chosen])) if bundle.config.image else None
    return predict(bundle.network, _Examples(len(rows), tokens, pixels))


def _tokens(bundle: Bundle, captions: Sequence[str]) -> NDArray[np.int32] | None:
    """Ids of (n, max_tokens), cut or padded to what the network reads."""
    if bundle.config.text is None or bundle.vocabulary is None:
        return None
    width = bundle.config.text.max_tokens
    ids = Vocabulary.from_json(bundle.vocabulary).encode(captions)[:, :width]
    return np.pad(ids, ((0, 0), (0, width - ids.shape[1])))


def evaluate(bundle: Bundle, records: Records, pictures: Sequence[Path]) -> dict[str, Any]:
    """Scores by the bundle's decision rule: the keys of `captune evaluate --json`."""
    truth = Labels(bundle.label_ids, bundle.label_names).multi_hot([e.labels for e in records.examples])
    found = probabilities(bundle, records, pictures)
    return scores_as_dict(metrics.score(truth, found, bundle.rule.decide(found)), bundle.label_ids)


def scores_as_dict(scores: metrics.Scores, label_ids: Sequence[int]) -> dict[str, Any]:
    """Scores with F1 by label id."""
    return {
        "mean_f1": scores.mean_f1,
        "micro_f1": scores.micro_f1,
        "macro_f1": scores.macro_f1,
        "map": scores.map,
        "per_label": {str(label): f1 for label, f1 in zip(label_ids, scores.per_label, strict=True)},
        "examples": scores.examples,
    }


def write_submission(bundle: Bundle, records: Records, pictures: Sequence[Path], out: Path) -> None:
    """`ImageID,Labels` for every row in its order, labels separated by blanks."""
    decided = bundle.rule.decide(probabilities(bundle, records, pictures))
    sets = Labels(bundle.label_ids, bundle.label_names).label_sets(decided)
    aside = out.with_name(f"{out.name}.tmp")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ImageID", "Labels"])
        writer.writerows(
            [example.image_id, " ".join(map(str, labels))]
            for example, labels in zip(records.examples, sets, strict=True)
        )
    aside.replace(out)


def _main(artefact: Path, bundle: Path, data: Path, split: str, out: Path) -> None:
    """Probabilities of a split by an exported file, in this fresh process: the other half of the proof.

    A .keras file holds the network alone; labels, rule and vocabulary come from the bundle it was exported from.
    """
    from dataclasses import replace

    import keras

    loaded = Bundle.load(bundle)
    if artefact != bundle:
        loaded = replace(loaded, network=keras.models.load_model(artefact, compile=False))
    np.save(out, probabilities_of_split(loaded, PreparedData.open(data), split))


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    _main(arguments[0], arguments[1], arguments[2], str(arguments[3]), arguments[4])
