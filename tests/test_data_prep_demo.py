"""The drawn data set."""

import hashlib
from pathlib import Path

import pytest

from captune.data_prep.csv_file import read_csv
from captune.data_prep.demo import draw
from captune.data_prep.images import read_image
from captune.data_prep.records import DataError


def test_drawn_set_is_read_without_a_bad_row(tmp_path: Path) -> None:
    draw(tmp_path / "raw", count=120, unlabelled=12)
    train = read_csv(tmp_path / "raw/train.csv")
    test = read_csv(tmp_path / "raw/test.csv", need_labels=False)
    assert (len(train.examples), len(test.examples)) == (120, 12)
    assert test.has_captions and not test.has_labels
    assert {label for example in train.examples for label in example.labels} == {1, 2, 3, 5, 6, 8}
    assert {len(example.labels) for example in train.examples} == {1, 2, 3}
    assert any('"' in example.caption for example in train.examples)
    assert any("," in example.caption for example in train.examples)
    assert len({example.caption for example in train.examples}) > 90
    for example in train.examples + test.examples:
        assert read_image(tmp_path / "raw/images" / example.image_id, 32).shape == (32, 32, 3)


def test_captions_name_most_shapes_but_not_all(tmp_path: Path) -> None:
    draw(tmp_path, count=300, unlabelled=0)
    rings = [example for example in read_csv(tmp_path / "train.csv").examples if 8 in example.labels]
    named = [any(word in example.caption for word in ("ring", "hoop", "loop")) for example in rings]
    assert len(rings) > 20
    assert 0.5 < sum(named) / len(named) < 1


def test_same_seed_draws_the_same_files(tmp_path: Path) -> None:
    def drawn(name: str, seed: int) -> list[str]:
        draw(tmp_path / name, count=5, unlabelled=1, seed=seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]

    assert drawn("a", 1) == drawn("b", 1)
    assert drawn("c", 2) != drawn("d", 1)


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not an empty folder"):
        draw(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("wrong", [{"count": 0}, {"unlabelled": -1}, {"seed": -1}])
def test_wrong_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="or more"):
        draw(tmp_path, **wrong)
