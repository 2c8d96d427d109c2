"""A bundle on rows that come as files: the answers of the network itself, in the order of the rows."""

import csv
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders import limited, refused
from PIL import Image

from captune.data_prep.images import ImageError
from captune.data_prep.labels import Labels
from captune.data_prep.records import DataError, OnBad
from captune.data_prep.store import PreparedData
from captune.errors import ArgumentError, WorkError
from captune.model.config import TrialConfig
from captune.model.flat import replace
from captune.model.metrics import METRICS, expected_calibration_error
from captune.model.presets import PRESETS
from captune.model.rule import DecisionRule
from captune.tuner.space.space import bind

pytestmark = pytest.mark.slow

TINY = {
    "image.width": 4,
    "image.stages": 1,
    "image.head": "pooled",
    "fusion": "gated",  # which needs both
    "text.units": 8,
    "text.embedding": 8,
    "text.vocabulary_size": 40,
    "text.max_tokens": 5,
    "head_units": 8,
}


def untrained(data: PreparedData, config: TrialConfig, threshold: float = 0.5) -> Any:
    """A bundle with the weights it was born with: its answers need not be good, only the same everywhere."""
    import keras

    from captune.data_prep.captions import Vocabulary
    from captune.model.bundle import Bundle
    from captune.model.classifier import build

    keras.utils.set_random_seed(0)
    model = bind(config, data.manifest).model
    vocabulary = None
    if model.text is not None and data.vocabulary is not None:
        words = data.vocabulary.words[: model.text.vocabulary_size - 2]
        vocabulary = Vocabulary(words, data.vocabulary.settings).to_json()
    ids, names = data.manifest.label_ids, data.manifest.label_names
    return Bundle(build(model), model, DecisionRule(threshold), ids, names, vocabulary)


@pytest.fixture(scope="module")
def bundle(data: PreparedData) -> Any:
    return untrained(data, replace(PRESETS["compact"], TINY))


@pytest.fixture(scope="module")
def captions_bundle(captions_data: PreparedData) -> Any:
    return untrained(captions_data, PRESETS["captions"])


def table(path: Path, rows: list[str]) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def read_rows(bundle: Any, source: Path, images: Path | None, *, need_labels: bool) -> Any:
    """All rows of a CSV at once."""
    from captune.tuner.winner.rows import open_rows

    file = open_rows(bundle, source, images, need_labels=need_labels)
    file.check()
    (rows,) = file.chunks(None)
    return rows


def test_rows_from_files_get_the_answers_that_the_prepared_set_gets(
    bundle: Any, data: PreparedData, drawn: Path
) -> None:
    import captune.tuner.winner.predict as inference

    counts: list[tuple[int, int]] = []
    rows, found = inference.probabilities_of_rows(
        bundle,
        read_rows(bundle, drawn / "train.csv", drawn / "images", need_labels=True),
        lambda done, total: counts.append((done, total)),
        batch=50,  # 120 rows: two batches and a rest
    )
    assert len(rows.pictures) == 120
    assert counts == [(0, 120), (50, 120), (100, 120)]
    assert found.shape == (120, 6)
    assert len(np.unique(found, axis=0)) > 100, "an answer that ignores its row shows nothing"
    for split in ("train", "validation", "test"):
        expected = inference.probabilities_of_split(bundle, data, split)
        np.testing.assert_allclose(found[data.rows(split)], expected, atol=1e-6)


def test_answers_are_those_that_training_sees(bundle: Any, data: PreparedData) -> None:
    from captune.model.training import predict
    from captune.tuner.training.trial import batches
    from captune.tuner.winner.predict import probabilities_of_split

    rows = data.rows("validation")
    during = predict(bundle.network, batches(data, rows, bundle.config, 7))
    np.testing.assert_allclose(probabilities_of_split(bundle, data, "validation"), during, atol=1e-6)


def examples(bundle: Any, drawn: Path) -> tuple[list[str], list[Path]]:
    """Captions and pictures of the drawn rows."""
    rows = read_rows(bundle, drawn / "train.csv", drawn / "images", need_labels=True)
    return [example.caption for example in rows.records.examples], list(rows.pictures)


