"""How much of the scores each setting explains by itself: a quick look over all trials, see importance.py for them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEAST_TRIALS = 6
_GROUPS = 4  # of a setting with more values: quarters of its trials, by rank


def explained(columns: Mapping[str, Sequence[Any]], scores: Sequence[float]) -> dict[str, float]:
    """The share of the variance of the ranks of scores that each setting's values explain, the largest first.

    Trials are parted by the value of a setting, those where it does nothing into a part of their own, and numbers of
    many values into quarters: the adjusted R squared of such groups. It sees what rises, falls or peaks, in kinds as in
    numbers, takes milliseconds for thousands of trials, and draws nothing at random. Settings are looked at one by one.

    Args:
        columns: of each setting its value in each trial, None where it does nothing there.
        scores: of the same trials, all finite.

    Returns:
        From 0 to 1 by name, all 0 in their own order for fewer than LEAST_TRIALS.
    """
    import numpy as np
    import pandas as pd

    if len(scores) < LEAST_TRIALS:
        return dict.fromkeys(columns, 0.0)
    ranks = pd.Series(np.asarray(scores, dtype=float)).rank()
    total = float(((ranks - ranks.mean()) ** 2).sum())
    shares = {}
    for name, values in columns.items():
        groups = _groups(pd.Series(list(values), dtype=object))
        count = groups.nunique()
        within = float(((ranks - ranks.groupby(groups).transform("mean")) ** 2).sum())
        chance = (len(ranks) - 1) / (len(ranks) - count) if count < len(ranks) else np.inf
        shares[name] = max(0.0, 1 - within / total * chance) if total and 1 < count < len(ranks) else 0.0
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _groups(values: Any) -> Any:
    """Names of the part that each trial belongs to."""
    import pandas as pd

    present = values.dropna()
    numbers = present.map(lambda value: isinstance(value, int | float) and not isinstance(value, bool)).all()
    if numbers and present.nunique() > _GROUPS:
        present = pd.qcut(present.astype(float).rank(), _GROUPS, labels=False, duplicates="drop")
    return present.map(repr).reindex(values.index, fill_value="")
