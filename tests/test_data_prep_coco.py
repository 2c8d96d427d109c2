"""COCO annotations: no label and no caption lost without a word, every odd value told with its entry."""

import json
import os
from pathlib import Path

import pytest

from captune.data_prep.coco import read_coco
from captune.data_prep.csv_file import read_csv
from captune.data_prep.records import DataError, Example

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


def test_coco_text_without_a_utf8_form_is_replaced(tmp_path: Path) -> None:
    instances, captions = coco(tmp_path)
    instances["images"][0]["file_name"] = "\ud800.jpg"
    captions["annotations"][1]["caption"] = "a \udfff dog"
    (tmp_path / "instances_val.json").write_text(json.dumps(instances))
    (tmp_path / "captions_val.json").write_text(json.dumps(captions))
    assert read_coco(tmp_path).examples[0] == Example("?.jpg", (2, 5), "a ? dog")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"images": [], "annotations": [1], "categories": [1]}', "[" * 100_000, BAD_ID],
)
def test_coco_that_is_not_coco_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(DataError, match=r"instances\.json"):
        read_coco(tmp_path)


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


@needs_real
def test_real_data_through_csv_and_through_coco_is_the_same() -> None:
    from_csv = {example.image_id: example for example in read_csv(REAL / "coco-mini/train.csv").examples}
    chosen = frozenset(range(1, 20)) - {12}
    records = read_coco(REAL / "coco-mini/annotations", categories=chosen)
    assert {example.image_id: example for example in records.examples} == from_csv
    assert len(from_csv) == 97
