"""What people type wrong ends with status 2 and one clear line, and leaves nothing behind."""

import csv
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest
from builders import epoch as a_report
from conftest import Captune, Ran, refused

from captune.data_prep.store import PreparedData
from captune.errors import WorkError, without_colours
from captune.model.config import ModelConfig, Storage
from captune.model.flat import replace
from captune.model.presets import PRESETS
from captune.model.size import Budget, Size, show_bytes, size
from captune.results.attributes import epoch_attribute
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.run_folder import RunFolder
from captune.tuner.api.datasets import prepare


def rewrite(raw: Path, line: int, new: str) -> None:
    """Puts `new` in the place of a line (from 1) of train.csv."""
    lines = (raw / "train.csv").read_text().splitlines()
    lines[line - 1] = new
    (raw / "train.csv").write_text("\n".join(lines) + "\n")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


CSV_FAULTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "missing": (lambda raw: (raw / "train.csv").unlink(), ("train.csv", "does not exist")),
    "no column Labels": (lambda raw: rewrite(raw, 1, "ImageID,Caption"), ("line 1", "Labels", "ImageID")),
    "label of words": (lambda raw: rewrite(raw, 3, "scene_00001.jpg,box,a box"), ("line 3", "box")),
    "ImageID that leaves the folder": (lambda raw: rewrite(raw, 3, "../secret.jpg,1,a box"), ("line 3", "..")),
    "not UTF-8": (
        lambda raw: (raw / "train.csv").write_bytes(b"ImageID,Labels,Caption\na.jpg,1,caf\xe9\n"),
        ("UTF-8",),
    ),
    "picture missing": (lambda raw: (raw / "images" / "scene_00004.jpg").unlink(), ("line 6", "scene_00004.jpg")),
    "picture cut short": (
        lambda raw: (raw / "images" / "scene_00004.jpg").write_bytes(
            (raw / "images" / "scene_00004.jpg").read_bytes()[:700]
        ),
        ("line 6", "scene_00004.jpg"),
    ),
    "picture of text": (
        lambda raw: (raw / "images" / "scene_00004.jpg").write_text("<html>404</html>"),
        ("line 6", "scene_00004.jpg", "JPEG"),
    ),
    "picture of no bytes": (
        lambda raw: (raw / "images" / "scene_00004.jpg").write_bytes(b""),
        ("line 6", "scene_00004.jpg", "0 bytes"),
    ),
    "picture of 20000 x 20000": (
        lambda raw: (raw / "images" / "scene_00004.jpg").write_bytes(png_header(20_000, 20_000)),
        ("line 6", "scene_00004.jpg", "too many pixels"),
    ),
}


@pytest.mark.parametrize("name", CSV_FAULTS)
def test_prepare_refuses_bad_input_and_leaves_nothing(captune: Captune, twelve: Path, name: str) -> None:
    spoil, words = CSV_FAULTS[name]
    spoil(twelve)
    before = sorted(twelve.parent.rglob("*"))
    ran = captune("prepare", twelve / "train.csv", twelve / "images", "--out", twelve.parent / "data", "--side", 16)
    refused(ran, *words)
    assert sorted(twelve.parent.rglob("*")) == before


def test_prepare_of_the_same_rows_unspoilt_succeeds(captune: Captune, twelve: Path) -> None:
    out = twelve.parent / "data"
    ran = captune("prepare", twelve / "train.csv", twelve / "images", "--out", out, "--side", 16)
    assert ran.code == 0, ran
    assert "12 of 12 rows" in ran.out
    assert PreparedData.open(out).has_images


SKIPPABLE = {name: fault for name, fault in CSV_FAULTS.items() if any("line" in w and w != "line 1" for w in fault[1])}


@pytest.mark.parametrize("name", SKIPPABLE)
def test_on_bad_skip_drops_lists_and_counts(captune: Captune, twelve: Path, name: str) -> None:
    spoil, words = SKIPPABLE[name]
    spoil(twelve)
    out = twelve.parent / "data"
    ran = captune("prepare", twelve / "train.csv", twelve / "images", "--out", out, "--side", 16, "--on-bad", "skip")
    assert ran.code == 0, ran
    assert "11 of 12 rows" in ran.out
    assert "1 rows skipped" in ran.out
    with (out / "bad_rows.csv").open(newline="") as file:
        (bad,) = csv.DictReader(file)
    line = next(word for word in words if word.startswith("line")).removeprefix("line ")
    assert line in bad.values()
    assert len(PreparedData.open(out)) == 11


def notes(ran: Ran) -> list[str]:
    """What a command that succeeded said beside its results."""
    assert ran.code == 0, ran
    return ran.err.splitlines()


def test_prepare_says_how_many_rows_have_labels_and_captions(captune: Captune, twelve: Path) -> None:
    rewrite(twelve, 3, "scene_00001.jpg,1,")
    rewrite(twelve, 4, 'scene_00002.jpg,1," "')
    ran = captune("prepare", twelve / "train.csv", "--out", twelve.parent / "data")
    assert notes(ran) == []
    assert "labels: 6 on 12 rows; captions: 10 rows, 2 have none" in ran.out.splitlines()
    data = prepare(twelve / "train.csv", out=twelve.parent / "data")
    assert (data.captioned, data.notes) == (10, ())


