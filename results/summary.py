"""What a whole search came to: trials by fate, where its seconds went, what halving saved, the best for each size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from captune.model.metrics import KINDS
from captune.model.size import Budget
from captune.results.attributes import HALVED
from captune.results.frontier import frontier
from captune.results.records import Record


def summarise(
    records: Sequence[Record], budget: Budget, slots: int, wall: float, *, interrupted: bool
) -> dict[str, Any]:
    """What summary.json holds.

    Args:
        records: all trials of a run.
        slots: trials that ran at once.
        wall: seconds of this search; what is counted of trials is of the whole run.
    """
    ahead = frontier(records, budget)
    # An epoch that a later attempt took over from a lost one, or trained again, counts once.
    epochs = list({(r.origin, epoch.epoch): epoch for r in records for epoch in r.curve}.values())
    saved_epochs, saved_seconds = halving_saved(records)
    return {
        "trials": dict(Counter(r.fate for r in records)),
        "epochs": len(epochs),
        "slots": slots,
        "wall_seconds": round(wall, 3),
        "busy_seconds": {kind: round(sum(e.seconds()[kind] for e in epochs), 3) for kind in KINDS},
        "trained_share": {
            "all": trained_share(records),
            # Of trials in a worker that had run one before.
            "warm": trained_share(r for r in records if r.spent["start"] == 0),
        },
        "halving_saved": {"epochs": saved_epochs, "seconds": round(saved_seconds, 3)},
        "best": {"number": ahead[-1].number, "mean_f1": ahead[-1].mean_f1} if ahead else None,
        "frontier": [
            {"number": r.number, "mean_f1": r.mean_f1, f"{budget.measure}_bytes": budget.bytes_of(r)} for r in ahead
        ],
        "interrupted": interrupted,
    }


def halving_saved(records: Iterable[Record]) -> tuple[int, float]:
    """Epochs that halving did not train, and their seconds at the rate of the epochs that were."""
    epochs, seconds = 0, 0.0
    for record in records:
        if record.fate == "stopped" and record.curve and (record.reason or "").startswith(HALVED):
            left = int(record.config["train.epochs"]) - record.curve[-1].epoch
            spent = sum(epoch.train_seconds + epoch.evaluate_seconds for epoch in record.curve)
            epochs += left
            seconds += left * spent / len(record.curve)
    return epochs, seconds


def trained_share(records: Iterable[Record]) -> float | None:
    """Of the time for which trials held a slot, the share that went into training and evaluation; None without any."""
    # A trial that went on has the epochs of the attempt before in its curve, but not their time.
    ran = [record for record in records if record.curve and record.seconds and record.origin == record.number]
    held = sum(record.seconds or 0.0 for record in ran)
    return round(sum(r.spent["train"] + r.spent["evaluate"] for r in ran) / held, 4) if held else None
