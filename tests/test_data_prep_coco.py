"""COCO annotations: no label and no caption lost without a word, every odd value told with its entry."""

import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.data_prep.coco import read_coco
from captune.data_prep.csv_file import read_csv
from captune.data_prep.records import DataError, Example, OnBad

BAD_ID = '{"images": [], "annotations": [], "categories": [{"id": "x", "name": "y"}]}'
REAL = Path(os.environ.get("CAPTUNE_TEST_DATA", "nowhere"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="CAPTUNE_TEST_DATA names no folder")


def coco(folder: Path) -> tuple[dict[str, list[dict[str, object]]], dict[str, list[dict[str, object]]]]:
    instances: dict[str, list[dict[str, object]]] = {
        "images": [{"id": place, "file_name": f"{place}.jpg"} for place in (1, 2, 3)],
        "annotations": [
            {"image_id": 1, "category_id": 5},
            {"image_id": 1, "category_id": 2},
            {"image_id": 1, "category_id": 5},
            {"image_id": 2, "category_id": 9},
        ],
        "categories": [
            {"id": 2, "name": "bicycle"},
            {"id": 5, "name": "airplane"},
            {"id": 9, "name": "boat"},
        ],
    }
    captions: dict[str, list[dict[str, object]]] = {
        "annotations": [
            {"id": 7, "image_id": 1, "caption": "second"},
            {"id": 3, "image_id": 1, "caption": "first "},
            {"id": 4, "image_id": 2, "caption": "a boat"},
        ]
    }
    (folder / "instances_val.json").write_text(json.dumps(instances))
    (folder / "captions_val.json").write_text(json.dumps(captions))
    return instances, captions


def test_coco_gives_the_first_caption_by_id_and_lists_images_without_label(tmp_path: Path) -> None:
    coco(tmp_path)
    for path in (tmp_path, tmp_path / "instances_val.json"):
        records = read_coco(path)
        assert records.examples == (Example("1.jpg", (2, 5), "first"), Example("2.jpg", (9,), "a boat"))
        assert [(bad.line, bad.image_id) for bad in records.bad] == [(3, "3.jpg")]
        assert records.label_names == {2: "bicycle", 5: "airplane", 9: "boat"}


def test_coco_per_caption_repeats_the_image(tmp_path: Path) -> None:
    coco(tmp_path)
    records = read_coco(tmp_path, per_caption=True)
    assert [(example.image_id, example.caption) for example in records.examples] == [
        ("1.jpg", "first"),
        ("1.jpg", "second"),
        ("2.jpg", "a boat"),
    ]


def test_coco_chosen_categories_alone_count(tmp_path: Path) -> None:
    coco(tmp_path)
    records = read_coco(tmp_path, categories=frozenset({5}))
    assert [example.labels for example in records.examples] == [(5,)]
    assert records.label_names == {5: "airplane"}
    assert len(records.bad) == 2
    with pytest.raises(DataError, match="no category 12"):
        read_coco(tmp_path, categories=frozenset({5, 12}))


def test_coco_without_captions_is_images_only(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "captions_val.json").unlink()
    assert not read_coco(tmp_path).has_captions
    assert not read_coco(tmp_path / "instances_val.json").has_captions


def test_coco_with_hostile_file_name_is_refused_or_skipped(tmp_path: Path) -> None:
    instances, _ = coco(tmp_path)
    instances["images"][0]["file_name"] = "../1.jpg"
    (tmp_path / "instances_val.json").write_text(json.dumps(instances))
    with pytest.raises(DataError, match=r"image 1: .*leaves"):
        read_coco(tmp_path)
    assert len(read_coco(tmp_path, on_bad="skip").examples) == 1


def test_coco_caption_without_a_utf8_form_is_replaced(tmp_path: Path) -> None:
    _, captions = coco(tmp_path)
    captions["annotations"][1]["caption"] = "a \udfff dog"
    (tmp_path / "captions_val.json").write_text(json.dumps(captions))
    assert read_coco(tmp_path).examples[0].caption == "a ? dog"


def test_coco_file_name_with_half_a_character_is_a_bad_name(tmp_path: Path) -> None:
    instances, _ = coco(tmp_path)
    instances["images"][0]["file_name"] = "\ud800.jpg"
    (tmp_path / "instances_val.json").write_text(json.dumps(instances))
    with pytest.raises(DataError, match=r"image 1: .*half a character"):
        read_coco(tmp_path)
    assert [row.image_id for row in read_coco(tmp_path, on_bad="skip").bad][:1] == ["?.jpg"]


def test_coco_blank_caption_gives_way_to_the_first_that_has_text(tmp_path: Path) -> None:
    _, captions = coco(tmp_path)
    before = read_coco(tmp_path).examples
    image = captions["annotations"][0]["image_id"]
    captions["annotations"].append({"id": -1, "image_id": image, "caption": "  "})
    (tmp_path / "captions_val.json").write_text(json.dumps(captions))
    assert read_coco(tmp_path).examples == before and before[0].caption


def test_coco_category_that_is_unknown_is_told_with_the_ranges_of_those_there_are(tmp_path: Path) -> None:
    coco(tmp_path)
    with pytest.raises(DataError, match=r"no category 7: choose among 2,5"):
        read_coco(tmp_path, categories=frozenset({7}))


@pytest.mark.parametrize("key", ["images", "annotations", "category_id"])
def test_coco_key_that_stands_twice_is_refused(tmp_path: Path, key: str) -> None:
    coco(tmp_path)
    path = tmp_path / "instances_val.json"
    path.write_text(path.read_text().replace(f'"{key}": ', f'"{key}": [], "{key}": ', 1))
    with pytest.raises(DataError, match=rf"instances_val\.json: key '{key}' stands twice"):
        read_coco(tmp_path, on_bad="skip")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "ImageID,Labels,Caption",
        '{"images": [], "annotations": [1], "categories": [1]}',
        "[" * 100_000,
        '{"a":' * 100_000,
        f'{{"images": [{"9" * 5_000}]}}',
        BAD_ID,
    ],
)
def test_coco_that_is_not_coco_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(DataError, match=r"instances\.json") as caught:
        read_coco(tmp_path)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 200


