"""COCO annotations become examples: ids are held to one type, and whatever cannot be used is told with its entry."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath

from captune.data_prep.coco_json import Document, coco_files
from captune.data_prep.records import (
    BadRow,
    Collector,
    DataError,
    Example,
    OnBad,
    Records,
    listed,
    name_fault,
    ranges,
    shown,
)
from captune.data_prep.source import digest

Id = int | str
_HIGHEST = 10**9 - 1  # of category ids, as of the labels of a CSV


def read_coco(
    path: str | Path,
    *,
    per_caption: bool = False,
    categories: frozenset[int] | None = None,
    on_bad: OnBad = "error",
) -> Records:
    """Read COCO annotations: the files that coco_files gives for path.

    One example per image with that caption, of those which are not blank, that has the lowest annotation id (the first
    where these are no whole numbers), or with per_caption one per caption, where the image_id repeats; blanks around a
    caption are cut off. image_id is file_name with forward slashes. Labels are the ids of the categories that the
    image's annotations name, crowds included, out of categories where given. Ids are whole numbers, or all texts;
    categories whose ids are texts other than numbers have their places in the list as labels, from 1.

    An image without a label is a bad row in both modes of on_bad: COCO has such images by design. Any other entry that
    cannot be used raises DataError where on_bad is "error"; else its image is a bad row, or it is noted where it
    belongs to none. Raises DataError in both modes: files are missing, not JSON or not COCO; categories cannot be told
    apart; no caption is of an image.
    """
    instances_path, captions_path = coco_files(Path(path))
    instances = Document.read(instances_path, "images", "annotations", "categories")
    captions = Document.read(captions_path, "annotations") if captions_path else None
    gathered = Collector(instances_path, on_bad, "image")
    faults = _Faults(on_bad)
    label_of, names = _categories(instances)
    if any(str(number) != str(label) for number, label in label_of.items()):
        gathered.notes.append(f"category ids are texts: their places in the list are the labels, 1 to {len(names)}")
    chosen = frozenset(names) if categories is None else categories
    if unknown := chosen - names.keys():
        raise DataError(f"{instances_path} has no category {min(unknown)}: choose among {ranges(names)}")
    image_ids, place_of = _images(instances, faults)
    labels = _labels(instances, place_of, label_of, faults)
    texts = _captions(captions, place_of, faults, gathered.notes) if captions else {}
    gathered.notes += _shared_names({label: names[label] for label in chosen}, labels, instances_path)
    gathered.notes += faults.notes()
    for place, image_id in enumerate(image_ids, start=1):
        label_set = tuple(sorted(labels.get(place, set()) & chosen))
        if reason := faults.of_place.get(place):
            gathered.fault(place, image_id, reason)
        elif not label_set:
            gathered.bad.append(BadRow(place, image_id, "no label of the chosen categories"))
        else:
            own = texts.get(place, [""])
            for caption in own if per_caption else [next(filter(None, own), "")]:
                gathered.good(place, Example(image_id, label_set, caption))
    return gathered.records(
        has_labels=True,
        has_captions=captions is not None,
        label_names={label: names[label] for label in sorted(chosen)},
        rows=len(image_ids),
        sha256=digest([document.source for document in (instances, captions) if document]),
    )


@dataclass
class _Faults:
    """Entries that cannot be used: raised at once where on_bad is "error", else kept by the place of their image."""

    on_bad: OnBad
    of_place: dict[int, str] = field(default_factory=dict)
    of_none: list[str] = field(default_factory=list)

    def add(self, path: Path, entry: str, reason: str, place: int | None) -> None:
        if self.on_bad == "error":
            raise DataError(f"{path}, {entry}: {reason}; mend it or use --on-bad skip")
        if place is None:
            self.of_none.append(f"{path.name}, {entry}: {reason}")
        else:
            self.of_place.setdefault(place, f"{entry}: {reason}")

    def notes(self) -> list[str]:
        if not self.of_none:
            return []
        return [f"left out, for they name no image: {len(self.of_none)} annotations; the first, {self.of_none[0]}"]


def _kind(ids: Iterable[object]) -> type:
    """What the ids of a list have to be: what the first one is that can be an id."""
    return next((type(value) for value in ids if type(value) in (int, str)), int)


def _id_fault(name: str, value: object, kind: type, known: Mapping[Id, object] | None = None) -> str | None:
    """What is wrong with an id by its type, and by those that are known where given."""
    if type(value) is not kind:
        return f"{name} {shown(value)} is no {'whole number' if kind is int else 'text, as the first id is'}"
    if known is not None and value not in known:
        return f"{name} {shown(value)} is not listed"
    return None


def _categories(document: Document) -> tuple[dict[Id, int], dict[int, str]]:
    """The label of each category id, and the names of the labels."""
    names: dict[Id, str] = {}
    kind = _kind(number for _, number in document.entries("categories", "id"))
    for entry, number, name in document.entries("categories", "id", "name"):
        reason = _id_fault("id", number, kind)
        if reason is None and number in names:
            reason = f"id {shown(number)} is that of {shown(names[number])} already"
        if reason is None and kind is int and not 0 <= number <= _HIGHEST:
            reason = f"id {shown(number)} is not from 0 to {_HIGHEST}"
        if reason is None and not (isinstance(name, str) and name.strip()):
            reason = f"name {shown(name)} is no text"
        if reason:
            raise DataError(f"{document.path}, {entry}: {reason}; mend it")
        names[number] = _plain(name)
    as_numbers = all(re.fullmatch("0|[1-9][0-9]{0,8}", str(number)) for number in names)
    label_of = {number: int(number) if as_numbers else place for place, number in enumerate(names, start=1)}
    return label_of, {label_of[number]: name for number, name in names.items()}


def _images(document: Document, faults: _Faults) -> tuple[list[str], dict[Id, int]]:
    """The name of each image, "" where it has none, and the place of each id in the list, from 1."""
    kind = _kind(number for _, number in document.entries("images", "id"))
    image_ids: list[str] = []
    place_of: dict[Id, int] = {}
    place_of_name: dict[str, int] = {}  # by names of one form
    for place, (entry, number, name) in enumerate(document.entries("images", "id", "file_name"), start=1):
        # Made on Windows, it has backslashes, which no name of a picture may have here.
        written = name.replace("\\", "/") if isinstance(name, str) else ""
        image_id = _plain(written)
        image_ids.append(image_id)
        reason = _id_fault("id", number, kind)
        if reason is None and number in place_of:
            reason = f"id {shown(number)} is that of image {place_of[number]} already"
            faults.add(document.path, entry, reason, place_of[number])  # whose annotations are whose is not known
        elif reason is None:
            place_of[number] = place
        if reason is None and not isinstance(name, str):
            reason = f"file_name {shown(name)} is no text"
        reason = reason or name_fault(written)
        if not reason and normpath(image_id) in place_of_name:
            reason = f"file_name {shown(image_id)} is that of image {place_of_name[normpath(image_id)]} already"
        if reason:
            faults.add(document.path, entry, reason, place)
        else:
            place_of_name[normpath(image_id)] = place
    return image_ids, place_of


def _labels(
    document: Document, place_of: dict[Id, int], label_of: dict[Id, int], faults: _Faults
) -> dict[int, set[int]]:
    """The labels of each image, by its place."""
    image_kind, category_kind = _kind(place_of), _kind(label_of)
    labels: dict[int, set[int]] = {}
    for entry, image, category in document.entries("annotations", "image_id", "category_id"):
        if reason := _id_fault("image_id", image, image_kind, place_of):
            faults.add(document.path, entry, reason, None)
        elif reason := _id_fault("category_id", category, category_kind, label_of):
            faults.add(document.path, entry, reason, place_of[image])
        else:
            labels.setdefault(place_of[image], set()).add(label_of[category])
    return labels


def _captions(document: Document, place_of: dict[Id, int], faults: _Faults, notes: list[str]) -> dict[int, list[str]]:
    """The captions of each image, by its place, in their order."""
    kind = _kind(place_of)
    texts: dict[int, list[str]] = {}
    belong, others = 0, 0
    annotations = list(document.entries("annotations", "id", "image_id", "caption"))
    if all(type(number) is int for _, number, *_ in annotations):
        annotations.sort(key=lambda annotation: annotation[1])
    for entry, _, image, caption in annotations:
        if reason := _id_fault("image_id", image, kind):
            faults.add(document.path, entry, reason, None)
        elif image not in place_of:
            others += 1
        else:
            belong += 1
            if isinstance(caption, str):
                texts.setdefault(place_of[image], []).append(_plain(caption).strip())
            else:
                faults.add(document.path, entry, f"caption {shown(caption)} is no text", place_of[image])
    if not belong:
        raise DataError(
            f"{document.path}: none of its {len(annotations)} captions is of an image in the list:"
            f" their image_id must be ids as {shown(next(iter(place_of), 1))}; give the captions of the same split"
        )
    if others:
        notes.append(f"left out: {others} captions of images that are not in the list")
    return texts


def _shared_names(names: dict[int, str], labels: dict[int, set[int]], path: Path) -> list[str]:
    """A note for each name of several categories. Raises DataError where more than one of these has annotations."""
    used = set().union(*labels.values())
    notes = []
    for name, count in Counter(names.values()).items():
        if count > 1:
            numbers = sorted(number for number in names if names[number] == name)
            if len(used & {*numbers}) > 1:
                raise DataError(f"{path}: categories {listed(numbers)} are all named {shown(name)}: give each its name")
            notes.append(f"categories {listed(numbers)} are all named {shown(name)}, and at most one has annotations")
    return notes


def _plain(text: str) -> str:
    """Text that has a UTF-8 form: JSON can escape half a surrogate pair, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
