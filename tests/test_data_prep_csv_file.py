"""A CSV: no row lost, none swallowed, none invented, every fault told with its line."""

import csv
import io
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.data_prep.csv_file import read_csv
from captune.data_prep.records import MOST_LABELS, BadRow, DataError, Example, Records, ranges
from captune.errors import WorkError

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


@pytest.mark.parametrize(
    ("text", "swallowed"),
    [
        ('ImageID,Labels,Caption\n1.jpg,1,"opened\n2.jpg,1,plain\n3.jpg,2,he said stop"\n4.jpg,1,z\n', [2, 3, 4]),
        ('ImageID,Labels,Caption\n7,1,"opened\n8,9.5,closed"\n9,1,z\n', [2, 3]),
        ('ImageID,Labels,Caption\nno 7,1,"opened\nno 8,2,closed"\nno 9,1,z\n', [2, 3]),
        ('ImageID,Labels,Caption\n1.tiff,1,"opened\n2.TIF,1,closed"\n3.tif,1,z\n', [2, 3]),
        ('Labels,Caption,ImageID\n1,"opened,1.jpg\n2,clo, sed",2.jpg\n3,z,3.jpg\n', [2, 3]),
        ('Caption,ImageID,Labels\n"opened,1.jpg,1\nclosed",2.jpg,2\nz,3.jpg,3\n', [2, 3]),
        ('ImageID,Labels,Note,Caption\n1.jpg,1,"opened,a\n2.jpg,2,closed",b\n3.jpg,1,x,z\n', [2, 3]),
        ('ImageID,Labels,Caption\n1.jpg,1,"opened\n\n2.jpg,1,closed"\n3.jpg,1,z\n4.jpg,1,"never', [2, 4]),
    ],
)
def test_rows_between_two_stray_quotes_are_not_swallowed_but_told(
    tmp_path: Path, text: str, swallowed: list[int]
) -> None:
    with pytest.raises(DataError, match=r"line 2: .*quote"):
        read(tmp_path, text)
    records = read(tmp_path, text, on_bad="skip")
    assert [bad.line for bad in records.bad] == swallowed
    assert captions(records)[0] == "z"
    assert not any(word in caption for caption in captions(records) for word in ("opened", "sed"))


@pytest.mark.parametrize(
    ("text", "caption", "noted"),
    [
        (
            HEADER + '1.jpg,1,"Shopping:\nmilk, 2, cold\neggs, 3, brown"\n2.jpg,2,z\n',
            "Shopping:\nmilk, 2, cold\neggs, 3, brown",
            True,
        ),
        (HEADER + '30,1,"Colours:\nred, 2, dark"\n31,2,z\n', "Colours:\nred, 2, dark", True),
        ('ImageID,Caption,Labels\n30,"Hall 4, 1\ngreen, chair",1\n31,z,2\n', "Hall 4, 1\ngreen, chair", True),
        (HEADER + '1.jpg,1,"one, two,\nthree, four"\n2.jpg,2,z\n', "one, two,\nthree, four", False),
        ('Caption,Labels,ImageID\n"a, b\nc, d, e",1,1.jpg\nz,2,2.jpg\n', "a, b\nc, d, e", False),
    ],
)
def test_caption_over_several_lines_is_read_and_noted_where_it_could_be_rows(
    tmp_path: Path, text: str, caption: str, noted: bool
) -> None:
    records = read(tmp_path, text)
    assert captions(records) == [caption, "z"]
    assert any("line" in note for note in records.notes) == noted


def test_caption_over_several_lines_is_one_field_in_any_column_order(tmp_path: Path) -> None:
    records = read(tmp_path, 'Caption,Labels,ImageID\n"a\nb, c",1,1.jpg\n"d",2,2.jpg\n')
    assert captions(records) == ["a\nb, c", "d"]


def test_columns_in_any_order_others_ignored_blank_lines_skipped(tmp_path: Path) -> None:
    records = read(tmp_path, "x,Caption,Labels,ImageID\n\n0,hello,2 1,a/b.png\n\n  \n1,bye,3,c.png\n")
    assert records.examples == (Example("a/b.png", (1, 2), "hello"), Example("c.png", (3,), "bye"))
    assert records.lines == (3, 6)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_byte_order_mark_and_line_ends_change_nothing(tmp_path: Path, mark: bytes, end: bytes) -> None:
    records = read(tmp_path, mark + end.join([b"ImageID,Labels,Caption", b"1.jpg,1,x", b"2.jpg,2,y"]))
    assert captions(records) == ["x", "y"]


