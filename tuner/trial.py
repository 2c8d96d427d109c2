"""One trial: configuration and data in, epochs out; and the worker that runs trials one after another."""

from __future__ import annotations

import os
import platform
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from data_prep.batches import Batches
from data_prep.store import PreparedData
from model.config import ModelConfig, TrialConfig, unflatten
from model.metrics import Epoch

EVALUATION_BATCH = 256


def train_trial(config: TrialConfig, data: PreparedData, *, seed: int) -> Iterator[Epoch]:
    """Trains on the train split, scores on validation, one report an epoch."""
    from model import training

    rows, held_out = data.rows("train"), data.rows("validation")
    yield from training.fit(
        config,
        batches(data, rows, config.model, config.train.batch_size, seed=seed),
        batches(data, held_out, config.model, EVALUATION_BATCH),
        data.labels[held_out],
        data.labels[rows].sum(axis=0).tolist(),
        seed=seed,
    )


def batches(data: PreparedData, rows: Any, config: ModelConfig, batch_size: int, *, seed: int | None = None) -> Batches:
    """The rows as the network reads them; shuffled every epoch where a seed is given."""
    text = config.text
    return Batches(
        data,
        rows,
        batch_size,
        modality=config.modality,
        max_tokens=text.max_tokens if text else None,
        vocabulary_size=text.vocabulary_size if text else None,
        seed=seed,
    )


def prepare_process(threads: int) -> None:
    """Settles the framework in this process, before its first import: threads, quiet, repeatable sums.

    Args:
        threads: of one operation; as many as the CPUs that the process was given.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TF_DETERMINISTIC_OPS", "1")
    with _silenced():
        import keras

        if keras.backend.backend() != "tensorflow":
            return
        import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    for gpu in tf.config.list_physical_devices("GPU"):
        # Otherwise the first of several trials on a GPU takes all of its memory.
        tf.config.experimental.set_memory_growth(gpu, True)


@contextmanager
def _silenced() -> Iterator[None]:
    """Standard error of the C libraries closed for a while: TensorFlow writes there at import whatever it is told."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class TrialWorker(tune.Trainable):
    """A Ray actor that runs trials one after another: imports and data are paid for once.

    What a trial itself does wrong is a result with `failure`, so the actor lives on. An actor that dies is
    the machine's fault.
    """

    def setup(self, config: dict[str, Any], *, data: str, threads: int) -> None:
        """Opens the data and begins the first trial.

        Args:
            config: as `Gate.suggest` gives it.
            data: path of the prepared data set, readable on this node.
            threads: CPUs of this worker.
        """
        prepare_process(threads)
        self._data = PreparedData.open(Path(data))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins the next trial in this process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        try:
            epoch = next(self._epochs)
        except Exception as error:  # whatever a configuration does wrong is recorded, and the next one runs
            from model.image_encoder import WeightsError

            return {
                "failure": _one_line(error),
                "traceback": traceback.format_exc(),
                "fatal": isinstance(error, WeightsError),  # it would meet every trial alike
                "mean_f1": 0.0,
                "done": True,
            }
        last = epoch.epoch >= self._length or epoch.mean_f1 != epoch.mean_f1
        return {**asdict(epoch), "node": platform.node(), "done": last}

    def _begin(self, config: dict[str, Any]) -> None:
        trial = unflatten(config["config"])
        self._length = trial.train.epochs
        self._epochs = train_trial(trial, self._data, seed=config["seed"])


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if type(error).__name__ == "ResourceExhaustedError":
        text = f"out of memory: {text}"
    return f"{type(error).__name__}: {text}"[:500]
