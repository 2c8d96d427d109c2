"""Records become the files of a prepared data set."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captune.data_prep import folder
from captune.data_prep.captions import CaptionSettings, count_words, tokenize
from captune.data_prep.duplicates import caption_keys, grouped, repeats, same_pixels
from captune.data_prep.images import image_path
from captune.data_prep.integrity import fingerprint
from captune.data_prep.journal import PixelSums
from captune.data_prep.labels import Labels
from captune.data_prep.manifest import EXAMPLES, PIXELS, VERSION, VOCABULARY, Manifest
from captune.data_prep.pixels import Decode, write_pixels
from captune.data_prep.records import BadRow, DataError, OnBad, Records
from captune.data_prep.split import SPLITS, Shares, split

if TYPE_CHECKING:
    import pyarrow as pa


def write_pictures(
    target: Path,
    source: Path,
    records: Records,
    images: Path,
    side: int,
    inputs: dict[str, str],
    on_bad: OnBad,
    decode: Decode,
    progress: Callable[[int, int], None] | None,
) -> tuple[Records, PixelSums]:
    """Write each picture once; return the examples that keep their picture, and the sums of the pixels.

    inputs: what the set is made from; a killed run of the same inputs is gone on with.
    """
    image_ids = list(dict.fromkeys(example.image_id for example in records.examples))
    first_line = dict(zip(reversed([e.image_id for e in records.examples]), reversed(records.lines), strict=True))
    faults: dict[str, str] = {}

    def on_fault(place: int, reason: str) -> None:
        image_id = image_ids[place]
        if on_bad == "error":
            first_is_missing = place == 0 and not paths[0].exists()  # and so perhaps is every other one
            way_out = f"name the folder of the pictures, if it is not {images}; else " * first_is_missing
            raise DataError(
                f"{source}, {records.unit} {first_line[image_id]}: {reason}; {way_out}mend it or use --on-bad skip"
            )
        faults[image_id] = reason

    paths = [image_path(images, image_id) for image_id in image_ids]
    sums = write_pixels(
        target / PIXELS,
        target / folder.JOURNAL,
        paths,
        side,
        made_from=inputs,
        decode=decode,
        on_fault=on_fault,
        progress=progress,
    )
    if len(faults) == len(image_ids):
        raise DataError(f"{images} has no usable picture of {source}; the first: {faults[image_ids[0]]}")
    faulty = (place for place, example in enumerate(records.examples) if example.image_id in faults)
    return records.without({place: faults[records.examples[place].image_id] for place in faulty}), sums


def write_examples(
    target: Path,
    records: Records,
    shares: Shares,
    seed: int,
    settings: CaptionSettings,
    pixels_digest: str,
    side: int | None,
    group_duplicates: bool,
) -> Manifest:
    """Split, tokenize and write all but pictures, which are there. The manifest lacks what prepare alone knows."""
    import pyarrow as pa

    rows = [example.labels for example in records.examples]
    labels = Labels.of(rows, records.label_names)
    hot = labels.multi_hot(rows)
    places: dict[str, int] = {}
    for example in records.examples:
        places.setdefault(example.image_id, len(places))
    picture = np.array([places[example.image_id] for example in records.examples])
    pixels = None if side is None else same_pixels(target / PIXELS, side)[picture].tolist()
    captions = caption_keys([example.caption for example in records.examples])
    alike = [captions] if pixels is None else [pixels, captions]
    assigned = split(hot, shares, seed, groups=grouped(picture.tolist(), *alike) if group_duplicates else picture)
    columns: dict[str, pa.Array] = {
        "image_id": pa.array([example.image_id for example in records.examples], pa.string()),
        "split": pa.array(assigned),
        "picture": pa.array(picture),
        "caption": pa.array([example.caption for example in records.examples], pa.string()),
        "labels": _fixed_lists(hot),
    }
    vocabulary, max_tokens = None, None
    if records.has_captions:
        tokenized = [tokenize(example.caption, settings) for example in records.examples]
        train = [tokens for tokens, code in zip(tokenized, assigned, strict=True) if code == 0]
        vocabulary = count_words(train, settings)
        max_tokens = max(1, min(settings.max_tokens, max(map(len, train))))
        columns["tokens"] = _fixed_lists(vocabulary.encode_tokens(tokenized)[:, :max_tokens])
        (target / VOCABULARY).write_text(vocabulary.to_json(), encoding="utf-8")
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.OSFile(str(target / EXAMPLES), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)

    text = vocabulary.to_json() if vocabulary else None
    return Manifest(
        version=VERSION,
        fingerprint=fingerprint(pixels_digest, labels.ids, labels.names, columns, text),
        counts={name: int((assigned == code).sum()) for code, name in enumerate(SPLITS)},
        rows_read=0,
        rows_skipped=0,
        label_ids=labels.ids,
        label_names=labels.names,
        label_counts=tuple(hot[assigned == 0].sum(axis=0, dtype=np.int64).tolist()),
        side=side,
        max_tokens=max_tokens,
        vocabulary_size=vocabulary.size if vocabulary else None,
        captions=settings if vocabulary else None,
        inputs={},
        files={},
        repeated_pictures={} if pixels is None else repeats(pixels, assigned),
        repeated_captions=repeats(captions, assigned),
    )


def write_bad_rows(path: Path, bad: tuple[BadRow, ...]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["line", "image_id", "reason"])
        writer.writerows((row.line, row.image_id, row.reason) for row in bad)


def _fixed_lists(matrix: NDArray[np.generic]) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