def test_byte_order_mark_where_files_were_joined_is_no_part_of_a_name(tmp_path: Path) -> None:
    records = read(tmp_path, b"\xef\xbb\xbfImageID,Labels,Caption\n1.jpg,1,x\n\xef\xbb\xbf2.jpg,2,y\n")
    assert [example.image_id for example in records.examples] == ["1.jpg", "2.jpg"]


def test_name_with_a_colon_is_no_absolute_path(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "ImageID,Labels,Caption\nt:1.png,1,x\n").examples
    assert example.image_id == "t:1.png"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "3"), ([5, 1, 2, 3], "1-3,5"), (range(1, 2000, 2), "1,3,5,7,9 and 995 more"), (range(10**5), "0-99999")],
)
def test_numbers_are_told_as_ranges(numbers: Sequence[int], text: str) -> None:
    assert ranges(numbers) == text


def test_test_file_without_labels_and_images_without_captions(tmp_path: Path) -> None:
    test = read(tmp_path, "ImageID,Caption\n1.jpg,x\n", need_labels=False)
    assert test.examples == (Example("1.jpg", (), "x"),) and not test.has_labels
    assert read(tmp_path, "ImageID,Labels,Caption\n1.jpg,?,x\n1.jpg,,y\n", need_labels=False).examples == (
        Example("1.jpg", (), "x"),
        Example("1.jpg", (), "y"),
    )
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
        (f"2.jpg,{'9' * 5000},x", "from 0 to 999999999"),
        ("2.jpg,12,x", "label 12 is unknown, known are 1-2"),
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
        (b"ImageID;Labels;Caption\n1.jpg;1;x\n", "separated by semicolons"),
        (b"ImageID\tLabels\tCaption\n1.jpg\t1\tx\n", "separated by tabs"),
        (b'"ImageID,Labels,Caption"\n"1.jpg,1,x"\n', "the whole line is in quotes"),
        ("ImageID,Labels,Caption\n1.jpg,1,x\n".encode("utf-16-le"), "UTF-16"),
        ("ImageID,Labels,Caption\n1.jpg,1,x\n".encode("utf-32-be"), "UTF-16"),
        (b"\x1f\x8b\x08\0", "gzip: unpack"),
        (b"PK\x03\x04\x14\0", "save its table as CSV"),
        (b"ImageID,Labels,Caption\r1.jpg,1,x\r2.jpg,1,y\r3.jpg,1,\xff\r", "line 4: not UTF-8"),
        (b' {"images": []}', "--format coco"),
        (b'[{"ImageID": "1.jpg"}]', "JSON"),
        (b"captions,CAPTION,ImageID,Labels\na,b,1.jpg,1\n", "column Caption stands 2 times"),
        (b'ImageID,"Lab"els,Caption\n1.jpg,1,x\n', "header"),
        (b'ImageID,Labels,"Caption\n1.jpg,1,x"\n2.jpg,1,y\n', "closes on line 2"),
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


@pytest.mark.parametrize(
    "header",
    [
        "imageid,labels,caption",
        "IMAGE_ID,Label,CAPTIONS",
        " Image ID , labels\u200b,\u200bCaption",
        '"ImageID","Labels","Caption"',
        "\ufeffImageID,Labels,\ufeffCaption\u00ad",
    ],
)
def test_columns_are_known_by_other_spellings(tmp_path: Path, header: str) -> None:
    assert read(tmp_path, header + "\n1.jpg,4,x\n").examples == (Example("1.jpg", (4,), "x"),)


def test_column_of_the_very_name_comes_before_one_like_it(tmp_path: Path) -> None:
    records = read(tmp_path, "caption,Caption,label,Labels,ImageID\nno,yes,7,4,1.jpg\n")
    assert records.examples == (Example("1.jpg", (4,), "yes"),)


def test_caption_under_a_name_that_is_not_known_is_noted(tmp_path: Path) -> None:
    records = read(tmp_path, "ImageID,Labels,description\n1.jpg,4,x\n")
    assert not records.has_captions
    assert "description" in records.notes[0]


