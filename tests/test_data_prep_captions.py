"""Captions to token ids."""

import json
import re
import unicodedata
from collections.abc import Iterable

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.data_prep.captions import (
    PADDING,
    STOP_WORDS,
    UNKNOWN,
    CaptionSettings,
    Vocabulary,
    count_unparted,
    count_words,
    tokenize,
)
from captune.data_prep.records import DataError

PLAIN = CaptionSettings(remove_stop_words=False, stem=False)
BOTH = CaptionSettings()
CHARACTERS = CaptionSettings(remove_stop_words=False, stem=False, characters=True)
BEFORE = CaptionSettings(remove_stop_words=False, stem=False, marks=False)


def build_vocabulary(captions: Iterable[str], settings: CaptionSettings) -> Vocabulary:
    return count_words([tokenize(caption, settings) for caption in captions], settings)


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", []),
        ("   \n ", []),
        (".,!? -- ...", []),
        ("\U0001f415\U0001f415", []),
        ("A man's dog.", ["a", "man", "'s", "dog"]),
        ("They don't stop", ["they", "do", "n't", "stop"]),
        ("They don\u2019t stop", ["they", "do", "n't", "stop"]),
        ('reads "STOP" (now)', ["reads", "stop", "now"]),
        ("on a street. Two cats", ["on", "a", "street", "two", "cats"]),
        ("a t-shirt, red/blue", ["a", "t-shirt", "red/blue"]),
        ("No. 46 at 5:30", ["no", "46", "at", "5:30"]),
        ("ein Stra\u00dfencaf\u00e9", ["ein", "stra\u00dfencaf\u00e9"]),
    ],
)
def test_caption_becomes_lower_case_words_without_punctuation(caption: str, tokens: list[str]) -> None:
    assert tokenize(caption, PLAIN) == tokens


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from([*"ab7 -,.'\"!\n", "cannot", "gonna", "wanna ", "'tis", ", "]), max_size=12).map("".join)
)
def test_short_cut_for_plain_captions_changes_no_token(caption: str) -> None:
    words = tokenize(caption, PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("captune.data_prep.captions._PLAIN", re.compile(r"(?!)"))
        assert tokenize(caption, PLAIN) == words


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("Hindi, a vowel sign last", ["\u0918\u094b\u0921\u093c\u093e", "\u0918\u094b\u0921\u093c\u0940"]),
        ("Telugu, a vowel sign last", ["\u0c2a\u0c32\u0c41", "\u0c2a\u0c32\u0c3f", "\u0c2a\u0c32"]),
        ("Kannada, a vowel killer last", ["\u0c95\u0cb2\u0ccd", "\u0c95\u0cb2"]),
        (
            "Malayalam, a letter of three characters last",
            ["\u0d05\u0d35\u0d28\u0d4d\u200d", "\u0d05\u0d35\u0d28\u0d4d"],
        ),
        ("Arabic, three cases", ["\u0628\u064a\u062a\u064c", "\u0628\u064a\u062a\u064b", "\u0628\u064a\u062a\u064d"]),
        ("Hebrew, a point last", ["\u05d9\u05dc\u05d3\u05b8", "\u05d9\u05dc\u05d3\u05b9"]),
        ("Thai, a vowel above last", ["\u0e2b\u0e21\u0e35", "\u0e2b\u0e21\u0e38"]),
        ("Yoruba, tones that no single character has", ["\u1ecdw\u1ecd\u0301", "\u1ecdw\u1ecd\u0300"]),
        (
            "Persian, parts of a word that do not join",
            ["\u0645\u06cc\u200c\u0631\u0648\u062f", "\u0645\u06cc\u0631\u0648\u062f"],
        ),
    ],
)
def test_word_keeps_its_marks_and_no_more(language: str, words: list[str]) -> None:
    words = [unicodedata.normalize("NFC", word) for word in words]
    assert tokenize(" ".join(words), PLAIN) == words
    assert tokenize("".join(f"\u00ab{word}\u00bb, {word}\u0964 {word}! " for word in words), PLAIN) == [
        word for word in words for _ in range(3)
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a caf\u00e9 na\u00efve", "a cafe\u0301 nai\u0308ve"),
        ("\u01f0", "J\u030c"),  # in upper case there is no single character
        ("\u00e5ngstr\u00f6m", "\u212bNGSTRO\u0308M"),
        ("ti\u1ebfng vi\u1ec7t", "Tie\u0302\u0301ng Vie\u0323\u0302t"),
        ("\ud55c\uad6d", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("\u0921\u093c", "\u095c"),
        ("side walk", "si\u00adde wa\u2060lk\u200e"),
        ("\u0e2b\u0e21\u0e32 \u0e41\u0e21\u0e27", "\u0e2b\u0e21\u0e32\u200b\u0e41\u0e21\u0e27"),
        ("heart 1 \u845b", "heart\u2764\ufe0f 1\ufe0f\u20e3 \u845b\U000e0100"),
        ("\u06a9\u062a\u0627\u0628", "\u06a9\u062a\u0627\u0628\u200c"),
        ("dog", "dog\u200d \u0301"),
    ],
)
def test_words_that_look_the_same_are_the_same(one: str, other: str) -> None:
    assert tokenize(one, PLAIN) == tokenize(other, PLAIN) != []


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("\u4e24\u53ea\u732b\u3002\u4e00\u8f86\u8f66", "\u4e24 \u53ea \u732b \u4e00 \u8f86 \u8f66"),
        ("\u732b\u304c\u30bd\u30d5\u30a1\u30fc\u306b", "\u732b \u304c \u30bd\u30d5\u30a1\u30fc \u306b"),
        ("\u0e19\u0e49\u0e33", "\u0e19\u0e49 \u0e33"),
        ("\u1000\u102c\u1038", "\u1000\u102c\u1038"),
        ("\u1786\u17d2\u1780\u17c2 two dogs", "\u1786\u17d2 \u1780\u17c2 two dogs"),
        ("3\u53eadogs, a t-shirt", "3 \u53ea dogs a t-shirt"),
        ("\uac1c \ub450 \ub9c8\ub9ac", "\uac1c \ub450 \ub9c8\ub9ac"),
    ],
)
def test_characters_of_scripts_without_blanks_are_tokens_with_their_marks(caption: str, tokens: str) -> None:
    assert tokenize(caption, CHARACTERS) == tokens.split()