def test_prepare_notes_what_was_mended_and_columns_that_are_not_captions(captune: Captune, twelve: Path) -> None:
    rewrite(twelve, 3, 'scene_00001.jpg,1,"red" and blue, it says')
    (note,) = notes(captune("prepare", twelve / "train.csv", "--out", twelve.parent / "data"))
    assert note.startswith("note: ") and "3" in note
    rewrite(twelve, 1, "ImageID,Labels,words")
    rewrite(twelve, 3, "scene_00001.jpg,1,red")
    out = twelve.parent / "pictures"
    ran = captune("prepare", twelve / "train.csv", twelve / "images", "--out", out, "--side", 16)
    assert "words" in notes(ran)[0]
    assert "captions: none" in ran.out
    refused(captune("prepare", twelve / "train.csv", "--out", twelve.parent / "none"), "no captions")


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("{}.jpg,{}, ", "empty"),
        ("{0}.jpg,4,words {0}", "same labels, 4"),
        ("{0}.jpg,4 {1},words {0}", "every row has 4"),
    ],
)
def test_data_from_which_nothing_can_be_learned_is_called_so(
    captune: Captune, tmp_path: Path, row: str, word: str
) -> None:
    rows = [row.format(place, place % 3) for place in range(12)]
    (tmp_path / "train.csv").write_text("\n".join(["ImageID,Labels,Caption", *rows]) + "\n")
    (note,) = notes(captune("prepare", tmp_path / "train.csv", "--out", tmp_path / "data"))
    assert word in note
    assert prepare(tmp_path / "train.csv", out=tmp_path / "data").notes == (note.removeprefix("note: "),)


def test_captions_without_a_word_are_told_and_not_searched(captune: Captune, tmp_path: Path) -> None:
    rows = [f"{place}.jpg,{place % 3},it is{'!' * place}" for place in range(1, 40)]
    source, data = tmp_path / "train.csv", tmp_path / "data"
    source.write_text("\n".join(["ImageID,Labels,Caption", *rows]) + "\n")
    (note,) = notes(captune("prepare", source, "--out", data))
    assert "no word stands in the captions" in note
    refused(captune("search", data, "--run", tmp_path / "run", "--trials", "1"), "no caption of the data has a word")
    source.write_text(source.read_text() + "40.jpg,1,a dog\n41.jpg,1,the dog\n42.jpg,2,one dog\n43.jpg,2,dog\n")
    (note,) = notes(captune("prepare", source, "--out", tmp_path / "other"))
    assert "39 of 43 captions have no word" in note


def test_same_pipe_of_other_rows_is_another_source(captune: Captune, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    rows = [f"{place}.jpg,{place % 2},words {place}\n" for place in range(9)]
    for count, code in ((9, 0), (8, 2), (9, 0)):
        text = "".join(["ImageID,Labels,Caption\n", *rows[:count]])
        writer = threading.Thread(target=pipe.write_text, args=(text,))
        writer.start()
        assert captune("prepare", pipe, "--out", tmp_path / "data").code == code
        writer.join()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels", "1-3"], ("line", "unknown")),
        (["--labels", "one"], ("--labels", "one")),
        (["--labels", "3-1"], ("--labels", "3-1")),
        (["--labels", "1,3-2"], ("--labels", "1,3-2")),
        (["--labels", "1-"], ("--labels", "1-")),
        (["--labels", "0-999999999"], ("--labels", "at most 100000")),
        (["--split", "80/20"], ("80/10/10", "80/20")),
        (["--split", "80/10/20"], ("80/10/20",)),
        (["--split", "-10/100/10"], ("-10/100/10",)),
        (["--split", "x"], ("x",)),
        (["--side", "0"], ("side", "0")),
        (["--side", "-4"], ("side", "-4")),
        (["--side", "7"], ("--side", "8 to 1024", "7")),  # no network takes such
        (["--side", "100000"], ("side", "100000")),
        (["--seed", "-1"], ("seed", "-1")),
        (["--format", "x"], ("--format", "'kaggle', 'coco'", "x")),
        (["--on-bad", "x"], ("--on-bad", "'error', 'skip'", "x")),
        (["--max-tokens", "0"], ("0",)),
        (["--vocabulary", "0"], ("0",)),
        (["--min-count", "0"], ("0",)),
        (["--categories", "1"], ("--categories", "coco")),
        (["--per-caption"], ("--per-caption", "coco")),
        (["--format", "coco", "--labels", "1"], ("--labels", "categories")),
        (["--format", "coco"], ("train.csv",)),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_prepare_refuses_a_bad_option(
    captune: Captune, twelve: Path, options: list[str], words: tuple[str, ...]
) -> None:
    out = twelve.parent / "data"
    refused(captune("prepare", twelve / "train.csv", twelve / "images", "--out", out, *options), *words)
    assert not out.exists()


def test_prepare_refuses_a_folder_that_holds_something_else(captune: Captune, twelve: Path) -> None:
    out = twelve.parent / "data"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    refused(captune("prepare", twelve / "train.csv", twelve / "images", "--out", out), "data")
    assert (out / "thesis.txt").read_text() == "mine"
    refused(captune("prepare", twelve / "train.csv", twelve / "images", "--out", out / "thesis.txt"), "thesis.txt")


def test_prepare_again_with_other_settings_is_refused_and_with_the_same_is_free(captune: Captune, twelve: Path) -> None:
    source = ("prepare", twelve / "train.csv", twelve / "images", "--out", twelve.parent / "data")
    assert captune(*source, "--side", 16).code == 0
    assert captune(*source, "--side", 16).code == 0
    refused(captune(*source, "--side", 24), "side")


@pytest.mark.parametrize(("options", "tokens"), [((), [1, 1, 1]), (("--characters",), [3, 2, 4])])
def test_captions_without_blanks_are_told_and_can_be_parted(
    captune: Captune, tmp_path: Path, options: tuple[str, ...], tokens: list[int]
) -> None:
    captions = ["\u5927\u72d7\u8dd1", "\u5c0f\u732b", "\u5927\u72d7\u548c\u732b"]
    rows = [f"{n}.jpg,{1 + n % 2},{captions[n % 3]}\n" for n in range(30)]
    (tmp_path / "train.csv").write_text("ImageID,Labels,Caption\n" + "".join(rows))
    ran = captune("prepare", tmp_path / "train.csv", "--out", tmp_path / "data", *options)
    assert ran.code == 0, ran.err
    assert ("30 of 30 captions" in ran.err and "--characters" in ran.err) != bool(options)
    prepared = PreparedData.open(tmp_path / "data")
    assert prepared.tokens is not None
    assert (prepared.tokens != 0).sum(axis=1)[:3].tolist() == tokens


def test_prepare_refuses_a_missing_picture_folder(captune: Captune, twelve: Path) -> None:
    refused(captune("prepare", twelve / "train.csv", twelve / "nowhere", "--out", twelve.parent / "data"), "nowhere")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "papers"], ("papers", "compact")),
        (["--measure", "file"], ("--measure", "'weights', 'bundle'", "file")),
        (["--storage", "int2"], ("--storage", "'float32', 'float16', 'int8', 'int4'", "int2")),
        (["--storage", ""], ("--storage", "'float32', 'float16', 'int8', 'int4'")),
        (["--objectives", "bytes"], ("--objectives", "mean_f1,bytes", "'bytes'")),
        (["--objectives", "bytes,mean_f1"], ("--objectives", "mean_f1,bytes", "'bytes,mean_f1'")),
        (["--time-limit", "x"], ("--time-limit", "30m", "x")),
        (["--checkpoint-every", "often"], ("--checkpoint-every", "1epoch", "often")),
        (["--min-free", "5"], ("--min-free", "5MiB")),
        (["--keep", "-1"], ("--keep", "-1")),
        (["--modality", "x"], ("--modality", "'both', 'image', 'caption'")),
        (["--config", "none.yaml"], ("none.yaml",)),
        (["--trials", "0"], ("trials", "0")),
        (["--trials", "3", "--cpus-per-trial", "-1"], ("--cpus-per-trial", "-1")),
        (["--trials", "3", "--gpus-per-trial", "inf"], ("--gpus-per-trial", "inf")),
        (["--preset", "captions", "--trials", "3", "--modality", "image"], ("modality", "image")),
        ([], ("--trials",)),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_search_refuses_a_bad_option(
    captune: Captune, data: PreparedData, tmp_path: Path, options: list[str], words: tuple[str, ...]
) -> None:
    refused(captune("search", data.path, "--run", tmp_path / "run", *options), *words)
    assert not (tmp_path / "run").exists()


