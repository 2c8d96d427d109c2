"""Captions become the same ids where another language follows the specification, here the reader in JavaScript."""

import json
import random
import re
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from clip_towers import byte_pairs
from hypothesis import settings
from javascript_reader import read_by_javascript
from text_towers import MARKS
from text_towers import vocabulary as bert_vocabulary

from captune.data_prep.byte_pairs import BytePairSettings
from captune.data_prep.captions import FIRST_WORD, CaptionSettings, Vocabulary, count_words, stem, tokenize
from captune.data_prep.pieces import Pieces, PieceSettings
from captune.data_prep.portable_text import specification, surface_ids, tokenizer_steps

# What the steps of the tokenizer and of its neighbours tell apart.
PIECES = [
    *" '\".,:;-!?()[]{}<>*@#$%&`~/\\_\n\t\r",
    *"\u2019\u2018\u201c\u201d\xab\xbb\u2013\u2014\u2026\u200b\u200c\u200d\ufeff\xad\x1c\x85\xa0\u3000\u2028",
    *"abcdistmx5\xe9\xdf\u0130\u0131\u03a3\u017f\u212a\xb2\xbd\u732b\u0e01\u0301\u0345\u0f66",
    *(
        "n't",
        "'s ",
        "'ll ",
        "cannot",
        "gonna",
        "gotta",
        "gimme",
        "lemme",
        "wanna ",
        " 'tis",
        " 'twas",
        "d'ye",
        "more'n",
        "''",
        "``",
        "--",
        "...",
    ),
    *("can't ", "1,000", "3.14", "a.b", "l'a", "_x_", "\u304c\u3042\u308b", "\u0e44\u0e17\u0e22", "\u30ab\u30bf"),
    *("\u0915\u094d\u0937\u093f", "\u0f40\u0fb2", "\u05d0'", '\u05d0"\u05d1', "\U0001f415", "\U0001f1e9\U0001f1ea"),
    *("\U0001f469\u200d\U0001f467", "\u1781\u17d2\u1798\u17c2\u179a", "A\u030a", "\ufb01", "dogs", "running", "skies"),
]

ENDINGS = re.findall(
    r"\w+",
    """s es ies ied eed ed ing y ational tional enci anci izer abli bli alli entli eli ousli ization ation ator alism
    iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic able
    ible ant ement ment ent ion ou ism ate iti ous ive ize e ll at bl iz""",
)
IRREGULAR = ("skies", "sky", "dying", "tying", "news", "innings", "outing", "cannings", "howe", "proceed", "exceed")


def words_by_javascript(folder: Path, captions: list[str], vocabulary: Vocabulary) -> list[list[str]]:
    contents = {"text": specification(vocabulary, 64), "rule": {}, "labels": [], "image": None}
    (folder / "classifier.json").write_text(json.dumps(contents))
    (folder / "words.json").write_text(json.dumps({"words": vocabulary.words, "ids": {}}))
    return read_by_javascript(folder, folder=folder, captions=captions)["words"]


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize(
    "chosen",
    [
        CaptionSettings(remove_stop_words=False, stem=False),
        CaptionSettings(stem=False, marks=False),
        CaptionSettings(remove_stop_words=False, stem=False, characters=True),
    ],
    ids=["words", "without marks", "characters"],
)
def test_javascript_finds_the_same_words_in_whatever_is_written(chosen: CaptionSettings, tmp_path: Path) -> None:
    draw = random.Random(settings().max_examples)
    captions = ["".join(draw.choices(PIECES, k=draw.randrange(15))) for _ in range(20 * settings().max_examples)]
    found = words_by_javascript(tmp_path, captions, Vocabulary((), chosen))
    differ = [
        (caption, words, tokenize(caption, chosen))
        for caption, words in zip(captions, found, strict=True)
        if words != tokenize(caption, chosen)
    ]
    assert not differ


def test_pieces_reach_every_step_of_the_tokenizer() -> None:
    """Otherwise a step could be wrong and no caption above would show it."""
    import regex

    steps = [
        (regex.compile(step.pattern), regex.sub(r"\$(\d)", r"\\\1", step.replacement).replace("$&", r"\g<0>"))
        for step in tokenizer_steps()
    ]
    draw, changed = random.Random(0), [0] * len(steps)
    for _ in range(3000):
        text = "".join(draw.choices(PIECES, k=draw.randrange(15))).lower()
        for place, (pattern, replacement) in enumerate(steps):
            text, count = pattern.subn(replacement, text)
            changed[place] += count
    never = [step.pattern[:5] for step, count in zip(tokenizer_steps(), changed, strict=True) if not count]
    assert never == [" ('t)", " ('t)"], "of which an earlier step leaves nothing"


@pytest.mark.fuzz
def test_javascript_finds_the_same_stems(tmp_path: Path) -> None:
    draw = random.Random(settings().max_examples)

    def word() -> str:
        start = draw.choices("aeiouyybcdlmnprstwxz'-\xe9\U0001d482", k=draw.randrange(7))
        return "".join(start + draw.choices(ENDINGS, k=draw.randrange(4)))

    words = [*IRREGULAR, "y" * 41, *(word() for _ in range(100 * settings().max_examples))]
    assert read_by_javascript(tmp_path, stems=words)["stems"] == [stem(each) for each in words]