def test_coco_folder_needs_exactly_one_instances_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 instances"):
        read_coco(tmp_path)
    coco(tmp_path)
    (tmp_path / "instances_train.json").write_text("{}")
    with pytest.raises(DataError, match="2 instances"):
        read_coco(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_coco(tmp_path / "none")
    with pytest.raises(DataError, match="no list 'images'"):
        read_coco(tmp_path / "captions_val.json")


def changed(folder: Path, place: tuple[str, str, int, str], value: object) -> None:
    """The files of coco() with one value in place of another: file, list, number of the entry, key."""
    instances, captions = coco(folder)
    name, entries, number, key = place
    document = {"instances": instances, "captions": captions}[name]
    entry = document[entries][number - 1]
    if value == "missing":
        del entry[key]
    else:
        entry[key] = value
    (folder / f"{name}_val.json").write_text(json.dumps(document))


ANNOTATION = ("instances", "annotations", 2)
CAPTION = ("captions", "annotations", 3)


@pytest.mark.parametrize(
    ("place", "value", "told", "image"),
    [
        ((*ANNOTATION, "category_id"), "2", "annotation 2: category_id '2' is no whole number", 1),
        ((*ANNOTATION, "category_id"), 2.0, "annotation 2: category_id 2.0 is no whole number", 1),
        ((*ANNOTATION, "category_id"), float("nan"), "annotation 2: category_id nan is no", 1),
        ((*ANNOTATION, "category_id"), None, "annotation 2: category_id null is no", 1),
        ((*ANNOTATION, "category_id"), "missing", "annotation 2: category_id null is no", 1),
        ((*ANNOTATION, "category_id"), True, "annotation 2: category_id true is no", 1),
        ((*ANNOTATION, "category_id"), [2], "annotation 2: category_id a list is no", 1),
        ((*ANNOTATION, "category_id"), 3, "annotation 2: category_id 3 is not listed", 1),
        ((*ANNOTATION, "category_id"), 2**80, f"annotation 2: category_id {2**80} is not listed", 1),
        ((*ANNOTATION, "image_id"), "1", "annotation 2: image_id '1' is no whole number", None),
        ((*ANNOTATION, "image_id"), 1.5, "annotation 2: image_id 1.5 is no whole number", None),
        ((*ANNOTATION, "image_id"), 44, "annotation 2: image_id 44 is not listed", None),
        ((*ANNOTATION, "image_id"), {}, "annotation 2: image_id an object is no", None),
        ((*CAPTION, "image_id"), "000002", "annotation 3: image_id '000002' is no whole number", None),
        ((*CAPTION, "image_id"), None, "annotation 3: image_id null is no", None),
        ((*CAPTION, "caption"), None, "annotation 3: caption null is no text", 2),
        ((*CAPTION, "caption"), float("nan"), "annotation 3: caption nan is no text", 2),
        ((*CAPTION, "caption"), {"raw": "a boat"}, "annotation 3: caption an object is no text", 2),
        ((*CAPTION, "caption"), 7, "annotation 3: caption 7 is no text", 2),
        (("instances", "images", 2, "id"), "2", "image 2: id '2' is no whole number", 2),
        (("instances", "images", 2, "id"), False, "image 2: id false is no whole number", 2),
        (("instances", "images", 2, "file_name"), None, "image 2: file_name null is no text", 2),
        (("instances", "images", 2, "file_name"), ["2.jpg"], "image 2: file_name a list is no text", 2),
        (("instances", "images", 2, "file_name"), "", "image 2: ImageID is empty", 2),
        (("instances", "images", 2, "file_name"), "C:\\2.jpg", "image 2: .*absolute", 2),
        (("instances", "images", 2, "file_name"), "..\\2.jpg", "image 2: .*leaves", 2),
        (("instances", "images", 2, "file_name"), "1.jpg", "image 2: .*that of image 1 already", 2),
    ],
)
def test_odd_value_is_an_error_that_names_its_entry_or_a_listed_image(
    tmp_path: Path, place: tuple[str, str, int, str], value: object, told: str, image: int | None
) -> None:
    changed(tmp_path, place, value)
    with pytest.raises(DataError, match=rf"{place[0]}_val\.json, {told}"):
        read_coco(tmp_path)
    records = read_coco(tmp_path, on_bad="skip")
    assert records.rows == 3
    assert [bad.line for bad in records.bad] == ([3] if image is None else [image, 3])
    assert {bad.line for bad in records.bad}.isdisjoint(records.lines)
    if image is None:
        assert place[0] in "".join(records.notes)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("instances", "categories", 2, "id"), 2, "category 2: id 2 is that of 'bicycle' already"),
        (("instances", "categories", 2, "id"), -1, "category 2: id -1 is not from 0"),
        (("instances", "categories", 2, "id"), 2**64, f"category 2: id {2**64} is not from 0"),
        (("instances", "categories", 2, "id"), 5.2, "category 2: id 5.2 is no whole number"),
        (("instances", "categories", 2, "id"), "5", "category 2: id '5' is no whole number"),
        (("instances", "categories", 2, "id"), None, "category 2: id null is no whole number"),
        (("instances", "categories", 2, "name"), None, "category 2: name null is no text"),
        (("instances", "categories", 2, "name"), " ", "category 2: name ' ' is no text"),
        (("instances", "categories", 2, "name"), "bicycle", "categories 2, 5 are all named 'bicycle'"),
    ],
)
def test_categories_that_cannot_be_told_apart_are_an_error(
    tmp_path: Path, place: tuple[str, str, int, str], value: object, told: str
) -> None:
    changed(tmp_path, place, value)
    for on_bad in ("error", "skip"):
        with pytest.raises(DataError, match=rf"instances_val\.json.*{told}"):
            read_coco(tmp_path, on_bad=on_bad)  # type: ignore[arg-type]