def test_search_refuses_a_bad_search_yaml_with_its_line(captune: Captune, data: PreparedData, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("trials: 3\nspace:\n  text.units: {low: 9, high: 8}\n")
    ran = captune("search", data.path, "--run", tmp_path / "run", "--config", path)
    refused(ran, f"{path} line 3", "text.units")
    assert not (tmp_path / "run").exists()


def test_search_refuses_a_folder_that_is_no_prepared_set(captune: Captune, drawn: Path, tmp_path: Path) -> None:
    for folder in (drawn, tmp_path / "nowhere", drawn / "train.csv"):
        refused(captune("search", folder, "--run", tmp_path / "run", "--trials", 1), "not a prepared data set")
    assert not (tmp_path / "run").exists()


def test_search_refuses_a_prepared_set_that_is_damaged(captune: Captune, twelve: Path, tmp_path: Path) -> None:
    out = twelve.parent / "data"
    assert captune("prepare", twelve / "train.csv", twelve / "images", "--out", out, "--side", 16).code == 0
    pixels = (out / "pixels.arrow").read_bytes()
    (out / "pixels.arrow").write_bytes(pixels[: len(pixels) // 2])
    refused(captune("search", out, "--run", tmp_path / "run", "--trials", 1), "pixels.arrow")


def test_search_refuses_pictures_too_small_for_its_network(captune: Captune, twelve: Path, tmp_path: Path) -> None:
    out = twelve.parent / "data"
    assert captune("prepare", twelve / "train.csv", twelve / "images", "--out", out, "--side", 8).code == 0
    refused(captune("search", out, "--run", tmp_path / "run", "--preset", "compact", "--trials", 1), "side")
    assert not (tmp_path / "run").exists()


def test_search_refuses_data_without_what_it_reads(
    captune: Captune, captions_data: PreparedData, pictures_data: PreparedData, tmp_path: Path
) -> None:
    search = ("--run", tmp_path / "run", "--trials", 1, "--preset", "compact")
    refused(captune("search", captions_data.path, *search), "no pictures", "--modality caption")
    refused(captune("search", pictures_data.path, *search), "no captions", "--modality image")
    assert not (tmp_path / "run").exists()


def test_prepare_refuses_a_split_without_validation_rows(captune: Captune, twelve: Path) -> None:
    out = twelve.parent / "data"
    refused(captune("prepare", twelve / "train.csv", "--out", out, "--split", "80/0/20"), "validation", "80/0/20")
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda run: run.mkdir(), lambda run: run.write_text("mine")], ids=["folder", "file"])
def test_search_refuses_a_run_that_exists(
    captune: Captune, data: PreparedData, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    run = tmp_path / "run"
    make(run)
    if run.is_dir():
        (run / "run.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    refused(captune("search", data.path, "--run", run, "--trials", 1), "exists", "captune resume")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("options", "trials"), [((), None), (("--trials", 70, "--budget", "1GiB"), 70)])
def test_search_that_may_resume_goes_on_with_a_run_that_is_there_as_it_was_begun(
    captune: Captune,
    data: PreparedData,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[object, ...],
    trials: int | None,
) -> None:
    begun = json.loads((run / "run.json").read_text())["search"]

    def drive(folder: RunFolder, mirror: None, config: Any, *_: object) -> None:
        assert config.model_dump(mode="json") == begun | {"trials": trials or begun["trials"]}
        raise WorkError("driven")

    monkeypatch.setattr("captune.tuner.api.runs.drive", drive)
    ran = captune("search", data.path, "--run", run, *options, "--resume-if-there")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == [f"{run} is there and goes on as it was begun", "error: driven"]


NO_SIZES = {
    # text: what the line says besides it
    "100": "100MiB",
    "100 mb": "100MiB",
    "NaN": "a number and a unit",
    "0MiB": "above 0",
    "2000000000GiB": "below 1 EiB",
}


@pytest.mark.parametrize("text", NO_SIZES)
def test_budget_that_is_no_size_is_refused(captune: Captune, text: str) -> None:
    refused(captune("size", "--budget", text), "--budget", repr(text), NO_SIZES[text])


@pytest.mark.slow
def test_passes_of_an_epoch_over_few_rows_are_told(
    captune: Captune, data: PreparedData, tmp_path: Path, search_yaml: Path
) -> None:
    """4,096 examples an epoch, as the shipped space has it, of 96; one's own space says nothing of it."""
    search = ("search", data.path, "--run", tmp_path / "run", "--trials", 2, "--dry-run")
    told = "epochs     43 passes each over 96 examples, by train.epoch_examples"
    assert told in captune(*search, "--preset", "compact").out.splitlines()
    assert "passes" not in captune(*search, "--config", search_yaml).out


def test_dry_run_tells_what_a_search_would_do_and_makes_nothing(
    captune: Captune, data: PreparedData, search_yaml: Path, tmp_path: Path
) -> None:
    ran = captune("search", data.path, "--run", tmp_path / "run", "--config", search_yaml, "--dry-run")
    assert ran.code == 0, ran
    assert ran.err == ""
    report = dict(line.split(maxsplit=1) for line in ran.out.splitlines() if not line.startswith("runs"))
    assert report["rows"] == "96 to train on, 14 to score on; by chance mean F1 is some 0.07 off"
    assert report["budget"] == "100.00 MiB (104.86 MB) of weights"
    assert report["fits"].startswith("100.0% of ")
    first = [line for line in ran.out.splitlines() if line.startswith("runs")]
    assert [line.split()[1] for line in first] == ["1.", "2.", "3."]
    for line in first:
        assert all(name in line for name in ("image.width", "text.embedding", "train.learning_rate")), line
    assert "image.width 4," in first[0] and first[0].endswith("train.learning_rate 0.006")
    assert list(tmp_path.iterdir()) == []


def smallest_model(data: PreparedData) -> ModelConfig:
    """The least that SEARCH_YAML reaches: its narrowest picture encoder, its shortest word vectors."""
    from captune.tuner.space.space import bind

    fixed = {"image.width": 4, "image.stages": 2, "text.units": 16, "head_units": 16, "text.embedding": 8}
    return bind(replace(PRESETS["compact"], fixed), data.manifest).model


def smallest(data: PreparedData) -> Size:
    from captune.tuner.run.settings import contents_of

    return size(smallest_model(data), contents_of(data))


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["weights", "bundle"])
@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["dry", "for real"])
def test_search_of_a_space_in_which_nothing_fits_is_refused_before_anything_starts(
    captune: Captune, data: PreparedData, search_yaml: Path, tmp_path: Path, measure: str, dry: list[str]
) -> None:
    least = smallest(data)
    count = least.weights_bytes if measure == "weights" else least.bundle_bytes
    search = ("search", data.path, "--run", tmp_path / "run", "--config", search_yaml, "--measure", measure)
    ran = captune(*search, "--budget", f"{count - 1}B", *dry)
    refused(ran, "nothing in the space fits", "smallest configuration", show_bytes(count), "storage: float16")
    refused(captune(*search, "--budget", "1kB", *dry), show_bytes(count), "raise --budget")
    assert list(tmp_path.iterdir()) == []
    ran = captune(*search, "--budget", f"{count}B", "--dry-run")
    assert ran.code == 0, "one byte more, and one configuration fits"
    assert f"smallest {show_bytes(count)}" in ran.out


@pytest.mark.slow
def test_change_that_the_refusal_names_makes_something_fit(
    captune: Captune, data: PreparedData, search_yaml: Path, tmp_path: Path
) -> None:
    search = ("search", data.path, "--run", tmp_path / "run", "--config", search_yaml, "--dry-run")
    tight = ("--budget", f"{smallest(data).weights_bytes - 1}B")
    refused(captune(*search, *tight), "allow storage: float16")
    assert captune(*search, *tight, "--storage", "float16").code == 0


def test_bundle_as_measure_refuses_what_weights_let_pass(
    captune: Captune, data: PreparedData, search_yaml: Path, tmp_path: Path
) -> None:
    search = ("search", data.path, "--run", tmp_path / "run", "--config", search_yaml, "--dry-run")
    between = ("--budget", f"{smallest(data).bundle_bytes - 1}B")
    ran = captune(*search, *between)
    assert ran.code == 0
    assert ran.out.splitlines()[0].endswith("of weights")
    refused(captune(*search, *between, "--measure", "bundle"), "of bundle")


@pytest.mark.slow
def test_storage_of_the_command_line_wins_over_the_space(
    captune: Captune, data: PreparedData, tmp_path: Path, search_yaml: Path
) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(search_yaml.read_text() + "  storage: [float16, float32]\n")
    search = ("search", data.path, "--run", tmp_path / "run", "--config", path, "--dry-run")
    drawn, fixed = captune(*search), captune(*search, "--storage", "int8")
    assert drawn.code == fixed.code == 0, fixed
    assert "storage float" in drawn.out
    assert "storage" not in fixed.out
    report = next(line for line in fixed.out.splitlines() if line.startswith("sizes"))
    least = size(smallest_model(data).model_copy(update={"storage": "int8"}))
    assert f"smallest {show_bytes(least.weights_bytes)}" in report


@pytest.mark.slow
def test_option_never_to_fit_is_named_and_the_preset_that_is_refused(
    captune: Captune, data: PreparedData, tmp_path: Path
) -> None:
    ran = captune(
        *("search", data.path, "--run", tmp_path / "run", "--preset", "full", "--trials", 3),
        *("--budget", "20MiB", "--dry-run"),
    )
    assert ran.code == 0, ran
    never = next(line for line in ran.out.splitlines() if line.startswith("never fits"))
    assert "VGG16" in never and "ConvNeXtTiny" in never
    assert "MobileNetV3Large" not in never
    refusal = next(line for line in ran.out.splitlines() if line.startswith("trial 0"))
    assert "needs" in refusal and "20.00 MiB (20.97 MB)" in refusal
    sizes = [float(line.split()[2]) for line in ran.out.splitlines() if line.startswith("runs")]
    assert len(sizes) == 3 and max(sizes) <= 20, "what is refused does not run"


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["trials", "refit", "resume"])
def test_verb_refuses_a_folder_that_is_no_run(captune: Captune, drawn: Path, tmp_path: Path, verb: str) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", drawn / "train.csv"):
        refused(captune(verb, folder), "no run")


