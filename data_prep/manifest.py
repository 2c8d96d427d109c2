"""What a prepared data set says of itself, and the names of its files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from captune.data_prep.captions import CaptionSettings
from captune.data_prep.labels import Labels
from captune.data_prep.records import DataError
from captune.data_prep.split import SPLITS
from captune.errors import one_line
from captune.reading import UnreadableError, parsed_object

VERSION = 3
_WITHOUT_SUMS = 2  # the version before, which is read as well
MANIFEST, EXAMPLES, PIXELS = "manifest.json", "examples.arrow", "pixels.arrow"
VOCABULARY, BAD_ROWS = "vocabulary.json", "bad_rows.csv"
FILES = frozenset({MANIFEST, EXAMPLES, PIXELS, VOCABULARY, BAD_ROWS})
ANEW = "delete the folder and prepare it again"
"""The way out where a set is damaged."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared data set is.

    fingerprint: SHA-256 over examples and pixels, the same on every machine with the same JPEG decoder.
    counts: examples per split. label_counts: examples per label in train. side: pixels, or None. max_tokens
    (columns of tokens), vocabulary_size (ids) and captions are None without captions. inputs: what
    it was made from, to tell whether it can be used again. files: name -> bytes. repeated_pictures: rows of validation
    and of test with the pixels of a row of train, repeated_captions those with the caption of one; empty where an
    earlier captune did not count them. sha256: name -> sum of that file, in hex; empty where an earlier captune
    prepared the set.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - no field

    version: int
    fingerprint: str
    counts: dict[str, int]
    rows_read: int
    rows_skipped: int
    label_ids: tuple[int, ...]
    label_names: tuple[str, ...]
    label_counts: tuple[int, ...]
    side: int | None
    max_tokens: int | None
    vocabulary_size: int | None
    captions: CaptionSettings | None
    inputs: dict[str, str]
    files: dict[str, int]
    repeated_pictures: dict[str, int] = field(default_factory=dict)
    repeated_captions: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.counts) != set(SPLITS) or min(self.counts.values()) < 0:
            raise DataError(f"counts must be given for {', '.join(SPLITS)}, got {self.counts}")
        Labels(self.label_ids, self.label_names)
        if len(self.label_counts) != len(self.label_ids):
            raise DataError("label numbers and counts must be equally many")
        if not re.fullmatch("[0-9a-f]{64}", self.fingerprint):
            raise DataError("the fingerprint must be a SHA-256 in hex")
        if not (self.max_tokens is None) == (self.vocabulary_size is None) == (self.captions is None):
            raise DataError("max_tokens, vocabulary_size and caption settings go together")

    def to_json(self) -> str:
        """Ends with the sum of all that stands before."""
        content = asdict(self)
        content["sha256"] = self.sha256 | {MANIFEST: _sum_of(content)}
        return json.dumps(content, indent=2)

    @classmethod
    def from_json(cls, text: bytes, name: object) -> Manifest:
        """The inverse of to_json.

        Args:
            name: of the file, for messages.

        Raises:
            DataError: the text is damaged, of another version, or names other files than such a set has.
        """
        try:
            content = parsed_object(text, name)
            version = content.get("version")
            if version not in (VERSION, _WITHOUT_SUMS):
                shown = one_line(repr(version), 40)
                raise UnreadableError(f"{name} has format version {shown}, this captune reads version {VERSION}")
            if version == VERSION and content["sha256"].pop(MANIFEST) != _sum_of(content):
                raise UnreadableError(f"{name} is not as it was written (SHA-256 differs)")
            if content.get("captions") is not None:
                content["captions"] = CaptionSettings.stored(content["captions"])
            manifest = _typed(content)
        except UnreadableError as error:
            raise DataError(f"{error}: {ANEW}") from None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{name} is damaged ({one_line(error, 200)}): {ANEW}") from None
        parts = {EXAMPLES: True, PIXELS: manifest.side is not None, VOCABULARY: manifest.captions is not None}
        expected = {part for part, present in parts.items() if present}
        if manifest.files.keys() - {BAD_ROWS} != expected:
            raise DataError(f"{name} names other files than {', '.join(sorted(expected))}: {ANEW}")
        if manifest.sha256.keys() != (manifest.files.keys() if version == VERSION else set()):
            raise DataError(f"{name} lacks sums: {ANEW}")
        return manifest


def _typed(content: dict[str, Any]) -> Manifest:
    """Raises ValueError with the first field that is not of its type."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Manifest).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(": ".join((*map(str, first["loc"]), first["msg"]))) from None


def _sum_of(content: dict[str, Any]) -> str:
    """Of a manifest without the place where this sum stands."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
