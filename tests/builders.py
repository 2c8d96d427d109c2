"""Values that several test files make, with a plain default for every field: a test names what it is about."""

from __future__ import annotations

import dataclasses
import math
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from captune.errors import Error
from captune.model.metrics import METRICS, Epoch
from captune.model.rule import DecisionRule
from captune.results.records import Record

if TYPE_CHECKING:
    from captune.data_prep.store import PreparedData
    from captune.model.config import TrialConfig
    from captune.model.size import Measure
    from captune.tuner.space.feasibility import FeasibleSpace

# Dotted names that leave little of a preset: thousands of weights, pictures of 32 pixels and a handful of words.
SMALL: Mapping[str, Any] = {
    "image.stages": 2,
    "image.stem": 0,
    "image.width": 4,
    "text.vocabulary_size": 100,
    "text.embedding": 8,
    "text.units": 16,
    "head_units": 16,
}

PREFLIGHT = (
    "budget ", "rows ", "epochs ", "fits ", "sizes ", "constant ", "space ", "note  ", "disk ", "runs ", "never ",
)  # fmt: skip
"""How the lines begin that come before a search."""


def rest_in_soak(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """Cases of a parametrized test, of which `make test` runs those that are kept and `make soak` the others."""
    values = [(case, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [case if case in kept else pytest.param(*each, marks=pytest.mark.soak) for case, each in values]


def epoch(number: int, score: float = 0.5, **changes: Any) -> Epoch:
    """A report: all metrics are `score`; two seconds of training, one of evaluation."""
    plain: dict[str, Any] = dict.fromkeys(METRICS, score)
    plain |= {"loss": 0.5, "rule": DecisionRule(0.5), "train_seconds": 2.0, "evaluate_seconds": 1.0}
    return Epoch(number, **(plain | changes))


def record(
    number: int = 0, scores: float | Sequence[float] | None = (), fate: str = "complete", **changes: Any
) -> Record:
    """A trial with these scores, one an epoch, of which the best finite one counts."""
    scores = () if scores is None else (scores,) if isinstance(scores, float) else scores
    curve = changes.pop("curve", tuple(epoch(place, score) for place, score in enumerate(scores, 1)))
    best = max((each for each in curve if math.isfinite(each.mean_f1)), key=lambda each: each.mean_f1, default=None)
    plain = Record(
        number=number, fate=fate, mean_f1=best and best.mean_f1, best_epoch=best and best.epoch, epochs=len(curve),
        weights_bytes=1_000_000, bundle_bytes=1_250_000, margin_bytes=0, seconds=10.0, node="machine-1", reason=None,
        seed=1, threads=1, origin=number, config={}, curve=curve, order={},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def trained(config: TrialConfig, data: PreparedData) -> list[Epoch]:
    """What a trial of this configuration reports, epoch by epoch."""
    from captune.tuner.training.job import Job
    from captune.tuner.training.trial import train_trial

    return list(train_trial(Job(config, 5, 0), data))


@contextmanager
def limited(limit: int, most: int) -> Iterator[None]:
    """The system gives this process no more than that for a while, as RLIMIT_FSIZE or RLIMIT_NOFILE."""
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


def refused(call: Callable[[], Any], *words: str, error: type[Exception] = Error) -> str:
    """What is said when `call` is refused: one line that holds all the words."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message, message
    for word in words:
        assert word in message, message
    return message


def feasible(
    dimensions: Mapping[str, Any],
    limit: int = 10**9,
    measure: Measure = "weights",
    fixed: Mapping[str, Any] | None = None,
) -> FeasibleSpace:
    """The space of these dimensions around a SMALL network of 18 labels, inside a budget of `limit` bytes."""
    from captune.model.presets import PRESETS
    from captune.model.size import Budget, Contents
    from captune.tuner.space.dimensions import parse_dimension
    from captune.tuner.space.feasibility import FeasibleSpace
    from captune.tuner.space.space import Space

    parsed = {name: parse_dimension(name, value) for name, value in dimensions.items()}
    space = Space.around(PRESETS["compact"], fixed={**SMALL, **(fixed or {})}, dimensions=parsed, modality="both")
    return FeasibleSpace(space, lambda config: config, Budget(limit, measure), Contents.typical(18))
