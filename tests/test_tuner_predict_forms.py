"""What predict writes and says: the likeliest labels, names, Parquet, any number of rows, one picture alone."""

import csv
import json
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused
from conftest import Captune
from conftest import refused as refused_line
from test_tuner_predict import TINY, table, untrained

from captune.data_prep.store import PreparedData
from captune.errors import ArgumentError
from captune.model.flat import replace
from captune.model.presets import PRESETS

pytestmark = pytest.mark.slow

NAMES = ("red", "blue", "green", "traffic light", "star", "box")


@pytest.fixture(scope="module")
def classifier(captions_data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Reads captions; saved, with names for its six labels."""
    from captune.tuner.api.classifier import load

    path = tmp_path_factory.mktemp("named") / "bundle"
    changed(untrained(captions_data, PRESETS["captions"]), label_names=NAMES).save(path)
    return load(path)


@pytest.fixture(scope="module")
def of_both(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("both") / "bundle"
    changed(untrained(data, replace(PRESETS["compact"], TINY)), label_names=NAMES).save(path)
    return path


CAPTIONS = ["a red box", "two stars", "", "a blue ball by a green box"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return table(tmp_path / "rows.csv", ["ImageID,Caption", *(f"{n}.jpg,{text}" for n, text in enumerate(CAPTIONS))])


def written(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_likeliest_labels_stand_in_their_order_with_their_probabilities(
    classifier: Any, source: Path, tmp_path: Path
) -> None:
    p = classifier.probabilities(CAPTIONS)
    classifier.predict_file(source, out=tmp_path / "out.csv", top=2, probabilities=True)
    header, *rows = written(tmp_path / "out.csv")
    assert header == ["ImageID", "Labels", "Probabilities"]
    for row, of_row in zip(rows, p, strict=True):
        order = np.argsort(-of_row, kind="stable")[:2]
        assert row[1].split() == [str(list(classifier.labels)[i]) for i in order]
        assert np.array(row[2].split(), float) == pytest.approx(of_row[order], rel=1e-5)


def test_names_stand_in_place_of_numbers_and_can_be_read_again(classifier: Any, source: Path, tmp_path: Path) -> None:
    lax = changed(classifier, bundle=changed(classifier.bundle, rule=type(classifier.bundle.rule)(0.0)))
    lax.predict_file(source, out=tmp_path / "out.csv", names=True, probabilities=True)
    header, *rows = written(tmp_path / "out.csv")
    assert header == ["ImageID", "Labels", *NAMES]
    assert rows[0][1] == "red;blue;green;traffic light;star;box"
    labelled = table(
        tmp_path / "labelled.csv",
        ["ImageID,Labels,Caption", *(f"{row[0]},{row[1]},{text}" for row, text in zip(rows, CAPTIONS, strict=True))],
    )
    assert lax.evaluate(labelled)["mean_f1"] == 1.0


def test_parquet_has_the_rows_of_the_csv(classifier: Any, source: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    for names in (False, True):
        for top in (None, 3):
            out = tmp_path / f"{names}-{top}"
            for suffix in (".csv", ".Parquet"):
                classifier.predict_file(source, out=out.with_suffix(suffix), names=names, top=top, probabilities=True)
            header, *rows = written(out.with_suffix(".csv"))
            content = parquet.read_table(out.with_suffix(".Parquet"))
            assert content.column_names == header
            for row, other in zip(rows, content.to_pylist(), strict=True):
                separator = ";" if names else " "
                assert separator.join(map(str, other["Labels"])) == row[1]
                values = np.hstack([other[name] for name in header[2:]])
                assert values == pytest.approx(np.array(" ".join(row[2:]).split(), float), rel=1e-5)


def test_rows_by_the_chunk_get_what_they_get_at_once(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the last chunk is empty, and where one has no row that can be used."""
    rows = [f"{n}.jpg,{CAPTIONS[n % 4]}" for n in range(12)]
    rows[4:8] = [f"../{n}.jpg,a box" for n in range(4, 8)]
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", *rows, '"""a"".jpg",red'])
    classifier.predict_file(source, out=tmp_path / "whole.csv", on_bad="skip")
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 5
    monkeypatch.setattr("captune.tuner.winner.rows.CHUNK", 4)
    for batch in (1, 2, 4, 100):
        out = tmp_path / f"{batch}.csv"
        assert classifier.predict_file(source, out=out, on_bad="skip", batch=batch) == 9
        assert capsys.readouterr().err == told
        assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_bad_row_far_behind_is_told_before_anything_is_answered(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captune.tuner.winner.rows.CHUNK", 4)
    monkeypatch.setattr("captune.tuner.winner.predict.probabilities_of_rows", lambda *_: pytest.fail("answered"))
    rows = [f"{n}.jpg,a box" for n in range(20)]
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", *rows, "../x.jpg,a box"])
    refused(lambda: classifier.predict_file(source, out=tmp_path / "out.csv"), "line 22")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top": 0}, "top: from 1 to 6"),
        ({"top": 7}, "got 7"),
        ({"top": 1.5}, "got 1.5"),
        ({"batch": 0}, "batch"),
        ({"batch": 1.5}, "got 1.5"),
        ({"batch": 5000}, "1024"),
    ],
)
def test_number_out_of_its_range_is_refused(
    classifier: Any, source: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    refused(lambda: classifier.predict_file(source, out=tmp_path / "out.csv", **options), words, error=ArgumentError)
    assert not (tmp_path / "out.csv").exists()


def test_names_that_two_labels_share_are_not_written(classifier: Any, source: Path, tmp_path: Path) -> None:
    twice = changed(classifier, bundle=changed(classifier.bundle, label_names=("red", "red", *NAMES[2:])))
    refused(lambda: twice.predict_file(source, out=tmp_path / "x", names=True), "'red'", error=ArgumentError)


def test_name_that_another_column_has_heads_no_column(classifier: Any) -> None:
    from captune.tuner.winner.submission import SubmissionForm

    bundle = changed(classifier.bundle, label_names=("Labels", *NAMES[1:]))
    with pytest.raises(ArgumentError, match="as another column is"):
        SubmissionForm(probabilities=True, names=True).check(bundle)
    SubmissionForm(probabilities=True, names=True, top=1).check(bundle)


def test_one_caption_is_answered_on_the_terminal(captune: Captune, classifier: Any) -> None:
    told = captune("predict", classifier.path, "--caption", "a red box")
    expected = classifier.answers(["a red box"])[0]
    assert [line.split()[:2] for line in told.out.splitlines()] == [
        [f"{label.probability:.4f}", label.name.split()[0]] for label in expected
    ]
    told = captune("predict", classifier.path, "--caption", "a red box", "--top", 6, "--format", "json")
    answer = json.loads(told.out)
    assert {label["id"]: label["name"] for label in answer} == classifier.labels
    assert [label["probability"] for label in answer] == sorted((a["probability"] for a in answer), reverse=True)
    assert {label["id"] for label in answer if label["decided"]} == set(classifier.predict(["a red box"])[0])


def test_one_picture_with_its_caption_is_answered(captune: Captune, of_both: Path, drawn: Path) -> None:
    picture = next((drawn / "images").iterdir())
    told = captune("predict", of_both, "--image", picture, "--caption", "a box", "--top", 6)
    assert told.code == 0 and len(told.out.splitlines()) == 6
    refused_line(captune("predict", of_both, "--image", "no.jpg", "--caption", "a box"), "no.jpg", "does not exist")
    refused_line(captune("predict", of_both, "--caption", "a box"), "reads pictures")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--image"),
        (("--caption", "x", "--out", "o.csv"), "--out"),
        (("rows.csv",), "is needed with a CSV: the file to write"),
        (("a dog.jpg",), "a picture is given by --image 'a dog.jpg'"),
        (("rows.csv", "--caption", "x", "--out", "o.csv"), "--caption"),
    ],
)
def test_half_a_command_is_refused(captune: Captune, classifier: Any, arguments: tuple[str, ...], words: str) -> None:
    refused_line(captune("predict", classifier.path, *arguments), words)


def test_control_characters_of_a_name_do_not_reach_the_terminal(
    captune: Captune, classifier: Any, tmp_path: Path
) -> None:
    changed(classifier.bundle, label_names=("\x1b[31mred", *NAMES[1:])).save(tmp_path / "bundle")
    assert "\x1b" not in captune("predict", tmp_path / "bundle", "--caption", "x", "--top", 6).out
