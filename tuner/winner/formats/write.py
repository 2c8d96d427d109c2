"""A bundle written as a file for another runtime, in a process of TensorFlow's: any backend may have searched it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import WorkError, is_of_the_machine, one_line
from captune.model.config import ModelConfig, Storage
from captune.tuner.training.runtime import import_keras, silenced
from captune.tuner.winner.formats.declarations import FORMATS, FormatName, storage_of

if TYPE_CHECKING:
    import keras


class FormatError(WorkError):
    """A format that cannot hold a network."""


def write(bundle: Path, name: FormatName, target: Path, storage: Storage, *, say: Callable[[Any], None]) -> None:
    """Writes the network of a bundle. For captune.tuner.winner.own_process: this process becomes TensorFlow's.

    Raises:
        FormatError: a converter fails.
        WorkError: the disk or the memory refuses.
    """
    _import_tensorflow()
    from captune.model.bundle import Bundle

    write_network(Bundle.load(bundle).network, name, target, storage)


def write_untrained(
    configs: Sequence[ModelConfig], name: FormatName, targets: Sequence[Path], *, say: Callable[[Any], None]
) -> None:
    """Writes networks with random weights, each in its own storage as the format holds it. Else as `write`."""
    _import_tensorflow()
    import keras

    from captune.model.classifier import build

    for config, target in zip(configs, targets, strict=True):
        write_network(build(config, load_weights=False), name, target, storage_of(name, None, config.storage))
        keras.backend.clear_session()


def _import_tensorflow() -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # recurrent layers would take operations that only GPUs have
    import_keras("tensorflow")


def write_network(network: keras.Model, name: FormatName, target: Path, storage: Storage) -> None:
    """Writes a network whose weights went through the storage, and shows nothing of what converters log.

    Raises:
        FormatError: the converter fails.
    """
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
