"""What a prepared data set says of itself, and the names of its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from captune.data_prep.captions import CaptionSettings
from captune.data_prep.records import DataError
from captune.data_prep.split import SPLITS

VERSION = 2
MANIFEST, EXAMPLES, PIXELS = "manifest.json", "examples.arrow", "pixels.arrow"
VOCABULARY, BAD_ROWS = "vocabulary.json", "bad_rows.csv"
FILES = frozenset({MANIFEST, EXAMPLES, PIXELS, VOCABULARY, BAD_ROWS})


@dataclass(frozen=True)
class Manifest:
    """What a prepared data set is.

    fingerprint: SHA-256 over examples and pixels, the same on every machine with the same JPEG decoder.
    counts: examples per split. label_counts: examples per label in train. side: pixels, or None. max_tokens
    (columns of tokens), vocabulary_size (ids) and captions are None without captions. inputs: what
    it was made from, to tell whether it can be used again. files: name -> bytes.
    """

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

    def __post_init__(self) -> None:
        if set(self.counts) != set(SPLITS) or min(self.counts.values()) < 0:
            raise DataError(f"counts must be given for {', '.join(SPLITS)}, got {self.counts}")
        if not len(self.label_ids) == len(self.label_names) == len(self.label_counts):
            raise DataError("label numbers, names and counts must be equally many")
        if not isinstance(self.inputs, dict) or not isinstance(self.files, dict):
            raise DataError("inputs and files must be given by name")
        if (self.max_tokens is None) != (self.captions is None):
            raise DataError("max_tokens and caption settings go together")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The inverse of to_json. Raises DataError for another version, ValueError and such for other
        text."""
        content: dict[str, Any] = json.loads(text)
        if content["version"] != VERSION:
            raise DataError(f"has format version {content['version']}, this captune reads version {VERSION}")
        for name in ("label_ids", "label_names", "label_counts"):
            content[name] = tuple(content[name])
        if content["captions"] is not None:
            content["captions"] = CaptionSettings(**CaptionSettings.stored(content["captions"]))
        return cls(**content)