def test_two_images_of_one_id_are_both_left_out(tmp_path: Path) -> None:
    changed(tmp_path, ("instances", "images", 3, "id"), 1)
    with pytest.raises(DataError, match="image 3: id 1 is that of image 1 already"):
        read_coco(tmp_path)
    records = read_coco(tmp_path, on_bad="skip")
    assert [example.image_id for example in records.examples] == ["2.jpg"]
    assert [bad.line for bad in records.bad] == [1, 3]


def as_texts(document: dict[str, list[dict[str, object]]], *keys: str) -> dict[str, list[dict[str, object]]]:
    return {
        name: [{key: str(value) if key in keys else value for key, value in entry.items()} for entry in entries]
        for name, entries in document.items()
    }


def test_ids_that_are_texts_on_both_sides_are_used(tmp_path: Path) -> None:
    instances, captions = coco(tmp_path)
    expected = read_coco(tmp_path)
    (tmp_path / "instances_val.json").write_text(json.dumps(as_texts(instances, "id", "image_id", "category_id")))
    with pytest.raises(DataError, match=r"captions_val\.json, annotation .: image_id . is no text"):
        read_coco(tmp_path)
    (tmp_path / "captions_val.json").write_text(json.dumps(as_texts(captions, "image_id")))
    records = read_coco(tmp_path)
    assert records.examples == expected.examples
    assert records.label_names == expected.label_names
    assert records.notes == ()


