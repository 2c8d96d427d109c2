"""Probabilities of a split by an exported file, in a fresh process: the other half of the proof."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from captune.data_prep.store import PreparedData
from captune.imports import captune_is_alone
from captune.tuner.training.runtime import import_keras


def main(artefact: Path, bundle: Path, data: Path, split: str, out: Path) -> None:
    """Writes them to `out`, a .npy file.

    A .keras file holds the network alone; labels, rule and vocabulary come from the bundle it was exported from.
    """
    captune_is_alone()
    import_keras()
    import keras

    from captune.model.bundle import Bundle
    from captune.tuner.winner.predict import probabilities_of_split

    loaded = Bundle.load(bundle)
    if artefact != bundle:
        loaded = replace(loaded, network=keras.models.load_model(artefact, compile=False))
    np.save(out, probabilities_of_split(loaded, PreparedData.open(data), split))


if __name__ == "__main__":
    arguments = [Path(argument) for argument in sys.argv[1:]]
    main(arguments[0], arguments[1], arguments[2], str(arguments[3]), arguments[4])
