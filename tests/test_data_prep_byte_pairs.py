"""Captions cut into CLIP's byte pairs, by a vocabulary of those that occur and what they are joined from."""

import json
from pathlib import Path

import pytest
from clip_towers import END, START, byte_pairs, write_files, write_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captune.data_prep.byte_pairs import BytePairSettings
from captune.data_prep.pieces import MARKS, Pieces, cut_pieces, read_vocabulary
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData

pytest.importorskip("tokenizers", reason="pip install 'captune[text]'")

PLAIN = BytePairSettings()


@pytest.fixture(scope="module")
def folder(captions_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    write_tokenizer(path, *byte_pairs(captions_data.captions, 80))
    return path


def theirs(folder: Path, caption: str) -> list[str]:
    """By the `tokenizers` library from the whole file, what is unknown by our mark."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(caption, add_special_tokens=False).tokens
    return [MARKS[1] if token == END else token for token in tokens]


def test_bytes_are_joined_in_the_order_of_the_vocabulary_up_to_the_end_of_a_word() -> None:
    cut = Pieces(("d", "o", "g", "g</w>", "s</w>", "o g</w>", "d og</w>"), PLAIN)
    assert cut.texts("Dog DOGS dog's") == ["dog</w>", "d", "o", "g", "s</w>", "dog</w>", MARKS[1], "s</w>"]
    assert cut.encode(["dog", "", "dogs"], 5).tolist() == [[2, 10, 3, 0, 0], [0] * 5, [2, 4, 5, 6, 3]]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(caption=st.text(max_size=40) | st.text("adogs ',.1\t", max_size=40))
def test_any_text_is_cut_as_by_the_library_and_by_the_file_of_a_bundle(folder: Path, caption: str) -> None:
    _, whole = read_vocabulary(folder)
    assert whole.texts(caption) == theirs(folder, caption)
    assert Pieces.from_json(whole.to_json()).codes(caption) == whole.codes(caption)


def test_training_captions_have_the_pieces_of_the_whole_vocabulary(captions_data: PreparedData, folder: Path) -> None:
    cut = cut_pieces(captions_data, folder)
    train = [captions_data.captions[row] for row in captions_data.rows("train")]
    texts = {text for caption in train for text in theirs(folder, caption)} - {MARKS[1]}
    known = {PLAIN.text(entry) for entry in cut.pieces.pieces}
    assert texts <= known
    for caption in train:
        assert cut.pieces.texts(caption) == theirs(folder, caption)
    places = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert cut.rows[:4] == (places[END], places[END], places[START], places[END])
    assert list(cut.rows[4:]) == [places[PLAIN.text(entry)] for entry in cut.pieces.pieces]
    assert len(known) < len(places) - 2
    smaller = cut.pieces.first(30)
    assert max(max(smaller.codes(caption)) for caption in train) < 30


def test_files_of_the_slow_tokenizer_are_read_as_that_of_the_fast_one(
    captions_data: PreparedData, folder: Path, tmp_path: Path
) -> None:
    write_files(tmp_path, *byte_pairs(captions_data.captions, 80))
    assert list(read_vocabulary(tmp_path)[0].items()) == list(read_vocabulary(folder)[0].items())


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"Lowercase"', '"Uppercase"', "normalizer is not NFC, Replace, Lowercase"),
        ('"ByteLevel"', '"Whitespace"', "pre_tokenizer is not Split, ByteLevel"),
        ('"end_of_word_suffix": "</w>"', '"end_of_word_suffix": "@"', "end_of_word_suffix is '@'"),
        (f'"{START}": ', '"start": ', "startoftext"),
        ('"merges": ["', '"merges": ["q qqq", "', "qqqq"),
        ('"merges": ["', '"merges": ["q", "', "a merge is two texts"),
        ('"merges": ["', '"merges": ["t h", "th ", "t h", "', "two pairs are joined to the same"),
        (START, "beginning", "it lacks"),
    ],
)
def test_other_byte_pairs_are_refused_in_one_line(
    folder: Path, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    content = (folder / "tokenizer.json").read_text()
    assert old in content
    (tmp_path / "tokenizer.json").write_text(content.replace(old, new))
    with pytest.raises(DataError, match=reason) as caught:
        read_vocabulary(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"settings": {"end_of_word": "@"}, "pieces": ["a"]}',
        '{"settings": {"end_of_word": "</w>"}, "pieces": ["a b", "a", "b"]}',
        '{"settings": {"end_of_word": "</w>"}, "pieces": ["a", "a a a"]}',
        '{"settings": {"end_of_word": "</w>"}, "pieces": ["a", "ab", "b", "a b"]}',
    ],
)
def test_pairs_before_their_halves_or_twice_are_no_vocabulary(text: str) -> None:
    with pytest.raises(DataError):
        Pieces.from_json(text)
