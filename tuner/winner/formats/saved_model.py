"""SavedModel: written by TensorFlow, answered by TensorFlow without Keras."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from captune.model.config import Storage
from captune.tuner.winner.formats.declarations import PROBABILITIES

if TYPE_CHECKING:
    import keras

    from captune.tuner.winner.formats.answer import Answer


def write(network: keras.Model, path: Path, storage: Storage) -> None:
    """See Format."""
    from captune.tuner.winner.formats import graph

    graph.save(network, str(path), rows=None)


def session(path: Path, threads: int) -> Answer:
    """See Format. TensorFlow settles its threads once for a process: they are as many as it takes."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    run = loaded.signatures["serving_default"]
    return lambda inputs: run(**{name: tf.constant(values) for name, values in inputs.items()})[PROBABILITIES].numpy()
