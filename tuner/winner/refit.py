"""Trains the winner again on train + validation, reads test once, ships the bundle, and proves what is shipped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.store import PreparedData
from captune.errors import WorkError
from captune.model import metrics
from captune.model.bundle import Bundle, measured_bytes
from captune.model.config import Storage, TrialConfig, flatten, unflatten
from captune.model.metrics import DecisionRule
from captune.model.size import Budget, Size, refusal, show_bytes, size
from captune.model.training import Spread, Training, put_through
from captune.results.records import Record
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.settings import contents_of, write_json
from captune.tuner.training.runtime import in_bfloat16
from captune.tuner.training.trial import EVALUATION_BATCH, batches, features_for, make_bundle, shuffled
from captune.tuner.winner.choose import epoch_to_keep, refuse_another
from captune.tuner.winner.predict import probabilities_of_split, scores_as_dict

TOLERANCE = 1e-6  # of a probability, between the network that was trained and the file loaded in a fresh process
# A bundle has never more than its predicted bytes, and less by this share at most; or, where the network is so small
# that the text around its weights is most of the bundle, by so many bytes.
SLACK_SHARE, SLACK_BYTES = 0.01, 512


class ProofError(WorkError):
    """What was exported is not what was scored, or not what was allowed. Nothing is left that could be shipped."""


def refit(
    run: RunFolder,
    record: Record,
    data: PreparedData,
    budget: Budget,
    *,
    seeds: int,
    say: Callable[[str], None],
    spread: Spread | None = None,
) -> dict[str, Any]:
    """Refits one trial and returns what RUN/winner/proof.json holds.

    The schedule is that of the search, training ends at the epoch that `epoch_to_keep` chooses, and the decision rule
    is that epoch's: after the refit no held-out example is left to fit either on. With several seeds the bundle is
    that of the first, the trial's own; the others only show how far the score moves.

    Args:
        spread: devices that train together; None for one.

    Raises:
        RunError: the run was refitted before, or its batches cannot be shared out evenly.
        ProofError: the bundle is over the budget or not of the predicted size, or it does not give the same
            probabilities when loaded.
    """
    refuse_another(run)
    kept_epoch = epoch_to_keep(record)
    if record.seed is None:
        raise RunError(f"trial {record.number} has no seed; choose another with --trial")
    config, rule = unflatten(record.config), DecisionRule(kept_epoch.threshold)
    devices, batch = 1 if spread is None else spread.devices, config.train.batch_size
    if batch % devices:
        raise RunError(
            f"batches of {batch} cannot be shared out evenly among {devices} GPUs; give --gpus another number"
        )
    contents = contents_of(data)
    why = refusal(size(config.model, contents), budget)
    if why is not None:
        raise ProofError(f"trial {record.number} {why}")
    rows = data.rows("test")
    if not len(rows):
        raise RunError(f"{data.path} has no test rows to prove the winner on; prepare it with --split 80/10/10")
    truth = data.labels[rows]
    aside = run.path / "winner.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        scores: list[metrics.Scores] = []
        kept: NDArray[np.float32] | None = None
        for turn in range(seeds):
            say(f"refit {turn + 1} of {seeds}: {kept_epoch.epoch} epochs on train + validation")
            training = _train(config, data, kept_epoch.epoch, seed=record.seed + turn, spread=spread, say=say)
            test = batches(data, rows, config.model, EVALUATION_BATCH)
            found = training.predict(test)
            scores.append(metrics.score(truth, found, rule.decide(found)))
            if kept is None:
                kept = found
                exact = training.predict(test, stored=False)
                unrounded = metrics.score(truth, exact, rule.decide(exact)).mean_f1
                with training.averaged():
                    make_bundle(training, config, rule, data).save(aside / "bundle")
        assert kept is not None
        check_bytes(aside / "bundle", "bundle", size(config.model, contents), budget)
        say("loading the bundle in a fresh process")
        reloaded = probabilities_in_fresh_process(aside / "bundle", aside / "bundle", data, "test")
        proof = _proof(
            record, kept_epoch.epoch, config, data, truth, rule, kept, reloaded, scores, aside / "bundle", budget
        )
        proof["float32"] = {"mean_f1": unrounded}
        write_json(aside / "proof.json", proof)
        aside.rename(run.winner)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return proof


def check_bytes(path: Path, kind: str, predicted: Size, budget: Budget) -> int:
    """Bytes of what was written, held against the budget and against what was predicted before it was built.

    Args:
        kind: "bundle", or "keras", whose container is not ours to predict.

    Raises:
        ProofError: over the budget, larger than predicted, or smaller by more than the slack.
    """
    measured = measured_bytes(path)
    slack = max(SLACK_BYTES, SLACK_SHARE * predicted.bundle_bytes)
    if kind == "bundle" and not 0 <= predicted.bundle_bytes - measured <= slack:
        raise ProofError(
            f"{path} has {measured} bytes where at most {predicted.bundle_bytes} and little less were predicted; "
            "it was removed, as a size that is not understood may be wrong elsewhere too: please report it"
        )
    count = predicted.weights_bytes if budget.measure == "weights" else measured
    if count > budget.limit:
        raise ProofError(
            f"a {kind} file of it has {show_bytes(count)} of {budget.measure}, the budget is "
            f"{show_bytes(budget.limit)}; it was removed: export another --format or --storage"
        )
    return measured


def export(
    run: RunFolder, data: PreparedData, budget: Budget, target: Path, kind: str, storage: Storage | None
) -> dict[str, Any]:
    """Writes the proved winner to `target` as a bundle folder or a .keras file, and proves the copy.

    Args:
        storage: of the copy; None for the winner's own. A .keras file is always float32.

    Returns:
        path, format, storage, bytes; mean_f1 on test of the winner and of the export as it was loaded in a fresh
        process; max_difference of a probability between these two.

    Raises:
        RunError: no winner yet, or `target` exists.
        ProofError: over the budget, or the file gives other probabilities than the weights that were written.
    """
    if not run.proof.is_file():
        raise RunError(f"{run} has no proved winner; run `captune refit {run}` first")
    if target.exists():
        raise RunError(f"{target} exists; name a path that does not")
    if kind == "keras" and target.suffix != ".keras":
        raise RunError(f"a Keras file must be named *.keras, got {target}")
    target.parent.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.load(run.bundle)
    winner = probabilities_of_split(bundle, data, "test")
    stored = "float32" if kind == "keras" else storage or bundle.config.storage
    copy = replace(bundle, config=bundle.config.model_copy(update={"storage": stored}))
    put_through(copy.network, stored)
    try:
        if kind == "keras":
            copy.network.save(target)
        else:
            copy.save(target)
        measured = check_bytes(target, kind, size(copy.config, contents_of(data)), budget)
        expected = probabilities_of_split(copy, data, "test")
        found = probabilities_in_fresh_process(target, run.bundle if kind == "keras" else target, data, "test")
        difference = float(np.abs(found - expected).max())
        if difference > TOLERANCE:
            raise ProofError(f"{target} gives other probabilities than what it was made of (by {difference:.2g})")
    except BaseException:
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        raise
    truth = data.labels[data.rows("test")]
    return {
        "path": str(target),
        "format": kind,
        "storage": stored,
        "bytes": measured,
        "mean_f1": {
            name: metrics.score(truth, probabilities, bundle.rule.decide(probabilities)).mean_f1
            for name, probabilities in (("winner", winner), ("export", found))
        },
        "max_difference": float(np.abs(found - winner).max()),
    }


def probabilities_in_fresh_process(artefact: Path, bundle: Path, data: PreparedData, split: str) -> NDArray[np.float32]:
    """What an exported file answers in a process that knows nothing but the file."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "probabilities.npy"
        command = [
            sys.executable,
            "-m",
            "captune.tuner.winner.predict",
            *map(str, (artefact, bundle, data.path, split, out)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ProofError(f"{artefact} cannot be loaded in a fresh process: {last[0]}")
        found: NDArray[np.float32] = np.load(out)
        return found


def _train(
    config: TrialConfig,
    data: PreparedData,
    epochs: int,
    *,
    seed: int,
    spread: Spread | None,
    say: Callable[[str], None],
) -> Training:
    rows = data.rows("train", "validation")
    features = features_for(config, data)
    source = shuffled(data, rows, config, seed, features)
    counts = data.labels[rows].sum(axis=0).tolist()
    training = Training(config, source, counts, seed=seed, bfloat16=in_bfloat16(config.train.precision), spread=spread)
    for number in range(1, epochs + 1):
        say(f"epoch {number} of {epochs}: loss {training.epoch(number):.4f}")
    return training


def _proof(
    record: Record,
    epochs: int,
    config: TrialConfig,
    data: PreparedData,
    truth: NDArray[np.uint8],
    rule: DecisionRule,
    found: NDArray[np.float32],
    reloaded: NDArray[np.float32],
    scores: list[metrics.Scores],
    bundle: Path,
    budget: Budget,
) -> dict[str, Any]:
    difference = float(np.abs(found - reloaded).max())
    if difference > TOLERANCE:
        raise ProofError(f"the bundle gives other probabilities than the network it was made of (by {difference:.2g})")
    low, high = metrics.bootstrap_interval(metrics.f1_per_example(truth, rule.decide(found)), seed=record.seed or 0)
    again = metrics.score(truth, reloaded, rule.decide(reloaded))
    return {
        "trial": record.number,
        "config": flatten(config),
        "epochs": epochs,
        "threshold": rule.threshold,
        "search": {"mean_f1": record.mean_f1, "examples": data.manifest.counts["validation"]},
        "test": {**scores_as_dict(scores[0], data.manifest.label_ids), "low": low, "high": high},
        "reloaded": {"mean_f1": again.mean_f1, "max_difference": difference},
        "seeds": [s.mean_f1 for s in scores],
        "storage": config.model.storage,
        "weights_bytes": size(config.model).weights_bytes,
        "bundle_bytes": measured_bytes(bundle),
        "budget_bytes": budget.limit,
        "measure": budget.measure,
        "bundle_fits": measured_bytes(bundle) <= budget.limit,
        "data": data.manifest.fingerprint,
    }
