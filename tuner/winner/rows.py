"""The rows of a CSV as a bundle reads them; those that it cannot use end the work or are left out and listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from captune.data_prep.csv_file import read_csv
from captune.data_prep.images import ImageError, check_image, image_path
from captune.data_prep.records import DataError, OnBad, Records
from captune.model.bundle import Bundle


@dataclass(frozen=True)
class Rows:
    """Rows of a CSV for a bundle.

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
        """The rows but for those that cannot be used, by their places. DataError where no row is left."""
        assert self.pictures is not None
        places = [place for place in range(len(self.pictures)) if place not in faults]
        if faults and not places:
            first, reason = min(faults.items())
            line = self.records.lines[first]
            raise DataError(f"{self.source} has no usable row; the first, line {line}: {reason}")
        return replace(
            self, records=self.records.without(faults), pictures=tuple(self.pictures[place] for place in places)
        )


def read_rows(bundle: Bundle, source: Path, images: Path | None, *, need_labels: bool, on_bad: OnBad = "error") -> Rows:
    """The rows of a CSV, and the picture of each where the bundle reads pictures: all there, none decoded yet.

    Args:
        need_labels: whether every row must have labels that the bundle knows; else they are not looked at.

    Raises:
        DataError: the CSV lacks what the bundle reads; or a row cannot be used, and `on_bad` is "error".
    """
    labels = frozenset(bundle.label_ids) if need_labels else None
    records = read_csv(source, on_bad=on_bad, need_labels=need_labels, known_labels=labels)
    config = bundle.config
    answers_alone = config.has_parts and (records.has_captions or images is not None)
    if config.text is not None and not records.has_captions:
        if not answers_alone:
            raise DataError(f"the bundle reads captions, {source} has no column Caption; add it")
        records = replace(records, notes=(*records.notes, "no column Caption, so pictures answer alone"))
    if config.image is None:
        return Rows(source, records, None, on_bad)
    if images is None:
        if not answers_alone:
            raise DataError(f"the bundle reads pictures; name their folder after {source}")
        records = replace(records, notes=(*records.notes, "no folder of pictures, so captions answer alone"))
        return Rows(source, records, None, on_bad)
    if not images.is_dir():
        raise DataError(f"{images} is not a folder; name the folder of the pictures")
    pictures = tuple(image_path(images, example.image_id) for example in records.examples)
    rows, faults = Rows(source, records, pictures, on_bad), dict[int, str]()
    for place, picture in enumerate(pictures):
        try:
            check_image(picture)
        except ImageError as error:
            faults[place] = rows.fault(place, str(error))
    return rows.without(faults)
