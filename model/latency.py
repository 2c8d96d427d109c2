"""Milliseconds of one row, predicted: a price for each kind of work, fitted to networks that one machine measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field

from captune.model.config import ModelConfig, Settings, Storage
from captune.model.operations import Operations, operations

FAR = 2.0
"""Times the limit from which on a network counts as over it unmeasured: predictions are rarely wrong by as much."""


class Speed(Settings):
    """What one machine takes.

    runtime: kind of the files that were measured. machine: its processor. nanoseconds: of each of Operations. stored:
    the same for storages in which the runtime computes otherwise. error: the factor by which the median of the networks
    was mispredicted by what the others say.
    """

    runtime: str
    machine: str
    nanoseconds: dict[str, float]
    error: float
    stored: dict[Storage, dict[str, float]] = Field(default_factory=dict)

    @classmethod
    def fitted(cls, runtime: str, machine: str, measured: Sequence[tuple[ModelConfig, float]]) -> Self:
        """From networks and their milliseconds, more of each storage than kinds of work; float32 is one of these."""
        factors: list[float] = []
        prices: dict[Storage, dict[str, float]] = {}
        for storage in sorted({config.storage for config, _ in measured}):
            alike = [(config, milliseconds) for config, milliseconds in measured if config.storage == storage]
            prices[storage] = _prices(alike)
            for place, (config, milliseconds) in enumerate(alike):
                by_others = _priced(config, _prices([*alike[:place], *alike[place + 1 :]]))
                factors.append(abs(math.log(by_others / milliseconds)))
        error = round(math.exp(statistics.median(factors)), 3)
        return cls(runtime=runtime, machine=machine, nanoseconds=prices.pop("float32"), error=error, stored=prices)

    def milliseconds(self, config: ModelConfig) -> float:
        """Of one row by one thread."""
        return _priced(config, self.stored.get(config.storage, self.nanoseconds))


@dataclass(frozen=True)
class Latency:
    """Milliseconds allowed for one row on one thread, and the machine whose they are."""

    limit: float
    speed: Speed

    def __str__(self) -> str:
        return f"{self.limit:g} ms a row"

    def share(self, config: ModelConfig) -> float:
        """Predicted milliseconds as a share of those allowed."""
        return self.speed.milliseconds(config) / self.limit

    def refusal(self, config: ModelConfig) -> str | None:
        """Why a network is far over the limit, by prediction; None where it may fit."""
        share = self.share(config)
        if share <= FAR:
            return None
        return (
            f"needs about {share * self.limit:.3g} ms a row as {self.speed.runtime}, {share:.3g} times the "
            f"{self.limit:g} ms of --latency; refused unmeasured is what is predicted to take over {FAR:g} times"
        )


def _priced(config: ModelConfig, prices: dict[str, float]) -> float:
    counts = operations(config)._asdict()
    return sum(prices[kind] * count for kind, count in counts.items()) / 1e6


def _prices(measured: Sequence[tuple[ModelConfig, float]]) -> dict[str, float]:
    """Nanoseconds of each kind, none below zero, with the least squares of relative errors."""
    import numpy as np
    from scipy.optimize import nnls

    counts = np.array([operations(config) for config, _ in measured], np.float64)
    nanoseconds = np.array([milliseconds for _, milliseconds in measured]) * 1e6
    scale = np.maximum(counts.max(axis=0), 1)  # counts differ by ten to the sixth
    prices, _ = nnls(counts / scale / nanoseconds[:, None], np.ones(len(measured)))
    prices[0] = max(prices[0], scale[0])  # a layer takes a nanosecond at least: nothing is free
    return dict(zip(Operations._fields, (float(price) for price in prices / scale), strict=True))
