"""The rows of a CSV as a bundle reads them; those that it cannot use end the work or are left out and listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from captune.data_prep.csv_file import CsvFile, open_csv
from captune.data_prep.images import ImageError, check_image, image_path
from captune.data_prep.records import DataError, OnBad, Records
from captune.model.bundle import Bundle

CHUNK = 4096  # rows that are held at a time


@dataclass(frozen=True)
class Rows:
    """Some rows of a CSV for a bundle.

    pictures: of each row; None where the bundle reads no pictures, or does without. on_bad: whether a row that cannot
    be used ends the work, or is left out and listed in records.bad.
    """

    source: Path
    records: Records
    pictures: tuple[Path, ...] | None
    on_bad: OnBad

    def fault(self, place: int, reason: str) -> str:
        """Why the row at a place, from 0, cannot be used; a DataError where none may be left out."""
        if self.on_bad == "error":
            line = self.records.lines[place]
            raise DataError(f"{self.source}, line {line}: {reason}; mend it or use --on-bad skip")
        return reason

    def without(self, faults: Mapping[int, str]) -> Rows:
        """The rows but for those that cannot be used, by their places."""
        assert self.pictures is not None
        pictures = tuple(picture for place, picture in enumerate(self.pictures) if place not in faults)
        return replace(self, records=self.records.without(faults), pictures=pictures)


@dataclass(frozen=True)
class RowFile:
    """A CSV opened for a bundle. images: folder of its pictures; None where none are read. notes: on what is read."""

    file: CsvFile
    images: Path | None
    on_bad: OnBad
    notes: tuple[str, ...]

    def chunks(self, size: int | None = CHUNK) -> Iterator[Rows]:
        """All rows in their order, up to `size` at a time. That a picture is there shows when it is decoded.

        Raises:
            DataError: a row cannot be used, and `on_bad` is "error"; or none can.
        """
        for records in self.file.chunks(size, on_bad=self.on_bad):
            pictures = None
            if self.images is not None:
                pictures = tuple(image_path(self.images, example.image_id) for example in records.examples)
            yield Rows(self.file.path, records, pictures, self.on_bad)

    def check(self) -> int:
        """The number of rows that can be used as far as is known before a picture is decoded.

        Raises:
            DataError: a row cannot be used, or its picture is not there, and `on_bad` is "error"; or none can.
        """
        count = 0
        for rows in self.chunks():
            count += len(rows.records.examples)
            for place, picture in enumerate(rows.pictures or () if self.on_bad == "error" else ()):
                try:
                    check_image(picture)
                except ImageError as error:
                    rows.fault(place, str(error))
        return count


def open_rows(
    bundle: Bundle, source: Path, images: Path | None, *, need_labels: bool, on_bad: OnBad = "error"
) -> RowFile:
    """A CSV with what the bundle reads.

    Args:
        need_labels: whether every row must have labels that the bundle knows, by number or by name; else they are not
            looked at.

    Raises:
        DataError: the CSV lacks what the bundle reads, or there is no folder of pictures.
    """
    labels = frozenset(bundle.label_ids) if need_labels else None
    names = dict(zip(bundle.label_ids, bundle.label_names, strict=True))
    file = open_csv(source, need_labels=need_labels, known_labels=labels, label_names=names)
    config, notes = bundle.config, []
    answers_alone = config.has_parts and (file.has_captions or images is not None)
    if config.text is not None and not file.has_captions:
        if not answers_alone:
            raise DataError(f"the bundle reads captions, {source} has no column Caption; add it")
        notes.append("no column Caption, so pictures answer alone")
    if config.image is None:
        return RowFile(file, None, on_bad, tuple(notes))
    if images is None:
        if not answers_alone:
            raise DataError(f"the bundle reads pictures; name their folder after {source}")
        notes.append("no folder of pictures, so captions answer alone")
    elif not images.is_dir():
        raise DataError(f"{images} is not a folder; name the folder of the pictures")
    return RowFile(file, images, on_bad, tuple(notes))