def test_categories_whose_ids_are_words_are_numbered_by_their_places(tmp_path: Path) -> None:
    instances, _ = coco(tmp_path)
    for entry in instances["categories"]:
        entry["id"] = f"c{entry['id']}"
    for entry in instances["annotations"]:
        entry["category_id"] = f"c{entry['category_id']}"
    (tmp_path / "instances_val.json").write_text(json.dumps(instances))
    records = read_coco(tmp_path)
    assert [example.labels for example in records.examples] == [(1, 2), (3,)]
    assert records.label_names == {1: "bicycle", 2: "airplane", 3: "boat"}
    assert "places" in records.notes[0]


def test_category_without_annotations_may_share_its_name_and_is_noted(tmp_path: Path) -> None:
    instances, _ = coco(tmp_path)
    instances["categories"].insert(0, {"id": 0, "name": "boat", "supercategory": "none"})
    (tmp_path / "instances_val.json").write_text(json.dumps(instances))
    records = read_coco(tmp_path)
    assert [example.labels for example in records.examples] == [(2, 5), (9,)]
    assert "0, 9" in records.notes[0]


def test_captions_of_no_image_are_an_error_and_of_some_are_counted(tmp_path: Path) -> None:
    _, captions = coco(tmp_path)
    for entry in captions["annotations"]:
        entry["image_id"] = 500
    (tmp_path / "captions_val.json").write_text(json.dumps(captions))
    for on_bad in ("error", "skip"):
        with pytest.raises(DataError, match=r"captions_val\.json: none of its 3 captions"):
            read_coco(tmp_path, on_bad=on_bad)  # type: ignore[arg-type]
    captions["annotations"][0]["image_id"] = 1
    (tmp_path / "captions_val.json").write_text(json.dumps(captions))
    records = read_coco(tmp_path)
    assert [example.caption for example in records.examples] == ["second", ""]
    assert "2 captions" in records.notes[0]


def test_captions_without_whole_ids_come_in_their_order(tmp_path: Path) -> None:
    for value in ("missing", "7", 2.5, None):
        changed(tmp_path, ("captions", "annotations", 1, "id"), value)
        assert read_coco(tmp_path).examples[0].caption == "second"