def test_one_row_alone_gets_the_answer_that_it_gets_among_others(bundle: Any, drawn: Path) -> None:
    from captune.tuner.winner.predict import probabilities

    captions, pictures = examples(bundle, drawn)
    one = probabilities(bundle, captions[8:9], pictures[8:9])
    np.testing.assert_allclose(one[0], probabilities(bundle, captions, pictures)[8], atol=1e-6)


def test_picture_gets_the_same_answer_as_a_file_an_image_and_an_array(bundle: Any, drawn: Path) -> None:
    from captune.tuner.winner.predict import labels, probabilities

    captions, pictures = (each[:4] for each in examples(bundle, drawn))
    images = [Image.open(path) for path in pictures]
    arrays = [np.asarray(image.convert("RGB")) for image in images]
    expected = probabilities(bundle, captions, pictures)
    for same in ([str(path) for path in pictures], images, arrays, [pictures[0], *arrays[1:]]):
        # A file is decoded smaller where that is enough, so its pixels differ a little.
        np.testing.assert_allclose(probabilities(bundle, captions, same), expected, atol=0.05)
    np.testing.assert_allclose(probabilities(bundle, captions, images), probabilities(bundle, captions, arrays))
    decided = labels(bundle, expected)
    assert [len(ids) > 0 and set(ids) <= set(bundle.label_ids) for ids in decided] == [True] * 4


def test_columns_and_arrays_are_as_good_as_lists(bundle: Any, drawn: Path) -> None:
    from captune.tuner.winner.predict import probabilities

    captions, pictures = (each[:3] for each in examples(bundle, drawn))
    expected = probabilities(bundle, captions, pictures)
    files = [str(path) for path in pictures]
    columns = pd.DataFrame({"caption": captions, "file": files}, index=[7, 0, 1])
    for both in (
        (columns.caption, columns.file),
        (np.array(captions), np.array(files)),
        (tuple(captions), iter(files)),
    ):
        np.testing.assert_array_equal(probabilities(bundle, *both), expected)
    assert probabilities(bundle, columns.caption[:0], np.array(files[:0])).shape == (0, 6)


def test_no_examples_have_no_probabilities(bundle: Any) -> None:
    from captune.tuner.winner.predict import labels, probabilities

    assert probabilities(bundle, [], []).shape == (0, 6) and labels(bundle, probabilities(bundle, [], [])) == []


@pytest.mark.parametrize(
    ("captions", "images", "words"),
    [
        (None, ["x.jpg"], ("reads captions",)),
        (["a box"], None, ("reads pictures",)),
        (["a box"], ["x.jpg", "y.jpg"], ("1 captions and 2 images",)),
        ("a box", ["x.jpg"], ("captions: a list", "got str", "in [ ]")),
        (["a box"], "x.jpg", ("images: a list", "got str")),
        (["a box"], Path("x.jpg"), ("images: a list", "Path")),
        (pd.DataFrame({"caption": ["a box"]}), ["x.jpg"], ("captions: a list or a column", "got DataFrame")),
        (["a box"], pd.DataFrame({"file": ["x.jpg"]}), ("images: a list or a column", "got DataFrame")),
        ({"a box": 1}, ["x.jpg"], ("captions: a list", "got dict")),
        ({"a box"}, ["x.jpg"], ("captions: a list", "got set")),
        (3, ["x.jpg"], ("captions: a list", "got int")),
        (np.array("a box"), ["x.jpg"], ("captions: a list", "got ndarray")),
        (["a box", float("nan")], ["x.jpg", "y.jpg"], ("captions[1]", "nan")),
        (["a box"], ["nowhere.jpg"], ("nowhere.jpg", "does not exist")),
        (["a box"], [np.zeros((8, 8), np.uint8)], ("(height, width, 3) uint8", "(8, 8)")),
        (["a box"], [np.zeros((8, 8, 3), np.float32)], ("(height, width, 3) uint8", "float32")),
        (["a box"], [np.zeros((0, 8, 3), np.uint8)], ("(height, width, 3) uint8",)),
        (["a box"], [5], ("(height, width, 3) uint8", "int")),
    ],
)
def test_examples_that_the_bundle_cannot_read_are_refused(
    bundle: Any, captions: Any, images: Any, words: tuple[str, ...]
) -> None:
    from captune.tuner.winner.predict import probabilities

    refused(lambda: probabilities(bundle, captions, images), *words, error=DataError)


