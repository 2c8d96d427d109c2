"""Trains the winner again on train + validation, reads test once, ships the bundle, and proves what is shipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.store import PreparedData
from captune.files import written_aside
from captune.model import metrics
from captune.model.average import Average, Network
from captune.model.config import Metric, TrialConfig
from captune.model.f1 import contributions, f1_per_example
from captune.model.flat import flatten, unflatten
from captune.model.metrics import Epoch
from captune.model.rule import Answers, DecisionRule
from captune.model.size import Budget, Size, refusal, size
from captune.model.training import Spread
from captune.results.baselines import answers_on_test
from captune.results.error_analysis import analyse
from captune.results.records import Record
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.settings import contents_of
from captune.tuner.space.units import clock
from captune.tuner.training.trial import begin, features_for, make_bundle, to_answer
from captune.tuner.winner.average import Members, average_of
from captune.tuner.winner.choose import epoch_to_keep, epochs_of_refit, refuse_another
from captune.tuner.winner.latency import LatencyLimit
from captune.tuner.winner.predict import by_label
from captune.tuner.winner.proof import (
    Confirmation,
    Gain,
    HeldOutScores,
    Proof,
    ProofError,
    ProvedMember,
    ReloadedScore,
    SearchScore,
    UnroundedScore,
    check_bytes,
    largest_difference,
    probabilities_in_fresh_process,
)
from captune.tuner.winner.step import EpochSteps, Message, Step


def refit(
    run: RunFolder,
    record: Record,
    data: PreparedData,
    budget: Budget,
    *,
    seeds: int,
    say: Callable[[Message], None],
    spread: Spread | None = None,
    latency: LatencyLimit | None = None,
    average: Members | None = None,
    confirmation: Confirmation | None = None,
) -> Proof:
    """Refits one trial and writes RUN/winner, for whoever holds `RunFolder.refitting`.

    The schedule is that of the search, training ends at the epoch that `epoch_to_keep` chooses, or with the schedule
    (`epochs_of_refit`), and the decision rule is that epoch's: after the refit no held-out example is left to fit
    either on. With several seeds the bundle is that of the first, the trial's own; the others only show how far the
    score moves.

    Args:
        spread: devices that train together; None for one.
        latency: that the winner's file has to keep; None where none is set.
        average: trials whose networks are averaged, `record` first; None for that alone.
        confirmation: how `record` was chosen, for the proof.

    Raises:
        RunError: the run was refitted before.
        ProofError: the bundle is over the budget or not of the predicted size, it does not give the same
            probabilities when loaded, or it is slower than `latency` allows.
    """
    refuse_another(run)
    plan = _Refit.of(record, data, budget, spread, say, average)
    with written_aside(run.winner, replace=False) as aside:
        aside.mkdir()
        bundle = aside / run.bundle.name
        first = plan.train(0, seeds, bundle)
        others = [plan.train(turn, seeds).rounded.mean_f1 for turn in range(1, seeds)]
        proof = plan.proof(first, others, bundle).model_copy(update={"confirmation": confirmation})
        if latency is not None:
            say("measuring how long its file takes for a row")
            proof = proof.model_copy(update={"latency": latency.proof(bundle, unflatten(record.config).model)})
        proof.write(aside / run.proof.name)
        analyse(data, plan.rows, plan.rule.answers(first.probabilities)).write(aside / run.error_analysis.name)
    return proof


@dataclass(frozen=True)
class _Scored:
    """What a network that was trained again answers on test."""

    probabilities: NDArray[np.float32]  # (n, labels), not calibrated, with its weights as the storage gives them back
    rounded: metrics.Scores
    unrounded: metrics.Scores


@dataclass(frozen=True)
class _Trial:
    """One trial that is trained again."""

    record: Record
    config: TrialConfig
    seed: int
    epoch: Epoch  # of the search; all that was fitted on validation is taken from it
    rule: DecisionRule
    epochs: int  # that it is trained

    @property
    def seconds_of_epoch(self) -> float:
        """That the search trained, in the mean; NaN of an earlier captune that did not keep it."""
        return sum(epoch.train_seconds for epoch in self.record.curve) / max(1, len(self.record.curve))

    @classmethod
    def of(cls, record: Record) -> _Trial:
        """Raises RunError, see `refit`."""
        epoch = epoch_to_keep(record)
        if record.seed is None:
            raise RunError(f"trial {record.number} has no seed; choose another with --trial")
        if epoch.rule is None:
            raise RunError(
                f"trial {record.number} has no decision rule after its best epochs; choose another with --trial"
            )
        config = unflatten(record.config)
        return cls(record, config, record.seed, epoch, epoch.rule, epochs_of_refit(record, epoch))

    def weights(self, data: PreparedData, turn: int, spread: Spread | None, steps: EpochSteps) -> list[NDArray[Any]]:
        """Of its network, trained on train + validation, as they were before any storage.

        Args:
            turn: added to its seed.
            steps: tells of its epochs.
        """
        features = features_for(self.config, data)
        rows = data.rows("train", "validation")
        training = begin(data, rows, self.config, seed=self.seed + turn, features=features, spread=spread)
        for number in range(1, self.epochs + 1):
            steps.train(training, number)
        with training.stacked(self.epoch.stack), training.averaged():
            return training.network.get_weights()


@dataclass(frozen=True)
class _Refit:
    """Trials that are trained again and make one network, and what it is held against."""

    trials: tuple[_Trial, ...]
    network: Network
    rule: DecisionRule
    mean_f1: float | None  # on validation
    score: float | None  # by the metric of the search
    data: PreparedData
    rows: NDArray[np.int64]  # of test
    size: Size
    budget: Budget
    spread: Spread | None
    say: Callable[[Message], None]

    @property
    def truth(self) -> NDArray[np.uint8]:
        """(n, labels) of test."""
        return self.data.labels[self.rows]

    @property
    def epochs(self) -> int:
        """Of all trials."""
        return sum(trial.epochs for trial in self.trials)

    @classmethod
    def of(
        cls,
        record: Record,
        data: PreparedData,
        budget: Budget,
        spread: Spread | None,
        say: Callable[[Message], None],
        average: Members | None,
    ) -> _Refit:
        """Raises RunError or ProofError, see `refit`."""
        records = (record,) if average is None else average.records
        trials = tuple(_Trial.of(each) for each in records)
        network = average_of(records)
        text = network.text
        towers = [text.weights] if text is not None and text.encoder == "transformer" else []
        predicted = size(network, contents_of(data, towers))
        why = refusal(predicted, budget)
        if why is not None:
            raise ProofError(f"trial {record.number} {why}")
        rows = data.rows("test")
        if not len(rows):
            raise RunError(f"{data.path} has no test rows to prove the winner on; prepare it with --split 80/10/10")
        rule, mean_f1, score = trials[0].rule, record.mean_f1, record.score
        if average is not None:
            rule, mean_f1, score = average.choice.rule, average.choice.mean_f1, average.choice.score
        return cls(trials, network, rule, mean_f1, score, data, rows, predicted, budget, spread, say)

    def train(self, turn: int, seeds: int, bundle: Path | None = None) -> _Scored:
        """With the seeds of a turn from 0, on train + validation; saved to `bundle`."""
        from captune.model.average_network import assembled
        from captune.model.training import predict, put_through

        what = f"refit {turn + 1} of {seeds}"
        more = len(self.data.rows("train", "validation")) / max(1, len(self.data.rows("train")))
        seconds = more * sum(trial.epochs * trial.seconds_of_epoch for trial in self.trials)
        foretold = f", {clock(seconds)} at the pace of the search" if math.isfinite(seconds) else ""
        self.say(f"{what}: {self.epochs} epochs on train + validation{foretold}")
        done, total = turn * self.epochs, seeds * self.epochs
        weights = []
        for trial in self.trials:
            steps = EpochSteps(self.say, what, total, before=done)
            weights.append(trial.weights(self.data, turn, self.spread, steps))
            done += trial.epochs
        network = assembled(self.network, weights)
        test = to_answer(self.data, self.rows, self.network)
        unrounded = rounded = predict(network, test)
        if self.network.storage != "float32":
            put_through(network, self.network.storage)
            rounded = predict(network, test)
        if bundle is not None:
            make_bundle(network, self.network, self.rule, self.data).save(bundle)
        return _Scored(rounded, self._score(rounded), self._score(unrounded))

    def proof(self, first: _Scored, others: list[float], bundle: Path) -> Proof:
        """Of the bundle, which is held against its size, the budget and what it answers in a fresh process.

        Args:
            others: mean F1 of the further seeds.
        """
        data, rule = self.data, self.rule
        measured = check_bytes(bundle, "bundle", self.size, self.budget)
        self.say("loading the bundle in a fresh process")
        epochs = self.epochs * (1 + len(others))
        self.say(Step("proof", epochs, epochs))
        shipped = probabilities_in_fresh_process(bundle, bundle, data, "test")
        difference = largest_difference(shipped, first.probabilities, "the bundle")
        answers, metric = rule.answers(first.probabilities), self.trials[0].epoch.metric
        correct = f1_per_example(self.truth, answers.labels)
        low, high = metrics.bootstrap_interval(correct, seed=self.trials[0].seed)
        held_out = by_label(first.rounded, data.manifest.label_ids) | {
            "standard_error": metrics.standard_error(metric, self.truth, answers)
        }
        return Proof(
            trial=self.trials[0].record.number,
            config=flatten(self.trials[0].config),
            epochs=self.epochs,
            rule=rule,
            members=self._members(),
            metric=metric,
            search=SearchScore(mean_f1=self.mean_f1, score=self.score, examples=data.manifest.counts["validation"]),
            test=HeldOutScores(**held_out, low=low, high=high),
            gain=self._gain(metric, answers),
            reloaded=ReloadedScore(mean_f1=self._score(shipped).mean_f1, max_difference=difference),
            seeds=(first.rounded.mean_f1, *others),
            storage=self.network.storage,
            weights_bytes=self.size.weights_bytes,
            bundle_bytes=measured,
            budget_bytes=self.budget.limit,
            measure=self.budget.measure,
            bundle_fits=measured <= self.budget.limit,
            data=data.manifest.fingerprint,
            float32=UnroundedScore(mean_f1=first.unrounded.mean_f1),
        )

    def _gain(self, metric: Metric, answers: Answers) -> Gain:
        """Of these answers to the rows of test."""
        metric = "mean_f1" if metric == "map" else metric
        captions = self.network.text is not None
        of_baselines = {
            name: contributions(metric, self.truth, each.labels)
            for name, each in answers_on_test(self.data, captions=captions).items()
        }
        best = max(of_baselines, key=lambda name: float(of_baselines[name].mean()))
        pairs = contributions(metric, self.truth, answers.labels) - of_baselines[best]
        low, high = metrics.bootstrap_interval(pairs, seed=self.trials[0].seed)
        return Gain(baseline=best, metric=metric, difference=float(pairs.mean()), low=low, high=high)

    def _members(self) -> tuple[ProvedMember, ...]:
        if not isinstance(self.network, Average):
            return ()
        return tuple(
            ProvedMember(
                trial=trial.record.number,
                epochs=trial.epochs,
                config=flatten(trial.config),
                scale=member.scale,
                shift=member.shift,
            )
            for trial, member in zip(self.trials, self.network.members, strict=True)
        )

    def _score(self, probabilities: NDArray[np.float32]) -> metrics.Scores:
        return metrics.score(self.truth, self.rule.answers(probabilities))
