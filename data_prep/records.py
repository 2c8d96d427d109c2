"""A CSV or a COCO JSON becomes examples; whatever is wrong with a row is told with its line."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from captune.data_prep import csv_rows
from captune.data_prep.csv_rows import LABEL, Columns
from captune.errors import UsageError

OnBad = Literal["error", "skip"]


class DataError(UsageError):
    """Input that a person must mend: one sentence with the rule, the value and the way out."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled picture with its caption.

    image_id is a relative path with forward slashes; labels are sorted, unique, non-negative, and empty
    where the source has none; caption may be empty.
    """

    image_id: str
    labels: tuple[int, ...]
    caption: str

    def __post_init__(self) -> None:
        if fault := name_fault(self.image_id):
            raise DataError(fault)
        if list(self.labels) != sorted(set(self.labels)) or any(label < 0 for label in self.labels):
            raise DataError(f"labels must be sorted, unique and not negative, got {self.labels}")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row left out. line: 1-based, of the CSV; for COCO the place of the image in its list."""

    line: int
    image_id: str
    reason: str


@dataclass(frozen=True)
class Records:
    """What a source holds, in its order.

    lines[i] is where examples[i] stands, counted as in BadRow.line, in units of unit ("line" or "image").
    """

    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]
    has_labels: bool
    has_captions: bool
    label_names: dict[int, str]
    lines: tuple[int, ...]
    unit: str

    def __post_init__(self) -> None:
        if len(self.lines) != len(self.examples):
            raise ValueError(f"{len(self.lines)} lines for {len(self.examples)} examples")


def name_fault(image_id: str) -> str | None:
    """Why image_id cannot name a picture inside a folder, or None where it can."""
    if not image_id:
        return "ImageID is empty"
    if "\0" in image_id or "\\" in image_id:
        return f"ImageID {image_id!r} holds a NUL or a backslash: name it with forward slashes"
    if image_id.startswith("/") or re.match(r"[A-Za-z]:", image_id):
        return f"ImageID {image_id!r} is an absolute path: name it relative to the image folder"
    if ".." in image_id.split("/"):
        return f"ImageID {image_id!r} leaves the image folder: take the '..' out"
    return None


@dataclass
class _Collector:
    """Gathers good and bad rows; raises at the first bad one where on_bad is "error"."""

    path: Path
    on_bad: OnBad
    unit: str
    examples: list[Example] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)

    def good(self, line: int, example: Example) -> None:
        self.examples.append(example)
        self.lines.append(line)

    def fault(self, line: int, image_id: str, reason: str) -> None:
        if self.on_bad == "error":
            raise DataError(f"{self.path}, {self.unit} {line}: {reason}; mend it or use --on-bad skip")
        self.bad.append(BadRow(line, image_id, reason))

    def records(self, *, has_labels: bool, has_captions: bool, label_names: dict[int, str]) -> Records:
        if not self.examples:
            first = f"; the first, {self.unit} {self.bad[0].line}: {self.bad[0].reason}" if self.bad else ""
            raise DataError(f"{self.path} has no usable row: {len(self.bad)} are bad{first}")
        return Records(
            tuple(self.examples),
            tuple(self.bad),
            has_labels,
            has_captions,
            label_names,
            tuple(self.lines),
            self.unit,
        )


def read_csv(
    path: str | Path,
    *,
    on_bad: OnBad = "error",
    need_labels: bool = True,
    known_labels: frozenset[int] | None = None,
) -> Records:
    """Read a CSV with the columns ImageID, Labels and Caption, in any order, others ignored.

    Labels are whole numbers with blanks between them. Where need_labels is False they may be missing and are
    not looked at, and rows may share an ImageID; Caption may be missing always. Each row is one example,
    however odd its quotes: a quote that is never closed, or whose field would swallow a line that is itself a
    row, is kept as a character, and where Caption is the last column, commas without quotes belong to it. Only
    a line feed ends a row.

    Raises DataError with the line: at the first bad row where on_bad is "error"; in both modes where the file
    as a whole is unusable (missing, empty, not UTF-8, a column missing, no usable row).
    """
    path = Path(path)
    text = _read_text(path)
    if not text.strip():
        raise DataError(f"{path} is empty: it needs a header with ImageID, Labels and Caption, and rows")
    rows = csv_rows.rows(text)
    header_line, header = next(rows)
    columns = _columns(path, header_line, header, need_labels)
    # Now that the columns are known the same text is read again, so that quotes can be judged by them.
    rows = csv_rows.rows(text, columns)
    next(rows)
    gathered = _Collector(path, on_bad, "line")
    line_of: dict[str, int] = {}
    for line, fields in rows:
        image_id = fields[columns.image].strip() if columns.image < len(fields) else ""
        labels: tuple[int, ...] = ()
        reason = None
        if len(fields) != columns.count:
            reason = f"{len(fields)} fields where the header has {columns.count}"
        elif not (reason := name_fault(image_id)) and need_labels:
            assert columns.labels is not None
            labels, reason = _labels(fields[columns.labels], known_labels)
            if image_id in line_of:
                reason = f"ImageID {image_id!r} stands on line {line_of[image_id]} already"
        if reason:
            gathered.fault(line, image_id, reason)
            continue
        line_of[image_id] = line
        caption = fields[columns.caption] if columns.caption is not None else ""
        gathered.good(line, Example(image_id, labels, caption))
    return gathered.records(has_labels=need_labels, has_captions=columns.caption is not None, label_names={})