def test_captions_of_scripts_without_blanks_are_counted() -> None:
    without = ["\u4e24\u53ea", "\u3053\u3053", "a sign: \u0e2b\u0e21\u0e32", "\u1000\u102c", "\u0f40", "\u1786\u17d2"]
    assert count_unparted([*without, "a dog", "caf\u00e9", "\uac1c \ub450", "\u0915\u0940", "\u30bd\u30d5\u30a1"]) == 6


@pytest.mark.parametrize(
    ("caption", "differ"), [("a dog\u2019s caf\u00e9", True), ("\u0932\u0940", True), ("a dog's", False)]
)
def test_settings_are_others_where_they_may_make_other_tokens(caption: str, differ: bool) -> None:
    for other in (CHARACTERS, BEFORE):
        assert (other.effective(["a", caption]) != PLAIN.effective(["a", caption])) == differ
    assert PLAIN.effective([caption]) != BOTH.effective([caption])


def test_vocabulary_of_before_parts_captions_as_it_did() -> None:
    stored = {"remove_stop_words": False, "stem": False, "max_tokens": 3, "vocabulary_limit": 9, "min_count": 1}
    vocabulary = Vocabulary.from_json(json.dumps({"settings": stored, "words": ["cafe", "nai\u0308ve", "\u0932"]}))
    assert vocabulary.encode(["cafe\u0301 nai\u0308ve \u0932\u0940"]).tolist() == [[2, 3, 4]]
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


_LETTERS = st.sampled_from(
    "aZ\u00e9\u0130\u01c4\u03a3\u0915\u0e01\u0e40\u05d0\u0628\u1112\u1161\u11a8\u4e00\u3042\u30ab\u1780\u1000\u0f40\ufa10\u212b9\u00bd"
)
_OTHERS = st.one_of(
    st.characters(categories=("Mn", "Mc", "Me", "Cf")), st.sampled_from(" .,'\u2019-\u3002\u200b\u200c\u200d")
)
_CAPTIONS = st.one_of(st.text(max_size=40), st.lists(st.one_of(_LETTERS, _OTHERS), max_size=25).map("".join))


@pytest.mark.fuzz
@given(_CAPTIONS, st.booleans(), st.booleans())
def test_coding_of_letters_changes_no_token_and_no_token_is_of_marks_alone(
    caption: str, characters: bool, english: bool
) -> None:
    settings = CaptionSettings(remove_stop_words=english, stem=english, characters=characters)
    tokens = tokenize(caption, settings)
    for form in ("NFC", "NFD"):
        assert tokenize(unicodedata.normalize(form, caption), settings) == tokens  # type: ignore[arg-type]
    for token in tokens:
        assert any(map(str.isalnum, token)) and token.split() == [token], ascii(token)
        assert unicodedata.category(token[0])[0] != "M", ascii(token)


def letters(text: str) -> list[str]:
    """The letters and digits of a text, each with the marks that follow it."""
    held: list[str] = []
    is_open = False
    for character in text:
        is_mark = unicodedata.category(character) in ("Mn", "Mc")
        if character.isalnum():
            held.append(character)
        elif is_mark and is_open:
            held[-1] += character
        is_open = character.isalnum() or (is_mark and is_open)
    return held


