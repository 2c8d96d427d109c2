"""Byte pairs, into which CLIP's text towers cut a caption (Sennrich et al., 2016, arXiv 1508.07909), over bytes.

An entry of such a vocabulary is a byte by itself, or what two entries before it are joined to, with a blank between
the two. Bytes are written as the `tokenizers` library's ByteLevel writes them, none of them as a blank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from captune.data_prep.records import DataError
from captune.errors import one_line
from captune.reading import json_object, text_lines

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY, MERGES = "vocab.json", "merges.txt"
START, END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD: Literal["</w>"] = "</w>"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_STEPS = {"normalizer": ["NFC", "Replace", "Lowercase"], "pre_tokenizer": ["Split", "ByteLevel"]}
"""Of a tokenizer.json of CLIP's."""
_SAME = {"end_of_word_suffix": _END_OF_WORD, "continuing_subword_prefix": "", "fuse_unk": False}


@dataclass(frozen=True)
class BytePairSettings:
    """How a caption is cut. All of CLIP's have the one setting alike."""

    family: ClassVar[Literal["clip"]] = "clip"
    end_of_word: Literal["</w>"] = _END_OF_WORD

    def __post_init__(self) -> None:
        if self.end_of_word != _END_OF_WORD:
            raise DataError(f"end_of_word must be {_END_OF_WORD}")

    @staticmethod
    def text(entry: str) -> str:
        """What an entry stands for."""
        return entry.replace(" ", "")

    def check(self, entries: Sequence[str]) -> None:
        """Raises DataError unless the two halves of each entry that has some stand before it, and none twice."""
        before: set[str] = set()
        for entry in entries:
            halves = entry.split(" ")
            if len(halves) > 2 or (len(halves) == 2 and not before.issuperset(halves)) or self.text(entry) in before:
                raise DataError(
                    "a vocabulary of byte pairs holds each once, after the two that it is made of, and not so "
                    f"{one_line(repr(entry), 60)}"
                )
            before.add(self.text(entry))

    def occurring(self, counts: Counter[str], entries: Sequence[str]) -> tuple[str, ...]:
        """Of all entries those that the texts counted are, or are made of, in their order: they cut them as all do."""
        entry_of = {self.text(entry): entry for entry in entries}
        wanted, left = set[str](), [text for text in counts if text in entry_of]
        while left:
            entry = entry_of[left.pop()]
            if entry not in wanted:
                wanted.add(entry)
                left += entry.split(" ") if " " in entry else []
        return tuple(entry for entry in entries if entry in wanted)

    def tokenizer(self, marks: Sequence[str], unknown: str, entries: Sequence[str]) -> Tokenizer:
        """The library's own, whose ids are the places of marks and entries. Raises ImportError without the library."""
        from tokenizers import Regex, Tokenizer
        from tokenizers.models import BPE
        from tokenizers.normalizers import NFC, Lowercase, Replace
        from tokenizers.normalizers import Sequence as Normalizers
        from tokenizers.pre_tokenizers import ByteLevel, Split
        from tokenizers.pre_tokenizers import Sequence as Splitters

        places = {text: place for place, text in enumerate((*marks, *map(self.text, entries)))}
        merges = [(left, right) for left, blank, right in (entry.partition(" ") for entry in entries) if blank]
        tokenizer = Tokenizer(BPE(places, merges, unk_token=unknown, end_of_word_suffix=self.end_of_word))
        tokenizer.normalizer = Normalizers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
        words = Split(Regex(_WORDS), behavior="removed", invert=True)
        tokenizer.pre_tokenizer = Splitters([words, ByteLevel(add_prefix_space=False)])
        return tokenizer


def of_tokenizer(content: Mapping[str, Any]) -> dict[str, int]:
    """Places of all entries of a tokenizer.json, in the order in which they are joined. Raises ValueError and the like.

    Those of the start and the end of a caption stand under their names.
    """
    for name, expected in _STEPS.items():
        part = content[name] or {}
        steps = [step["type"] for step in part.get("normalizers", part.get("pretokenizers", []))]
        if steps != expected:
            raise ValueError(f"{name} is not {', '.join(expected)}, as CLIP's is")
    model = content["model"]
    if other := [name for name, value in _SAME.items() if (model.get(name) or value) != value]:
        raise ValueError(f"{other[0]} is {model[other[0]]!r}, not {_SAME[other[0]]!r}")
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return _by_entry(model["vocab"], merges)


def check_places(places: Any) -> None:
    """Raises ValueError for anything but a table of pieces and their places, from 0 on, each once."""
    if not isinstance(places, dict) or not all(type(place) is int and place >= 0 for place in places.values()):
        raise ValueError("it is no table of pieces and their places from 0")
    if len(set(places.values())) < len(places):
        raise ValueError("two pieces have one place")


def of_files(folder: Path) -> dict[str, int]:
    """The same of vocab.json and merges.txt, a pair a line after the first."""
    lines = text_lines(folder / MERGES)
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return _by_entry(json_object(folder / VOCABULARY), merges)


def _by_entry(places: Mapping[str, Any], merges: Sequence[Any]) -> dict[str, int]:
    check_places(places)
    if missing := [mark for mark in (START, END) if mark not in places]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    for merge in merges:
        if not (isinstance(merge, list) and len(merge) == 2 and all(isinstance(half, str) for half in merge)):
            raise ValueError(f"a merge is two texts, got {merge!r}")
    joined = {left + right: f"{left} {right}" for left, right in merges}
    if len(joined) < len(merges):
        raise ValueError("two pairs are joined to the same, which none of CLIP's are")
    if lost := [text for text in joined if text not in places]:
        raise ValueError(f"{lost[0]!r} is joined, and is not in the vocabulary")

    def ordered() -> Iterator[tuple[str, int]]:
        for text in sorted(places.keys() - joined.keys(), key=places.__getitem__):
            yield text, places[text]
        for text, entry in joined.items():
            yield entry, places[text]

    return dict(ordered())