@pytest.mark.parametrize(
    ("row", "bad"),
    [
        ("2.jpg,1,3,a cat", True),
        ("2.jpg,1,3,17,a cat", True),
        ("2.jpg,1, 3 17,a cat, asleep", True),
        ("2.jpg,1,,3", True),
        ("2.jpg,1,-3,a cat", True),
        ('2.jpg,1,"3",a cat', True),
        ('2.jpg,"1,3",a cat', True),
        ('2.jpg,1,3,"a cat, asleep"', True),
        ("2.jpg,1,a cat, 3 dogs", False),
        ("2.jpg,1,3 cats, asleep", False),
    ],
)
def test_labels_never_become_words_of_a_caption(tmp_path: Path, row: str, bad: bool) -> None:
    records = read(tmp_path, HEADER + f"1.jpg,1,x\n{row}\n", on_bad="skip")
    assert [fault.line for fault in records.bad] == [3] * bad
    assert captions(records)[1:] == ([] if bad else [row.split(",", 2)[2]])


def test_commas_left_over_are_nobodys_where_another_column_can_have_them(tmp_path: Path) -> None:
    for header in ("ImageID,Labels,source,Caption", "Labels,ImageID,Caption"):
        row = "1,2.jpg,x, y" if header.startswith("Labels") else "2.jpg,1,web,x, y"
        with pytest.raises(DataError, match=r"line 2: . fields where the header has"):
            read(tmp_path, f"{header}\n{row}\n")


def test_what_was_mended_is_counted_with_its_lines(tmp_path: Path) -> None:
    records = read(tmp_path, HEADER + '1.jpg,1,"stop" it says\n2.jpg,1,x\n3.jpg,1,a, b\n4.jpg,1,"c, d"\n')
    assert captions(records) == ['"stop" it says', "x", "a, b", "c, d"]
    (note,) = records.notes
    assert "2 rows" in note and "2, 4" in note


@pytest.mark.parametrize(
    ("rows", "bad"),
    [
        ('1.jpg,1,"He said "hi",\nthen left, 2, fast"\n2.jpg,2,z\n', [2, 3]),
        ('1.jpg,1,"a 40" set:\npears, 2, green"\n2.jpg,2,z\n', [2, 3]),
        ('1.jpg,1,"two\nlines" here\n2.jpg,2,z\n', [2, 3]),
        ('1.jpg,1,"never closed\nand, 5, on\n\nit goes\n2.jpg,2,z\n', [2, 3, 5]),
        ('"1.jpg,1,x\n2.jpg,2,z\n', [2]),
        ("1.jpg,1,a line\nfeed, 2, without quotes\n2.jpg,2,z, z\n", []),
    ],
)
def test_rest_of_a_torn_caption_is_no_row(tmp_path: Path, rows: str, bad: list[int]) -> None:
    records = read(tmp_path, HEADER + rows, on_bad="skip")
    assert [fault.line for fault in records.bad] == bad
    if bad:
        assert [example.image_id for example in records.examples] == ["2.jpg"]


def test_carriage_return_ends_a_row_beside_line_feeds_and_is_noted(tmp_path: Path) -> None:
    records = read(tmp_path, HEADER + '1.jpg,1,x\n2.jpg,2,y\r3.jpg,3,z\r\n4.jpg,1,"in\rquotes"\n')
    assert captions(records) == ["x", "y", "z", "in\rquotes"]
    assert ["3" in note for note in records.notes] == [True]
    with pytest.raises(DataError, match=r"line 4: 1 fields"):
        read(tmp_path, HEADER + "1.jpg,1,x\n2.jpg,1,a\rb\n")
    final = read(tmp_path, HEADER.replace("\n", "\r") + "1.jpg,1,x\r2.jpg,2,y\n")
    assert captions(final) == ["x", "y"]


def test_field_of_any_length_is_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = "word " * 50_000
    assert captions(read(tmp_path, HEADER + f'1.jpg,1,"{long}"\n2.jpg,1,x\n')) == [long, "x"]
    assert captions(read(tmp_path, HEADER + f'1.jpg,1,"{long}"\n2.jpg,1,x, y\n')) == [long, "x, y"]
    assert csv.field_size_limit() == limit


def test_column_of_other_numbers_is_no_column_of_labels(tmp_path: Path) -> None:
    rows = "".join(f"{place}.jpg,{place},x\n" for place in range(MOST_LABELS + 1))
    with pytest.raises(DataError, match=f"{MOST_LABELS + 1} distinct labels"):
        read(tmp_path, HEADER + rows)
    assert len(read(tmp_path, HEADER + rows.replace(f",{MOST_LABELS},", ",0,")).examples) == MOST_LABELS + 1


def test_pipe_is_read_once_and_what_was_read_is_hashed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sums = []
    for text in (HEADER + "1.jpg,1,x\n", HEADER + "1.jpg,1,y\n", HEADER + "1.jpg,1,x\n"):
        writer = threading.Thread(target=pipe.write_text, args=(text,))
        writer.start()
        sums.append(read_csv(pipe).sha256)
        writer.join()
    assert sums[0] == sums[2] != sums[1]
    assert read(tmp_path, HEADER + "1.jpg,1,x\n").sha256 == sums[0]


