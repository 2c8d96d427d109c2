"""A bundle written as a file for another runtime, in a process of TensorFlow's: any backend may have searched it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captune.errors import WorkError, is_of_the_machine, one_line
from captune.model.config import Storage
from captune.tuner.training.runtime import import_keras, silenced
from captune.tuner.winner.formats.declarations import FORMATS, FormatName


class FormatError(WorkError):
    """A format that cannot hold a network."""


def write(bundle: Path, name: FormatName, target: Path, storage: Storage, *, say: Callable[[Any], None]) -> None:
    """Writes the network of a bundle. For captune.tuner.winner.own_process: this process becomes TensorFlow's.

    Raises:
        FormatError: a converter fails.
        WorkError: the disk or the memory refuses.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # recurrent layers would take operations that only GPUs have
    import_keras("tensorflow")
    from captune.model.bundle import Bundle

    network = Bundle.load(bundle).network
    with silenced():
        try:
            FORMATS[name].functions().write(network, target, storage)
        except Exception as error:  # of three converters, who raise whatever they like
            if is_of_the_machine(error):
                raise WorkError(
                    f"{target.name} cannot be written ({one_line(error, 200)}); mend that, then export again"
                ) from error
            raise FormatError(
                f"--format {name} cannot hold this network ({one_line(error, 200)}); export another --format"
            ) from error