@pytest.mark.parametrize(("said", "begun"), [(None, [0]), (40, [0]), (20, [0, 20])])
def test_rows_go_through_the_network_by_as_many_as_were_said(
    bundle: Any, drawn: Path, tmp_path: Path, said: int | None, begun: list[int]
) -> None:
    from captune.tuner.winner.predict import probabilities_of_rows

    picture = next((drawn / "images").iterdir()).name
    rows = table(tmp_path / "rows.csv", ["ImageID,Caption", *[f"{picture},a red ball"] * 40])
    told: list[tuple[int, int]] = []
    read = read_rows(bundle, rows, drawn / "images", need_labels=False)
    probabilities_of_rows(bundle, read, lambda *step: told.append(step), said)
    assert told == [(start, 40) for start in begun]


@pytest.fixture(scope="module")
def summed_bundle(data: PreparedData) -> Any:
    return untrained(data, replace(PRESETS["compact"], {**TINY, "fusion": "summed", "image.head": "positions"}))


def test_where_logits_are_summed_the_picture_answers_without_a_caption_and_the_caption_without_a_picture(
    summed_bundle: Any, drawn: Path
) -> None:
    from captune.tuner.winner.predict import probabilities

    captions, pictures = (part[:4] for part in examples(summed_bundle, drawn))
    of_picture, of_caption = (
        probabilities(summed_bundle, captions, None),
        probabilities(summed_bundle, None, pictures),
    )
    both = probabilities(summed_bundle, captions, pictures)
    assert of_picture.shape == of_caption.shape == both.shape == (4, 6)
    assert np.abs(of_picture - both).max() > 1e-3 < np.abs(of_caption - both).max()
    # A caption without a word is none.
    np.testing.assert_allclose(probabilities(summed_bundle, [""] * 4, pictures), of_caption, atol=1e-6)
    with pytest.raises(DataError, match="give captions"):
        probabilities(summed_bundle, None, None)


def test_file_without_captions_or_without_pictures_is_answered_and_told_where_logits_are_summed(
    summed_bundle: Any, drawn: Path, tmp_path: Path
) -> None:
    from captune.tuner.winner.predict import probabilities, probabilities_of_rows
    from captune.tuner.winner.rows import open_rows

    captions, pictures = examples(summed_bundle, drawn)
    _, answers = probabilities_of_rows(
        summed_bundle, read_rows(summed_bundle, drawn / "train.csv", None, need_labels=True)
    )
    assert open_rows(summed_bundle, drawn / "train.csv", None, need_labels=True).notes == (
        "no folder of pictures, so captions answer alone",
    )
    np.testing.assert_allclose(answers, probabilities(summed_bundle, captions, None), atol=1e-6)
    bare = table(tmp_path / "bare.csv", ["ImageID", *(path.name for path in pictures)])
    _, answers = probabilities_of_rows(
        summed_bundle, read_rows(summed_bundle, bare, drawn / "images", need_labels=False)
    )
    assert open_rows(summed_bundle, bare, drawn / "images", need_labels=False).notes == (
        "no column Caption, so pictures answer alone",
    )
    np.testing.assert_allclose(answers, probabilities(summed_bundle, None, pictures), atol=1e-6)
    with pytest.raises(DataError, match=r"name their folder|add it"):
        read_rows(summed_bundle, bare, None, need_labels=False)


def submit(
    bundle: Any, source: Path, out: Path, images: Path | None = None, on_bad: OnBad = "error", batch: int | None = None
) -> list[list[str]]:
    """What `captune predict` writes for a CSV, row by row."""
    from captune.tuner.api.classifier import Classifier

    count = Classifier(Path("bundle"), bundle).predict_file(source, images, out=out, on_bad=on_bad, batch=batch)
    with out.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["ImageID", "Labels"] and len(rows) == count
    return rows


