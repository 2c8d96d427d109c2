"""Captions become token ids: NLTK word tokens, or characters; stop words out, Porter stems, one vocabulary."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.records import DataError
from captune.errors import one_line
from captune.imports import passing_over
from captune.reading import parsed_object

if TYPE_CHECKING:
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from regex import Pattern

PADDING = 0
UNKNOWN = 1
FIRST_WORD = 2
# No English word is longer; the stemmer recurses over a run of y's and would overflow the stack on a long
# one.
LONGEST_STEMMED = 40

# Function words: they say how a sentence hangs together, not what is in the picture. Among them are the
# tokens that the tokenizer makes of contractions ("ca" + "n't", "'s"), and words of place ("on", "under").
_FUNCTION_WORDS = """
    a an the this that these those such some any each every either neither both all another other
    i me my mine myself we us our ours ourselves you your yours yourself yourselves
    he him his himself she her hers herself it its itself they them their theirs themselves
    who whom whose which what whatever whoever somebody someone something anybody anyone anything
    am is are was were be been being do does did doing done have has had having
    can could may might must shall should will would ca wo sha gon na
    and or but nor so yet if then else than because since while as until though although whether
    of at by for with about against between among into onto through during before after above below
    to from up down in out on off over under beside near along across around behind beyond toward towards
    within without upon via per
    again further once here there when where why how not no only own same too very just also quite
    's 'm 're 've 'd 'll 't n't 'em o'clock s t d ll m re ve
"""
STOP_WORDS: frozenset[str] = frozenset(_FUNCTION_WORDS.split())

# Captions of words, single hyphens, commas before a space and one full stop at the end, without the words that the
# tokenizer takes apart: of such its tokens, but for punctuation, are what stands between spaces and commas. 98 % of
# COCO's captions are such, and the tokenizer is slow.
_PLAIN = re.compile(r"(?!.*(?:cannot|gimme|gonna|gotta|lemme|wanna))(?:[a-z0-9 ]|-(?!-)|,(?= ))*+\.? *")

_JOINER = "\u200d"  # after a vowel killer it makes another letter, in Malayalam also at the end of a word
_INVISIBLE = r"(?V1)[\p{Default_Ignorable_Code_Point}--[\u200c\u200d]]"
# Line_Break=SA: what takes a dictionary to be parted into words, as Thai, Lao, Khmer and Burmese.
WITHOUT_BLANKS = r"[\p{Han}\p{Hiragana}\p{Tibetan}\p{Line_Break=SA}]"
_WORD_BOUNDARY = r"(?V1w)\b"  # of Unicode's UAX 29


@dataclass(frozen=True)
class CaptionSettings:
    """How captions become tokens.

    max_tokens: tokens kept of a caption, 1 to 4096. vocabulary_limit: words kept, the commonest first, 1 to
    10**6. min_count: how often a word must stand in the training captions, 1 or more. characters: whether each
    character of a script without blanks between words is a token. marks: whether a word keeps the combining marks at
    its end and is the same word however its letters are coded; False in files from before there was this choice,
    whose networks know words without.
    """

    remove_stop_words: bool = True
    stem: bool = True
    max_tokens: int = 64
    vocabulary_limit: int = 20_000
    min_count: int = 1
    characters: bool = False
    marks: bool = True

    def __post_init__(self) -> None:
        for name in ("remove_stop_words", "stem", "characters", "marks"):
            if not isinstance(getattr(self, name), bool):
                raise DataError(f"{name} must be true or false, got {getattr(self, name)!r}")
        for name, high in (("max_tokens", 4096), ("vocabulary_limit", 10**6), ("min_count", 10**9)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= high:
                raise DataError(f"{name} must be a whole number from 1 to {high}, got {value!r}")

    @staticmethod
    def stored(content: Mapping[str, Any]) -> dict[str, Any]:
        """What a file holds of settings, as `asdict` made it, with what was so before it could be chosen."""
        return {"marks": False, **content}

    def effective(self, captions: Iterable[str]) -> dict[str, Any]:
        """What has a say in the tokens of these captions, by name: ASCII has no marks, nor scripts without blanks."""
        settings = asdict(self)
        if all(map(str.isascii, captions)):
            del settings["characters"], settings["marks"]
        return settings


def tokenize(caption: str, settings: CaptionSettings) -> list[str]:
    """Lower-cased word tokens in order; [] where no word is left.

    Tokens without a letter or digit (punctuation, emoji) are dropped; full stops and the like are cut off the
    ends of the others, since the tokenizer parts a full stop from its word only at the end of a caption.
    """
    text = (_composed(caption) if settings.marks else caption).replace("\u2019", "'").lower()
    tokens = text.replace(",", " ").split() if _PLAIN.fullmatch(text) else _splitter()(text)
    words = [_bare(token, settings.marks) for token in tokens]
    if settings.characters:
        words = [piece for word in words for piece in _pieces(word)]
    if settings.remove_stop_words:
        words = [word for word in words if word not in STOP_WORDS]
    return [stem(word) if settings.stem else word for word in words if word]


def count_unparted(captions: Iterable[str]) -> int:
    """How many captions hold text of a script without blanks between words."""
    return sum(not caption.isascii() and bool(_pattern(WITHOUT_BLANKS).search(caption)) for caption in captions)


def _composed(caption: str) -> str:
    """The caption in lower case with each letter as one character where Unicode has it (NFC), nothing invisible.

    Joiners stay, which change how letters look; the blank of no width that parts words in Khmer or Thai is a blank.
    """
    if caption.isascii():
        return caption
    visible = _pattern(_INVISIBLE).sub("", caption.replace("\u200b", " "))
    # Twice: some letters have one character in lower case alone.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", visible).lower())


@lru_cache(maxsize=2**16)
def _bare(token: str, marks: bool) -> str:
    """The token without punctuation at its ends; a leading apostrophe of a contraction stays, and marks at the end."""
    if not any(map(str.isalnum, token)):
        return ""
    start, end = 0, len(token)
    while not token[end - 1].isalnum():
        end -= 1
    while marks and end < len(token) and (_is_mark(token[end]) or (token[end] == _JOINER and _is_mark(token[end - 1]))):
        end += 1
    while not token[start].isalnum() and not (token[start] == "'" and token[start:end] in STOP_WORDS):
        start += 1
    return token[start:end]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc")


def _pieces(word: str) -> list[str]:
    """The word itself, or where its script has no blanks its characters, each with its marks.

    A foreign word in Katakana, as a number or a word in Latin letters, stays whole.
    """
    if word.isascii() or not _pattern(WITHOUT_BLANKS).search(word):
        return [word]
    return [piece for piece in _pattern(_WORD_BOUNDARY).split(word) if any(map(str.isalnum, piece))]


@cache
def _pattern(expression: str) -> Pattern[str]:
    import regex  # knows the properties of Unicode, and comes with NLTK; only captions beyond ASCII need it

    return regex.compile(expression)


def word_tokenizer() -> type[NLTKWordTokenizer]:
    """NLTK's, which needs no downloaded data."""
    with _without_statistics():
        from nltk.tokenize.destructive import NLTKWordTokenizer
    return NLTKWordTokenizer


