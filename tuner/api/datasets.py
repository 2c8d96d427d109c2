"""Captions and pictures, decoded once into a data set that every trial reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from captune.data_prep.store import PreparedData
from captune.errors import ArgumentError, one_line
from captune.tuner.api.caller import left_as_it_was
from captune.tuner.api.progress import bar
from captune.tuner.run.locations import open_data, preparing

_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?")
_MOST_NUMBERS = 100_000


@dataclass(frozen=True)
class DataSet:
    """A prepared data set.

    where: its folder or its address (s3://, gs://, abfss://). skipped: rows that were left out, each with its reason in
    bad_rows.csv beside it. notes: sentences on how the source was read and on what is odd about it.

    Example:
        >>> data = captune.prepare("train.csv", out="data", split="60/20/20")
        >>> data.counts, data.skipped
        ({'train': 32, 'validation': 14, 'test': 13}, 0)
    """

    where: str
    prepared: PreparedData
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Examples of train, validation and test."""
        return dict(self.prepared.manifest.counts)

    @property
    def labels(self) -> dict[int, str]:
        """Names of the labels by their ids."""
        manifest = self.prepared.manifest
        return dict(zip(manifest.label_ids, manifest.label_names, strict=True))

    @property
    def skipped(self) -> int:
        """Rows that were left out."""
        return self.prepared.manifest.rows_skipped

    @property
    def captioned(self) -> int:
        """Examples whose caption is not empty."""
        return sum(map(bool, map(str.strip, self.prepared.captions)))

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        notes = f"; notes: {len(self.notes)}" if self.notes else ""
        return f"<captune data set {self.where}: {counts}; {len(self.labels)} labels{notes}>"


@left_as_it_was()
def prepare(
    source: str | Path,
    images: str | Path | None = None,
    *,
    out: str | Path,
    format: Literal["kaggle", "coco"] = "kaggle",  # noqa: A002 - the word of the command
    side: int = 224,
    on_bad: Literal["error", "skip"] = "error",
    split: str = "80/10/10",
    seed: int = 0,
    stop_words: bool = True,
    stems: bool = True,
    characters: bool = False,
    max_tokens: int = 64,
    vocabulary: int = 20_000,
    min_count: int = 1,
    labels: str | Iterable[int] | None = None,
    names: str | Path | Mapping[int, str] | None = None,
    per_caption: bool = False,
    categories: str | Iterable[int] | None = None,
    group_duplicates: bool = False,
    address: str | None = None,
    progress: bool = True,
) -> DataSet:
    """Decodes pictures and captions once. Called again with the same it returns at once; interrupted, it goes on.

    Args:
        source: a CSV with the columns ImageID, Labels, Caption; or a folder or file of COCO annotations. It may be a
            pipe.
        images: folder of the pictures; None for captions alone.
        out: folder of the data set, or an address (s3://, gs://, abfss://).
        format: of `source`.
        side: pixels a side that pictures are decoded to, 8 to 1024.
        on_bad: at a bad row, "error" stops, "skip" leaves it out and lists it.
        split: percent train/validation/test, stratified over all labels.
        seed: of the split.
        stop_words: whether English stop words are dropped. stems: whether words are reduced to their Porter stems.
        characters: whether each character of a script without blanks between words (Chinese, Japanese, Thai, Lao,
            Khmer, Burmese, Tibetan) is a token; else what stands between two blanks is one.
        max_tokens: of a caption that are kept at most. vocabulary: words that are kept at most. min_count: times that a
            word must stand in the training captions.
        labels: of a CSV, that are allowed, e.g. "1-11,13-19"; others are errors.
        names: of a CSV's labels: a file with a number and its name on each line, as 18,dog, or these by their numbers.
            Labels in the CSV may then be names, with semicolons between them.
        per_caption: of COCO, one example for each caption, not for each image. categories: of COCO, that are kept.
        group_duplicates: whether rows with the same picture, under whatever names, or the same caption stay in one
            split; else it is told how many of validation and test repeat one of train.
        address: of a running Ray cluster whose nodes decode, "auto" or "host:port".
        progress: whether it is shown.

    Raises:
        ArgumentError: an argument cannot be used.
        DataError: an input cannot be used, with its file, line and value.
        StorageError, ClusterError: an address cannot be reached.

    Example:
        >>> captune.prepare("train.csv", out="halves", split="50/25/25")
        <captune data set halves: 27 train, 16 validation, 16 test; 6 labels; notes: 1>
    """
    from captune.data_prep.captions import CaptionSettings
    from captune.data_prep.split import parse_shares
    from captune.data_prep.store import prepare as prepare_data

    if format not in ("kaggle", "coco"):
        raise ArgumentError("format", f"kaggle or coco, got {format!r}")
    if on_bad not in ("error", "skip"):
        raise ArgumentError("on_bad", f"error or skip, got {on_bad!r}")
    if isinstance(side, int) and not 8 <= side <= 1024:
        raise ArgumentError("side", f"8 to 1024 pixels, which is what networks take, got {side}")
    if format == "coco" and labels is not None:
        raise ArgumentError("labels", "for format kaggle alone; choose COCO categories by `categories`")
    if format == "coco" and names is not None:
        raise ArgumentError("names", "for format kaggle alone; COCO categories have names")
    if format == "kaggle" and (per_caption or categories is not None):
        name = "per_caption" if per_caption else "categories"
        raise ArgumentError(name, "for format coco alone; restrict a CSV's labels by `labels`")
    label_names = None if names is None else _names(names)
    decode = None
    if address is not None:
        from captune.cluster.nodes.decoding import ray_decoder

        if images is None:
            raise ArgumentError("address", "for decoding pictures; name their folder, or leave it out")
        decode = ray_decoder(address, Path(images))
    settings = CaptionSettings(
        remove_stop_words=stop_words,
        stem=stems,
        characters=characters,
        max_tokens=max_tokens,
        vocabulary_limit=vocabulary,
        min_count=min_count,
    )
    notes: list[str] = []
    with preparing(str(out)) as folder, bar("preparing", "pictures", shown=progress) as show:
        prepared = prepare_data(
            Path(source),
            None if images is None else Path(images),
            folder,
            format=format,
            side=side,
            on_bad=on_bad,
            shares=parse_shares(split),
            seed=seed,
            captions=settings,
            known_labels=numbers("labels", labels),
            label_names=label_names,
            per_caption=per_caption,
            categories=numbers("categories", categories),
            group_duplicates=group_duplicates,
            decode=decode,
            progress=show,
            note=notes.append,
        )
    data = DataSet(str(out), prepared, tuple(notes))
    return replace(data, notes=(*data.notes, *_oddities(data)))


def _names(names: str | Path | Mapping[int, str]) -> dict[int, str]:
    from captune.data_prep.label_names import check_label_names, read_label_names

    if isinstance(names, str | Path):
        return read_label_names(names)
    check_label_names(names, "names")
    return dict(names)


def _oddities(data: DataSet) -> list[str]:
    """What makes captions or labels of little use to a network, or its scores better than on anything new."""
    from captune.data_prep.captions import FIRST_WORD, PADDING, count_unparted
    from captune.data_prep.records import listed

    notes = []
    tokens, settings = data.prepared.tokens, data.prepared.manifest.captions
    if tokens is not None and not data.captioned:
        notes.append(f"the captions of all {len(data.prepared)} rows are empty: nothing can be learned from them")
    elif tokens is not None and data.prepared.manifest.vocabulary_size == FIRST_WORD:
        notes.append(
            "no word stands in the captions as often as --min-count asks, stop words and signs aside: nothing can be"
            " learned from them"
        )
    elif tokens is not None and (without := data.captioned - int((tokens[:, 0] != PADDING).sum())):
        notes.append(f"{without} of {data.captioned} captions have no word, stop words and signs aside")
    if settings and not settings.characters and (unparted := count_unparted(data.prepared.captions)):
        notes.append(
            f"{unparted} of {len(data.prepared)} captions have text of a script without blanks between words: what"
            " stands between two blanks is one token; --characters makes one of each character"
        )
    manifest = data.prepared.manifest
    for thing, counts in (("picture", manifest.repeated_pictures), ("caption", manifest.repeated_captions)):
        if any(counts.values()):
            rows = " and ".join(f"{count} of the {data.counts[split]} {split} rows" for split, count in counts.items())
            notes.append(f"{rows} have the same {thing} as a train row; --group-duplicates keeps such rows together")
    labels = data.prepared.labels
    if (labels == labels[0]).all():
        notes.append(
            f"all {len(labels)} rows have the same labels, {' '.join(map(str, data.labels))}: nothing to tell apart"
        )
    elif common := [
        label for label, count in zip(data.labels, labels.sum(axis=0), strict=True) if count == len(labels)
    ]:
        notes.append(f"every row has {listed(common)} among its labels: nothing to tell apart by it")
    return notes


def open_data_set(where: str | Path | DataSet) -> DataSet:
    """A data set that `prepare` made, by its folder or its address, verified. Raises DataError, StorageError."""
    if isinstance(where, DataSet):
        where.prepared.verify()
        return where
    return DataSet(str(where), open_data(str(where), verify=True))


def numbers(name: str, given: str | Iterable[int] | None) -> frozenset[int] | None:
    """A set of numbers, or a text like 1-11,13-19.

    Raises:
        ArgumentError: `given` is neither, or empty, or gives more than 100,000.
    """
    if given is None:
        return None
    try:
        ranges = list(map(_range, given.split(","))) if isinstance(given, str) else [given]
        several = set(islice(map(int, chain.from_iterable(ranges)), _MOST_NUMBERS + 1))
    except (ValueError, TypeError):
        ranges, several = [], set()
    if not all(ranges) or not several:
        raise ArgumentError(name, f"numbers and ranges like 1-11,13-19, got {one_line(repr(given), 80)}")
    if len(several) > _MOST_NUMBERS:
        raise ArgumentError(name, f"at most {_MOST_NUMBERS} numbers, got more by {one_line(repr(given), 80)}")
    return frozenset(several)


def _range(text: str) -> range:
    """The numbers of 7 or 1-11, none of 11-1. Raises ValueError for what is neither."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return range(int(match[1]), int(match[2] or match[1]) + 1)
