"""Baselines: scores of answers that no search is needed for, kept with the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from captune.results.documents import Document
from captune.results.run_folder import RunFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from captune.data_prep.store import PreparedData
    from captune.model.f1 import Floats
    from captune.model.rule import Answers

COMMONEST, TFIDF = "commonest label", "TF-IDF + logistic regression"
_SLOW_PAIRS = 100_000  # of row and label, which take seconds


@dataclass(frozen=True)
class Baseline:
    """Scores of one simple answer on the rows of one split, all from 0 to 1.

    name: of how it answers, COMMONEST or TFIDF. per_label: F1 of each label, in the order of the data's.
    """

    name: str
    rows: Literal["validation", "test"]
    mean_f1: float
    micro_f1: float
    macro_f1: float
    per_label: tuple[float, ...]


class Baselines(Document):
    """What RUN/baselines.json holds."""

    baselines: tuple[Baseline, ...]


def read(run: RunFolder) -> tuple[Baseline, ...]:
    """Those of a run, of test only where its winner was proved; none where the search was of an earlier captune.

    Raises:
        RunError: the file is not as a search wrote it.
    """
    if not run.baselines.is_file():
        return ()
    proved = run.proof.is_file()
    return tuple(each for each in Baselines.read(run.baselines).baselines if proved or each.rows != "test")


def of_validation(baselines: Sequence[Baseline]) -> list[Baseline]:
    """Those that the scores of trials are held against."""
    return [each for each in baselines if each.rows == "validation"]


def ensure(run: RunFolder, data: PreparedData, say: Callable[[str], None], *, captions: bool) -> None:
    """Writes those of a run, unless they are there. Takes a second or so for 10,000 rows of 20 labels.

    Args:
        captions: whether the search reads them. One of pictures alone is not held against what captions say.
    """
    if not run.baselines.exists():
        if captions and data.has_captions and data.labels.size > _SLOW_PAIRS:
            say("scoring baselines, to hold the trials against")
        Baselines(baselines=tuple(score(data, captions=captions))).write(run.baselines)


def score(data: PreparedData, *, captions: bool) -> list[Baseline]:
    """All for a data set with validation rows, each on validation and, where there are such rows, on test.

    On validation they learn from train, and a rule is fitted on the other half of the rows, as with trials.
    """
    from captune.model.rule import cross_fitted

    train, validation, labels = data.rows("train"), data.rows("validation"), data.labels
    answers = {COMMONEST: _constant(labels[train], len(validation))}
    words = _words(data, "train", answer="validation") if captions and data.tokens is not None else None
    if words is not None:
        answers[TFIDF] = cross_fitted(labels[validation], words)
    baselines = [_baseline(name, "validation", labels[validation], each) for name, each in answers.items()]
    if len(test := data.rows("test")):
        baselines += [_baseline(name, "test", labels[test], each) for name, each in _on_test(data, words).items()]
    return baselines


def answers_on_test(data: PreparedData, *, captions: bool) -> dict[str, Answers]:
    """What each answers on test: they learn from train + validation, with the rule fitted on validation, as a refit."""
    has_words = captions and data.tokens is not None
    return _on_test(data, _words(data, "train", answer="validation") if has_words else None)


def _on_test(data: PreparedData, words: Floats | None) -> dict[str, Answers]:
    """The same. words: what words say of validation, learned from train."""
    from captune.model.rule import fit_rule

    answers = {COMMONEST: _constant(data.labels[data.rows("train", "validation")], len(data.rows("test")))}
    if words is not None:
        rule = fit_rule(data.labels[data.rows("validation")], words)
        answers[TFIDF] = rule.answers(_words(data, "train", "validation", answer="test"))
    return answers


def _words(data: PreparedData, *learned: str, answer: str) -> Floats:
    """(n, labels) probabilities by TF-IDF and logistic regression, of data with captions."""
    from captune.model.baselines import tfidf_regression

    assert data.tokens is not None
    rows = data.rows(*learned)
    (raw,) = tfidf_regression(data.tokens[rows], data.labels[rows], data.tokens[data.rows(answer)])
    return raw


def _constant(learned: NDArray[np.uint8], rows: int) -> Answers:
    from captune.model.baselines import commonest_label
    from captune.model.rule import DecisionRule

    return DecisionRule(1.0).answers(commonest_label(learned, rows))  # the likeliest label alone


def _baseline(name: str, rows: Literal["validation", "test"], truth: NDArray[np.uint8], answers: Answers) -> Baseline:
    from captune.model import metrics

    scores = metrics.score(truth, answers)
    return Baseline(name, rows, scores.mean_f1, scores.micro_f1, scores.macro_f1, scores.per_label)