def _without_statistics() -> AbstractContextManager[None]:
    """NLTK takes a fifth of its two seconds without what it loads for classifiers and tests of its own."""
    return passing_over("scipy.stats", "sklearn")


@cache
def _splitter() -> Callable[[str], list[str]]:
    tokenizer = word_tokenizer()()

    def split(text: str) -> list[str]:
        return list(tokenizer.tokenize(text))

    return split


@cache
def _stemmer() -> Callable[[str], str]:
    with _without_statistics():
        from nltk.stem.porter import PorterStemmer

    stemmer = PorterStemmer()

    def porter(word: str) -> str:
        return str(stemmer.stem(word))

    return porter


@lru_cache(maxsize=2**16)
def stem(word: str) -> str:
    """The stem of a word in lower case; a word of more than LONGEST_STEMMED characters is its own."""
    return _stemmer()(word) if len(word) <= LONGEST_STEMMED else word


@dataclass(frozen=True)
class Vocabulary:
    """The words of the training captions, commonest first, ties by the alphabet.

    Id 0 is padding, 1 an unknown word, i + 2 is words[i]: an id is below V exactly where its word would be in
    a vocabulary of size V, so a smaller vocabulary is a comparison, not a new encoding.
    """

    words: tuple[str, ...]
    settings: CaptionSettings

    def __post_init__(self) -> None:
        if len(set(self.words)) != len(self.words) or not all(self.words):
            raise DataError("a vocabulary holds each word once and no empty word")

    @property
    def size(self) -> int:
        """Number of ids: the words, padding and unknown."""
        return len(self.words) + FIRST_WORD

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words, start=FIRST_WORD)}

    def codes(self, tokens: Sequence[str]) -> list[int]:
        """The id of each token."""
        return [self._ids.get(token, UNKNOWN) for token in tokens]

    def encode(self, captions: Sequence[str]) -> NDArray[np.int32]:
        """(n, settings.max_tokens) ids: padded with 0 at the end, cut at max_tokens."""
        return self.encode_tokens([tokenize(caption, self.settings) for caption in captions])

    def encode_tokens(self, tokenized: Sequence[Sequence[str]]) -> NDArray[np.int32]:
        """The same for captions that are tokenized already with these settings."""
        ids = np.full((len(tokenized), self.settings.max_tokens), PADDING, np.int32)
        for row, tokens in zip(ids, tokenized, strict=True):
            codes = self.codes(tokens[: self.settings.max_tokens])
            row[: len(codes)] = codes
        return ids

    def to_json(self) -> str:
        """Words and settings, all that encode needs."""
        return json.dumps({"settings": asdict(self.settings), "words": self.words}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Vocabulary:
        """The inverse of to_json. Raises DataError for anything else."""
        try:
            content = parsed_object(text.encode(), "a vocabulary")
            words = content["words"]
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise TypeError("words must be a list of strings")
            return cls(tuple(words), CaptionSettings(**CaptionSettings.stored(content["settings"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"this is not a vocabulary: {one_line(error, 200)}") from None


def count_words(tokenized: Iterable[Sequence[str]], settings: CaptionSettings) -> Vocabulary:
    """The vocabulary of tokenized training captions, and of no others: words seen elsewhere are unknown."""
    counts = Counter(token for tokens in tokenized for token in tokens)
    ranked = sorted((-count, word) for word, count in counts.items() if count >= settings.min_count)
    return Vocabulary(tuple(word for _, word in ranked[: settings.vocabulary_limit]), settings)
