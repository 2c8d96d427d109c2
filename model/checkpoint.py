"""A training run on disk, half-way: all it needs to go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from captune.files import written_aside
from captune.model.metrics import Epoch

Array = NDArray[Any]


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
        state = {"epoch": self.epoch, "identity": self.identity, "reports": list(map(asdict, self.reports))}
        with written_aside(path) as aside:
            aside.write_bytes(save(dict(self.arrays), metadata={"captune": json.dumps(state)}))

    @classmethod
    def read(cls, path: Path, identity: str) -> Checkpoint | None:
        """The checkpoint at `path`; None where there is none, it is damaged, or it is another run's."""
        try:
            with safe_open(path, framework="numpy") as file:
                header = json.loads((file.metadata() or {})["captune"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            reports = tuple(Epoch.read(report) for report in header["reports"])
            checkpoint = cls(int(header["epoch"]), str(header["identity"]), arrays, reports)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError):
            return None
        return checkpoint if checkpoint.identity == identity else None


def numbered(values: list[Array]) -> dict[str, Array]:
    """Arrays by their place: names of variables vary with what a process has built before."""
    return {f"{place:05d}": np.ascontiguousarray(value) if value.ndim else value for place, value in enumerate(values)}
