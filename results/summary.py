"""What a whole search came to: trials by fate, where its seconds went, what halving saved, the best for each size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from captune.model.config import Settings
from captune.model.metrics import KINDS
from captune.model.size import Budget
from captune.results.attributes import HALVED
from captune.results.documents import Document
from captune.results.frontier import frontier
from captune.results.records import Record


class TrainedShare(Settings):
    """See `trained_share`: of all trials, and of those in a worker that had run one before."""

    all: float | None
    warm: float | None


class Saved(Settings):
    """What halving did not train."""

    epochs: int
    seconds: float


class Best(Settings):
    """The best trial inside the budget."""

    number: int
    mean_f1: float


class Unbeaten(Best):
    """A trial that no other beats in score and size. Only the bytes that the budget counts were kept once."""

    weights_bytes: int | None = None
    bundle_bytes: int | None = None


class Summary(Document):
    """What summary.json holds."""

    trials: dict[str, int]
    """By fate."""
    epochs: int
    slots: int
    """Trials that could run at once, at most."""
    wall_seconds: float
    """Of this search; what is counted of trials is of the whole run."""
    busy_seconds: dict[str, float]
    """By kind, see captune.model.metrics.KINDS."""
    trained_share: TrainedShare
    halving_saved: Saved
    best: Best | None
    frontier: tuple[Unbeaten, ...]
    interrupted: bool


def summarise(records: Sequence[Record], budget: Budget, slots: int, wall: float, *, interrupted: bool) -> Summary:
    """What a search came to.

    Args:
        records: all trials of a run.
        slots: trials that ran at once.
        wall: seconds of this search.
    """
    ahead = frontier(records, budget)
    # An epoch that a later attempt took over from a lost one, or trained again, counts once.
    epochs = list({(r.origin, epoch.epoch): epoch for r in records for epoch in r.curve}.values())
    return Summary(
        trials=Counter(r.fate for r in records),
        epochs=len(epochs),
        slots=slots,
        wall_seconds=round(wall, 3),
        busy_seconds={kind: round(sum(e.seconds()[kind] for e in epochs), 3) for kind in KINDS},
        trained_share=TrainedShare(
            all=trained_share(records), warm=trained_share(r for r in records if r.spent["start"] == 0)
        ),
        halving_saved=halving_saved(records),
        best=Best(number=ahead[-1].number, mean_f1=ahead[-1].mean_f1) if ahead else None,
        frontier=tuple(
            Unbeaten(number=r.number, mean_f1=r.mean_f1, weights_bytes=r.weights_bytes, bundle_bytes=r.bundle_bytes)
            for r in ahead
        ),
        interrupted=interrupted,
    )


def halving_saved(records: Iterable[Record]) -> Saved:
    """Epochs that halving did not train, and their seconds at the rate of the epochs that were."""
    epochs, seconds = 0, 0.0
    for record in records:
        if record.fate == "stopped" and record.curve and (record.reason or "").startswith(HALVED):
            left = int(record.config["train.epochs"]) - record.curve[-1].epoch
            spent = sum(epoch.train_seconds + epoch.evaluate_seconds for epoch in record.curve)
            epochs += left
            seconds += left * spent / len(record.curve)
    return Saved(epochs=epochs, seconds=round(seconds, 3))


def trained_share(records: Iterable[Record]) -> float | None:
    """Of the time for which trials held a slot, the share that went into training and evaluation; None without any."""
    # A trial that went on has the epochs of the attempt before in its curve, but not their time.
    ran = [record for record in records if record.curve and record.seconds and record.origin == record.number]
    total = sum(record.seconds or 0.0 for record in ran)
    return round(sum(r.spent["train"] + r.spent["evaluate"] for r in ran) / total, 4) if total else None
