"""Captions become ids of pieces of words, by a vocabulary cut to those that occur.

These are BERT's word pieces (Wu et al., 2016, arXiv 1609.08144), or CLIP's byte pairs (captune.data_prep.byte_pairs).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from captune.data_prep import byte_pairs
from captune.data_prep.byte_pairs import BytePairSettings
from captune.data_prep.captions import PADDING, UNKNOWN
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.errors import one_line
from captune.reading import UnreadableError, json_object, parsed_object, text_lines

if TYPE_CHECKING:
    from tokenizers import Tokenizer

START, END = 2, 3
FIRST_PIECE = 4
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""Of the ids 0 to 3, as BERT's vocabularies have them."""
TOKENIZER, WORDS = "tokenizer.json", "vocab.txt"
_SETTINGS = "tokenizer_config.json"
LONGEST_WORD = 100
"""Characters; a longer one is unknown, as to BERT."""
_PARTS = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
_SAME = {"unk_token": MARKS[UNKNOWN], "continuing_subword_prefix": "##", "max_input_chars_per_word": LONGEST_WORD}


@dataclass(frozen=True)
class PieceSettings:
    """How a caption is written before it is cut: names and meanings of the `tokenizers` library's BertNormalizer."""

    family: ClassVar[Literal["bert"]] = "bert"
    lowercase: bool = True
    strip_accents: bool | None = None
    clean_text: bool = True
    handle_chinese_chars: bool = True

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, bool) and not (value is None and name == "strip_accents"):
                raise DataError(f"{name} must be true or false, got {one_line(repr(value), 40)}")

    def check(self, pieces: Sequence[str]) -> None:
        """Any are a vocabulary."""

    def occurring(self, counts: Counter[str], pieces: Sequence[str]) -> tuple[str, ...]:
        """Of all pieces those that were counted, commonest first."""
        known = frozenset(pieces)
        ranked = sorted((-count, text) for text, count in counts.items() if text in known)
        return tuple(text for _, text in ranked)

    def tokenizer(self, marks: Sequence[str], unknown: str, pieces: Sequence[str]) -> Tokenizer:
        """The library's own, whose ids are the places of marks and pieces. Raises ImportError without the library."""
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        places = {text: place for place, text in enumerate((*marks, *pieces))}
        tokenizer = Tokenizer(WordPiece(places, **{**_SAME, "unk_token": unknown}))
        tokenizer.normalizer = BertNormalizer(**asdict(self))
        tokenizer.pre_tokenizer = BertPreTokenizer()
        return tokenizer


@dataclass(frozen=True)
class Pieces:
    """A vocabulary; i + FIRST_PIECE is the id of pieces[i].

    Word pieces stand commonest first. Each word is the longest that it can be cut into from its start on; one that
    cannot is unknown as a whole. Byte pairs stand in the order in which they are joined; a byte may be unknown.
    """

    pieces: tuple[str, ...]
    settings: PieceSettings | BytePairSettings

    def __post_init__(self) -> None:
        if len({*self.pieces, *MARKS}) != len(self.pieces) + len(MARKS) or not all(self.pieces):
            raise DataError("a vocabulary of word pieces holds each once, and neither empty ones nor marks")
        self.settings.check(self.pieces)

    @property
    def size(self) -> int:
        """Number of ids, those of the marks included."""
        return FIRST_PIECE + len(self.pieces)

    def first(self, size: int) -> Pieces:
        """The vocabulary of the first `size` ids, more than FIRST_PIECE."""
        return self if size >= self.size else Pieces(self.pieces[: size - FIRST_PIECE], self.settings)

    def encode(self, captions: Iterable[str], width: int) -> NDArray[np.int32]:
        """(n, width) ids: START, the pieces, END, then 0; what does not fit between is left out.

        A caption without pieces is 0 all through. width: 2 or more.
        """
        rows = [self.codes(caption) for caption in captions]
        ids = np.full((len(rows), width), PADDING, np.int32)
        for row, codes in zip(ids, rows, strict=True):
            if codes:
                codes = [START, *codes[: width - 2], END]
                row[: len(codes)] = codes
        return ids

    def codes(self, caption: str) -> list[int]:
        """The ids of the pieces of a caption."""
        return self._tokenizer.encode(caption, add_special_tokens=False).ids

    def texts(self, caption: str) -> list[str]:
        """The pieces of a caption, marks for what is unknown."""
        return self._tokenizer.encode(caption, add_special_tokens=False).tokens

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        try:
            return self.settings.tokenizer(MARKS, MARKS[UNKNOWN], self.pieces)
        except ImportError:
            raise DataError("cutting captions into word pieces is not installed; pip install 'captune[text]'") from None

    def to_json(self) -> str:
        """Pieces and settings, all that encode needs."""
        return json.dumps({"settings": asdict(self.settings), "pieces": self.pieces}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Pieces:
        """The inverse of to_json. Raises DataError for anything else."""
        try:
            content = parsed_object(text.encode(), "a vocabulary")
            pieces = content["pieces"]
            if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
                raise TypeError("pieces must be a list of strings")
            settings = content["settings"]
            kind = BytePairSettings if "end_of_word" in settings else PieceSettings
            return cls(tuple(pieces), kind(**settings))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"this is no vocabulary of word pieces: {one_line(error, 200)}") from None


