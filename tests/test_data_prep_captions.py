"""Captions to token ids."""

import re
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captune.data_prep.captions import (
    PADDING,
    STOP_WORDS,
    UNKNOWN,
    CaptionSettings,
    Vocabulary,
    count_words,
    tokenize,
)
from captune.data_prep.records import DataError

PLAIN = CaptionSettings(remove_stop_words=False, stem=False)
BOTH = CaptionSettings()


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