def test_windows_separators_of_a_file_name_are_slashes(tmp_path: Path) -> None:
    changed(tmp_path, ("instances", "images", 1, "file_name"), "train\\a\\1.jpg")
    assert read_coco(tmp_path).examples[0].image_id == "train/a/1.jpg"


@pytest.mark.parametrize("name", ["_annotations.coco.json", "result.json", "labels"])
def test_instances_of_any_name_are_read_where_named_or_alone(tmp_path: Path, name: str) -> None:
    coco(tmp_path)
    (tmp_path / "captions_val.json").unlink()
    (tmp_path / "instances_val.json").rename(tmp_path / name)
    assert len(read_coco(tmp_path / name).examples) == 2
    if name.endswith(".json"):
        assert len(read_coco(tmp_path).examples) == 2


def test_captions_lie_beside_the_instances_by_name(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "instances_val.json").rename(tmp_path / "instances_default.json")
    assert not read_coco(tmp_path / "instances_default.json").has_captions
    (tmp_path / "captions_val.json").rename(tmp_path / "captions_default.json")
    assert read_coco(tmp_path / "instances_default.json").has_captions


def test_sum_is_over_both_files_and_comes_from_a_pipe_too(tmp_path: Path) -> None:
    coco(tmp_path)
    both = read_coco(tmp_path).sha256
    alone = read_coco((tmp_path / "instances_val.json").rename(tmp_path / "instances.json")).sha256
    os.mkfifo(tmp_path / "pipe")
    content = (tmp_path / "instances.json").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert read_coco(tmp_path / "pipe").sha256 == alone != both
    writer.join()


VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([1, 2, 5, "1", 2**70]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.fuzz
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["instances", "captions"]),
            st.sampled_from(["images", "annotations", "categories"]),
            st.integers(0, 3),
            st.sampled_from(["id", "image_id", "category_id", "file_name", "name", "caption", None]),
            VALUE,
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["error", "skip"]),
)
def test_changed_coco_is_read_or_refused_in_one_line_and_no_image_is_lost(
    changes: list[tuple[str, str, int, str | None, object]], on_bad: OnBad
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        instances, captions = coco(folder)
        for file, entries, number, key, value in changes:
            document: dict[str, Any] = {"instances": instances, "captions": captions}[file]
            values = document.get(entries)
            if not isinstance(values, list) or not values or not isinstance(values[number % len(values)], dict):
                document[entries] = value
            elif key is None:
                values[number % len(values)] = value
            else:
                values[number % len(values)][key] = value
        (folder / "instances_val.json").write_text(json.dumps(instances))
        (folder / "captions_val.json").write_text(json.dumps(captions))
        try:
            records = read_coco(folder, on_bad=on_bad)
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            assert ".json" in str(error)
            return
        assert records.rows == len(instances["images"])


@pytest.mark.fuzz
@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4), st.booleans()), min_size=1, max_size=6))
def test_damaged_coco_is_read_or_refused_in_one_line(damages: list[tuple[int, bytes, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        coco(folder)
        for file in ("instances_val.json", "captions_val.json"):
            content = (folder / file).read_bytes()
            for place, damage, cut in damages:
                place %= len(content) + 1
                content = content[:place] + damage + (b"" if cut else content[place + len(damage) :])
            (folder / file).write_bytes(content)
        try:
            read_coco(folder, on_bad="skip")
        except DataError as error:
            assert "\n" not in str(error)


@needs_real
def test_real_data_through_csv_and_through_coco_is_the_same() -> None:
    from_csv = {example.image_id: example for example in read_csv(REAL / "coco-mini/train.csv").examples}
    chosen = frozenset(range(1, 20)) - {12}
    records = read_coco(REAL / "coco-mini/annotations", categories=chosen)
    assert {example.image_id: example for example in records.examples} == from_csv
    assert len(from_csv) == 97
