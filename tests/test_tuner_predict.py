"""A bundle on rows that come as files: the answers of the network itself, in the order of the rows."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import refused
from PIL import Image

from captune.data_prep.images import ImageError
from captune.data_prep.records import DataError
from captune.data_prep.store import PreparedData
from captune.model.config import TrialConfig, replace
from captune.model.metrics import METRICS, DecisionRule
from captune.model.presets import PRESETS
from captune.tuner.space.dimensions import bind

pytestmark = pytest.mark.slow

TINY = {
    "image.width": 4,
    "image.stages": 1,
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


def test_rows_from_files_get_the_answers_that_the_prepared_set_gets(
    bundle: Any, data: PreparedData, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import captune.tuner.winner.predict as inference

    monkeypatch.setattr(inference, "BATCH", 50)  # 120 rows: two batches and a rest
    records, pictures = inference.read_rows(bundle, drawn / "train.csv", drawn / "images", need_labels=True)
    found = inference.probabilities(bundle, [example.caption for example in records.examples], pictures)
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
    from captune.tuner.winner.predict import read_rows

    records, pictures = read_rows(bundle, drawn / "train.csv", drawn / "images", need_labels=True)
    return [example.caption for example in records.examples], pictures


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


def test_no_examples_have_no_probabilities(bundle: Any) -> None:
    from captune.tuner.winner.predict import labels, probabilities

    assert probabilities(bundle, [], []).shape == (0, 6) and labels(bundle, probabilities(bundle, [], [])) == []


@pytest.mark.parametrize(
    ("captions", "images", "words"),
    [
        (None, ["x.jpg"], ("reads captions",)),
        (["a box"], None, ("reads pictures",)),
        (["a box"], ["x.jpg", "y.jpg"], ("1 captions and 2 images",)),
        ("a box", ["x.jpg"], ("lists",)),
        (["a box"], "x.jpg", ("lists",)),
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


def test_file_beside_a_submission_and_one_in_its_place_stay_as_they_are(captions_bundle: Any, tmp_path: Path) -> None:
    from captune.tuner.winner.predict import read_rows, write_submission

    source = table(tmp_path / "rows.csv", ["ImageID,Caption", "a.jpg,a box"])
    rows = read_rows(captions_bundle, source, None, need_labels=False)
    (tmp_path / "out.csv.tmp").write_text("mine")
    write_submission(captions_bundle, *rows, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    refused(lambda: write_submission(captions_bundle, *rows, tmp_path / "out.csv"), "out.csv", error=DataError)
    refused(
        lambda: write_submission(captions_bundle, *rows, tmp_path / "no" / "out.csv"), "no/out.csv", error=DataError
    )
    assert (tmp_path / "out.csv.tmp").read_text() == "mine" and (tmp_path / "out.csv").read_bytes() == before


def test_submission_has_a_label_for_every_row_in_order_also_without_any_words(
    captions_bundle: Any, tmp_path: Path
) -> None:
    from dataclasses import replace as changed

    from captune.tuner.winner.predict import read_rows, write_submission

    strict = changed(captions_bundle, rule=DecisionRule(1.0))
    names = ["b.jpg", "a.jpg", "c.jpg", "d.jpg"]
    captions = ["a red box", "", "zzz qqq", "box " * 300]
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", *map(",".join, zip(names, captions, strict=True))])
    write_submission(strict, *read_rows(strict, source, None, need_labels=False), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["ImageID", "Labels"]
    assert [row[0] for row in found[1:]] == names
    assert all(row[1] in {"1", "2", "3", "5", "6", "8"} for row in found[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.csv"]


def test_low_threshold_gives_every_label_by_its_number(captions_bundle: Any, tmp_path: Path) -> None:
    from dataclasses import replace as changed

    from captune.tuner.winner.predict import read_rows, write_submission

    lax = changed(captions_bundle, rule=DecisionRule(0.0))
    source = table(tmp_path / "rows.csv", ["ImageID,Caption", "a.jpg,a box"])
    write_submission(lax, *read_rows(lax, source, None, need_labels=False), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "ImageID,Labels\na.jpg,1 2 3 5 6 8\n"


def test_evaluate_agrees_with_a_plain_computation(captions_bundle: Any, drawn: Path) -> None:
    from captune.tuner.winner.predict import evaluate, probabilities, read_rows

    records, pictures = read_rows(captions_bundle, drawn / "train.csv", None, need_labels=True)
    scores = evaluate(captions_bundle, records, pictures)
    answers = probabilities(captions_bundle, [example.caption for example in records.examples], None)
    given = captions_bundle.rule.decide(answers)
    f1 = []
    for example, row in zip(records.examples, given, strict=True):
        said = {label for label, on in zip(captions_bundle.label_ids, row, strict=True) if on}
        f1.append(2 * len(said & set(example.labels)) / (len(said) + len(example.labels)))
    assert scores["mean_f1"] == pytest.approx(np.mean(f1))
    assert scores["examples"] == 120
    assert list(scores) == [*METRICS, "per_label", "examples"]
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
    from captune.tuner.winner.predict import read_rows

    with pytest.raises(DataError, match=words):
        read_rows(captions_bundle, table(tmp_path / "rows.csv", rows), None, need_labels=True)


def test_bundle_that_reads_pictures_asks_for_them_and_names_the_one_missing(
    bundle: Any, drawn: Path, tmp_path: Path
) -> None:
    from captune.tuner.winner.predict import evaluate, read_rows

    source = table(tmp_path / "rows.csv", ["ImageID,Labels,Caption", "nowhere.jpg,1,box"])
    with pytest.raises(DataError, match="folder"):
        read_rows(bundle, source, None, need_labels=False)
    with pytest.raises(ImageError, match=r"nowhere\.jpg"):
        evaluate(bundle, *read_rows(bundle, source, drawn / "images", need_labels=True))


def test_submission_that_fails_half_way_leaves_no_file(bundle: Any, drawn: Path, tmp_path: Path) -> None:
    from captune.tuner.winner.predict import read_rows, write_submission

    source = table(tmp_path / "rows.csv", ["ImageID,Caption", "scene_00000.jpg,box", "nowhere.jpg,box"])
    with pytest.raises(ImageError):
        write_submission(bundle, *read_rows(bundle, source, drawn / "images", need_labels=False), tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
