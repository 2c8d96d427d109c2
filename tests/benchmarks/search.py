"""Epochs that a captions search trains in a given time, beside the same search written by hand.

    python tests/benchmarks/search.py [SECONDS [DATA]]

SECONDS (300) is the time of each search, DATA a prepared set with captions; by default coco18/train.csv in the folder
that CAPTUNE_TEST_DATA names, without it drawn captions. By hand: Ray Tune with OptunaSearch and ASHA, one CPU a trial,
and Optuna alone in one process with its pruner, both around Keras's fit as their tutorials have it. All three draw from
the space of preset captions, train on the same rows of the same tokens and score the same validation rows; imports and
the start of Ray count. An epoch is one pass over the training rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS, TOKENS, EPOCHS = 10_000, 16, 6


def arrays(data: str) -> tuple[Any, Any, Any, Any]:
    """Tokens and labels of train, then of validation."""
    from captune.data_prep.store import PreparedData

    prepared = PreparedData.open(data)
    assert prepared.tokens is not None
    train, validation = prepared.rows("train"), prepared.rows("validation")
    tokens, labels = prepared.tokens[:, :TOKENS], prepared.labels
    return tokens[train], labels[train], tokens[validation], labels[validation]


def network(values: dict[str, Any], labels: int) -> Any:
    import keras
    from keras import layers

    encoder = (
        [
            layers.Conv1D(values["units"], values["kernel"], padding="same", activation="relu"),
            layers.GlobalMaxPooling1D(),
        ]
        if values["encoder"] == "convolution"
        else [layers.GlobalAveragePooling1D()]
    )
    dense = [layers.Dense(values["dense"], activation="relu")] if values["dense"] else []
    model = keras.Sequential(
        [
            layers.Embedding(WORDS, values["embedding"]),
            layers.Dropout(values["embedding_dropout"]),
            *encoder,
            layers.Dropout(values["dropout"]),
            *dense,
            layers.Dense(labels, activation="sigmoid"),
        ]
    )
    loss = (
        keras.losses.BinaryCrossentropy(label_smoothing=values["label_smoothing"])
        if values["loss"] == "binary_crossentropy"
        else keras.losses.BinaryFocalCrossentropy(gamma=values["gamma"], label_smoothing=values["label_smoothing"])
    )
    model.compile(keras.optimizers.Adam(values["learning_rate"]), loss)
    return model


def fit(values: dict[str, Any], data: tuple[Any, Any, Any, Any], report: Callable[[int, float], None]) -> None:
    """Trains one configuration; `report` takes each epoch's mean F1 at a threshold of 0.5."""
    import keras
    import numpy as np

    from captune.model.f1 import f1_per_example

    tokens, targets, inputs, truth = data

    class Report(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            labels = np.asarray(self.model.predict(inputs, verbose=0)) >= 0.5
            report(epoch, float(f1_per_example(truth, labels).mean()))

    model = network(values, targets.shape[1])
    model.fit(
        tokens, targets, batch_size=values["batch_size"], epochs=EPOCHS, verbose=0,
        validation_data=(inputs, truth), callbacks=[Report()],
    )  # fmt: skip


def with_ray(data: str, seconds: float, out: str) -> None:
    from functools import partial

    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    def train(config: dict[str, Any], examples: Any, log: str) -> None:
        def report(epoch: int, score: float) -> None:
            with Path(log).open("a") as file:
                file.write(f"{score}\n")
            tune.report({"mean_f1": score})

        fit(config, examples, report)

    space = {
        "encoder": tune.choice(["convolution", "average"]),
        "embedding": tune.qrandint(64, 256, 32),
        "units": tune.qrandint(192, 640, 64),
        "kernel": tune.randint(1, 4),
        "embedding_dropout": tune.quniform(0.1, 0.5, 0.1),
        "dropout": tune.quniform(0.3, 0.6, 0.1),
        "dense": tune.choice([0, 128]),
        "learning_rate": tune.loguniform(1.5e-3, 6e-3),
        "batch_size": tune.choice([64, 128, 256]),
        "label_smoothing": tune.quniform(0.0, 0.1, 0.05),
        "loss": tune.choice(["binary_crossentropy", "focal"]),
        "gamma": tune.quniform(1.0, 3.0, 0.5),
    }
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tune.Tuner(
        tune.with_resources(tune.with_parameters(partial(train, log=out), examples=arrays(data)), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="mean_f1", mode="max", num_samples=-1, time_budget_s=seconds,
            search_alg=OptunaSearch(seed=0), scheduler=ASHAScheduler(grace_period=2, reduction_factor=3, max_t=EPOCHS),
        ),
        run_config=tune.RunConfig(storage_path=str(Path(out).parent / "ray"), verbose=0),
    ).fit()  # fmt: skip


def with_optuna(path: str, seconds: float, out: str) -> None:
    import optuna

    data = arrays(path)

    def objective(trial: optuna.Trial) -> float:
        best = 0.0

        def report(epoch: int, score: float) -> None:
            nonlocal best
            with Path(out).open("a") as file:
                file.write(f"{score}\n")
            best = max(best, score)
            trial.report(score, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        values = {
            "encoder": trial.suggest_categorical("encoder", ["convolution", "average"]),
            "embedding": trial.suggest_int("embedding", 64, 256, step=32),
            "units": trial.suggest_int("units", 192, 640, step=64),
            "kernel": trial.suggest_int("kernel", 1, 3),
            "embedding_dropout": trial.suggest_float("embedding_dropout", 0.1, 0.5, step=0.1),
            "dropout": trial.suggest_float("dropout", 0.3, 0.6, step=0.1),
            "dense": trial.suggest_categorical("dense", [0, 128]),
            "learning_rate": trial.suggest_float("learning_rate", 1.5e-3, 6e-3, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
            "label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.1, step=0.05),
            "loss": trial.suggest_categorical("loss", ["binary_crossentropy", "focal"]),
            "gamma": trial.suggest_float("gamma", 1.0, 3.0, step=0.5),
        }
        fit(values, data, report)
        return best

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=3)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    study.optimize(objective, timeout=seconds)


def prepared_in(folder: Path) -> str:
    """The data set where none is named."""
    from captune.data_prep.demo import draw
    from captune.data_prep.store import prepare

    real = Path(os.environ.get("CAPTUNE_TEST_DATA", "")) / "coco18" / "train.csv"
    if not real.is_file():
        draw(folder / "drawn", count=6000, unlabelled=1, seed=0)
        real = folder / "drawn" / "train.csv"
    return str(prepare(real, None, folder / "data").path)


def main(seconds: float, data: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="captune-bench-") as folder:
        data = data or prepared_in(Path(folder))
        run = Path(folder) / "run"
        captune = str(Path(sys.executable).with_name("captune"))
        rows: list[tuple[str, int, float, float]] = []
        started = time.perf_counter()
        quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60"}
        subprocess.run(
            [captune, "search", data, "--run", run, "--preset", "captions", "--time-limit", f"{int(seconds)}s"],
            check=True, capture_output=True,
        )  # fmt: skip
        summary = json.loads((run / "summary.json").read_text())
        rows.append(("captune", summary["epochs"], summary["best"]["mean_f1"], time.perf_counter() - started))
        for name in ("ray", "optuna"):
            log = Path(folder) / f"{name}.txt"
            log.touch()
            started = time.perf_counter()
            left = f"{seconds:g}"
            # Killed at the end of its time: neither stops in the middle of an epoch by itself.
            with subprocess.Popen(
                [sys.executable, __file__, left, data, name, str(log)],
                env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            ) as process:  # fmt: skip
                try:
                    process.wait(timeout=seconds + 60)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, 9)
            scores = [float(line) for line in log.read_text().split()]
            rows.append((name, len(scores), max(scores, default=0.0), time.perf_counter() - started))
        print(f"{'search':10} {'epochs':>7} {'captune: times as many':>23} {'best on validation':>19} {'seconds':>8}")
        for name, epochs, best, wall in rows:
            print(f"{name:10} {epochs:7} {rows[0][1] / max(1, epochs):23.2f} {best:19.4f} {wall:8.0f}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) == 4:
        {"ray": with_ray, "optuna": with_optuna}[arguments[2]](arguments[1], float(arguments[0]), arguments[3])
    else:
        main(float(arguments[0]) if arguments else 300.0, arguments[1] if len(arguments) > 1 else None)
