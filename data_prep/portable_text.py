"""How captions become ids, as data that a program in another language can follow: steps, stop words, a table of words.

The steps are those of the tokenizer that is installed, as regular expressions of ECMAScript with the flags g and u.
What a word, a blank and a digit are is spelled out in them, since languages differ there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from captune.data_prep.byte_pairs import BytePairSettings
from captune.data_prep.captions import (
    FIRST_WORD,
    LONGEST_STEMMED,
    PADDING,
    STOP_WORDS,
    UNKNOWN,
    WITHOUT_BLANKS,
    Vocabulary,
    stem,
    tokenize,
    word_tokenizer,
)
from captune.data_prep.pieces import END, FIRST_PIECE, LONGEST_WORD, START, Pieces

# What \w, \s and \d match in the two engines that the tokenizer uses: `regex`, and for contractions Python's own.
_OF_REGEX = {
    r"\w": r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]",
    r"\s": r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]",
    r"\d": r"\p{Nd}",
}
_OF_PYTHON = {r"\w": r"[\p{L}\p{N}_]", r"\s": _OF_REGEX[r"\s"].replace(r"\t-\r", r"\t-\r\x1c-\x1f")}


@dataclass(frozen=True)
class Step:
    """Every match of `pattern` is replaced: $1, $2, $3 are its groups, $& is all of it."""

    pattern: str
    replacement: str


def tokenizer_steps() -> tuple[Step, ...]:
    """What is done to a caption in lower case, in this order, until its tokens are what stands between blanks."""
    tokenizer = word_tokenizer()
    parts = (*tokenizer.STARTING_QUOTES, *tokenizer.PUNCTUATION, tokenizer.PARENS_BRACKETS, tokenizer.DOUBLE_DASHES)
    contractions = (*tokenizer.CONTRACTIONS2, *tokenizer.CONTRACTIONS3)
    return (
        *(_step(expression.pattern, replacement, _OF_REGEX) for expression, replacement in parts),
        Step("^|$", " "),
        *(_step(expression.pattern, replacement, _OF_REGEX) for expression, replacement in tokenizer.ENDING_QUOTES),
        *(_step(expression.pattern, r" \1 \2 ", _OF_PYTHON) for expression in contractions),
    )


def _step(pattern: str, replacement: str, classes: dict[str, str]) -> Step:
    if pattern.startswith("(?i)"):
        # Captions are in lower case, but these two letters have another one that counts as the same.
        pattern = re.sub(r"(?<!\\)[is]", lambda letter: {"i": "[i\u0131]", "s": "[s\u017f]"}[letter[0]], pattern[4:])
    # A comment, and a quantifier that gives nothing back: it only saves time.
    pattern = pattern.replace("(?#X)", "").replace("*+", "*")
    pattern = re.sub(r"\\(['\"<>])", r"\1", pattern)  # what needs no backslash may have none
    for name, meaning in classes.items():
        pattern = pattern.replace(name, meaning)
    word = classes[r"\w"]
    pattern = pattern.replace(r"\b", f"(?:(?<={word})(?!{word})|(?<!{word})(?={word}))")
    pattern = re.sub(r"\$$", r"(?=\\n?$)", pattern)  # the end, or before a line feed at the end
    return Step(pattern, re.sub(r"\\(\d)", r"$\1", replacement.replace(r"\g<0>", "$&")))


def specification(vocabulary: Vocabulary | Pieces, max_tokens: int) -> dict[str, Any]:
    """What takes a caption to ids, but for the words: for JSON.

    Args:
        max_tokens: that the network reads.
    """
    if isinstance(vocabulary, Pieces):
        marks = {"padding": PADDING, "unknown": UNKNOWN, "start": START, "end": END, "first_piece": FIRST_PIECE}
        settings = asdict(vocabulary.settings)
        if isinstance(vocabulary.settings, BytePairSettings):
            return {"byte_pairs": settings, "width": max_tokens, **marks}
        return {"pieces": settings, "longest_word": LONGEST_WORD, "width": max_tokens, **marks}
    settings = asdict(vocabulary.settings)
    return {
        "max_tokens": min(max_tokens, vocabulary.settings.max_tokens),
        "width": max_tokens,
        **{name: settings[name] for name in ("marks", "characters", "remove_stop_words", "stem")},
        "longest_stemmed": LONGEST_STEMMED,
        "word_breaks": word_breaks() if settings["characters"] else None,
        "steps": [asdict(step) for step in tokenizer_steps()],
        "stop_words": sorted(STOP_WORDS),
        "padding": PADDING,
        "unknown": UNKNOWN,
        "first_word": FIRST_WORD,
    }


def surface_ids(captions: Iterable[str], vocabulary: Vocabulary) -> dict[str, int]:
    """The id of every word of these captions that the vocabulary knows, as it stands there, before it is stemmed.

    In the order of ids, then of characters.
    """
    unstemmed = replace(vocabulary.settings, stem=False)
    words = sorted({word for caption in captions for word in tokenize(caption, unstemmed)})
    stems = [stem(word) for word in words] if vocabulary.settings.stem else words
    codes = vocabulary.codes(stems)
    return dict(sorted(((word, code) for word, code in zip(words, codes, strict=True) if code != UNKNOWN), key=_code))


def _code(pair: tuple[str, int]) -> int:
    return pair[1]


# The values of Word_Break by which the rules of UAX 29 tell characters of a word apart; all others are Other.
_WORD_BREAK = (
    *("Extend", "ZWJ", "Format", "Regional_Indicator", "Katakana", "Hebrew_Letter", "ALetter", "Single_Quote"),
    *("Double_Quote", "MidNumLet", "MidLetter", "MidNum", "Numeric", "ExtendNumLet"),
)


def word_breaks() -> dict[str, Any]:
    """Properties of Unicode that most languages do not offer, as [first, last] numbers of characters."""
    import regex

    # Surrogates are no characters, but stand in the row so that a place is a number.
    characters = "".join(map(chr, range(sys.maxunicode + 1)))

    def ranges(expression: str) -> list[tuple[int, int]]:
        return [(match.start(), match.end() - 1) for match in regex.finditer(f"(?V1){expression}+", characters)]

    return {
        "without_blanks": ranges(WITHOUT_BLANKS),
        "classes": {name: ranges(rf"\p{{Word_Break={name}}}") for name in _WORD_BREAK},
    }
