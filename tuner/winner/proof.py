"""What proves a winner: its scores in the search, on test, and as it is shipped, which is loaded in a fresh process.

What is compared are the network's own probabilities: calibration could hide a difference, or make one larger.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict

from captune.data_prep.store import PreparedData
from captune.errors import WorkError, one_line
from captune.files import scratch
from captune.model.average import Average, Member, Network
from captune.model.config import TITLES, Metric, Settings, Storage
from captune.model.flat import unflatten
from captune.model.metrics import METRICS, Metrics
from captune.model.rule import DecisionRule
from captune.model.size import Budget, Measure, Size, show_bytes
from captune.results.documents import Document
from captune.tuner.winner.formats.declarations import FormatName

TOLERANCE = 1e-6  # of a probability, between the network that was trained and the file loaded in a fresh process
# A bundle has never more than its predicted bytes, and less by this share at most; or, where the network is so small
# that the text around its weights is most of the bundle, by so many bytes.
SLACK_SHARE, SLACK_BYTES = 0.01, 512


class ProofError(WorkError):
    """What was exported is not what was scored, or not what was allowed. Nothing is left that could be shipped."""


@dataclass(frozen=True)
class HeldOutScores(Metrics):
    """Scores on the test examples. low, high: 95 % bootstrap interval of mean F1.

    standard_error: of the score by the metric of the proof; NaN before it was kept.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=True)  # NaN: a metric that came later

    per_label: dict[str, float]  # F1 by label id
    examples: int
    low: float
    high: float
    standard_error: float = math.nan


class Gain(Settings):
    """The score on test less that of the best baseline there. low, high: 95 % bootstrap interval over pairs of rows.

    baseline: its name. metric: of the search, or mean F1 for `map`, which baselines lack.
    """

    baseline: str
    metric: Metric
    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f"95 % in pairs {self.low:+.4f} to {self.high:+.4f}"
        verdict = "" if self.low > 0 else ", which may be chance" if self.difference > 0 else ": it is no better"
        return f"{TITLES[self.metric]} {self.difference:+.4f} ({interval}) over {self.baseline}{verdict}"


class SearchScore(Settings):
    """The trial's own score, on the validation examples. score: by the metric of the proof; None before it had one."""

    mean_f1: float
    score: float | None = None
    examples: int


class ReloadedScore(Settings):
    """The bundle as a fresh process loaded it. max_difference: of a probability from the trained network's."""

    mean_f1: float
    max_difference: float


class UnroundedScore(Settings):
    """The network before its weights became what the storage gives back."""

    mean_f1: float


class LatencyProof(Settings):
    """The winner as a file, measured where it was refitted: milliseconds of one row on one thread, the median.

    predicted: the same by the search, None where it predicted for another runtime. machine: its processor.
    """

    limit: float
    milliseconds: float
    predicted: float | None
    format: FormatName
    storage: Storage
    machine: str

    @property
    def prediction(self) -> str:
        """What was predicted, and by how much it was wrong, in words."""
        if self.predicted is None:
            return "not predicted"
        return f"predicted {self.predicted:.3g} ms, {self.predicted / self.milliseconds - 1:+.0%}"


class ProvedMember(Settings):
    """One network of an average: its trial, flat configuration, epochs of the refit, and Platt's calibration."""

    trial: int
    config: dict[str, Any]
    epochs: int
    scale: float
    shift: float


class FinalistScores(Settings):
    """A trial that was trained again with other seeds on train: the score on validation of each."""

    trial: int
    seeds: tuple[float, ...]


class Confirmation(Settings):
    """How the winner was chosen among the best trials by further seeds, and what was expected of it before test.

    how: it is the best with this probability, or the smallest of those that further seeds did not tell apart.
    expected, standard_error: the score on rows that it was not chosen by, corrected for its having been chosen.
    metric: what the score is.
    """

    metric: Metric = "mean_f1"
    finalists: tuple[FinalistScores, ...]
    how: Literal["best", "smallest"]
    probability: float
    expected: float
    standard_error: float

    def __str__(self) -> str:
        if len(self.finalists) == 1:
            return f"Trial {self.finalists[0].trial}, the only finalist, was trained again with other seeds"
        trials = ", ".join(str(finalist.trial) for finalist in self.finalists)
        why = (
            f"the best with probability {self.probability:.2f}"
            if self.how == "best"
            else "the smallest of those that they do not tell apart"
        )
        return f"By other seeds of trials {trials} it is {why}"

    def distance(self, test: HeldOutScores) -> float:
        """Of the test score from the one expected, in standard errors of both together."""
        known = not math.isnan(test.standard_error)
        of_test = test.standard_error if known else (test.high - test.low) / (2 * 1.96)
        return float((getattr(test, self.metric) - self.expected) / math.hypot(self.standard_error, of_test))

    def check(self, test: HeldOutScores) -> str:
        """What was expected, held against test, in a line."""
        distance = self.distance(test)
        within = "within" if abs(distance) <= 1 else "not within"
        return (
            f"{TITLES[self.metric]} {self.expected:.4f} was expected before test was read; test is {distance:+.1f} "
            f"standard errors from it, {within} one"
        )


def _with_all_metrics(scores: Any) -> Any:
    return dict.fromkeys(METRICS, math.nan) | scores if isinstance(scores, dict) else scores


