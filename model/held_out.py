"""Epochs of a training, each scored on examples that it does not train on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captune.model import metrics
from captune.model.config import Metric
from captune.model.metrics import Epoch
from captune.model.part_of_epoch import Heard, unheard
from captune.model.rule import Answers, cross_fitted, fit_rule
from captune.model.stack import Stack, cross_stacked, fit_stack

if TYPE_CHECKING:
    from captune.model.training import Batches, Training


def fit(
    training: Training,
    epochs: int,
    validation: Batches,
    truth: NDArray[np.uint8],
    *,
    after: int = 0,
    metric: Metric = "mean_f1",
    heard: Heard = unheard,
) -> Iterator[Epoch]:
    """Trains and yields each epoch's report; the caller stops by not asking on.

    Args:
        epochs: the last one, counted from 1.
        truth: labels of the validation examples, (n, num_labels) of 0 and 1, in the order of `validation`.
        after: epochs that `training` has behind it already.
        metric: that the decision rule is fitted for, and epochs are judged by.
        heard: told how far each is.
    """
    counted = 0.0
    for number in range(after + 1, epochs + 1):
        started, before = time.monotonic(), training.compile_seconds
        loss = training.epoch(number, heard)
        trained = time.monotonic()
        compiled, counted = training.compile_seconds - counted, training.compile_seconds
        seconds = {"train_seconds": trained - started - (counted - before), "compile_seconds": compiled}
        if not math.isfinite(loss):
            yield _diverged(number, loss, seconds, metric)
            return
        answered = answer(training, validation, truth, metric=metric)
        if answered is None:
            yield _diverged(number, loss, seconds, metric)
            return
        answers = answered.answers
        scores = metrics.score(truth, answers)
        yield Epoch(
            epoch=number,
            loss=loss,
            **scores.metrics(),
            rule=fit_rule(truth, answered.probabilities, metric=metric),
            **seconds,
            evaluate_seconds=time.monotonic() - trained,
            standard_error=metrics.standard_error(metric, truth, answers),
            stack=answered.stack,
            metric=metric,
        )


@dataclass(frozen=True)
class HeldOut:
    """What a network answers to examples that it did not train on, on which stack and rule are fitted.

    probabilities: (n, num_labels), with the stack of all examples. answers: to each half with what was fitted on the
    other.
    """

    stack: Stack | None
    probabilities: NDArray[np.float32]
    answers: Answers


def answer(
    training: Training, held_out: Batches, truth: NDArray[np.uint8], *, metric: Metric = "mean_f1"
) -> HeldOut | None:
    """A trial's answers as they are scored; None where an output is not finite. Arguments: see `fit`."""
    parts = training.parts(held_out)
    outputs = training.predict(held_out) if parts is None else parts
    if not np.isfinite(outputs).all():
        return None
    if parts is None:
        return HeldOut(None, outputs, cross_fitted(truth, outputs, metric=metric))
    stack = fit_stack(truth, parts)
    answers = cross_fitted(truth, *cross_stacked(truth, parts), metric=metric)
    return HeldOut(stack, stack.probabilities(parts), answers)


def _diverged(number: int, loss: float, seconds: dict[str, float], metric: Metric) -> Epoch:
    """The report of an epoch after which there is nothing to score."""
    nothing = dict.fromkeys(metrics.METRICS, math.nan)
    return Epoch(number, loss, **nothing, rule=None, stack=None, **seconds, evaluate_seconds=0.0, metric=metric)
