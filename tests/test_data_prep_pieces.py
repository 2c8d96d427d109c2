"""Captions cut into word pieces."""

import json
import os
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_towers import MARKS, vocabulary, write_tokenizer

from captune.data_prep import pieces as pieces_module
from captune.data_prep.pieces import Pieces, PieceSettings, cut_pieces, piece_ids, read_vocabulary
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData, prepare

pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")

PLAIN = PieceSettings()


@pytest.fixture
def folder(captions_data: PreparedData, tmp_path: Path) -> Path:
    write_tokenizer(tmp_path, vocabulary(captions_data.captions))
    return tmp_path


def theirs(folder: Path, caption: str) -> list[str]:
    """By the `tokenizers` library from the whole file."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(caption, add_special_tokens=False).tokens


def test_longest_pieces_are_taken_from_the_start_of_a_word() -> None:
    cut = Pieces(("sk", "skate", "##board", "##b", "##er", "a"), PLAIN)
    assert cut.texts("A skateboarder") == ["a", "skate", "##board", "##er"]
    assert cut.texts("skater skateb") == ["[UNK]", "skate", "##b"]  # no piece is left for "r"


def test_captions_are_marked_padded_and_cut_with_their_end_in_place() -> None:
    cut = Pieces(("a", "dog", "runs"), PLAIN)
    assert cut.encode(["a dog runs", "dog", "", "zzz"], 4).tolist() == [
        [2, 4, 5, 3], [2, 5, 3, 0], [0, 0, 0, 0], [2, 1, 3, 0]
    ]  # fmt: skip


def test_marks_that_are_written_in_a_caption_are_words_like_any_other() -> None:
    cut = Pieces(("[", "]", "cls", "sep"), PLAIN)
    assert cut.texts("[CLS] [SEP]") == ["[", "cls", "]", "[", "sep", "]"]


def test_vocabulary_holds_what_the_training_captions_have_commonest_first(
    captions_data: PreparedData, folder: Path
) -> None:
    cut = cut_pieces(captions_data, folder)
    train = [captions_data.captions[row] for row in captions_data.rows("train")]
    texts = [text for caption in train for text in theirs(folder, caption) if text not in MARKS]
    assert set(cut.pieces.pieces) == set(texts)
    counts = [texts.count(piece) for piece in cut.pieces.pieces]
    assert counts == sorted(counts, reverse=True)
    whole, _ = read_vocabulary(folder)
    assert [whole[text] for text in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *cut.pieces.pieces)] == list(cut.rows)
    assert cut.longest == 2 + max(len(theirs(folder, caption)) for caption in train)


def test_training_captions_have_the_pieces_of_the_whole_vocabulary(captions_data: PreparedData, folder: Path) -> None:
    cut = cut_pieces(captions_data, folder).pieces
    for row in captions_data.rows("train"):
        assert cut.texts(captions_data.captions[row]) == theirs(folder, captions_data.captions[row])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caption=st.text(max_size=40))
def test_any_text_is_cut_as_by_the_library_and_by_the_file_of_a_bundle(folder: Path, caption: str) -> None:
    places, _ = read_vocabulary(folder)
    cut = Pieces(tuple(text for text in places if text not in MARKS[:1] + MARKS[2:5]), PLAIN)
    assert cut.texts(caption) == theirs(folder, caption)
    assert Pieces.from_json(cut.to_json()).codes(caption) == cut.codes(caption)


def test_smaller_vocabulary_is_the_first_of_the_larger_one(captions_data: PreparedData, folder: Path) -> None:
    cut = cut_pieces(captions_data, folder).pieces
    assert cut.first(cut.size) is cut and cut.first(9).pieces == cut.pieces[:5]
    ids = piece_ids(captions_data, folder, 9, 12)
    assert ids.shape == (len(captions_data), 12) and ids.max() < 9
    assert (ids == cut.first(9).encode(captions_data.captions, 12)).all()


def test_words_in_lines_are_read_as_those_in_a_tokenizer_file(tmp_path: Path) -> None:
    whole = vocabulary(["A dog"])
    for name in ("json", "lines"):
        (tmp_path / name).mkdir()
    write_tokenizer(tmp_path / "json", whole, lowercase=False)
    (tmp_path / "lines" / "vocab.txt").write_text("\n".join(whole) + "\n")
    (tmp_path / "lines" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert read_vocabulary(tmp_path / "json") == read_vocabulary(tmp_path / "lines")
    (tmp_path / "lines" / "vocab.txt").write_text("\n".join([*whole, "", "more"]) + "\n")
    with pytest.raises(DataError, match=r"lines has no vocabulary .*neither empty ones nor marks"):
        read_vocabulary(tmp_path / "lines")


def test_lines_end_as_files_have_them_and_no_other_of_unicodes_ends(tmp_path: Path) -> None:
    words = [*MARKS, "\u2028", "\x85x", "dog"]
    for end, encoding in (("\n", "utf-8"), ("\r\n", "utf-8-sig")):
        (tmp_path / "vocab.txt").write_bytes("".join(word + end for word in words).encode(encoding))
        assert list(read_vocabulary(tmp_path)[0]) == words


def test_two_pieces_of_one_place_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, [*MARKS, "dog", "cat"])
    file = tmp_path / "tokenizer.json"
    whole = json.loads(file.read_text())
    first, second = list(whole["model"]["vocab"])[-2:]
    whole["model"]["vocab"][first] = whole["model"]["vocab"][second]
    file.write_text(json.dumps(whole))
    with pytest.raises(DataError, match="two pieces have one place"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("other.txt", "", "neither tokenizer.json nor vocab.txt"),
        ("tokenizer.json", "{", "no JSON object"),
        ("tokenizer.json", "{}", "model in tokenizer.json is missing, not WordPiece"),
        (
            "tokenizer.json",
            '{"model": {"type": "WordPiece"}, "normalizer": null}',
            "normalizer .* is missing, not Bert",
        ),
        ("vocab.txt", "\n".join([*MARKS, "man", "dog", "man"]), "'man' stands in lines 7 and 9 of vocab.txt"),
        (
            "tokenizer.json",
            '{"model": {"type": "BPE"}, "normalizer": null, "pre_tokenizer": null}',
            "NFC, Replace, Lowercase",
        ),
        ("vocab.txt", "a\nb\n", r"lacks \[PAD\]"),
    ],
)
def test_folder_without_word_pieces_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_vocabulary(tmp_path)
    assert "\n" not in str(caught.value) and "BERT" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"pieces": ["a"]}',
        '{"pieces": ["a", "a"], "settings": {}}',
        '{"pieces": [""], "settings": {}}',
        '{"pieces": ["a"], "settings": {"lowercase": 1}}',
        '{"pieces": ["[UNK]"], "settings": {}}',
    ],
)
def test_anything_else_is_no_vocabulary(text: str) -> None:
    with pytest.raises(DataError):
        Pieces.from_json(text)


def test_without_the_library_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(DataError, match=re.escape("pip install 'captune[text]'")):
        Pieces(("a",), PLAIN).codes("a")


def test_captions_without_a_known_piece_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("ImageID,Labels,Caption\n" + "".join(f"{n}.jpg,1,zzz\n" for n in range(12)))
    data = prepare(tmp_path / "train.csv", None, tmp_path / "data")
    write_tokenizer(tmp_path, MARKS)
    with pytest.raises(DataError, match=r"no caption of .* has a word piece"):
        cut_pieces(data, tmp_path)


@pytest.mark.slow
def test_real_captions_have_the_pieces_of_the_real_vocabulary(tmp_path: Path) -> None:
    """24,000 of COCO's, of which all pieces are kept."""
    source = Path(os.environ.get("CAPTUNE_TEST_DATA", "nowhere"))
    tower = Path(os.environ.get("CAPTUNE_TEST_WEIGHTS", "nowhere")) / "all-MiniLM-L6-v2"
    if not source.is_dir() or not tower.is_dir():
        pytest.skip("CAPTUNE_TEST_DATA and CAPTUNE_TEST_WEIGHTS name no captions, or no all-MiniLM-L6-v2")
    from tokenizers import Tokenizer

    from captune.data_prep.csv_file import read_csv

    captions = [example.caption for example in read_csv(source / "coco18" / "train.csv").examples]
    places, vocabulary_ = read_vocabulary(tower)
    whole = Tokenizer.from_file(str(tower / "tokenizer.json"))
    whole.no_truncation()
    whole.no_padding()
    expected = [whole.encode(caption, add_special_tokens=False).tokens for caption in captions]
    occurring = dict.fromkeys(text for texts in expected for text in texts if text not in MARKS)
    cut = Pieces(tuple(occurring), vocabulary_.settings)
    assert len(captions) == 24_000 and set(occurring) <= set(places)
    assert [cut.texts(caption) for caption in captions] == expected
    ids = cut.encode(captions, 64)
    assert np.count_nonzero(ids) == sum(min(len(texts), 62) + 2 for texts in expected)


def test_settings_are_those_of_the_library() -> None:
    from tokenizers.normalizers import BertNormalizer

    normalizer = BertNormalizer()
    for field in fields(pieces_module.PieceSettings):
        assert getattr(normalizer, field.name) == field.default
