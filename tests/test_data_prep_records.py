"""CSV and COCO: no row lost, no row swallowed, every fault told with its line."""

import csv
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.data_prep.records import DataError, Example, Records, read_coco, read_csv

BAD_ID = '{"images": [], "annotations": [], "categories": [{"id": "x", "name": "y"}]}'
HEADER = "ImageID,Labels,Caption\n"
REAL = Path(os.environ.get("CAPTUNE_TEST_DATA", "nowhere"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="CAPTUNE_TEST_DATA names no folder")


def read(folder: Path, text: str | bytes, **options: object) -> Records:
    path = folder / "train.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_csv(path, **options)  # type: ignore[arg-type]


def captions(records: Records) -> list[str]:
    return [example.caption for example in records.examples]


def test_plain_rows_become_examples(tmp_path: Path) -> None:
    records = read(tmp_path, HEADER + "5.jpg,3 1 1,A man.\n6.jpg,2,\n")
    assert records.examples == (Example("5.jpg", (1, 3), "A man."), Example("6.jpg", (2,), ""))
    assert records.lines == (2, 3)
    assert records.bad == ()
    assert records.has_labels and records.has_captions


@pytest.mark.parametrize(
    ("written", "caption"),
    [
        ('"A dog, a cat."', "A dog, a cat."),
        ("A dog, a cat.", "A dog, a cat."),
        ('"reads ""stop"" here"', 'reads "stop" here'),
        ('"reads spray."""""', 'reads spray.""'),
        ('reads "stop" here', 'reads "stop" here'),
        ('"stop" it reads', '"stop" it reads'),
        ('"stop", it reads', '"stop", it reads'),
        ('"never closed', '"never closed'),
        ('"never closed, with comma', '"never closed, with comma'),
        ('closed only"', 'closed only"'),
        ('"', '"'),
        ('""', ""),
        ('"two\nlines"', "two\nlines"),
        ('"bare\rreturn"', "bare\rreturn"),
        ("  blanks stay ", "  blanks stay "),
        ("a\u2028b\x85c\x0bd\x0ce\x1cf", "a\u2028b\x85c\x0bd\x0ce\x1cf"),
        ("\U0001f415 \u00e9 \ufeff", "\U0001f415 \u00e9 \ufeff"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_odd_caption_keeps_its_row_and_its_neighbours(tmp_path: Path, written: str, caption: str, end: str) -> None:
    text = end.join(["ImageID,Labels,Caption", "1.jpg,1,x", f"2.jpg,2,{written}", '3.jpg,3,"y, z"', ""])
    assert captions(read(tmp_path, text)) == ["x", caption, "y, z"]


def test_unbalanced_quote_swallows_no_row_though_a_later_quote_would_close_it(tmp_path: Path) -> None:
    records = read(tmp_path, HEADER + '1.jpg,1,"opened\n2.jpg,1,plain\n3.jpg,2,he said stop"\n4.jpg,1,z\n')
    assert captions(records) == ['"opened', "plain", 'he said stop"', "z"]


def test_unbalanced_quote_swallows_no_row_in_any_column_order(tmp_path: Path) -> None:
    records = read(tmp_path, 'Labels,Caption,ImageID\n1,"opened,1.jpg\n2,closed",2.jpg\n', on_bad="skip")
    assert [example.image_id for example in records.examples] == ["1.jpg", "2.jpg"]


def test_caption_over_several_lines_is_one_field_in_any_column_order(tmp_path: Path) -> None:
    records = read(tmp_path, 'Caption,Labels,ImageID\n"a\nb, c",1,1.jpg\n"d",2,2.jpg\n')
    assert captions(records) == ["a\nb, c", "d"]


def test_name_without_ending_beside_numbers_is_a_row(tmp_path: Path) -> None:
    assert captions(read(tmp_path, HEADER + '10,1,"opened\n11,2,closed"\n')) == ['"opened', 'closed"']


def test_columns_in_any_order_others_ignored_blank_lines_skipped(tmp_path: Path) -> None:
    records = read(tmp_path, "x,Caption,Labels,ImageID\n\n0,hello,2 1,a/b.png\n\n  \n1,bye,3,c.png\n")
    assert records.examples == (Example("a/b.png", (1, 2), "hello"), Example("c.png", (3,), "bye"))
    assert records.lines == (3, 6)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_byte_order_mark_and_line_ends_change_nothing(tmp_path: Path, mark: bytes, end: bytes) -> None:
    records = read(tmp_path, mark + end.join([b"ImageID,Labels,Caption", b"1.jpg,1,x", b"2.jpg,2,y"]))
    assert captions(records) == ["x", "y"]


def test_test_file_without_labels_and_images_without_captions(tmp_path: Path) -> None:
    test = read(tmp_path, "ImageID,Caption\n1.jpg,x\n", need_labels=False)
    assert test.examples == (Example("1.jpg", (), "x"),) and not test.has_labels
    images = read(tmp_path, "ImageID,Labels\n1.jpg,4\n")
    assert images.examples == (Example("1.jpg", (4,), ""),) and not images.has_captions
    assert read(tmp_path, "ImageID\n1.jpg\n", need_labels=False).examples == (Example("1.jpg", (), ""),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2.jpg,one,x", "label 'one'"),
        ("2.jpg,-1,x", "label '-1'"),
        ("2.jpg,1.0,x", "label '1.0'"),
        ("2.jpg,\u0661,x", "label '\u0661'"),
        (f"2.jpg,{'9' * 5000},x", "below 10"),
        ("2.jpg,12,x", "label 12 is unknown"),
        ("2.jpg,,x", "no label"),
        ("2.jpg, ,x", "no label"),
        ("2.jpg,1", "2 fields where the header has 3"),
        ("2.jpg", "1 fields where the header has 3"),
        (",1,x", "ImageID is empty"),
        ("1.jpg,1,x", "stands on line 2 already"),
        ("../2.jpg,1,x", "leaves the image folder"),
        ("a/../2.jpg,1,x", "leaves the image folder"),
        ("/etc/passwd,1,x", "absolute"),
        ("C:/x.jpg,1,x", "absolute"),
        ("a\\b.jpg,1,x", "backslash"),
        ("a\0b.jpg,1,x", "NUL"),
    ],
)
def test_bad_row_is_told_with_its_line_or_left_out(tmp_path: Path, row: str, message: str) -> None:
    text = HEADER + f"1.jpg,1,x\n{row}\n3.jpg,1,y\n"
    labels = frozenset({1, 2})
    with pytest.raises(DataError, match=r"train\.csv, line 3: ") as caught:
        read(tmp_path, text, known_labels=labels)
    assert message in str(caught.value)
    records = read(tmp_path, text, known_labels=labels, on_bad="skip")
    assert captions(records) == ["x", "y"]
    assert [bad.line for bad in records.bad] == [3]
    assert message in records.bad[0].reason


def test_line_of_a_fault_counts_line_feeds_inside_captions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 5: "):
        read(tmp_path, HEADER + '1.jpg,1,"a\nb\nc"\n2.jpg,x,d\n')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"ImageID,Labels,Caption\n", "no usable row"),
        (b"ImageID,Caption\n1.jpg,x\n", "column Labels is missing"),
        (b"image,Labels,Caption\n1.jpg,1,x\n", "column ImageID is missing"),
        (b"ImageID;Labels;Caption\n1.jpg;1;x\n", "'ImageID;Labels;Caption'"),
        (b"ImageID,Labels,Labels\n1.jpg,1,1\n", "stands 2 times"),
        (b"ImageID,Labels,Caption\n1.jpg,1,x\n2.jpg,1,\xff\n", "line 3: not UTF-8"),
        ("ImageID,Labels,Caption\n1.jpg,1,x\n".encode("utf-16"), "not UTF-8"),
        (b"ImageID,Labels,Caption\n1.jpg,x,x\n2.jpg,y,x\n", "2 are bad"),
    ],
)
def test_unusable_file_is_told_even_where_bad_rows_are_skipped(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, on_bad="skip")
    assert message in str(caught.value)
    assert "train.csv" in str(caught.value)