@dataclass(frozen=True)
class CutPieces:
    """The pieces that occur in the training captions of a data set.

    rows: of each id its place in the whole vocabulary. longest: ids of a training caption at most, START and END too.
    """

    pieces: Pieces
    rows: tuple[int, ...]
    longest: int


@lru_cache(maxsize=4)
def cut_pieces(data: PreparedData, folder: Path) -> CutPieces:
    """Those of a data set with captions, by the vocabulary in a folder. A second for 20,000 captions, once a process.

    Raises:
        DataError: the folder has no vocabulary of word pieces, or nothing in the captions is in it.
    """
    places, whole = read_vocabulary(folder)
    counts, longest = Counter[str](), 0
    for row in data.rows("train"):
        texts = whole.texts(data.captions[row])
        counts.update(texts)
        longest = max(longest, len(texts))
    pieces = whole.settings.occurring(counts, whole.pieces)
    if not pieces:
        raise DataError(
            f"no caption of {data.path} has a word piece of {folder}; choose another text.encoder or other captions"
        )
    return CutPieces(Pieces(pieces, whole.settings), tuple(places[text] for text in (*MARKS, *pieces)), longest + 2)


@lru_cache(maxsize=4)
def piece_ids(data: PreparedData, folder: Path, size: int, width: int) -> NDArray[np.int32]:
    """(rows, width) ids of all captions of a data set, by the first `size` of the pieces that occur."""
    return cut_pieces(data, folder).pieces.first(size).encode(data.captions, width)


def read_vocabulary(folder: Path) -> tuple[dict[str, int], Pieces]:
    """A folder's vocabulary: places of all its pieces and marks, in its order, and the pieces.

    Raises:
        DataError: it has none, or one of another kind than word pieces and byte pairs.
    """
    settings: PieceSettings | BytePairSettings
    try:
        if (folder / TOKENIZER).is_file():
            content = json_object(folder / TOKENIZER)
            if _kind(content, "model") == "BPE":
                places, settings = _with_marks(byte_pairs.of_tokenizer(content)), BytePairSettings()
            else:
                places, settings = _of_tokenizer(content)
        elif (folder / WORDS).is_file():
            places, settings = _of_words(folder)
        elif (folder / byte_pairs.MERGES).is_file():
            places, settings = _with_marks(byte_pairs.of_files(folder)), BytePairSettings()
        else:
            raise ValueError(f"it has neither {TOKENIZER} nor {WORDS} nor {byte_pairs.MERGES}")
        if missing := [mark for mark in MARKS if mark not in places]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return places, Pieces(tuple(text for text in places if text not in MARKS), settings)
    except (ValueError, KeyError, TypeError, AttributeError, UnreadableError, DataError) as error:
        raise DataError(
            f"{folder} has no vocabulary of word pieces or byte pairs ({one_line(error, 200)}); name the folder of a "
            "BERT or CLIP model"
        ) from None


def vocabulary_files(folder: Path) -> tuple[str, ...]:
    """Names of the files in a folder that say how captions are cut, and of those that would if they came."""
    if (folder / TOKENIZER).is_file():
        return (TOKENIZER,)
    if (folder / WORDS).is_file():
        return TOKENIZER, WORDS, _SETTINGS
    return TOKENIZER, WORDS, byte_pairs.VOCABULARY, byte_pairs.MERGES


def _with_marks(places: dict[str, int]) -> dict[str, int]:
    """CLIP pads with the end of a caption, which also stands for what is unknown."""
    start, end = places.pop(byte_pairs.START), places.pop(byte_pairs.END)
    return {**dict(zip(MARKS, (end, end, start, end), strict=True)), **places}


def _of_tokenizer(content: Mapping[str, Any]) -> tuple[dict[str, int], PieceSettings]:
    for name, expected in _PARTS.items():
        if (kind := _kind(content, name)) != expected:
            raise ValueError(f"{name} in {TOKENIZER} is {kind}, not {expected}")
    model, normalizer = content["model"], content["normalizer"]
    if other := [name for name, value in _SAME.items() if model.get(name, value) != value]:
        raise ValueError(f"{other[0]} in {TOKENIZER} is {model[other[0]]!r}, not {_SAME[other[0]]!r}")
    places = model.get("vocab")
    byte_pairs.check_places(places)
    settings = {field.name: normalizer[field.name] for field in fields(PieceSettings) if field.name in normalizer}
    return dict(places), PieceSettings(**settings)


def _kind(content: Mapping[str, Any], name: str) -> str:
    """What a part of a tokenizer.json is; its own value where that does not say."""
    part = content.get(name)
    return str(part.get("type", "of no type") if isinstance(part, dict) else part or "missing")


def _of_words(folder: Path) -> tuple[dict[str, int], PieceSettings]:
    """A piece a line; whether it knows capitals stands in tokenizer_config.json, where there is one."""
    pieces = text_lines(folder / WORDS)
    beside = folder / _SETTINGS
    lowercase = json_object(beside).get("do_lower_case", True) if beside.is_file() else True
    places = dict[str, int]()
    for place, piece in enumerate(pieces):
        if places.setdefault(piece, place) != place:
            raise ValueError(f"{piece!r} stands in lines {places[piece] + 1} and {place + 1} of {WORDS}")
    return places, PieceSettings(lowercase=lowercase)
