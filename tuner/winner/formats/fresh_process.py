"""The processes in which a file for another runtime is written, and answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captune.data_prep.store import PreparedData
from captune.files import scratch
from captune.model.bundle import Bundle
from captune.tuner.winner.formats.answer import ANSWERS, CAPTIONS, FACTS
from captune.tuner.winner.formats.declarations import Format
from captune.tuner.winner.formats.write import write
from captune.tuner.winner.own_process import in_own_process
from captune.tuner.winner.predict import tokens_of_split
from captune.tuner.winner.proof import run_fresh


def written_by_converter(bundle: Bundle, form: Format, target: Path) -> None:
    """Writes the network of a bundle as a file of a format. Raises FormatError, see `write`."""
    with scratch() as folder:
        bundle.save(folder / "bundle")
        storage = bundle.config.storage
        in_own_process(write, folder / "bundle", form.name, target, storage, say=lambda _: None)


def answers_of(
    artefact: Path, form: Format, bundle: Bundle, data: PreparedData, split: str
) -> tuple[NDArray[np.float32], dict[int, float]]:
    """Probabilities (n, num_labels) of a split by a file, and the median milliseconds of a call by its number of rows.

    Args:
        bundle: what the file was made of.

    Raises:
        ProofError: the file cannot be loaded.
    """
    with scratch() as folder:
        tokens = tokens_of_split(bundle, data, split)
        if tokens is not None:
            np.save(folder / CAPTIONS, tokens)
        reads = [x.name for x in bundle.network.inputs]
        arguments = (form.name, artefact, folder, data.path, split, *reads)
        run_fresh("captune.tuner.winner.formats.answer", arguments, artefact)
        facts = json.loads((folder / FACTS).read_text())
        milliseconds = {int(rows): median for rows, median in facts["milliseconds"].items()}
        return np.load(folder / ANSWERS), milliseconds