def test_table_has_every_form_of_a_known_word_and_no_other_word() -> None:
    captions = ["Two dogs run", "A dog running", "the rare okapi"]
    chosen = CaptionSettings(vocabulary_limit=2)
    vocabulary = count_words([tokenize(caption, chosen) for caption in captions], chosen)
    assert vocabulary.words == ("dog", "run")
    dog, run = FIRST_WORD, FIRST_WORD + 1
    assert surface_ids(captions, vocabulary) == {"dog": dog, "dogs": dog, "run": run, "running": run}


def test_table_without_stems_is_the_vocabulary() -> None:
    chosen = CaptionSettings(stem=False)
    vocabulary = count_words([["dogs", "dog"]], chosen)
    assert surface_ids(["dogs! Dog, DOG", "cat"], vocabulary) == {"dog": FIRST_WORD, "dogs": FIRST_WORD + 1}


def test_network_that_reads_fewer_words_than_the_data_has_says_both_widths() -> None:
    vocabulary = Vocabulary(("dog",), CaptionSettings(max_tokens=8))
    for width, most in ((4, 4), (8, 8), (12, 8)):
        contents = specification(vocabulary, width)
        assert (contents["width"], contents["max_tokens"]) == (width, most)


def ids_by_javascript(folder: Path, captions: list[str], pieces: Pieces, width: int) -> list[list[int]]:
    contents = {"text": specification(pieces, width), "rule": {}, "labels": [], "image": None}
    (folder / "classifier.json").write_text(json.dumps(contents))
    (folder / "words.json").write_text(json.dumps({"pieces": pieces.pieces}))
    return read_by_javascript(folder, folder=folder, captions=captions)["ids"]


OF_BERT = [
    PieceSettings(),
    PieceSettings(lowercase=False),
    PieceSettings(strip_accents=False, handle_chinese_chars=False),
    PieceSettings(lowercase=False, strip_accents=True, clean_text=False),
]


@pytest.mark.fuzz
@pytest.mark.parametrize("chosen", [*OF_BERT, BytePairSettings()], ids=repr)
def test_javascript_makes_the_same_ids_of_pieces_of_whatever_is_written(
    chosen: PieceSettings | BytePairSettings, tmp_path: Path
) -> None:
    pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")
    written = ["A man on a bench, with two dogs!", "Dogs running 3.14 caf\xe9s", *PIECES, "\x00\x07\u200e\ue000"]
    if isinstance(chosen, BytePairSettings):
        vocabulary, merges = byte_pairs(written, 60)
        joined = {left + right: f"{left} {right}" for left, right in merges}
        entries = tuple(joined.get(text, text) for text in vocabulary if not text.startswith("<|"))
    else:
        entries = tuple(text for text in bert_vocabulary(written) if text not in MARKS)
    pieces, draw = Pieces(entries, chosen), random.Random(settings().max_examples)
    parts = [*written, "word", "bench", "dog", "aaaa", "x" * 99, "x" * 101]
    captions = ["".join(draw.choices(parts, k=draw.randrange(12))) for _ in range(20 * settings().max_examples)]
    for width in (2, 12):
        expected = pieces.encode(captions, width).tolist()
        found = ids_by_javascript(tmp_path, captions, pieces, width)
        differ = [row for row in zip(captions, found, expected, strict=True) if row[1] != row[2]]
        assert not differ, differ[0]
    assert len({code for row in expected for code in row}) > 20


SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = [*map(chr, SHOWN), *(chr(256 + place) for place in range(256 - len(SHOWN)))]


@pytest.mark.slow
@pytest.mark.fuzz
@pytest.mark.parametrize(
    "pieces",
    [
        Pieces(("a", "##a", "b", "##b", "!", "\u0301", "##\u0301"), PieceSettings()),
        Pieces((*BYTES, *(f"{byte}</w>" for byte in BYTES), "a a</w>"), BytePairSettings()),
    ],
    ids=["word pieces", "byte pairs"],
)
def test_javascript_takes_each_character_of_old_for_what_the_library_does(pieces: Pieces, tmp_path: Path) -> None:
    """Those of Unicode 3.2, as the library's tables are older than Node's; two have changed their category since."""
    pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")
    old = unicodedata.ucd_3_2_0
    characters = [chr(code) for code in range(sys.maxunicode + 1) if old.category(chr(code)) not in ("Cn", "Cs", "Lo")]
    captions = [f"a{character}a b{character}" for character in characters if character not in "\u166d\u1734"]
    expected = pieces.encode(captions, 20).tolist()
    found = ids_by_javascript(tmp_path, captions, pieces, 20)
    assert [row for row in zip(captions, found, expected, strict=True) if row[1] != row[2]] == []


def test_word_of_any_length_is_cut_at_once(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")
    pieces = Pieces(("a", "b", "a</w>", "a b", "ab a", "ab ab", "abab abab"), BytePairSettings())
    captions = ["ab" * 20_000, "a" * 30_000, "aab" * 333]
    started = time.monotonic()
    assert ids_by_javascript(tmp_path, captions, pieces, 30_002) == pieces.encode(captions, 30_002).tolist()
    assert time.monotonic() - started < 10