def _columns(path: Path, line: int, header: list[str], need_labels: bool) -> Columns:
    names = [name.strip() for name in header]
    for name in ("ImageID", "Labels", "Caption"):
        if names.count(name) > 1:
            raise DataError(f"{path}, line {line}: column {name} stands {names.count(name)} times, keep one")
    missing = [name for name in ("ImageID", "Labels")[: 1 + need_labels] if name not in names]
    if missing:
        raise DataError(
            f"{path}, line {line}: column {' and '.join(missing)} is missing from {', '.join(names)!r};"
            " name the columns ImageID,Labels,Caption"
        )

    def place(name: str) -> int | None:
        return names.index(name) if name in names else None

    return Columns(names.index("ImageID"), place("Labels"), place("Caption"), len(names))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder: name the file in it") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
    # Only a file without a single line feed can have carriage returns as its line ends.
    return text if "\n" in text else text.replace("\r", "\n")


def _labels(value: str, known_labels: frozenset[int] | None) -> tuple[tuple[int, ...], str | None]:
    """The label set in value, and what is wrong with it or None."""
    words = value.split()
    if not words:
        return (), "no label: give at least one"
    for word in words:
        if not LABEL.fullmatch(word):
            return (), f"label {word!r} is not a whole number below 10**9"
        if known_labels is not None and int(word) not in known_labels:
            numbers = " ".join(map(str, sorted(known_labels)))
            return (), f"label {int(word)} is unknown, known are {numbers}"
    return tuple(sorted({int(word) for word in words})), None


def read_coco(
    path: str | Path,
    *,
    per_caption: bool = False,
    categories: frozenset[int] | None = None,
    on_bad: OnBad = "error",
) -> Records:
    """Read COCO annotations: a folder with one instances*.json and at most one captions*.json, or the former.

    One example per image with the caption of the lowest annotation id, or with per_caption one per caption,
    where the image_id repeats; blanks around a caption are cut off. image_id is file_name. Labels are the
    category ids that the image's annotations name, crowds included, out of categories where given. An image
    without any is a bad row ("no label"), in both modes of on_bad: COCO has such images by design, so they
    are left out and listed, never raised.

    Raises DataError: files missing, not JSON, not COCO; with on_bad "error" at the first other bad image.
    """
    instances_path, captions_path = coco_files(Path(path))
    instances = _coco_json(instances_path, ("images", "annotations", "categories"))
    captions = _coco_json(captions_path, ("annotations",)) if captions_path else None
    gathered = _Collector(instances_path, on_bad, "image")
    try:
        names = {int(category["id"]): _plain(category["name"]) for category in instances["categories"]}
        chosen = frozenset(names) if categories is None else categories
        if unknown := chosen - names.keys():
            raise DataError(f"{instances_path} has no category {min(unknown)}: choose among {sorted(names)}")
        labels: dict[int, set[int]] = {}
        for note in instances["annotations"]:
            if note["category_id"] in chosen:
                labels.setdefault(note["image_id"], set()).add(int(note["category_id"]))
        texts: dict[int, list[str]] = {}
        for note in sorted(captions["annotations"], key=lambda note: note["id"]) if captions else ():
            texts.setdefault(note["image_id"], []).append(_plain(note["caption"]).strip())
        place_of: dict[str, int] = {}
        for place, image in enumerate(instances["images"], start=1):
            image_id = _plain(image["file_name"])
            label_set = tuple(sorted(labels.get(image["id"], ())))
            if not label_set:
                gathered.bad.append(BadRow(place, image_id, "no label of the chosen categories"))
                continue
            reason = name_fault(image_id)
            if not reason and image_id in place_of:
                reason = f"file_name {image_id!r} is image {place_of[image_id]} already"
            if reason:
                gathered.fault(place, image_id, reason)
                continue
            place_of[image_id] = place
            own = texts.get(image["id"], [""])
            for caption in own if per_caption else own[:1]:
                gathered.good(place, Example(image_id, label_set, caption))
    except DataError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(f"{instances_path} is not COCO annotations: {error!r} in an entry") from None
    return gathered.records(
        has_labels=True,
        has_captions=captions is not None,
        label_names={label: names[label] for label in sorted(chosen)},
    )


def _plain(value: object) -> str:
    """Text that has a UTF-8 form: JSON can escape half a surrogate pair, which becomes a question mark."""
    return str(value).encode("utf-8", "replace").decode()


def coco_files(path: Path) -> tuple[Path, Path | None]:
    """The instances file and the captions file that read_coco reads for path."""
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path")
    if path.is_file():
        if not path.name.startswith("instances"):
            raise DataError(f"{path} is not named instances*.json: name that file, or the folder it is in")
        beside = path.with_name("captions" + path.name.removeprefix("instances"))
        return path, beside if beside.is_file() else None
    files = {kind: sorted(path.glob(f"{kind}*.json")) for kind in ("instances", "captions")}
    if len(files["instances"]) != 1 or len(files["captions"]) > 1:
        counts = " and ".join(f"{len(paths)} {kind}*.json" for kind, paths in files.items())
        raise DataError(f"{path} must hold one instances*.json and 0 or 1 captions*.json, it has {counts}")
    return files["instances"][0], next(iter(files["captions"]), None)


def _coco_json(path: Path, lists: tuple[str, ...]) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise DataError(f"{path} is not COCO annotations: nested too deep") from None
    for name in lists:
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise DataError(f"{path} is not COCO annotations: it has no list {name!r}")
    return dict(content)
