"""The rows of a CSV as a bundle reads them; those that it cannot use end the work or are left out and listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from captune.data_prep.csv_file import read_csv
from captune.data_prep.images import ImageError, check_image, image_path
from captune.data_prep.records import BadRow, DataError, OnBad, Records
from captune.model.bundle import Bundle


@dataclass(frozen=True)
class Rows:
    """Rows of a CSV for a bundle.

    pictures: of each row; none where the bundle reads no pictures. on_bad: whether a row that cannot be used ends the
    work, or is left out and listed in records.bad.
    """

    source: Path
    records: Records
    pictures: tuple[Path, ...]
    on_bad: OnBad

    def fault(self, place: int, reason: str) -> BadRow:
        """The row at a place, from 0, as one that cannot be used; a DataError where none may be left out."""
        line = self.records.lines[place]
        if self.on_bad == "error":
            raise DataError(f"{self.source}, line {line}: {reason}; mend it or use --on-bad skip")
        return BadRow(line, self.records.examples[place].image_id, reason)

    def without(self, bad: Mapping[int, BadRow]) -> Rows:
        """The rows but for those that cannot be used, by their places. DataError where no row is left."""
        places = [place for place in range(len(self.pictures)) if place not in bad]
        if bad and not places:
            first = min(bad.items())[1]
            raise DataError(f"{self.source} has no usable row; the first, line {first.line}: {first.reason}")
        records = replace(
            self.records,
            examples=tuple(self.records.examples[place] for place in places),
            lines=tuple(self.records.lines[place] for place in places),
            bad=tuple(sorted([*self.records.bad, *bad.values()], key=lambda row: row.line)),
        )
        return replace(self, records=records, pictures=tuple(self.pictures[place] for place in places))


def read_rows(bundle: Bundle, source: Path, images: Path | None, *, need_labels: bool, on_bad: OnBad = "error") -> Rows:
    """The rows of a CSV, and the picture of each where the bundle reads pictures: all there, none decoded yet.

    Args:
        need_labels: whether every row must have labels that the bundle knows; else they are not looked at.

    Raises:
        DataError: the CSV lacks what the bundle reads; or a row cannot be used, and `on_bad` is "error".
    """
    labels = frozenset(bundle.label_ids) if need_labels else None
    records = read_csv(source, on_bad=on_bad, need_labels=need_labels, known_labels=labels)
    if bundle.config.text is not None and not records.has_captions:
        raise DataError(f"the bundle reads captions, {source} has no column Caption; add it")
    if bundle.config.image is None:
        return Rows(source, records, (), on_bad)
    if images is None:
        raise DataError(f"the bundle reads pictures; name their folder after {source}")
    if not images.is_dir():
        raise DataError(f"{images} is not a folder; name the folder of the pictures")
    rows = Rows(source, records, tuple(image_path(images, example.image_id) for example in records.examples), on_bad)
    bad: dict[int, BadRow] = {}
    for place, picture in enumerate(rows.pictures):
        try:
            check_image(picture)
        except ImageError as error:
            bad[place] = rows.fault(place, str(error))
    return rows.without(bad)