class Proof(Document):
    """What RUN/winner/proof.json holds. Version 1 had the `threshold` of its rule in the place of the rule."""

    VERSION: ClassVar[int] = 2

    version: int = VERSION
    trial: int
    config: dict[str, Any]
    """Flat, by dotted names. Of an average that of its first member, whose trial is named above."""
    epochs: int
    """Of the refit, of all networks together."""
    members: tuple[ProvedMember, ...] = ()
    """Of an average, the best trial first; none where a network is alone."""
    rule: DecisionRule
    metric: Metric = "mean_f1"
    """That the search maximised and the rule was fitted for."""
    search: SearchScore
    test: Annotated[HeldOutScores, BeforeValidator(_with_all_metrics)]
    gain: Gain | None = None
    """Over a baseline; None of an earlier captune."""
    reloaded: ReloadedScore
    seeds: tuple[float, ...]
    """Mean F1 on test of each seed; the bundle is that of the first."""
    storage: Storage
    weights_bytes: int
    bundle_bytes: int
    budget_bytes: int
    measure: Measure
    """What of it the budget counts."""
    bundle_fits: bool
    data: str
    """Fingerprint of the data."""
    float32: UnroundedScore
    latency: LatencyProof | None = None
    """None where the search had no limit."""

    confirmation: Confirmation | None = None
    """Where the winner was chosen by further seeds. Of an average it is of the first member."""

    @property
    def searched(self) -> float | None:
        """The score in the search, by the metric; None of an earlier captune, which kept mean F1 alone."""
        return self.search.mean_f1 if self.metric == "mean_f1" else self.search.score

    @property
    def confirmed(self) -> str | None:
        """What was expected of the winner held against test, in a line; None where nothing was."""
        if self.confirmation is None:
            return None
        if self.members:
            expected = f"{TITLES[self.metric]} {self.confirmation.expected:.4f}"
            return f"the average was not trained with other seeds; {expected} was expected of trial {self.trial} alone"
        return self.confirmation.check(self.test)

    @property
    def network(self) -> Network:
        """What is in the bundle."""
        if not self.members:
            return unflatten(self.config).model
        return Average(
            members=tuple(
                Member(model=unflatten(member.config).model, scale=member.scale, shift=member.shift)
                for member in self.members
            )
        )

    @classmethod
    def parse(cls, content: Mapping[str, Any], name: str) -> Self:
        """See Document."""
        if content.get("version", 1) == 1 and "threshold" in content:
            others = {key: value for key, value in content.items() if key != "threshold"}
            content = others | {"version": cls.VERSION, "rule": {"value": content["threshold"]}}
        return super().parse(content, name)


def check_bytes(path: Path, kind: str, predicted: Size, budget: Budget) -> int:
    """Bytes of what was written, held against the budget and against what was predicted before it was built.

    Args:
        kind: "bundle", or "keras", whose container is not ours to predict.

    Raises:
        ProofError: over the budget, larger than predicted, or smaller by more than the slack.
    """
    from captune.model.bundle import measured_bytes  # a proof is read without a framework

    measured = measured_bytes(path)
    slack = max(SLACK_BYTES, SLACK_SHARE * predicted.bundle_bytes)
    if kind == "bundle" and not 0 <= predicted.bundle_bytes - measured <= slack:
        raise ProofError(
            f"{path.name} has {measured} bytes where at most {predicted.bundle_bytes} and little less were predicted; "
            "it was removed, as a size that is not understood may be wrong elsewhere too: please report it"
        )
    count = predicted.weights_bytes if budget.measure == "weights" else measured
    if count > budget.limit:
        raise ProofError(
            f"a {kind} file of it has {show_bytes(count)} of {budget.measure}, the budget is "
            f"{show_bytes(budget.limit)}; it was removed: export another --format or --storage"
        )
    return measured


def largest_difference(
    shipped: NDArray[np.float32], expected: NDArray[np.float32], what: str, tolerance: float = TOLERANCE
) -> float:
    """Of a probability, between what is shipped and what it was made of. Raises ProofError above the tolerance."""
    difference = float(np.abs(shipped - expected).max())
    if not difference <= tolerance:
        raise ProofError(f"{what} gives other probabilities than the network it was made of (by {difference:.2g})")
    return difference


def probabilities_in_fresh_process(artefact: Path, bundle: Path, data: PreparedData, split: str) -> NDArray[np.float32]:
    """What an exported file answers in a process that knows nothing but the file."""
    import keras  # a proof is read without a framework

    with scratch() as folder:
        out = folder / "probabilities.npy"
        arguments = (artefact, bundle, data.path, split, out)
        run_fresh("captune.tuner.winner.fresh_predict", arguments, artefact, KERAS_BACKEND=keras.backend.backend())
        probabilities: NDArray[np.float32] = np.load(out)
        return probabilities


def run_fresh(module: str, arguments: Iterable[object], artefact: Path, **environment: str) -> None:
    """Runs a module of captune's, which loads `artefact`, in a fresh process.

    Raises:
        ProofError: it fails, with the last line that it wrote.
    """
    # -P: no module of the folder where someone works is taken for one of ours.
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ProofError(f"{artefact} cannot be loaded in a fresh process: {one_line(last[0])}")
