"""Names of labels: from a file to the prepared set, and back from names in a CSV to numbers."""

from pathlib import Path

import pytest
from builders import refused
from hypothesis import given
from hypothesis import strategies as st

from captune.data_prep.csv_file import read_csv
from captune.data_prep.label_names import check_label_names, labels_in, numbers_by_name, read_label_names
from captune.data_prep.records import DataError
from captune.data_prep.store import prepare

NAMES = {1: "person", 2: "dog", 10: "traffic light"}


def named(folder: Path, text: str) -> dict[int, str]:
    path = folder / "names.csv"
    path.write_text(text, encoding="utf-8")
    return read_label_names(path)


@pytest.mark.parametrize("header", ["", "number,name\n", "\ufeffid, label\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_file_gives_each_number_its_name(tmp_path: Path, header: str, end: str) -> None:
    text = header + ' 1,person\n2, dog \n10,"traffic light"\n11,"cup, or mug"\n12,\u72ac'
    assert named(tmp_path, text.replace("\n", end)) == NAMES | {11: "cup, or mug", 12: "\u72ac"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("no names",)),
        ("number,name\n", ("no names",)),
        ("1,dog\ncat,2\n", ("line 2", "'cat,2'")),
        ("1,dog\n2\n", ("line 2",)),
        ("1,dog,big\n", ("line 1", "1,dog,big")),
        ("1,dog\n-2,cat\n", ("line 2",)),
        ("1,dog\n1,cat\n", ("line 2", "'dog' already")),
        ("1,dog\n2,dog\n", ("label 2", "label 1 is called so")),
        ("1,dog\n2,\n", ("label 2", "visible")),
        ("1,dog;cat\n", ("label 1", "separates")),
        ("1,\x1b[31mdog\n", ("label 1", "visible")),
        ('1,"big\ndog"\n', ("label 1", "a line")),
        ("1,big\tdog\n", ("label 1", "a line")),
        (f"1,{'x' * 201}\n", ("label 1", "up to 200")),
        ("1,2\n", ("label 1", "its own number")),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    refused(lambda: named(tmp_path, text), "names.csv", *words, error=DataError)


@pytest.mark.parametrize(
    ("field", "labels"),
    [
        ("dog", (2,)),
        ("traffic light", (10,)),
        ("person dog", (1, 2)),
        ("dog; traffic light;person", (1, 2, 10)),
        ("dog;dog;", (2,)),
        ("2 dog 1", (1, 2)),
        ("10", (10,)),
    ],
)
def test_names_and_numbers_are_the_same_labels(field: str, labels: tuple[int, ...]) -> None:
    assert labels_in(field, numbers_by_name(NAMES), None) == (labels, None)


@pytest.mark.parametrize(
    ("field", "words"),
    [("dgo", "closest: dog"), ("traffic light dog", "'traffic'"), ("Dog", "'Dog'"), (" ; ", "no label"), ("7", "7")],
)
def test_word_that_is_no_label_is_told(field: str, words: str) -> None:
    labels, reason = labels_in(field, numbers_by_name(NAMES), NAMES)
    assert labels == () and reason is not None and words in reason


def test_names_that_several_labels_have_are_enough_for_none() -> None:
    assert numbers_by_name({1: "dog", 2: "dog", 3: "3", 4: "a;b", 5: "cat"}) == {"cat": 5}


@given(st.dictionaries(st.integers(0, 999), st.text(min_size=1).map(str.strip), min_size=1))
def test_every_name_that_passes_is_read_as_its_label_alone_and_with_others(names: dict[int, str]) -> None:
    try:
        check_label_names(names, "names")
    except DataError:
        return
    by_name = numbers_by_name(names)
    for number, name in names.items():
        assert labels_in(name, by_name, names) == ((number,), None)
    assert labels_in(";".join(names.values()), by_name, names)[0] == tuple(sorted(names))


def table(folder: Path, name: str, *rows: str) -> Path:
    path = folder / name
    path.write_text("\n".join(["ImageID,Labels,Caption", *rows]) + "\n")
    return path


ROWS = [f"{i}.jpg,{'person;dog' if i % 3 else 'traffic light'},a dog {i}" for i in range(30)]


@pytest.mark.slow
def test_csv_of_names_makes_the_set_that_a_csv_of_numbers_makes(tmp_path: Path) -> None:
    named = table(tmp_path, "named.csv", *ROWS)
    numbered = table(
        tmp_path, "numbered.csv", *(row.replace("person;dog", "1 2").replace("traffic light", "10") for row in ROWS)
    )
    assert read_csv(named, label_names=NAMES).examples == read_csv(numbered).examples
    sets = [prepare(source, None, tmp_path / source.stem, label_names=NAMES) for source in (named, numbered)]
    assert sets[0].manifest.label_names == ("person", "dog", "traffic light")
    assert sets[0].manifest.fingerprint == sets[1].manifest.fingerprint


def test_set_is_not_taken_for_one_with_other_names(tmp_path: Path) -> None:
    source = table(tmp_path, "rows.csv", *(f"{i}.jpg,{1 + i % 2},a dog" for i in range(30)))
    out = tmp_path / "data"
    assert prepare(source, None, out).manifest.label_names == ("1", "2")
    assert prepare(source, None, out).manifest.label_names == ("1", "2")
    refused(lambda: prepare(source, None, out, label_names={2: "dog"}), "another names", error=DataError)
    named = prepare(source, None, tmp_path / "named", label_names={2: "dog"})
    assert named.manifest.label_names == ("1", "dog"), "a label without a name is called by its number"
    refused(lambda: prepare(source, None, tmp_path / "named"), "another names", error=DataError)