def test_show_and_export_refuse_a_folder_that_is_no_run(captune: Captune, tmp_path: Path) -> None:
    refused(captune("show", tmp_path, 0), "no run")
    refused(captune("export", tmp_path, "--to", tmp_path / "x"), "no run")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(tmp_path: Path, data: PreparedData) -> Path:
    """A run without a search: trial 0 complete, trial 1 stopped, 2 over the budget, 3 failed, 4 waits.

    By its weights trial 0 is smaller than trial 1, by its bundle larger.
    """
    import optuna

    from captune.model.flat import flatten
    from captune.tuner.run.settings import create
    from captune.tuner.space.config import read_search
    from captune.tuner.space.space import bind

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = RunFolder(tmp_path / "run")
    create(folder, read_search(None, preset="compact", default_preset="compact", overrides={"trials": 3}), data)
    study = optuna.create_study(study_name=STUDY_NAME, storage=open_storage(folder), direction="maximize")
    config = flatten(bind(PRESETS["compact"], data.manifest))
    for number, (fate, scores) in enumerate(
        [("complete", [0.5, 0.7]), ("stopped", [0.6]), ("over_budget", []), ("failed", [])]
    ):
        trial = study.ask()
        trial.set_user_attr("config", config | {"train.learning_rate": 1e-3 * (number + 1)})
        weights = 1000 * (number + 1)
        bundle = 9000 - weights
        trial.set_user_attr("size", {"weights_bytes": weights, "bundle_bytes": bundle, "margin_bytes": 3000 - weights})
        trial.set_user_attr("fate", fate)
        for epoch, score in enumerate(scores, 1):
            name, value = epoch_attribute(a_report(epoch, score), epoch)
            trial.set_user_attr(name, value)
        if fate == "complete":
            study.tell(trial, 0.7)
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial({})
    return folder.path


