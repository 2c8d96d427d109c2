"""What refit keeps of the winner's answers on test."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captune.data_prep.store import PreparedData
from captune.model.metrics import expected_calibration_error, score
from captune.model.rule import Answers, DecisionRule
from captune.results.error_analysis import EXAMPLES, PICTURE_SIDE, ErrorAnalysis, analyse


def answered(data: PreparedData, seed: int = 0, noise: float = 0.4) -> tuple[np.ndarray, Answers]:
    """Rows of train and answers to them that are right more often than not."""
    rows = data.rows("train")
    truth = data.labels[rows]
    raw = np.clip(np.where(truth, 0.8, 0.2) + np.random.default_rng(seed).normal(0, noise, truth.shape), 0.01, 0.99)
    return rows, DecisionRule(0.5).answers(raw.astype(np.float32))


def test_labels_are_scored_as_the_metrics_score_them(data: PreparedData) -> None:
    rows, answers = answered(data)
    analysis, scores = analyse(data, rows, answers), score(data.labels[rows], answers)
    assert [label.id for label in analysis.labels] == list(data.manifest.label_ids)
    assert [label.f1 for label in analysis.labels] == pytest.approx(scores.per_label)
    for label in analysis.labels:
        if label.precision and label.recall:
            assert label.f1 == pytest.approx(2 / (1 / label.precision + 1 / label.recall))
    assert [label.support for label in analysis.labels] == data.labels[rows].sum(axis=0).tolist()


def test_bins_make_the_calibration_error(data: PreparedData) -> None:
    rows, answers = answered(data)
    bins, pairs = analyse(data, rows, answers).bins, data.labels[rows].size
    error = sum(each.pairs * abs(each.probability - each.share) for each in bins) / pairs
    assert sum(each.pairs for each in bins) == pairs
    assert error == pytest.approx(expected_calibration_error(data.labels[rows], answers.probabilities), abs=1e-6)


def test_rows_are_right_worst_and_suspect_as_named(data: PreparedData) -> None:
    rows, answers = answered(data)
    analysis = analyse(data, rows, answers)
    assert all(row.f1 == 1 and row.true == row.given for row in analysis.right)
    assert [row.f1 for row in analysis.worst] == sorted(row.f1 for row in analysis.worst)
    assert all(row.f1 < 1 for row in analysis.worst) and len(analysis.worst) == EXAMPLES
    for row in analysis.suspects:
        has_it = row.doubt.label in row.true
        assert row.doubt.probability < 0.5 if has_it else row.doubt.probability > 0.5
        assert row.caption == data.captions[row.row] and row.image_id == data.image_ids[row.row]


def test_perfect_answers_leave_nothing_to_doubt(data: PreparedData) -> None:
    rows, answers = answered(data, noise=0.0)
    analysis = analyse(data, rows, answers)
    assert (analysis.worst, analysis.suspects) == ((), ()) and len(analysis.right) == EXAMPLES
    one = analyse(data, rows[:1], Answers(answers.raw[:1], answers.probabilities[:1], answers.labels[:1]))
    assert len(one.right) == 1 and one.examples == 1


def test_pictures_are_small_and_none_where_there_are_none(data: PreparedData, captions_data: PreparedData) -> None:
    rows, answers = answered(data)
    for example in analyse(data, rows, answers).right:
        picture = Image.open(io.BytesIO(base64.b64decode(example.picture)))
        assert picture.format == "JPEG" and max(picture.size) <= PICTURE_SIDE
    rows, answers = answered(captions_data)
    assert {example.picture for example in analyse(captions_data, rows, answers).right} == {""}


def test_it_is_read_back_as_it_was_written(data: PreparedData, tmp_path: Path) -> None:
    rows, answers = answered(data)
    analysis = analyse(data, rows, answers)
    analysis.write(tmp_path / "error_analysis.json")
    assert ErrorAnalysis.read(tmp_path / "error_analysis.json") == analysis
