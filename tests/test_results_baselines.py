"""Baselines: learned from train, fitted on validation, kept with the run; test is told after a refit."""

import json
from pathlib import Path

import numpy as np
import pytest
from builders import refused

from captune.data_prep.store import PreparedData, prepare
from captune.model.baselines import commonest_label, tfidf_regression
from captune.results import baselines
from captune.results.baselines import COMMONEST, TFIDF
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.settings import create, discard
from captune.tuner.space.config import read_search

COLOURS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Sixty captions whose colour tells their label, but for label 9, which no caption tells of."""
    folder = tmp_path_factory.mktemp("coloured")
    rows = [f"{n}.jpg,{1 + n % 3}{' 9' * (n % 2)},a {COLOURS[n % 3]} ball" for n in range(60)]
    (folder / "rows.csv").write_text("\n".join(["ImageID,Labels,Caption", *rows]) + "\n")
    return prepare(folder / "rows.csv", None, folder / "data", shares=(0.6, 0.2, 0.2))


def test_words_tell_labels_and_the_commonest_label_is_always_given(data: PreparedData) -> None:
    scores = {(each.name, each.rows): each for each in baselines.score(data, captions=True)}
    assert set(scores) == {(name, rows) for name in (COMMONEST, TFIDF) for rows in ("validation", "test")}
    for rows in ("validation", "test"):
        commonest, words = scores[COMMONEST, rows], scores[TFIDF, rows]  # type: ignore[index]
        assert words.per_label[:3] == (1.0, 1.0, 1.0)
        assert words.mean_f1 > commonest.mean_f1
        assert sum(score > 0 for score in commonest.per_label) == 1
        assert commonest.mean_f1 == pytest.approx(np.mean([
            2 * row[3] / (1 + row.sum()) for row in data.labels[data.rows(rows)]
        ]))  # fmt: skip


def test_they_are_written_once_and_test_is_told_only_after_a_refit(data: PreparedData, tmp_path: Path) -> None:
    run, said = RunFolder(tmp_path), list[str]()
    assert baselines.read(run) == ()
    baselines.ensure(run, data, said.append, captions=True)
    first = run.baselines.read_bytes()
    baselines.ensure(run, data, said.append, captions=True)
    assert run.baselines.read_bytes() == first and said == []
    assert {each.rows for each in baselines.read(run)} == {"validation"}
    run.winner.mkdir()
    run.proof.touch()
    assert len(baselines.read(run)) == 4
    assert baselines.of_validation(baselines.read(run)) == [b for b in baselines.read(run) if b.rows == "validation"]


def test_search_of_pictures_alone_is_held_against_nothing_that_captions_say(data: PreparedData, tmp_path: Path) -> None:
    run, said = RunFolder(tmp_path), list[str]()
    baselines.ensure(run, data, said.append, captions=False)
    assert {each.name for each in baselines.read(run)} == {COMMONEST}


def test_search_that_cannot_begin_leaves_no_baselines_in_the_way_of_the_next(
    data: PreparedData, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    create(run, read_search(None, preset="captions", default_preset="captions", overrides={"trials": 3}), data)
    baselines.ensure(run, data, lambda _: None, captions=True)
    discard(run)
    assert not run.path.exists()


def test_file_that_is_not_as_it_was_written_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.baselines.write_text(json.dumps({"version": 1, "baselines": [{"name": "x"}]}))
    refused(lambda: baselines.read(run), "baselines.json", error=RunError)


def test_data_without_captions_or_test_rows_has_the_others(data: PreparedData, tmp_path: Path) -> None:
    rows = "\n".join(f"{n}.jpg,{1 + n % 2},a {COLOURS[n % 2]} ball" for n in range(20))
    (tmp_path / "rows.csv").write_text(f"ImageID,Labels,Caption\n{rows}\n")
    without_test = prepare(tmp_path / "rows.csv", None, tmp_path / "data", shares=(0.8, 0.2, 0.0))
    assert [(each.name, each.rows) for each in baselines.score(without_test, captions=True)] == [
        (COMMONEST, "validation"),
        (TFIDF, "validation"),
    ]
    without_test.tokens = None
    assert [each.name for each in baselines.score(without_test, captions=True)] == [COMMONEST]


@pytest.mark.parametrize("labels", [1, 2, 5])
def test_labels_that_are_always_or_never_true_and_empty_captions_are_answered(labels: int) -> None:
    tokens = np.array([[2, 3], [2, 0], [0, 0], [4, 5]], dtype=np.int32)
    for truth in (np.ones((4, labels)), np.zeros((4, labels)), np.eye(4, labels), 1 - np.eye(4, labels)):
        (raw,) = tfidf_regression(tokens, truth.astype(np.uint8), np.array([[6, 2], [0, 0]], dtype=np.int32))
        assert raw.shape == (2, labels) and ((raw >= 0) & (raw <= 1)).all()
        for place in range(labels):
            if len(set(truth[:, place])) == 1:
                assert (raw[:, place] == truth[0, place]).all()
    assert commonest_label(np.array([[0, 1], [1, 1]]), 3).tolist() == [[0, 1]] * 3
