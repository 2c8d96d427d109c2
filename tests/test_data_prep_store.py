"""The prepared data set: whole or not there, the same everywhere, safe to open."""

import contextlib
import csv
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from builders import limited, refused
from conftest import Captune
from numpy.typing import NDArray
from PIL import Image

import captune.data_prep.pixels
from captune.data_prep.captions import CaptionSettings, tokenize
from captune.data_prep.images import MachineError, read_image
from captune.data_prep.manifest import _sum_of
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData, prepare
from captune.errors import WorkError
from captune.reading import sha256

REAL = Path(os.environ.get("CAPTUNE_TEST_DATA", "nowhere"))
ROWS = 24
LABELS = [(1,), (1, 3), (3,), (1, 13)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """raw/train.csv with 24 rows of three labels, raw/images/*.png of 20 x 16 noise."""
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "Labels", "Caption"])
        for place in range(ROWS):
            writer.writerow(
                [
                    f"{place}.png",
                    " ".join(map(str, LABELS[place % 4])),
                    f'A red dog, number{place}, says "woof"' + " again" * (place % 5),
                ]
            )
            noise = rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "images" / f"{place}.png")
    return folder


def make(raw: Path, name: str = "data", **options: object) -> PreparedData:
    settings: dict[str, object] = {"side": 8, **options}
    return prepare(raw / "train.csv", raw / "images", raw.parent / name, **settings)  # type: ignore[arg-type]


def leftovers(raw: Path) -> list[str]:
    return sorted(path.name for path in raw.parent.iterdir() if path != raw)


def test_prepared_set_holds_what_the_source_holds(raw: Path) -> None:
    data = make(raw)
    manifest = data.manifest
    assert (len(data), manifest.rows_read, manifest.rows_skipped) == (ROWS, ROWS, 0)
    assert data.image_ids == tuple(f"{place}.png" for place in range(ROWS))
    assert data.captions[0] == 'A red dog, number0, says "woof"'
    assert manifest.label_ids == (1, 3, 13)
    assert data.labels.tolist()[:4] == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert manifest.label_counts == tuple(data.labels[data.rows("train")].sum(axis=0))
    expected = np.stack([read_image(raw / "images" / name, 8) for name in data.image_ids])
    assert (data.pixels(np.arange(ROWS)) == expected).all()
    assert data.has_images and data.has_captions
    assert leftovers(raw) == ["data"]
    assert sorted(path.name for path in data.path.iterdir()) == [
        "examples.arrow",
        "manifest.json",
        "pixels.arrow",
        "vocabulary.json",
    ]


def test_splits_cover_all_rows_once(raw: Path) -> None:
    data = make(raw)
    parts = [data.rows(name) for name in ("train", "validation", "test")]
    assert [len(part) for part in parts] == list(data.manifest.counts.values())
    assert sorted(np.concatenate(parts).tolist()) == list(range(ROWS))
    assert (data.rows("validation", "train") == np.sort(np.concatenate(parts[:2]))).all()
    with pytest.raises(DataError, match="'dev'"):
        data.rows("dev")


def test_vocabulary_and_length_come_from_train_alone(raw: Path) -> None:
    data = make(raw)
    assert data.vocabulary is not None and data.tokens is not None
    train = [tokenize(data.captions[row], CaptionSettings()) for row in data.rows("train")]
    assert set(data.vocabulary.words) == {word for tokens in train for word in tokens}
    assert data.manifest.max_tokens == data.tokens.shape[1] == max(map(len, train))
    assert data.manifest.vocabulary_size == data.vocabulary.size
    unseen = data.rows("validation", "test")
    assert (data.tokens[unseen] == 1).any(axis=1).all()
    encoded = data.vocabulary.encode(data.captions)
    assert (encoded[:, : data.tokens.shape[1]] == data.tokens).all()