def frontier(captune: Captune, run: Path, *options: str) -> list[int]:
    ran = captune("trials", run, "--frontier", "--format", "json", *options)
    assert ran.code == 0, ran
    return [row["number"] for row in json.loads(ran.out)]


def changed(run: Path, **search: object) -> None:
    """Another setting in run.json."""
    settings = json.loads((run / "run.json").read_text())
    settings["search"] |= search
    (run / "run.json").write_text(json.dumps(settings))


def test_frontier_is_by_the_bytes_that_the_run_was_measured_by(captune: Captune, run: Path) -> None:
    assert frontier(captune, run) == [0]
    changed(run, measure="bundle")
    assert frontier(captune, run) == [1, 0], "smallest first"
    changed(run, budget=7500)
    assert frontier(captune, run) == [1]
    changed(run, budget=6999)
    assert frontier(captune, run) == []


def test_frontier_can_be_sorted_filtered_and_shown_as_any_table(captune: Captune, run: Path) -> None:
    changed(run, measure="bundle")
    assert frontier(captune, run, "--sort", "mean_f1", "--limit", "1") == [0]
    assert frontier(captune, run, "--where", "mean_f1 < 0.65") == [1]
    for form in ("table", "csv", "markdown", "parquet"):
        assert captune("trials", run, "--frontier", "--format", form).code == 0
    shown = captune("trials", run, "--frontier").out
    assert "complete" in shown and "stopped" in shown
    assert "failed" not in shown and "over_budget" not in shown