@pytest.mark.fuzz
@given(_CAPTIONS, st.booleans())
def test_no_letter_is_lost_invented_or_parted_from_its_marks(caption: str, characters: bool) -> None:
    tokens = tokenize(caption, CaptionSettings(remove_stop_words=False, stem=False, characters=characters))
    seen = "".join(character for character in caption.replace("\u200b", " ") if not is_invisible(character))
    seen = unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen).lower())
    assert letters(" ".join(tokens)) == letters(seen)


def is_invisible(character: str) -> bool:
    """Whether it can be left out and nothing looks different; without a joiner letters do."""
    return (
        regex.fullmatch(r"\p{Default_Ignorable_Code_Point}", character) is not None and character not in "\u200c\u200d"
    )


@pytest.mark.fuzz
@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_captions_in_ascii_have_the_tokens_of_before(caption: str) -> None:
    assert tokenize(caption, PLAIN) == tokenize(caption, BEFORE) == tokenize(caption, CHARACTERS)


def test_stop_words_go_before_stems_are_made() -> None:
    assert tokenize("The dogs aren't running on the man's boards", BOTH) == ["dog", "run", "man", "board"]


def test_caption_of_stop_words_alone_leaves_nothing() -> None:
    assert tokenize("It is what it is, isn't it?", BOTH) == []
    assert tokenize(" ".join(sorted(filter(str.isalpha, STOP_WORDS))), BOTH) == []


def test_each_switch_works_alone() -> None:
    assert tokenize("the dogs", CaptionSettings(remove_stop_words=False)) == ["the", "dog"]
    assert tokenize("the dogs", CaptionSettings(stem=False)) == ["dogs"]


@pytest.mark.parametrize("word", ["y" * 5000, "yyyyy" * 2000 + "ing", "a" * 100_000])
def test_endless_word_does_not_break_the_stemmer(word: str) -> None:
    assert tokenize(word, BOTH) == [word]


def test_ten_thousand_words_are_cut_at_max_tokens() -> None:
    vocabulary = build_vocabulary(["dog"], BOTH)
    ids = vocabulary.encode(["dog " * 10_000])
    assert ids.shape == (1, 64)
    assert (ids == 2).all()


def test_words_are_ranked_by_count_then_alphabet() -> None:
    vocabulary = build_vocabulary(["b b a c", "c d"], PLAIN)
    assert vocabulary.words == ("b", "c", "a", "d")
    assert vocabulary.size == 6
    assert vocabulary.encode(["d z a"])[0, :4].tolist() == [5, UNKNOWN, 4, PADDING]


def test_min_count_and_limit_drop_the_rarest() -> None:
    captions = ["a a a b b c"]
    few = CaptionSettings(remove_stop_words=False, stem=False, min_count=2)
    assert build_vocabulary(captions, few).words == ("a", "b")
    one = CaptionSettings(remove_stop_words=False, stem=False, vocabulary_limit=1)
    assert build_vocabulary(captions, one).words == ("a",)


def test_smaller_vocabulary_is_the_larger_one_cut() -> None:
    captions = ["red dog red cat", "red dog bird", "cat dog red"]
    whole = build_vocabulary(captions, PLAIN).encode(captions)
    limited = CaptionSettings(remove_stop_words=False, stem=False, vocabulary_limit=2)
    cut = build_vocabulary(captions, limited)
    whole[whole >= cut.size] = UNKNOWN
    assert (whole == cut.encode(captions)).all()


def test_no_captions_give_an_empty_vocabulary() -> None:
    vocabulary = build_vocabulary(["", "the"], BOTH)
    assert vocabulary.size == 2
    assert vocabulary.encode(["dog", ""])[:, 0].tolist() == [UNKNOWN, PADDING]


@given(st.lists(st.text(), max_size=6), st.lists(st.text(), max_size=6), st.integers(1, 12))
def test_ids_are_in_range_and_padding_only_at_the_end(train: list[str], others: list[str], max_tokens: int) -> None:
    vocabulary = build_vocabulary(train, CaptionSettings(max_tokens=max_tokens))
    ids = vocabulary.encode(train + others)
    assert ids.shape == (len(train) + len(others), max_tokens)
    assert ids.dtype == "int32"
    assert ((ids >= 0) & (ids < vocabulary.size)).all()
    assert (ids[: len(train)] != UNKNOWN).all()
    words = ids != PADDING
    assert (words[:, 1:] <= words[:, :-1]).all()


@given(st.lists(st.text(), max_size=6))
def test_vocabulary_survives_json(captions: list[str]) -> None:
    vocabulary = build_vocabulary(captions, CaptionSettings(max_tokens=5, stem=False))
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"words": ["a", 1], "settings": {}}', '{"words": ["a", "a"], "settings": {}}']
)
def test_text_that_is_no_vocabulary_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        Vocabulary.from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_tokens": 5000},
        {"max_tokens": True},
        {"vocabulary_limit": 0},
        {"min_count": 0},
        {"stem": 1},
        {"remove_stop_words": None},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong))):
        CaptionSettings(**wrong)  # type: ignore[arg-type]
