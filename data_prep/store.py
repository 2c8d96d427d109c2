"""The prepared data set on disk: Arrow files, memory-mapped, with a manifest written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from captune.data_prep import assemble, folder, integrity
from captune.data_prep.captions import CaptionSettings, Vocabulary
from captune.data_prep.coco import read_coco
from captune.data_prep.csv_file import read_csv
from captune.data_prep.images import Pixels, check_side, image_path
from captune.data_prep.journal import PixelSums
from captune.data_prep.manifest import ANEW, BAD_ROWS, EXAMPLES, FILES, MANIFEST, PIXELS, VOCABULARY, Manifest
from captune.data_prep.pixels import BATCH_ROWS, Decode, PixelFile, cores, in_threads
from captune.data_prep.records import DataError, Example, OnBad
from captune.data_prep.split import SPLITS, Shares, check_shares
from captune.reading import MissingError, sha256

Format = Literal["kaggle", "coco"]
_UNNAMED = "none"


class PreparedData:
    """A prepared data set, opened. Rows are numbered 0 to n - 1 in the order of the source.

    Arrays are views of the memory map where they can be, and read-only: opening costs milliseconds.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use PreparedData.open, which checks."""
        self.path = path
        self.manifest = manifest
        self._columns = integrity.read_examples(path, manifest)
        self._split = self._columns["split"].to_numpy()
        self.picture_of: NDArray[np.int64] = self._columns["picture"].to_numpy()
        self.labels: NDArray[np.uint8] = integrity.matrix(self._columns["labels"])
        self.tokens: NDArray[np.int32] | None = None
        self.vocabulary: Vocabulary | None = None
        if manifest.captions is not None:
            self.tokens = integrity.matrix(self._columns["tokens"])
            self.vocabulary = integrity.read_vocabulary(path, manifest)
        self._pixels = None if manifest.side is None else PixelFile(path / PIXELS, manifest.side)
        if self._pixels is not None and self.picture_of.max() >= len(self._pixels):
            highest = self.picture_of.max()
            raise DataError(f"{path / EXAMPLES} tells of picture {highest}, {PIXELS} has {len(self._pixels)}: {ANEW}")

    @classmethod
    def open(cls, path: str | Path) -> PreparedData:
        """Open what prepare has finished: its files are of the right sizes, every value in them is in its range.

        Raises DataError for anything else. That each value is the one which was written, `verify` tells.
        """
        path = Path(path)
        try:
            manifest = integrity.read_manifest(path)
        except MissingError:
            raise DataError(
                f"{path} is not a prepared data set (no {MANIFEST}): make one with captune prepare"
            ) from None
        integrity.check_sizes(path, manifest)
        return cls(path, manifest)

    def verify(self) -> PreparedData:
        """Read all files once and hold them against their sums, or against the fingerprint where the set has none.

        It is for whoever begins to work with the set, once: 1 GB takes about a second. Raises DataError.
        """
        if self.manifest.sha256:
            integrity.check_sums(self.path, self.manifest)
        elif self.manifest.fingerprint != self._fingerprint():
            raise DataError(f"{self.path} is not as it was prepared (another fingerprint): {ANEW}")
        return self

    def _fingerprint(self) -> str:
        """Of what the files hold."""
        pixels = hashlib.sha256()
        for start in range(0, self.num_pictures, BATCH_ROWS):
            pixels.update(self.pictures(start, BATCH_ROWS).data)
        return integrity.fingerprint(
            pixels.hexdigest() if self.has_images else "",
            self.manifest.label_ids,
            self.manifest.label_names,
            self._columns,
            (self.path / VOCABULARY).read_text(encoding="utf-8") if self.has_captions else None,
        )

    def __len__(self) -> int:
        return len(self._split)

    @property
    def has_images(self) -> bool:
        return self._pixels is not None

    @property
    def has_captions(self) -> bool:
        return self.tokens is not None

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        return tuple(self._columns["image_id"].to_pylist())

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The captions as they stand in the source; empty strings where it has none."""
        return tuple(self._columns["caption"].to_pylist())

    def rows(self, *splits: str) -> NDArray[np.int64]:
        """The rows of the named splits ("train", "validation", "test"), rising."""
        if unknown := set(splits) - set(SPLITS):
            raise DataError(f"split {min(unknown)!r} is unknown: name {', '.join(SPLITS)}")
        return np.flatnonzero(np.isin(self._split, [SPLITS.index(name) for name in splits]))

    def pictures(self, start: int, count: int) -> Pixels:
        """Up to count pictures from number start on, as (n, side, side, 3) uint8; picture_of gives that of a row."""
        if self._pixels is None:
            raise DataError(f"{self.path} holds no pictures: prepare it with an image folder")
        return self._pixels.gather(np.arange(start, min(start + count, len(self._pixels))))

    @property
    def num_pictures(self) -> int:
        """Pictures of the set; several rows may share one."""
        return 0 if self._pixels is None else len(self._pixels)

    def pixels(self, rows: NDArray[np.int64]) -> Pixels:
        """(len(rows), side, side, 3) uint8, each copied once out of the memory map."""
        if self._pixels is None:
            raise DataError(f"{self.path} holds no pictures: prepare it with an image folder")
        return self._pixels.gather(self.picture_of[rows])