def test_full_disk_is_failed_work(captions_bundle: Any, tmp_path: Path) -> None:
    from captune.tuner.winner.submission import SubmissionForm, submission

    for out in (tmp_path / "out.csv", tmp_path / "out.parquet"):

        def write(out: Path = out) -> None:
            with submission(captions_bundle, out, SubmissionForm()) as add:
                add(["a.jpg"], np.zeros((1, 6), np.float32))

        with limited(resource.RLIMIT_FSIZE, 10):
            refused(write, f"{out} cannot be written: File too large", error=WorkError)
    assert not list(tmp_path.iterdir())


def test_file_beside_a_submission_and_one_in_its_place_stay_as_they_are(captions_bundle: Any, tmp_path: Path) -> None:
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", "a.jpg,a box"])
    (tmp_path / "out.csv.tmp").write_text("mine")
    submit(captions_bundle, source, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    refused(lambda: submit(captions_bundle, source, tmp_path / "out.csv"), "out.csv", error=DataError)
    assert (tmp_path / "out.csv.tmp").read_text() == "mine" and (tmp_path / "out.csv").read_bytes() == before


def test_submission_has_a_label_for_every_row_in_order_also_without_any_words(
    captions_bundle: Any, tmp_path: Path
) -> None:
    from dataclasses import replace as changed

    strict = changed(captions_bundle, rule=DecisionRule(1.0))
    names = ["b.jpg", "a.jpg", "c.jpg", "d.jpg"]
    captions = ["a red box", "", "zzz qqq", "box " * 300]
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", *map(",".join, zip(names, captions, strict=True))])
    rows = submit(strict, source, tmp_path / "out.csv")
    assert [row[0] for row in rows] == names
    assert all(row[1] in {"1", "2", "3", "5", "6", "8"} for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.csv"]


def test_low_threshold_gives_every_label_by_its_number(captions_bundle: Any, tmp_path: Path) -> None:
    from dataclasses import replace as changed

    lax = changed(captions_bundle, rule=DecisionRule(0.0))
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", "a.jpg,a box"])
    assert submit(lax, source, tmp_path / "out.csv") == [["a.jpg", "1 2 3 5 6 8"]]


def test_probabilities_are_calibrated_beside_the_labels_that_the_rule_makes_of_them(
    captions_bundle: Any, tmp_path: Path
) -> None:
    from dataclasses import replace as changed

    from captune.tuner.api.classifier import Classifier

    captions = ["a red box", "two stars", ""]
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", *(f"{n}.jpg,{text}" for n, text in enumerate(captions))])
    own = Classifier(tmp_path, changed(captions_bundle, rule=DecisionRule(0.5)))
    classifier = Classifier(tmp_path, changed(captions_bundle, rule=DecisionRule(0.97, "relative", 2.0, -1.0)))
    calibrated = classifier.probabilities(captions)
    assert calibrated == pytest.approx(
        DecisionRule(0.97, "relative", 2.0, -1.0).calibrated(own.probabilities(captions))
    )
    assert np.abs(calibrated - own.probabilities(captions)).min() > 0.01
    assert classifier.predict_file(source, out=tmp_path / "out.csv", probabilities=True) == 3
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["ImageID", "Labels", "1", "2", "3", "5", "6", "8"]
    assert np.array([row[2:] for row in rows], float) == pytest.approx(calibrated, rel=1e-5)
    for row, labels, p in zip(rows, classifier.predict(captions), calibrated, strict=True):
        assert row[1] == " ".join(map(str, labels))
        assert set(labels) == {label for label, q in zip(classifier.labels, p, strict=True) if q >= 0.97 * p.max()}
    assert submit(classifier.bundle, source, tmp_path / "labels.csv") == [row[:2] for row in rows]


@pytest.mark.parametrize("labels", ["", "?", "nan", "1.0", "-3", "99", "[1; 2]", "unknown yet", '"1,2"'])
def test_prediction_looks_at_no_labels_and_an_image_may_stand_in_several_rows(
    captions_bundle: Any, tmp_path: Path, labels: str
) -> None:
    names = ["a.jpg", "b.jpg", "a.jpg"]
    bare = table(tmp_path / "bare.csv", ["ImageID,Caption", *(f"{name},a red box" for name in names)])
    full = table(tmp_path / "full.csv", ["ImageID,Labels,Caption", *(f"{name},{labels},a red box" for name in names)])
    rows = submit(captions_bundle, full, tmp_path / "out.csv")
    assert [row[0] for row in rows] == names
    assert rows == submit(captions_bundle, bare, tmp_path / "bare-out.csv")


def test_rows_that_are_no_csv_and_were_mended_are_told_with_their_lines(
    captions_bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", "a.jpg,a box", 'b.jpg,"red" box, here', "c.jpg,a box"])
    assert len(submit(captions_bundle, source, tmp_path / "out.csv")) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "rows.csv" in line and "lines 3" in line


def test_evaluate_agrees_with_a_plain_computation(captions_bundle: Any, drawn: Path) -> None:
    from captune.tuner.api.classifier import Classifier
    from captune.tuner.winner.predict import probabilities

    scores = Classifier(Path("bundle"), captions_bundle).evaluate(drawn / "train.csv")
    records = read_rows(captions_bundle, drawn / "train.csv", None, need_labels=True).records
    answers = probabilities(captions_bundle, [example.caption for example in records.examples], None)
    given = captions_bundle.rule.decide(answers)
    f1 = []
    for example, row in zip(records.examples, given, strict=True):
        said = {label for label, on in zip(captions_bundle.label_ids, row, strict=True) if on}
        f1.append(2 * len(said & set(example.labels)) / (len(said) + len(example.labels)))
    assert scores["mean_f1"] == pytest.approx(np.mean(f1))
    truth = Labels(captions_bundle.label_ids, captions_bundle.label_names).multi_hot(
        [e.labels for e in records.examples]
    )
    counts = truth.sum(axis=0)
    constant = [2 * row[counts.argmax()] / (1 + row.sum()) for row in truth]
    assert scores["commonest_label"] == pytest.approx(np.mean(constant))
    assert scores["ece"] == pytest.approx(expected_calibration_error(truth, captions_bundle.rule.calibrated(answers)))
    assert scores["examples"] == 120
    assert list(scores) == [*METRICS, "per_label", "examples", "low", "high", "rows_per_label", "commonest_label"]
    assert scores["low"] < scores["mean_f1"] < scores["high"] < scores["low"] + 0.2
    assert list(scores["rows_per_label"].values()) == counts.tolist()
    assert list(scores["per_label"]) == ["1", "2", "3", "5", "6", "8"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["ImageID,Labels", "a.jpg,1"], "no column Caption"),
        (["ImageID,Labels,Caption", "a.jpg,4,box"], "label 4 is unknown"),
        (["ImageID,Labels,Caption", "a.jpg,,box"], "no label"),
        (["ImageID,Caption", "a.jpg,box"], "Labels"),
        (["ImageID,Labels,Caption"], "no usable row"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(
    captions_bundle: Any, tmp_path: Path, rows: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read_rows(captions_bundle, table(tmp_path / "rows.csv", rows), None, need_labels=True)


def test_bundle_that_reads_pictures_asks_for_their_folder(bundle: Any, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder"):
        read_rows(bundle, drawn / "train.csv", None, need_labels=False)
    with pytest.raises(DataError, match="nowhere"):
        read_rows(bundle, drawn / "train.csv", tmp_path / "nowhere", need_labels=False)


SPOILT: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "of no bytes": lambda path: path.write_bytes(b""),
    "of text": lambda path: path.write_text("<html>404</html>"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:700]),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("row", [0, 7])
def test_picture_that_cannot_be_used_is_told_with_its_line_and_nothing_is_written(
    bundle: Any, twelve: Path, spoil: Callable[[Path], object], row: int
) -> None:
    spoil(twelve / "images" / f"scene_{row:05}.jpg")
    refused(
        lambda: submit(bundle, twelve / "train.csv", twelve / "out.csv", twelve / "images", batch=5),
        "train.csv",
        f"line {row + 2}:",
        f"scene_{row:05}.jpg",
        "--on-bad skip",
        error=DataError,
    )
    assert sorted(path.name for path in twelve.iterdir()) == ["images", "train.csv"]


def test_rows_that_cannot_be_used_are_left_out_and_listed_and_the_others_get_their_own_labels(
    bundle: Any, twelve: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = submit(bundle, twelve / "train.csv", twelve / "whole.csv", twelve / "images", batch=5)
    with (twelve / "train.csv").open("a") as file:
        file.write("../secret.jpg,1,a box\nscene_00001.jpg,1,\n")
    for row, spoil in zip((0, 3, 4, 6, 9, 11), SPOILT.values(), strict=True):
        spoil(twelve / "images" / f"scene_{row:05}.jpg")
    capsys.readouterr()
    rows = submit(bundle, twelve / "train.csv", twelve / "out.csv", twelve / "images", on_bad="skip", batch=5)
    assert rows[:-1] == [whole[row] for row in (1, 2, 5, 7, 8, 10)] and rows[-1][0] == "scene_00001.jpg"
    *lines, total = capsys.readouterr().err.splitlines()
    assert [int(line.split(", line ")[1].split()[0]) for line in lines] == [2, 5, 6, 8, 11, 13, 14]
    assert "7 of 14 rows" in total


def test_scores_of_rows_left_out_are_those_of_a_file_without_them(bundle: Any, twelve: Path) -> None:
    from captune.tuner.api.classifier import Classifier

    classifier = Classifier(Path("bundle"), bundle)
    header, *rows = (twelve / "train.csv").read_text().splitlines()
    image, _, caption = rows[2].split(",", 2)
    unknown = ",".join([image, "1 77", caption])
    table(twelve / "good.csv", [header, *rows[:2], *rows[4:9], *rows[10:]])
    table(twelve / "bad.csv", [header, *rows[:2], unknown, *rows[3:], rows[0]])
    SPOILT["missing"](twelve / "images" / "scene_00003.jpg")
    SPOILT["cut short"](twelve / "images" / "scene_00009.jpg")
    scores = classifier.evaluate(twelve / "bad.csv", twelve / "images", on_bad="skip")
    skipped = scores.pop("skipped")
    assert [(row["line"], row["image_id"]) for row in skipped] == [
        (4, "scene_00002.jpg"),
        (5, "scene_00003.jpg"),
        (11, "scene_00009.jpg"),
        (14, "scene_00000.jpg"),
    ]
    assert "77" in skipped[0]["reason"]
    assert scores == classifier.evaluate(twelve / "good.csv", twelve / "images")
    refused(lambda: classifier.evaluate(twelve / "bad.csv", twelve / "images"), "line 4", "77", error=DataError)


@pytest.mark.parametrize("kind", ["missing", "cut short"])
def test_file_without_one_usable_picture_is_refused(bundle: Any, twelve: Path, kind: str) -> None:
    for picture in (twelve / "images").iterdir():
        SPOILT[kind](picture)
    refused(
        lambda: submit(bundle, twelve / "train.csv", twelve / "out.csv", twelve / "images", on_bad="skip"),
        "no usable row",
        "line 2",
        "scene_00000.jpg",
        error=DataError,
    )


def test_picture_of_a_list_is_told_with_its_place(bundle: Any, drawn: Path) -> None:
    from captune.tuner.winner.predict import probabilities

    captions, pictures = (each[:5] for each in examples(bundle, drawn))
    refused(
        lambda: probabilities(bundle, captions, [*pictures[:3], Path("nowhere.jpg"), pictures[4]]),
        "images[3]",
        "nowhere.jpg",
        error=ImageError,
    )


def test_place_where_no_file_can_be_made_is_refused_before_anything_is_read(
    captions_bundle: Any, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("mine")
    for out, word in (
        ("link", "exists"),
        ("file", "exists"),
        (".", "exists"),
        ("no/out", "no "),
        ("file/out", "file "),
    ):
        refused(lambda out=out: submit(captions_bundle, tmp_path / "absent.csv", tmp_path / out), word, error=DataError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_other_word_for_bad_rows_is_refused(captions_bundle: Any, tmp_path: Path) -> None:
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", "a.jpg,a box"])
    refused(lambda: submit(captions_bundle, source, tmp_path / "out", on_bad="ignore"), "skip", error=ArgumentError)  # type: ignore[arg-type]