def test_trials_tell_bytes_and_margin_of_each_and_nothing_of_one_that_waits(captune: Captune, run: Path) -> None:
    columns = "number,fate,weights_bytes,bundle_bytes,margin_bytes"
    ran = captune("trials", run, "--format", "json", "--columns", columns)
    assert [list(row.values()) for row in json.loads(ran.out)] == [
        [0, "complete", 1000, 8000, 2000],
        [1, "stopped", 2000, 7000, 1000],
        [2, "over_budget", 3000, 6000, 0],
        [3, "failed", 4000, 5000, -1000],
        [4, "waiting", None, None, None],
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--format", "x"], ("--format", "parquet", "x")),
        (["--sort", "x"], ("no column x", "mean_f1")),
        (["--columns", "number,x"], ("no column x", "mean_f1")),
        (["--columns", "number,number"], ("number",)),
        (["--where", "mean_f1 >"], ("--where", "mean_f1 >")),
        (["--where", "x > 1"], ("--where", "x")),
        (["--where", ""], ("--where",)),
        (["--where", "mean_f1 + 1"], ("--where",)),
        (["--where", "fate > 1"], ("--where",)),
        (["--where", "@pd.io.common.os.system('true')"], ("--where",)),
        (["--where", "fate.__class__"], ("--where",)),
        (["--format", "json", "--columns", "x"], ("no column x",)),
        (["--format", "csv", "--sort", "x"], ("no column x",)),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_trials_refuses_a_bad_option(captune: Captune, run: Path, options: list[str], words: tuple[str, ...]) -> None:
    refused(captune("trials", run, *options), *words)


def test_trials_refuses_a_limit_of_0(captune: Captune, run: Path) -> None:
    refused(captune("trials", run, "--limit", 0), "--limit", "1 or more", "0")


@pytest.mark.parametrize(("verb", "option"), [("refit", "--seeds"), ("resume", "--trials")])
def test_counts_below_1_are_refused(captune: Captune, run: Path, verb: str, option: str) -> None:
    refused(captune(verb, run, option, -1), option, "1", "-1")


@pytest.mark.parametrize("form", ["table", "csv", "json", "parquet", "markdown"])
def test_trials_prints_every_format(captune: Captune, run: Path, form: str) -> None:
    ran = captune("trials", run, "--format", form)
    assert ran.code == 0, ran
    assert ran.stdout
    assert ran.err == ""


def test_trials_filters_sorts_and_limits(captune: Captune, run: Path) -> None:
    ran = captune("trials", run, "--format", "json", "--sort", "mean_f1", "--where", "mean_f1 > 0", "--limit", 1)
    (only,) = json.loads(ran.out)
    assert (only["number"], only["fate"], only["mean_f1"]) == (0, "complete", 0.7)
    ran = captune("trials", run, "--format", "json", "--where", "`train.learning_rate` > 0.0025", "--columns", "number")
    assert json.loads(ran.out) == [{"number": 2}, {"number": 3}]


def test_trials_where_nothing_matches_is_empty_not_an_error(captune: Captune, run: Path) -> None:
    for form in ("table", "csv", "json", "parquet", "markdown"):
        assert captune("trials", run, "--format", form, "--where", "mean_f1 > 2").code == 0
    assert json.loads(captune("trials", run, "--format", "json", "--where", "mean_f1 > 2").out) == []


@pytest.mark.parametrize("form", ["table", "csv", "json", "parquet", "markdown"])
def test_trials_of_a_search_that_has_just_begun_is_empty_not_an_error(captune: Captune, run: Path, form: str) -> None:
    (run / "study.journal").unlink()
    with RunFolder(run).writing():
        assert captune("trials", run, "--format", form).code == 0
        (run / "study.journal").touch()
        assert captune("trials", run, "--format", form, "--sort", "mean_f1").code == 0
    refused(captune("trials", run, "--format", form), "lacks its trials", "captune resume")


def test_trials_takes_names_as_the_headings_have_them(captune: Captune, run: Path) -> None:
    ran = captune("trials", run, "--sort", "-MiB", "--where", "learning_rate > 1e-3", "--columns", "number,MiB")
    assert [line.split()[0] for line in ran.out.splitlines()[2:5]] == ["3", "2", "1"], ran
    refused(captune("trials", run, "--sort", "learning_rat"), "no column learning_rat", "learning_rate")
    assert "text.vocabulary_size" in captune("trials", run, "--columns", "all").out


def test_trials_watches_in_a_terminal_alone(captune: Captune, run: Path) -> None:
    refused(captune("trials", run, "--watch"), "--watch", "terminal")
    refused(captune("trials", run, "--watch", "--format", "csv"), "--watch", "terminal")


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["by itself", "by Ctrl-C"])
def test_watching_ends_with_the_search_or_quietly_and_leaves_the_table(run: Path, ends: str) -> None:
    """In a terminal of 60 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
    searching = RunFolder(run).writing() if ends == "by Ctrl-C" else nullcontext()
    command = [sys.executable, "-m", "captune", "trials", run, "--watch"]
    with searching, subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True) as process:
        os.close(slave)
        shown, interrupted = "", False
        try:
            while chunk := os.read(master, 4096).decode():
                shown += chunk
                if ends == "by Ctrl-C" and "5 trials" in shown and not interrupted:
                    process.send_signal(signal.SIGINT)
                    interrupted = True
        except OSError:  # the other side has closed
            pass
        assert process.wait(60) == 0, process.stderr
        assert process.stderr is not None and process.stderr.read() == ""
    os.close(master)
    last = shown.replace("\r", "")[shown.replace("\r", "").rindex("number") :]
    assert "* best: trial 0" in without_colours(last) and "5 trials: " in without_colours(last)


def test_show_puts_what_was_searched_first_beside_the_best(captune: Captune, run: Path) -> None:
    out = captune("show", run, 1).out
    searched = out[out.index("searched") : out.index("epoch ", out.index("searched"))]
    assert "image.width" in searched and "best, trial 0" in searched and "num_labels" not in searched
    rate = next(line for line in out.splitlines() if "train.learning_rate" in line)
    assert rate.split() == ["train.learning_rate", "0.002", "0.001"]
    assert "best, trial" not in captune("show", run, 0).out


def test_search_names_size_and_baselines_of_its_best_and_says_when_it_is_no_better(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from captune.results.baselines import COMMONEST, Baseline, Baselines
    from captune.results.records import load_records
    from captune.results.summary import Session, summarise
    from captune.tuner.api.runs import Run
    from captune.tuner.command import search

    folder = RunFolder(run)
    summarise(load_records(folder), Budget(3000, "weights"), Session(2, 10.0)).write(folder.summary)
    for score, told in ((0.4, False), (0.9, True)):
        Baselines(baselines=(Baseline(COMMONEST, "validation", score, score, score, (score,)),)).write(folder.baselines)
        search._tell(Run(str(run)))
        out, err = capsys.readouterr()
        assert "best: trial 0, mean F1 0.7000 on validation, 1,000 bytes of weights\n" in out
        assert f"baselines: commonest label {score:.4f}\n" in out
        assert ("no better than a baseline (commonest label)" in err) == told
    summarise(load_records(folder), Budget(3000, "weights"), Session(2, 10.0, "SIGINT")).write(folder.summary)
    with pytest.raises(SystemExit):
        search._tell(Run(str(run)))
    out, err = capsys.readouterr()
    assert [line for line in (out + err).splitlines() if "captune " in line] == [
        f"interrupted; go on with: captune resume {run}"
    ], "one next step"
    assert "no better" not in err, "of a search that is not done"


def test_show_tells_fate_curve_and_configuration(captune: Captune, run: Path) -> None:
    ran = captune("show", run, 0)
    assert ran.code == 0, ran
    for word in ("complete", "0.7000", "train.learning_rate", "image.backbone"):
        assert word in ran.out
    content = json.loads(captune("show", run, 0, "--json").out)
    assert [epoch["mean_f1"] for epoch in content["curve"]] == [0.5, 0.7]


@pytest.mark.parametrize("number", [0, 2, 3, 4])
def test_show_of_a_trial_with_or_without_scores_is_readable(captune: Captune, run: Path, number: int) -> None:
    assert captune("show", run, number).code == 0
    assert json.loads(captune("show", run, number, "--json").out)["number"] == number


@pytest.mark.parametrize("is_there", [False, True])
def test_refit_that_is_interrupted_says_whether_there_is_a_winner(
    captune: Captune, run: Path, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.api.runs import Run

    def interrupted(self: Run, **_: object) -> None:
        if is_there:
            (run / "winner").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "refit", interrupted)
    ran = captune("refit", run)
    assert ran.code == 130
    said = f"{run}/winner is whole and proved" if is_there else "no winner was written, and the same command trains it"
    assert ran.err.startswith(f"error: interrupted; {said}")


def test_refit_at_an_address_that_is_interrupted_claims_nothing(
    captune: Captune, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.api.runs import Run

    def interrupted(self: Run, **_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "refit", interrupted)
    ran = captune("refit", "s3://bucket/run")
    assert ran.code == 130 and "where s3://bucket/run/winner is there it is whole and proved; else" in ran.err


def test_show_best_is_the_trial_that_refit_would_choose(captune: Captune, run: Path) -> None:
    assert json.loads(captune("show", run, "best", "--json").out)["number"] == 0


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [("--limit", "x", "a whole number"), ("--limit", "1.5", "a whole number"), ("--limit", "", "a whole number")],
)
def test_value_of_another_kind_is_refused_by_its_rule(
    captune: Captune, run: Path, option: str, value: str, rule: str
) -> None:
    refused(captune("trials", run, option, value), f"'{option}': must be {rule}")


@pytest.mark.slow
def test_unknown_trial_is_refused(captune: Captune, run: Path) -> None:
    refused(captune("show", run, 99), "no trial 99")
    for word in ("worst", "1.5", "9" * 500):
        refused(captune("show", run, word), "no trial: give its number, or best")
    refused(captune("refit", run, "--trial", 99), "no trial 99")
    refused(captune("refit", run, "--trial", 2), "trial 2", "over_budget")
    assert not (run / "winner").exists()


@pytest.mark.slow
def test_refit_of_a_run_without_scores_is_refused(captune: Captune, run: Path) -> None:
    (run / "study.journal").unlink()
    refused(captune("refit", run), "no trial")


def test_verb_refuses_a_run_whose_data_is_gone_or_another(
    captune: Captune, run: Path, captions_data: PreparedData
) -> None:
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(settings | {"data": "/nowhere"}))
    refused(captune("refit", run), "/nowhere")
    (run / "run.json").write_text(json.dumps(settings | {"data": str(captions_data.path)}))
    refused(captune("resume", run), "not what the run was searched on")


def test_resume_that_is_refused_leaves_the_run_as_it_was(
    captune: Captune, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captune.tuner.ray_tune import search
    from captune.tuner.space.yaml_file import ConfigError

    def check(*_: object) -> None:
        raise ConfigError("the space is not what it was")

    monkeypatch.setattr(search, "check", check)
    before = (run / "run.json").read_bytes()
    refused(captune("resume", run, "--trials", 77), "not what it was")
    assert (run / "run.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"search": 3}', '{"search": {}}', "\xff"])
def test_damaged_run_json_is_told_in_one_line(captune: Captune, run: Path, content: str) -> None:
    (run / "run.json").write_bytes(content.encode("latin-1"))
    refused(captune("refit", run), "run.json")
    refused(captune("refit", run, "--address", "127.0.0.1:1"), "run.json")
    refused(captune("resume", run), "run.json")
    refused(captune("trials", run, "--frontier"), "run.json")


def test_damaged_journal_is_told_in_one_line(captune: Captune, run: Path) -> None:
    lines = (run / "study.journal").read_bytes().splitlines(keepends=True)
    (run / "study.journal").write_bytes(b"".join([lines[0], b"not JSON\n", *lines[1:]]))
    refused(captune("trials", run), "study.journal")


def test_export_refuses_before_refit_and_unknown_formats(captune: Captune, run: Path, tmp_path: Path) -> None:
    refused(captune("export", run, "--to", tmp_path / "x", "--format", "pickle"), "--format", "keras", "pickle")
    refused(captune("export", run, "--to", tmp_path / "x", "--storage", "int2"), "--storage", "float16", "int2")
    for storage in get_args(Storage)[1:]:
        ran = captune("export", run, "--to", tmp_path / "x.keras", "--format", "keras", "--storage", storage)
        refused(ran, "--storage", "float32", f"format bundle for {storage}")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "none.yaml"], ("none.yaml",)),
        (["--config", "none.yaml", "--preset", "paper"], ("--preset", "--config")),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else None,
)
def test_size_refuses_a_bad_option(captune: Captune, options: list[str], words: tuple[str, ...]) -> None:
    refused(captune("size", *options), *words)


def test_size_json_has_the_keys_that_users_build_on(captune: Captune) -> None:
    ran = captune("size", "--preset", "paper", "--json")
    content = json.loads(ran.out)
    assert ran.code == 0
    assert content["parameters"] == content["trainable"] + content["frozen"] == 26_169_282
    assert content["weights_bytes"] == 4 * content["parameters"]
    assert content["bundle_bytes"] > content["weights_bytes"]
    assert (content["storage"], content["budget_bytes"], content["fits"]) == ("float32", 100 * 2**20, True)


@pytest.mark.parametrize("measure", ["weights", "bundle"])
def test_published_network_fits_100_mib_by_its_weights_and_by_its_bundle(captune: Captune, measure: str) -> None:
    ran = captune("size", "--preset", "paper", "--budget", "100MiB", "--measure", measure)
    assert ran.code == 0
    assert ran.err == ""
    assert f"100.00 MiB (104.86 MB) of {measure}: fits" in ran.out


def test_published_network_does_not_fit_100_mb_and_the_one_line_says_what_would(captune: Captune) -> None:
    ran = captune("size", "--preset", "paper", "--budget", "100MB")
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    for words in (
        "99.83 MiB (104.68 MB)",
        "95.37 MiB (100.00 MB)",
        "4.46 MiB (4.68 MB)",
        "would fit: storage: float16",
    ):
        assert words in line, line
    assert "weights        99.83 MiB" in ran.out, "the numbers are still printed"
    assert "does not fit" in ran.out


def test_size_over_the_budget_gives_programs_the_margin_and_what_would_fit(captune: Captune) -> None:
    ran = captune("size", "--preset", "paper", "--budget", "100MB", "--json")
    content = json.loads(ran.out)
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert (content["fits"], content["margin_bytes"]) == (False, 10**8 - 104_677_128)
    assert content["would_fit"][0] == "storage: float16"
    of_bundle = json.loads(captune("size", "--preset", "paper", "--measure", "bundle", "--json").out)
    assert of_bundle["margin_bytes"] == 100 * 2**20 - of_bundle["bundle_bytes"]
    assert (of_bundle["measure"], of_bundle["fits"], of_bundle["would_fit"]) == ("bundle", True, [])


@pytest.mark.parametrize("measure", ["weights", "bundle"])
def test_each_change_that_would_fit_does_and_one_step_less_does_not(
    captune: Captune, tmp_path: Path, measure: str
) -> None:
    budget = ("--budget", "100MB", "--measure", measure)
    changes = json.loads(captune("size", "--preset", "paper", *budget, "--json").out)["would_fit"]
    assert {"storage", "image.backbone", "text.embedding"} <= {change.partition(":")[0] for change in changes}
    config = tmp_path / "trial.yaml"
    for change in changes:
        name, _, value = change.removesuffix(" or less").partition(": ")
        weights = "image.weights: none\n" if name == "image.backbone" else ""
        config.write_text(f"preset: paper\n{weights}{name}: {value}\n")
        assert captune("size", "--config", config, *budget).code == 0, change
        if change.endswith("or less"):
            config.write_text(f"preset: paper\n{name}: {int(value) + 1}\n")
            assert captune("size", "--config", config, *budget).code == 1, change


@pytest.mark.parametrize(("storage", "matrix_bytes"), [("float32", 4), ("float16", 2), ("int8", 1), ("int4", 0.54)])
def test_size_counts_the_storage_that_is_asked_for(captune: Captune, storage: str, matrix_bytes: float) -> None:
    content = json.loads(captune("size", "--preset", "paper", "--storage", storage, "--json").out)
    assert content["storage"] == storage
    share = content["weights_bytes"] / (matrix_bytes * content["parameters"])
    assert 1 <= share < 1.03, "vectors stay float32, and are few"
    assert sum(content["parts"].values()) == content["weights_bytes"]


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=pytest.mark.slow if name == "full" else ()) for name in PRESETS]
)
def test_space_prints_a_search_yaml_that_search_takes_for_the_preset_itself(
    captune: Captune, data: PreparedData, tmp_path: Path, preset: str
) -> None:
    def report(*options: object) -> list[str]:
        ran = captune("search", data.path, "--run", tmp_path / "run", *options, "--trials", 1, "--dry-run")
        assert ran.code == 0, ran
        return [line for line in ran.out.splitlines() if not line.startswith("disk")]  # how much is free changes

    printed = captune("space", "--preset", preset)
    assert printed.code == 0
    (tmp_path / "search.yaml").write_text(printed.out)
    assert report("--config", tmp_path / "search.yaml") == report("--preset", preset)


def test_space_of_an_unknown_preset_is_refused(captune: Captune) -> None:
    refused(captune("space", "--preset", "papers"), "papers")


def test_demo_refuses_a_folder_that_holds_something(captune: Captune, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused(captune("demo", "--out", tmp_path), "exists")
    refused(captune("demo", "--out", tmp_path / "thesis.txt"), "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "line", ["serch", "prepare", "search x", "trials", "trials x --bogus", "prepare x --out y --side big"]
)
def test_wrong_usage_ends_in_one_line_that_names_the_help(captune: Captune, line: str) -> None:
    refused(captune(*line.split()), "captune", "--help")


def test_a_bug_keeps_its_traceback(captune: Captune, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_run: RunFolder) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("captune.results.records.load_records", broken)
    ran = captune("trials", run)
    assert ran.code == 1
    assert "Traceback" in ran.err


def test_weights_that_are_nowhere_are_told_before_a_search_starts(
    captune: Captune, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTUNE_WEIGHTS", str(tmp_path / "weights"))
    ran = captune("search", data.path, "--run", tmp_path / "run", "--preset", "photos", "--trials", 1)
    refused(ran, "EfficientNetLite2.safetensors", str(tmp_path / "weights"), "captune weights convert")
    assert not (tmp_path / "run").exists()
