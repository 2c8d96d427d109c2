"""Answers that no search is needed for: the commonest label, and a linear classifier over the words of captions."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from captune.model.f1 import Bits, Floats

MOST_PAIRS = 2_000_000  # of training row and label that are learned from: in about ten seconds


def commonest_label(truth: Bits, rows: int) -> Floats:
    """(rows, labels) probabilities: 1 for the label that is true most often in `truth` (n, labels), n at least 1."""
    probabilities = np.zeros((rows, truth.shape[1]))
    probabilities[:, truth.sum(axis=0).argmax()] = 1
    return probabilities


def tfidf_regression(tokens: NDArray[np.int32], truth: Bits, *others: NDArray[np.int32]) -> list[Floats]:
    """Logistic regression over TF-IDF, one label against the rest.

    Args:
        tokens: (n, width) ids of the words to learn from, 0 where a caption has ended; n at least 1.
        truth: (n, labels) of 0 and 1. Beyond MOST_PAIRS of row and label, evenly spaced rows are learned from.
        others: (m, width) each, to be answered to.

    Returns:
        Probabilities, (m, labels) for each of `others`.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline

    step = -(-truth.size // MOST_PAIRS)
    tokens, truth = tokens[::step], truth[::step]
    width = int(max(part.max(initial=0) for part in (tokens, *others))) + 1
    regression = LogisticRegression(C=5, solver="liblinear", tol=0.01)
    classifier = make_pipeline(TfidfTransformer(sublinear_tf=True), OneVsRestClassifier(regression))
    # A column for each label, also where there is one label alone.
    answers = np.zeros((sum(map(len, others)), truth.shape[1]))
    learned = np.flatnonzero(truth.any(axis=0) & ~truth.all(axis=0))
    answers[:, truth.all(axis=0)] = 1
    if len(learned):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence: a baseline need not be the best
            classifier.fit(_counts(tokens, width), truth[:, learned])
            probabilities = classifier.predict_proba(_counts(np.concatenate(others), width))
        answers[:, learned] = probabilities[:, -len(learned) :]
    return np.split(answers, np.cumsum([len(part) for part in others])[:-1])


def _counts(tokens: NDArray[np.int32], width: int) -> object:
    """(n, width) how often each word stands in each row, sparse."""
    from scipy.sparse import csr_matrix

    rows, places = np.nonzero(tokens)
    return csr_matrix((np.ones(len(rows)), (rows, tokens[rows, places])), shape=(len(tokens), width))