def test_missing_file_and_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_csv(tmp_path)


def test_a_hundred_thousand_stray_quotes_take_no_quadratic_time(tmp_path: Path) -> None:
    rows = "".join(f'{place}.jpg,1,"a""\n' for place in range(100_000))
    assert len(read(tmp_path, HEADER + rows).examples) == 100_000


# Surrogates have no UTF-8; a line of a caption that looks like a row is told from a row by nobody.
# Python's csv module does not quote a carriage return, so that one at the end of a row reads as part of its line end.
CAPTION = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: ".jpg" not in text and not text.endswith("\r")
)


@given(st.lists(CAPTION, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_whatever_the_csv_module_writes_is_read_back(written: list[str], end: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(["ImageID", "Labels", "Caption"])
    writer.writerows([f"{place}.jpg", "1 2", caption] for place, caption in enumerate(written))
    with tempfile.TemporaryDirectory() as folder:
        assert captions(read(Path(folder), text.getvalue())) == written


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for data in (content, HEADER.encode() + content):
            try:
                read(Path(folder), data, on_bad="skip")
            except DataError as error:
                assert "\n" not in str(error).replace(repr("\n"), "")


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
    with pytest.raises(DataError, match="not named instances"):
        read_coco(tmp_path / "captions_val.json")


@needs_real
@pytest.mark.parametrize(("name", "rows"), [("train.csv", 24_000), ("test.csv", 10_000)])
def test_real_data_loses_no_row_and_no_character(name: str, rows: int) -> None:
    path = REAL / "coco18" / name
    records = read_csv(path, need_labels=False)
    with path.open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert len(records.examples) == len(expected) == rows
    assert captions(records) == [row["Caption"] for row in expected]
    assert [example.image_id for example in records.examples] == [row["ImageID"] for row in expected]


@needs_real
def test_real_data_through_csv_and_through_coco_is_the_same() -> None:
    from_csv = {example.image_id: example for example in read_csv(REAL / "coco-mini/train.csv").examples}
    chosen = frozenset(range(1, 20)) - {12}
    records = read_coco(REAL / "coco-mini/annotations", categories=chosen)
    assert {example.image_id: example for example in records.examples} == from_csv
    assert len(from_csv) == 97