def prepare(
    source: str | Path,
    images: str | Path | None,
    out: str | Path,
    *,
    format: Format = "kaggle",  # noqa: A002 (named as on the command line)
    side: int = 224,
    on_bad: OnBad = "error",
    shares: Shares = (0.8, 0.1, 0.1),
    seed: int = 0,
    captions: CaptionSettings | None = None,
    known_labels: frozenset[int] | None = None,
    label_names: Mapping[int, str] | None = None,
    per_caption: bool = False,
    categories: frozenset[int] | None = None,
    group_duplicates: bool = False,
    workers: int | None = None,
    decode: Decode | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> PreparedData:
    """Make a prepared data set in the folder out, or open it at once where it is there already.

    source: a CSV (format "kaggle") or COCO annotations ("coco"), see records. images: the folder of its
    pictures, None for a set of captions alone; a source without captions makes a set of pictures alone.
    side: pixels, 1 to 1024. captions: None for the defaults. known_labels and label_names, by their numbers, go with
    "kaggle", per_caption and categories with "coco". group_duplicates: whether rows with the same pixels or caption go
    to one split.
    workers: threads that decode, None for one per core. decode: what decodes in
    place of threads of this process; it has no part in what comes out. progress: called with (done, total) pictures.
    note: called with each sentence that a person should know of how the source was read.

    With on_bad "skip", rows and pictures that cannot be used are left out and listed in bad_rows.csv. Nothing
    appears in out before everything is done. Killed and called again with the same inputs, it goes on with the
    pictures that are left, and the set is the same to the byte. Raises DataError for bad input, and where out
    holds something else, be it a set made with other settings.
    """
    source, out = Path(source), Path(out).absolute()
    images = None if images is None else Path(images)
    captions = captions or CaptionSettings()
    check_side(side)
    check_shares(shares)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise DataError(f"the seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")
    if workers is not None and workers < 1:
        raise DataError(f"workers must be 1 or more, got {workers}")
    if workers is not None and decode is not None:
        raise DataError(f"workers ({workers}) are threads of this process: leave them out where decode is given")
    if format == "coco":
        if known_labels is not None or label_names is not None:
            raise DataError("known_labels and label_names go with the format kaggle: coco has categories")
        records = read_coco(source, per_caption=per_caption, categories=categories, on_bad=on_bad)
    elif per_caption or categories is not None:
        raise DataError("per_caption and categories go with the format coco: use known_labels with kaggle")
    else:
        records = read_csv(source, on_bad=on_bad, known_labels=known_labels, label_names=label_names)
    for sentence in records.notes:
        if note is not None:
            note(sentence)
    if images is None and not records.has_captions:
        lacking = "captionsX.json beside an instancesX.json" if format == "coco" else "a column Caption"
        raise DataError(f"{source} has no captions: name the folder of its pictures, or add {lacking}")
    if images is not None and not images.is_dir():
        raise DataError(f"{images} is not a folder: name the folder of the pictures")

    label_ids = known_labels if categories is None else categories
    inputs = {
        "source": records.sha256,
        "format": format,
        "on-bad": on_bad,
        "split": "/".join(f"{100 * share:g}" for share in shares) + ", duplicates grouped" * group_duplicates,
        "seed": str(seed),
        "labels": "all" if label_ids is None else " ".join(map(str, sorted(label_ids))),
        "names": json.dumps(sorted(label_names.items())) if label_names else _UNNAMED,
        "per-caption": str(per_caption),
        "captions": json.dumps(captions.effective(e.caption for e in records.examples))
        if records.has_captions
        else "none",
        "pictures": "none" if images is None else _pictures_digest(images, records.examples),
        "side": "none" if images is None else str(side),
    }
    if (out / MANIFEST).exists():
        return _reuse(out, inputs)
    half_done = frozenset() if images is None else frozenset({PIXELS, folder.JOURNAL})
    with folder.building(out, FILES, half_done=half_done) as target:
        # Pictures first: the split and the vocabulary are made of the examples whose pictures can be used.
        pixels = PixelSums("", "")
        rows_read = len(records.examples) + len(records.bad)
        if images is not None:
            decode = decode or in_threads(workers or cores())
            records, pixels = assemble.write_pictures(
                target, source, records, images, side, inputs, on_bad, decode, progress
            )
        side_of_pixels = None if images is None else side
        manifest = assemble.write_examples(
            target, records, shares, seed, captions, pixels.content, side_of_pixels, group_duplicates
        )
        if records.bad:
            assemble.write_bad_rows(target / BAD_ROWS, records.bad)
        files = {path.name: path.stat().st_size for path in target.iterdir() if path.name in FILES}
        sums = {name: pixels.file if name == PIXELS else sha256(target / name) for name in files}
        manifest = replace(
            manifest,
            rows_read=rows_read,
            rows_skipped=len(records.bad),
            inputs=inputs,
            files=files,
            sha256=sums,
        )
        (target / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return PreparedData.open(out)


def _reuse(out: Path, inputs: dict[str, str]) -> PreparedData:
    """Open the finished set in out, if it was made of the same inputs and is as it was."""
    data = PreparedData.open(out).verify()
    before = {"names": _UNNAMED, **data.manifest.inputs}  # an earlier captune knew of no names
    changed = [name for name in inputs if inputs[name] != before.get(name)]
    if changed:
        differences = ", ".join(
            f"{name} ({before.get(name)}, now {inputs[name]})" if len(inputs[name]) < 32 else name for name in changed
        )
        raise DataError(f"{out} was prepared with another {differences}: choose another --out")
    return data


def _pictures_digest(images: Path, examples: tuple[Example, ...]) -> str:
    """Of names, sizes and times alone: telling whether pictures have changed must not read them all."""
    digest = hashlib.sha256()
    for image_id in dict.fromkeys(example.image_id for example in examples):
        try:
            status = image_path(images, image_id).stat()
            digest.update(json.dumps([image_id, status.st_size, status.st_mtime_ns]).encode())
        except OSError:
            digest.update(json.dumps([image_id, "missing"]).encode())
    return digest.hexdigest()