def test_pixels_come_in_the_order_asked_and_across_record_batches(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(raw).pixels(np.arange(ROWS))
    monkeypatch.setattr(captune.data_prep.pixels, "BATCH_ROWS", 5)
    data = make(raw, "other")
    rows = np.array([23, 0, 4, 5, 5, 9, 10])
    assert (data.pixels(rows) == whole[rows]).all()
    assert data.pixels(rows[:0]).shape == (0, 8, 8, 3)
    with pytest.raises(IndexError):
        data.pixels(np.array([ROWS]))


def test_arrays_of_the_store_cannot_be_written(raw: Path) -> None:
    data = make(raw)
    assert data.tokens is not None
    for array in (data.labels, data.tokens):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_fingerprint_tells_content_and_nothing_else(raw: Path) -> None:
    first = make(raw).manifest.fingerprint
    for path in (raw / "images").iterdir():
        os.utime(path, (1, 1))
    assert make(raw, "touched", workers=1).manifest.fingerprint == first
    others = [
        make(raw, "side", side=9),
        make(raw, "seed", seed=1),
        make(raw, "stems", captions=CaptionSettings(stem=False)),
    ]
    Image.new("RGB", (20, 16)).save(raw / "images/3.png")
    others.append(make(raw, "picture"))
    assert len({first, *(data.manifest.fingerprint for data in others)}) == 5


def test_same_inputs_are_used_again_without_work(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(raw)
    monkeypatch.setattr("captune.data_prep.assemble.write_pixels", lambda *_, **__: pytest.fail("decoded again"))
    assert make(raw).manifest == first.manifest


def test_other_inputs_onto_a_finished_set_are_refused_by_name(raw: Path) -> None:
    make(raw)
    with pytest.raises(DataError, match=r"side \(8, now 9\).*another --out"):
        make(raw, side=9)
    with pytest.raises(DataError, match=r"seed \(0, now 4\)"):
        make(raw, seed=4)
    with pytest.raises(DataError, match="captions"):
        make(raw, captions=CaptionSettings(max_tokens=3))
    os.utime(raw / "images/0.png", (1, 1))
    with pytest.raises(DataError, match="another pictures"):
        make(raw)
    assert make(raw, "fresh").manifest.counts == PreparedData.open(raw.parent / "data").manifest.counts


def test_captions_alone_and_pictures_alone(raw: Path) -> None:
    data = prepare(raw / "train.csv", None, raw.parent / "captions")
    assert data.has_captions and not data.has_images and data.manifest.side is None
    with pytest.raises(DataError, match="no pictures"):
        data.pixels(np.array([0]))
    rows = (raw / "train.csv").read_text().splitlines()
    (raw / "train.csv").write_text("\n".join(",".join(row.split(",")[:2]) for row in rows))
    data = make(raw, "pictures")
    assert data.has_images and not data.has_captions
    assert data.tokens is None and data.vocabulary is None and set(data.captions) == {""}
    with pytest.raises(DataError, match="no captions"):
        prepare(raw / "train.csv", None, raw.parent / "neither")


def test_bad_pictures_raise_or_are_listed(raw: Path) -> None:
    (raw / "images/2.png").write_bytes(b"")
    (raw / "images/5.png").unlink()
    with pytest.raises(DataError, match=r"train\.csv, line 4: picture .*2\.png is empty"):
        make(raw)
    assert leftovers(raw) == []
    data = make(raw, on_bad="skip")
    assert (data.manifest.rows_read, data.manifest.rows_skipped, len(data)) == (ROWS, 2, ROWS - 2)
    assert "2.png" not in data.image_ids
    with (data.path / "bad_rows.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [(row["line"], row["image_id"]) for row in listed] == [("4", "2.png"), ("7", "5.png")]
    assert (data.pixels(np.array([2]))[0] == read_image(raw / "images/3.png", 8)).all()


def test_no_usable_picture_at_all_is_refused(raw: Path) -> None:
    for path in (raw / "images").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(DataError, match="no usable picture"):
        make(raw, on_bad="skip")
    assert leftovers(raw) == []


def test_coco_with_all_captions_keeps_pictures_once_and_together(raw: Path) -> None:
    images = [{"id": place, "file_name": f"{place}.png"} for place in range(ROWS)]
    notes = [{"image_id": place, "category_id": 1 + place % 2} for place in range(ROWS)]
    texts = [{"id": k, "image_id": k % ROWS, "caption": f"word{k}"} for k in range(3 * ROWS)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (raw / "instances.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    (raw / "captions.json").write_text(json.dumps({"annotations": texts}))
    data = prepare(raw, raw / "images", raw.parent / "data", format="coco", per_caption=True, side=8)
    assert len(data) == 3 * ROWS
    assert data.manifest.label_names == ("cat", "dog")
    assert data.manifest.files["pixels.arrow"] < 2 * ROWS * 8 * 8 * 3
    assert (data.pixels(np.array([0]))[0] == data.pixels(np.array([1]))[0]).all()
    splits = {data.image_ids[row]: set() for row in range(len(data))}
    for name in ("train", "validation", "test"):
        for row in data.rows(name):
            splits[data.image_ids[row]].add(name)
    assert all(len(names) == 1 for names in splits.values())


def test_progress_counts_every_picture(raw: Path) -> None:
    counts: list[tuple[int, int]] = []
    make(raw, progress=lambda done, total: counts.append((done, total)))
    assert counts == [(place + 1, ROWS) for place in range(ROWS)]


def test_folder_that_is_not_ours_is_left_alone(raw: Path) -> None:
    for name in ("data", ".data.partial"):
        (raw.parent / name).mkdir()
        (raw.parent / name / "mine.txt").write_text("mine")
        with pytest.raises(DataError):
            make(raw)
        assert (raw.parent / name / "mine.txt").read_text() == "mine"
        (raw.parent / name / "mine.txt").unlink()
    assert len(make(raw)) == ROWS


def test_half_written_files_of_a_killed_run_are_cleaned_up(raw: Path) -> None:
    aside = raw.parent / ".data.partial"
    aside.mkdir()
    for name in ("vocabulary.json", "manifest.json", "pixels.arrow", "prepare.lock"):
        (aside / name).write_text("half")
    assert len(make(raw)) == ROWS
    assert leftovers(raw) == ["data"]


def test_out_that_is_a_file_or_cannot_be_made_is_refused(raw: Path) -> None:
    (raw.parent / "data").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        make(raw)
    with pytest.raises(DataError, match="cannot be written"):
        make(raw, "data/below")


def test_out_that_no_folder_can_replace_is_refused_before_the_first_picture(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: Any) -> Any:
        raise AssertionError

    (raw / "empty").mkdir()
    (raw / "data").symlink_to(raw / "empty")
    rows = raw / "train.csv"
    refused(lambda: prepare(rows, raw / "images", raw / "data", decode=decode), "is a link", "in it", error=DataError)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == raw / "empty")
    refused(lambda: prepare(rows, raw / "images", raw / "empty", decode=decode), "is mounted", error=DataError)


def test_full_disk_is_failed_work_and_no_wrong_input(raw: Path) -> None:
    with limited(resource.RLIMIT_FSIZE, 1000):
        refused(lambda: make(raw), "data cannot be written: File too large", error=WorkError)
    assert leftovers(raw) == []


def test_two_runs_cannot_build_the_same_set_at_once(raw: Path) -> None:
    def second(done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(DataError, match="by another process"):
                make(raw)

    assert len(make(raw, progress=second)) == ROWS
    assert leftovers(raw) == ["data"]


def test_interrupt_leaves_nothing_that_looks_finished_and_the_next_run_ends_it(raw: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(raw, progress=interrupt)
    assert leftovers(raw) == [".data.partial"]
    assert len(make(raw)) == ROWS
    assert leftovers(raw) == ["data"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["pictures", "examples", "manifest"])
def test_killed_prepare_leaves_nothing_that_looks_finished(raw: Path, moment: str) -> None:
    code = f"""
import sys, time
from pathlib import Path
from captune.data_prep import assemble
from captune.data_prep import store
raw, moment = Path(sys.argv[1]), {moment!r}
def wait(*_, **__):
    print("there", flush=True)
    time.sleep(60)
if moment == "examples":
    assemble.count_words = wait
if moment == "manifest":
    Path.rename = wait
progress = (lambda done, total: wait() if done == 9 else None) if moment == "pictures" else None
store.prepare(raw / "train.csv", raw / "images", raw.parent / "data", side=8, progress=progress)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(raw)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    assert leftovers(raw) == [".data.partial"]
    with pytest.raises(DataError, match="not a prepared data set"):
        PreparedData.open(raw.parent / "data")
    assert len(make(raw)) == ROWS
    assert leftovers(raw) == ["data"]


@pytest.mark.slow
def test_prepare_runs_from_a_script_without_main_guard(raw: Path) -> None:
    script = raw / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom captune.data_prep.store import prepare\n"
        "raw = Path(sys.argv[1])\n"
        "print(len(prepare(raw / 'train.csv', raw / 'images', raw.parent / 'data', side=8)))\n"
    )
    done = subprocess.run([sys.executable, script, raw], capture_output=True, text=True, check=True)
    assert done.stdout == f"{ROWS}\n"


@pytest.mark.parametrize("name", ["manifest.json", "examples.arrow", "pixels.arrow", "vocabulary.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "empty"])
def test_damaged_set_is_refused_not_misread(raw: Path, name: str, damage: str) -> None:
    path = make(raw).path / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        PreparedData.open(path.parent)


@pytest.mark.parametrize("name", ["examples.arrow", "pixels.arrow"])
def test_file_of_the_right_size_with_wrong_bytes_is_refused(raw: Path, name: str) -> None:
    path = make(raw).path / name
    path.write_bytes(b"\xa5" * path.stat().st_size)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        PreparedData.open(path.parent)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 1, "format version 1"),
        ("version", "3", "format version '3'"),
        ("counts", {"train": 3}, "counts"),
        ("counts", {"train": 16, "validation": 4, "test": 4}, "the manifest has"),
        ("label_ids", [1], "label numbers"),
        ("label_ids", [1, 3, "13"], "label_ids"),
        ("label_ids", [3, 1, 13], "rising"),
        ("label_names", ["1", "3", 13], "label_names"),
        ("label_counts", [1, 1, 1], "labels"),
        ("max_tokens", 3, "columns"),
        ("vocabulary_size", 3, "tokens"),
        ("vocabulary_size", 3000, "vocabulary.json"),
        ("fingerprint", "../x", "fingerprint"),
        ("captions", {"stem": 3}, "stem"),
        ("captions", None, "go together"),
        ("rows_read", 24.5, "rows_read"),
        ("extra", 1, "extra"),
        ("files", None, "files"),
        ("sha256", None, "damaged"),
        ("side", 9, "side 9"),
        ("side", None, "other files"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_manifest_that_says_something_else_is_refused(
    raw: Path, key: str, value: object, message: str, version: int
) -> None:
    path = make(raw).path / "manifest.json"
    content = json.loads(path.read_text()) | {"version": version, key: value}
    if version == 2:
        content.pop("sha256")
    elif isinstance(content["sha256"], dict):
        content["sha256"].pop("manifest.json")
        content["sha256"]["manifest.json"] = _sum_of(content)
    path.write_text(json.dumps(content))
    if (version, key) != (2, "sha256"):
        refused(lambda: PreparedData.open(path.parent), str(path.parent), message, error=DataError)


def test_manifest_that_was_edited_is_refused(raw: Path) -> None:
    path = make(raw).path / "manifest.json"
    path.write_text(path.read_text().replace('"rows_read": 24', '"rows_read": 25'))
    refused(lambda: PreparedData.open(path.parent), str(path), "SHA-256 differs", error=DataError)


# What was prepared is verified


def changed(data: PreparedData, name: str, values: pa.Array) -> None:
    """Writes a column anew, and the sums after it: as somebody who makes a set by hand."""
    path = data.path / "examples.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    place = table.schema.get_field_index(name)
    table = table.set_column(place, pa.field(name, values.type), values) if len(values) == len(table) else table[:0]
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_batch(
            table.combine_chunks().to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema)
        )
    manifest = data.manifest
    sums = manifest.sha256 | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest = replace(manifest, files=manifest.files | {path.name: path.stat().st_size}, sha256=sums)
    (data.path / "manifest.json").write_text(manifest.to_json())


def with_one(column: NDArray[Any], value: int) -> pa.Array:
    """The column with one value that is another."""
    rows = column.copy()
    rows.flat[5] = value
    if rows.ndim == 1:
        return pa.array(rows)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def test_sums_are_those_of_the_files_also_where_a_killed_run_was_gone_on_with(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captune.data_prep.pixels, "BATCH_ROWS", 5)

    def interrupt(done: int, total: int) -> None:
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(raw, progress=interrupt)
    read: list[str] = []
    monkeypatch.setattr("captune.data_prep.store.sha256", lambda path: read.append(path.name) or sha256(path))
    data = make(raw)
    assert "pixels.arrow" not in read, "gigabytes are summed while they are written"
    assert data.manifest.sha256.keys() == data.manifest.files.keys()
    for name, expected in data.manifest.sha256.items():
        assert hashlib.sha256((data.path / name).read_bytes()).hexdigest() == expected, name
    assert data.verify() is data


@pytest.mark.parametrize("sums", [True, False])
def test_every_file_that_was_changed_is_found_and_named(raw: Path, sums: bool) -> None:
    data = make(raw)
    manifest = data.path / "manifest.json"
    if not sums:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 2, "sha256": {}}))
    assert len(PreparedData.open(data.path).verify()) == ROWS
    for name in ("examples.arrow", "pixels.arrow", "vocabulary.json"):
        path = data.path / name
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 29)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            if sums:
                refused(lambda: PreparedData.open(data.path).verify(), str(path), error=DataError)
            else:  # what is between the values has no part in the fingerprint
                with contextlib.suppress(DataError):
                    same = PreparedData.open(data.path).verify()
                    assert (same.captions, same.image_ids) == (data.captions, data.image_ids)
                    assert (same.pixels(np.arange(ROWS)) == raw_pixels(raw)).all()
        path.write_bytes(content)


def raw_pixels(raw: Path) -> NDArray[np.uint8]:
    return np.stack([read_image(raw / "images" / f"{place}.png", 8) for place in range(ROWS)])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("labels", 2, "labels"),
        ("labels", 255, "labels"),
        ("tokens", -1, "tokens"),
        ("tokens", 10**9, "tokens"),
        ("split", 3, "splits"),
        ("split", 1, "splits"),
        ("picture", -1, "below 0"),
        ("picture", ROWS, f"picture {ROWS}"),
    ],
)
def test_value_out_of_its_range_is_refused_though_the_sums_are_right(
    raw: Path, column: str, value: int, message: str
) -> None:
    data = make(raw)
    columns = {"labels": data.labels, "tokens": data.tokens, "picture": data.picture_of, "split": data._split}
    changed(data, column, with_one(columns[column], value))
    refused(lambda: PreparedData.open(data.path), str(data.path), message, error=DataError)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("caption", pa.array([None] + ["x"] * (ROWS - 1), pa.string())),
        ("caption", pa.array(range(ROWS))),
        ("picture", pa.array(range(ROWS), pa.int32())),
        ("labels", pa.array([[0, 1]] * ROWS, pa.list_(pa.uint8(), 2))),
        ("labels", pa.array([[0, None, 1]] * ROWS, pa.list_(pa.uint8(), 3))),
        ("labels", pa.array([], pa.list_(pa.uint8(), 3))),
    ],
)
def test_column_of_another_kind_is_refused(raw: Path, column: str, values: pa.Array) -> None:
    data = make(raw)
    changed(data, column, values)
    refused(lambda: PreparedData.open(data.path), "examples.arrow", error=DataError)


def test_set_that_has_changed_is_not_used_again(raw: Path) -> None:
    data = make(raw)
    path = data.path / "pixels.arrow"
    content = bytearray(path.read_bytes())
    content[-100] ^= 8
    path.write_bytes(content)
    refused(lambda: make(raw), str(path), "delete the folder", error=DataError)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"side": 0}, "side"),
        ({"shares": (0.5, 0.5, 0.5)}, "sum to 100"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "workers"),
        ({"per_caption": True}, "per_caption"),
        ({"format": "coco", "known_labels": frozenset({1})}, "known_labels"),
        ({"known_labels": frozenset({1, 3})}, "label 13 is unknown"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    raw: Path, wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        make(raw, **wrong)
    assert message in str(caught.value)
    assert leftovers(raw) == []


def test_folder_without_the_first_picture_may_be_another_one(raw: Path, tmp_path: Path) -> None:
    refused(lambda: prepare(raw / "train.csv", raw, tmp_path / "out", side=8), f"if it is not {raw}; else mend it")
    elsewhere = shutil.copytree(raw / "images", tmp_path / "images")
    lines = (raw / "train.csv").read_text().splitlines()
    (elsewhere / lines[2].partition(",")[0]).unlink()
    with pytest.raises(DataError, match="does not exist; mend it"):
        prepare(raw / "train.csv", elsewhere, tmp_path / "out", side=8)


def test_image_folder_that_is_missing_is_told(raw: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        prepare(raw / "train.csv", raw / "none", raw.parent / "data")


def test_importing_any_module_loads_no_heavy_package() -> None:
    modules = [
        f"captune.data_prep.{path.stem}" for path in Path(captune.data_prep.pixels.__file__).parent.glob("[!_]*.py")
    ]
    heavy = ("pandas", "nltk", "pyarrow", "sklearn", "iterstrat", "keras", "ray")
    code = (
        "import sys, captune.data_prep.records; print('numpy' in sys.modules)\n"
        f"import {', '.join(modules)}; print([name for name in {heavy} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n[]\n"


@pytest.mark.skipif(not REAL.is_dir(), reason="CAPTUNE_TEST_DATA names no folder")
def test_real_photographs_are_prepared_and_opened_in_milliseconds(tmp_path: Path) -> None:
    data = prepare(REAL / "coco-mini/train.csv", REAL / "coco-mini/images", tmp_path / "data", side=64)
    assert sum(data.manifest.counts.values()) == 97
    started = time.perf_counter()
    PreparedData.open(data.path)
    assert time.perf_counter() - started < 0.5


def test_disk_that_fails_ends_the_work_and_is_no_bad_picture(raw: Path) -> None:
    (raw / "images" / "7.png").unlink()
    (raw / "images" / "7.png").symlink_to("/proc/self/mem")  # a file whose first byte nobody can read
    with pytest.raises(MachineError, match=r"7\.png cannot be read: Input/output error"):
        make(raw, on_bad="skip")
    assert not (raw.parent / "data").exists()
    (raw / "images" / "7.png").unlink()
    (raw / "images" / "7.png").write_bytes((raw / "images" / "8.png").read_bytes())
    assert make(raw, on_bad="skip").manifest.rows_skipped == 0


def test_threads_that_cannot_be_started_are_told(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(MachineError, match="threads cannot be started"):
        make(raw, on_bad="skip")


def doubled(raw: Path, count: int) -> None:
    """Each picture under so many further names, the caption of each row its own."""
    rows = (raw / "train.csv").read_text().splitlines(keepends=True)
    for place in range(ROWS):
        data = (raw / "images" / f"{place}.png").read_bytes()
        for copy in range(count):
            (raw / "images" / f"{place}_{copy}.png").write_bytes(data)
            rows.append(f"{place}_{copy}.png,{rows[place + 1].split(',')[1]},caption {place} {copy}\n")
    (raw / "train.csv").write_text("".join(rows))


def torn(data: PreparedData, name_of: Callable[[str], str]) -> set[str]:
    """Names whose rows are in more than one split."""
    splits: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for row in data.rows(split):
            splits.setdefault(name_of(data.image_ids[row]), set()).add(split)
    return {name for name, of in splits.items() if len(of) > 1}


def stem(image_id: str) -> str:
    return image_id.removesuffix(".png").split("_")[0]


def test_rows_that_repeat_a_training_picture_are_counted(raw: Path) -> None:
    assert make(raw, "before").manifest.repeated_pictures == {"validation": 0, "test": 0}
    doubled(raw, 3)
    data = make(raw)
    train = {stem(data.image_ids[row]) for row in data.rows("train")}
    expected = {
        split: sum(stem(data.image_ids[row]) in train for row in data.rows(split)) for split in ("validation", "test")
    }
    assert data.manifest.repeated_pictures == expected
    assert min(expected.values()) > 0


def test_grouped_duplicates_stay_in_one_split(raw: Path) -> None:
    doubled(raw, 3)
    assert torn(make(raw, "apart"), stem)
    data = make(raw, group_duplicates=True)
    assert not torn(data, stem)
    assert data.manifest.repeated_pictures == {"validation": 0, "test": 0}
    assert all(data.manifest.counts.values())
    with pytest.raises(DataError, match="prepared with another split"):
        make(raw)


def test_grouping_changes_nothing_where_nothing_is_repeated(raw: Path) -> None:
    one, other = make(raw, "one"), make(raw, "other", group_duplicates=True)
    assert one.manifest.fingerprint == other.manifest.fingerprint


def test_repeated_captions_are_counted_and_grouped(raw: Path) -> None:
    rows = (raw / "train.csv").read_text().splitlines()
    captions = {f"{place}.png": f"Scene {place // 4}" for place in range(ROWS)}
    lines = [f"{name},{1 + place % 2},{captions[name]}" for place, name in enumerate(captions)]
    (raw / "train.csv").write_text("\n".join([rows[0], *lines]) + "\n")
    assert sum(make(raw, "apart").manifest.repeated_captions.values()) > 0
    for images in (raw / "images", None):
        data = prepare(raw / "train.csv", images, raw.parent / f"data{images is None}", side=8, group_duplicates=True)
        assert not torn(data, captions.__getitem__)
        assert data.manifest.repeated_captions == {"validation": 0, "test": 0}


def test_command_tells_what_is_repeated(raw: Path, captune: Captune) -> None:
    doubled(raw, 3)
    common = ("prepare", raw / "train.csv", raw / "images", "--side", 8, "--out")
    ran = captune(*common, raw.parent / "apart")
    assert ran.code == 0
    notes = [line for line in ran.err.splitlines() if "the same picture as a train row" in line]
    assert len(notes) == 1 and "--group-duplicates" in notes[0]
    assert "the same picture" in captune(*common, raw.parent / "apart").err
    assert "the same picture" not in captune(*common, raw.parent / "together", "--group-duplicates").err
