"""The kinds of decision rule in pairs: mean F1 on test of each, and calibration errors before and after.

    python tests/benchmarks/rule.py [SPLITS [EPOCHS]]
    python tests/benchmarks/rule.py DATA BUNDLE...

Preset captions is trained once on each of SPLITS (6) splits, for EPOCHS epochs instead of its own, by each of three
losses: its own, asymmetric with gamma 3, and its own with inverse class weights. Rows are coco18/train.csv in the
folder that CAPTUNE_TEST_DATA names, without it drawn captions. Every rule is fitted on validation and scored on test,
with and without calibration; differences are from the threshold without. Intervals are 95 % bootstrap over the test
rows of all splits. Or the same for the networks of a search, RUN/checkpoints/N/best-E, each with the prepared set DATA:
not for a winner, which was trained on validation.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.demo import draw
from captune.data_prep.store import PreparedData, prepare
from captune.model.f1 import f1_per_example
from captune.model.flat import replace
from captune.model.metrics import bootstrap_interval, expected_calibration_error
from captune.model.presets import CAPTIONS
from captune.model.rule import RULES, VALUES, DecisionRule, RuleKind, cross_fitted, fit_rule
from captune.tuner.space.space import bind
from captune.tuner.training.runtime import settle
from captune.tuner.training.trial import begin, to_answer

LOSSES: Mapping[str, Mapping[str, Any]] = {
    "its own loss": {},
    "asymmetric": {"train.loss": "asymmetric", "train.gamma": 3.0},
    "inverse class weights": {"train.class_weights": "inverse"},
}
SMOOTH = np.full(11, 1 / 11)


def rows(folder: Path) -> Path:
    """A CSV with captions."""
    real = Path(os.environ.get("CAPTUNE_TEST_DATA", "")) / "coco18" / "train.csv"
    if real.is_file():
        return real
    draw(folder / "drawn", count=6000, unlabelled=1)
    return folder / "drawn" / "train.csv"


def trained(data: PreparedData, changes: Mapping[str, Any], seed: int) -> dict[str, NDArray[np.float32]]:
    """Probabilities of validation and test after the last epoch."""
    config = bind(replace(CAPTIONS, dict(changes)), data.manifest)
    training = begin(data, data.rows("train"), config, seed=seed, features=None)
    for epoch in range(1, config.train.epochs + 1):
        training.epoch(epoch)
    return {
        split: training.predict(to_answer(data, data.rows(split), config.model)) for split in ("validation", "test")
    }


def uncalibrated(kind: RuleKind, truth: Any, raw: Any) -> DecisionRule:
    """The value with the best mean F1 around it, of the network's own probabilities."""
    if kind == "expected_f1":
        return DecisionRule(0.0, kind)
    means = [f1_per_example(truth, DecisionRule(float(value), kind).decide(raw)).mean() for value in VALUES]
    around = np.convolve(np.pad(means, 5, mode="edge"), SMOOTH, mode="valid")
    return DecisionRule(float(VALUES[around.argmax()]), kind)


def main(splits: int, epochs: int | None) -> None:
    settle(1, "tensorflow", 0.0)
    with tempfile.TemporaryDirectory(prefix="captune-bench-") as name:
        folder = Path(name)
        csv = rows(folder)
        sets = [prepare(csv, None, folder / f"data-{seed}", seed=seed) for seed in range(splits)]
        for loss, changes in LOSSES.items():
            fixed = dict(changes) | ({} if epochs is None else {"train.epochs": epochs})
            compare(loss, [(data, trained(data, fixed, seed)) for seed, data in enumerate(sets)])


def of_search(data: str, bundles: list[str]) -> None:
    settle(1, "tensorflow", 0.0)
    from captune.model.bundle import Bundle
    from captune.tuner.winner.predict import probabilities_of_split

    prepared = PreparedData.open(data)
    for path in bundles:
        bundle = Bundle.load(Path(path))
        raw = {split: probabilities_of_split(bundle, prepared, split) for split in ("validation", "test")}
        compare(path, [(prepared, raw)])


def compare(loss: str, networks: list[tuple[PreparedData, dict[str, NDArray[np.float32]]]]) -> None:
    """Prints the table of one loss, or of one bundle."""
    scores, chosen = defaultdict[str, list[NDArray[np.float64]]](list), list[str]()
    errors = defaultdict[str, list[float]](list)
    for data, raw in networks:
        truth = {split: data.labels[data.rows(split)] for split in raw}
        fitting = truth["validation"], raw["validation"]
        rules = {f"{kind}, not calibrated": uncalibrated(kind, *fitting) for kind in reversed(RULES)}
        rules |= {kind: fit_rule(*fitting, kinds=[kind]) for kind in reversed(RULES)} | {"chosen": fit_rule(*fitting)}
        for name, rule in rules.items():
            scores[name].append(f1_per_example(truth["test"], rule.decide(raw["test"])))
        chosen.append(str(rules["chosen"]))
        crosswise = cross_fitted(*fitting).probabilities
        errors["validation, before"].append(expected_calibration_error(*fitting))
        errors["validation, crosswise"].append(expected_calibration_error(truth["validation"], crosswise))
        errors["test, before"].append(expected_calibration_error(truth["test"], raw["test"]))
        after = rules["chosen"].calibrated(raw["test"])
        errors["test, after"].append(expected_calibration_error(truth["test"], after))
    print(f"\n{loss}: {len(networks)} splits; chosen: {', '.join(chosen)}")
    plain = scores["threshold, not calibrated"]
    for name, each in scores.items():
        gains = [one - other for one, other in zip(each, plain, strict=True)]
        means = [gain.mean() for gain in gains]
        low, high = bootstrap_interval(np.concatenate(gains), seed=0)
        print(
            f"{name:27} {np.mean([f1.mean() for f1 in each]):.4f} {np.mean(means):+.4f} ({low:+.4f} to {high:+.4f}), "
            f"worst {min(means):+.4f}, best {max(means):+.4f}"
        )
    print("; ".join(f"ECE of {name} {np.mean(e):.4f} (worst {max(e):.4f})" for name, e in errors.items()), flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2 and not sys.argv[1].isdigit():
        of_search(sys.argv[1], sys.argv[2:])
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        main(numbers[0] if numbers else 6, numbers[1] if len(numbers) > 1 else None)
