"""A training run on disk, half-way: all it needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from captune.errors import WorkError, one_line
from captune.files import written_aside
from captune.model.metrics import Epoch

Array = NDArray[Any]


class CheckpointError(WorkError):
    """A file that is no checkpoint, or not as it was written."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that changes while a network trains, after a number of epochs.

    arrays: weights, optimizer slots, states of random generators, by name. identity: says whose it is; only a run
    with the same may go on from it. reports: of the epochs so far, for a record that is behind.
    """

    epoch: int
    identity: str
    arrays: Mapping[str, Array]
    reports: tuple[Epoch, ...] = ()

    def reports_after(self, epoch: int) -> Iterator[Epoch]:
        """Those that a record lacks which ends with `epoch`."""
        return (report for report in self.reports if report.epoch > epoch)

    def write(self, path: Path) -> None:
        """Writes aside, then renames: at `path` there is always a whole checkpoint, this one or the one before.

        Raises:
            OSError: no room, or the folder cannot be written. Nothing is left of the attempt.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        state = json.dumps({"epoch": self.epoch, "identity": self.identity, "reports": list(map(asdict, self.reports))})
        with written_aside(path) as aside:
            aside.write_bytes(
                save(dict(self.arrays), metadata={"captune": state, "sha256": _sum_of(state, self.arrays)})
            )

    @classmethod
    def read(cls, path: Path, identity: str) -> Checkpoint | None:
        """The checkpoint at `path`; None where there is none, or it is another run's.

        Raises:
            CheckpointError: it is damaged.
        """
        if not os.path.lexists(path):
            return None
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("it is no regular file")
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            state = metadata["captune"]
            if metadata not in ({"captune": state}, {"captune": state, "sha256": _sum_of(state, arrays)}):
                raise ValueError("SHA-256 differs")  # an earlier captune wrote none
            header = json.loads(state)
            reports = tuple(Epoch.read(report) for report in header["reports"])
            checkpoint = cls(int(header["epoch"]), str(header["identity"]), arrays, reports)
        except (OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged ({one_line(error, 100)})") from None
        return checkpoint if checkpoint.identity == identity else None


def _sum_of(state: str, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(state.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def numbered(values: list[Array]) -> dict[str, Array]:
    """Arrays by their place: names of variables vary with what a process has built before."""
    return {f"{place:05d}": np.ascontiguousarray(value) if value.ndim else value for place, value in enumerate(values)}
