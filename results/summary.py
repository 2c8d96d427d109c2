"""What a whole search came to: trials by fate, where its seconds went, what halving saved, the best for each size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from captune.model.config import Metric, Settings
from captune.model.metrics import KINDS, Epoch
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
    score: float | None = None
    """By the metric of the search; None in files of before it had one."""


class Unbeaten(Best):
    """A trial that no other beats in score and size. Only the bytes that the budget counts were kept once."""

    weights_bytes: int | None = None
    bundle_bytes: int | None = None


@dataclass(frozen=True)
class Session:
    """One process that searched in a run. slots: trials that ran at once. signal: that ended it, SIGINT say."""

    slots: int
    wall_seconds: float
    signal: str | None = None


class Summary(Document):
    """What summary.json holds: of the whole run, but for what is of its last session, a search or a resume that had
    something to do."""

    trials: dict[str, int]
    """By fate."""
    epochs: int
    session_epochs: int | None = None
    """Of these, those of the last session; None in files of before."""
    slots: int
    """Trials that could run at once, at most, in the last session."""
    wall_seconds: float
    """Of the last session."""
    busy_seconds: dict[str, float]
    """By kind, see captune.model.metrics.KINDS."""
    trained_share: TrainedShare
    halving_saved: Saved
    slot_hours: float = 0.0
    """For which trials held a slot, in all sessions."""
    cost: float | None = None
    """Of these, in the money of the search's `price`; None without one."""
    best: Best | None
    frontier: tuple[Unbeaten, ...]
    interrupted: bool
    metric: Metric = "mean_f1"
    """That the best is the best by."""
    signal: str | None = None
    """What interrupted it: SIGINT is Ctrl-C."""

    def of_session(self, other: Summary) -> Summary:
        """The same with the session of another."""
        names = ("session_epochs", "slots", "wall_seconds")
        return self.model_copy(update={name: getattr(other, name) for name in names})


def slot_hours(records: Iterable[Record]) -> float:
    """For which trials held a slot, in all searches of a run; of those that a killed search left, as far as known."""
    return sum(record.seconds or 0.0 for record in records if record.fate != "over_budget") / 3600


def summarise(
    records: Sequence[Record],
    budget: Budget,
    session: Session,
    *,
    before: Sequence[Record] = (),
    price: float | None = None,
) -> Summary:
    """What a search came to.

    Args:
        records: all trials of a run.
        before: the same when the session began.
        price: of an hour of one slot.
    """
    ahead, epochs, hours = frontier(records, budget), _epochs(records), slot_hours(records)
    return Summary(
        trials=Counter(r.fate for r in records),
        epochs=len(epochs),
        session_epochs=len(epochs) - len(_epochs(before)),
        slots=session.slots,
        wall_seconds=round(session.wall_seconds, 3),
        busy_seconds={kind: round(sum(e.seconds()[kind] for e in epochs), 3) for kind in KINDS},
        trained_share=TrainedShare(
            all=trained_share(records), warm=trained_share(r for r in records if r.spent["start"] == 0)
        ),
        halving_saved=halving_saved(records),
        slot_hours=round(hours, 4),
        cost=None if price is None else round(price * hours, 2),
        best=Best(number=ahead[-1].number, mean_f1=ahead[-1].mean_f1, score=ahead[-1].score) if ahead else None,
        frontier=tuple(
            Unbeaten(
                number=r.number,
                mean_f1=r.mean_f1,
                score=r.score,
                weights_bytes=r.weights_bytes,
                bundle_bytes=r.bundle_bytes,
            )
            for r in ahead
        ),
        interrupted=session.signal is not None,
        metric=next((record.metric for record in records if record.curve), "mean_f1"),
        signal=session.signal,
    )


def _epochs(records: Iterable[Record]) -> list[Epoch]:
    """All of a run. One that a later attempt took over from a lost one, or trained again, counts once."""
    return list({(record.origin, epoch.epoch): epoch for record in records for epoch in record.curve}.values())


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