def test_device_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="device"):
        read_csv("/dev/zero")


def test_messages_are_one_short_line_whatever_the_value(tmp_path: Path) -> None:
    odd = "\n".join(["x" * 10_000] * 3)
    for text in (f"{odd},Labels\n1,2", HEADER + f'"{odd}",1,x', HEADER + f'1.jpg,"{odd}",x', odd):
        with pytest.raises(DataError) as caught:
            read(tmp_path, text)
        assert len(str(caught.value).replace(str(tmp_path), "")) < 400
        assert "\n" not in str(caught.value)


def test_rows_read_are_examples_and_bad_rows_or_captune_is_at_fault() -> None:
    with pytest.raises(WorkError, match="3 lines were read and 2 came out"):
        Records((Example("1.jpg", (1,), ""),), (BadRow(3, "", "odd"),), True, True, {}, (2,), "line", 3, "")


def test_missing_file_and_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_csv(tmp_path)


@pytest.mark.slow
def test_a_hundred_thousand_stray_quotes_take_no_quadratic_time(tmp_path: Path) -> None:
    rows = "".join(f'{place}.jpg,1,"a""\n' for place in range(100_000))
    assert len(read(tmp_path, HEADER + rows).examples) == 100_000


TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", "7", "a dog", "8.jpg", " "]), max_size=12
).map("".join)


def written(rows: list[list[str]], end: str) -> str:
    """What the csv module writes, which by itself leaves a carriage return without the quotes that it needs."""
    quoting = csv.QUOTE_ALL if "\r" in end.join(map("".join, rows)) else csv.QUOTE_MINIMAL
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=quoting).writerows(rows)
    return text.getvalue()


@pytest.mark.fuzz
@given(
    st.permutations(["ImageID", "Labels", "Caption", "note"]),
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_well_formed_csv_is_read_as_the_csv_module_reads_it_or_told_as_two_ways(
    header: list[str], fields: list[tuple[str, str]], end: str
) -> None:
    rows = [
        {"ImageID": f"{place}.jpg", "Labels": "1 2", "Caption": caption, "note": note}
        for place, (caption, note) in enumerate(fields)
    ]
    text = written([header, *([row[name] for name in header] for row in rows)], end)
    expected = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        try:
            records = read(Path(folder), text)
        except DataError as error:
            assert "looks like a row" in str(error) and "." in "".join(map("".join, fields))
            return
    assert [(example.image_id, example.caption) for example in records.examples] == [
        (row["ImageID"], row["Caption"]) for row in expected
    ]


@pytest.mark.fuzz
@given(st.lists(TEXT, min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_whatever_the_csv_module_writes_is_read_back(fields: list[str], end: str) -> None:
    fields = [field.replace(".", "") for field in fields]
    text = written(
        [["ImageID", "Labels", "Caption"], *([f"{place}.jpg", "1 2", field] for place, field in enumerate(fields))], end
    )
    with tempfile.TemporaryDirectory() as folder:
        assert captions(read(Path(folder), text)) == fields


@pytest.mark.fuzz
@given(
    st.lists(TEXT, min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from(['"', ",", "\n", "\r", "\0", ";", "{", "é", ""]))),
    st.booleans(),
)
def test_damaged_csv_is_read_or_refused_and_no_line_is_lost(
    fields: list[str], damages: list[tuple[int, str]], labelled: bool
) -> None:
    text = written([["ImageID", "Labels", "Caption"], *([f"{n}.jpg", "1 2", f] for n, f in enumerate(fields))], "\n")
    for place, damage in damages:
        place %= len(text) + 1
        text = text[:place] + damage + text[place + (not damage) :]
    with tempfile.TemporaryDirectory() as folder:
        try:
            records = read(Path(folder), text, on_bad="skip", need_labels=labelled)
        except DataError as error:
            assert "\n" not in str(error)
            return
    known = dict(zip(records.lines, records.examples, strict=True))
    lines = io.StringIO(text.removeprefix("\ufeff"), newline="").readlines()
    for line, example in known.items():
        assert example.image_id in lines[line - 1] or '"' in lines[line - 1]
    assert len(known) == len(records.examples)


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for data in (content, HEADER.encode() + content):
            try:
                read(Path(folder), data, on_bad="skip")
            except DataError as error:
                assert "\n" not in str(error).replace(repr("\n"), "")


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
