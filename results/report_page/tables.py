"""The rows of a page's tables, as texts that the template sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captune.errors import one_line, visible
from captune.model.metrics import KINDS
from captune.model.size import MiB
from captune.results.baselines import Baseline
from captune.results.error_analysis import Example, LabelScores
from captune.results.records import Record
from captune.results.report_page.answer import duration
from captune.results.report_page.facts import Facts

MOST_LABELS = 200
MOST_TRIALS = 20


@dataclass(frozen=True)
class ScoreRow:
    """Scores of the run's best, or of a baseline."""

    name: str
    mean_f1: str
    micro_f1: str
    macro_f1: str
    ours: bool = False


@dataclass(frozen=True)
class SettingRow:
    """A setting, its share of what settings explain, and the best trial's value."""

    name: str
    share: float
    value: str


@dataclass(frozen=True)
class TrialRow:
    """One trial in a line."""

    number: int
    fate: str
    score: str
    error: str
    epochs: str
    size: str
    time: str
    best: bool


@dataclass(frozen=True)
class FateRow:
    """How many trials came to this end, and why most of them."""

    fate: str
    count: int
    share: float
    reason: str


@dataclass(frozen=True)
class TimeRow:
    """Seconds of trials by kind."""

    kind: str
    time: str
    share: float


@dataclass(frozen=True)
class LabelRow:
    """A label; cells are as many as the columns of `label_columns` after the first and before the bar."""

    name: str
    cells: tuple[str, ...]
    f1: float


@dataclass(frozen=True)
class Card:
    """A row of the data, in words."""

    row: int
    image_id: str
    caption: str
    true: str
    given: str
    doubt: str
    f1: float
    picture: str


def scores(facts: Facts) -> list[ScoreRow]:
    """The best beside the baselines of the rows that its score is of; nothing where there are none."""
    rows = "validation" if facts.test is None else "test"
    baselines = [each for each in facts.baselines if each.rows == rows]
    if not baselines:
        return []
    others = [ScoreRow(b.name, _f(b.mean_f1), _f(b.micro_f1), _f(b.macro_f1)) for b in baselines]
    if facts.test is not None:
        ours = facts.test
        return [ScoreRow("the winner", _f(ours.mean_f1), _f(ours.micro_f1), _f(ours.macro_f1), True), *others]
    best = facts.best.best if facts.best is not None else None
    if best is None:
        return others
    return [ScoreRow("the best trial", _f(best.mean_f1), _f(best.micro_f1), _f(best.macro_f1), True), *others]


def importances(facts: Facts) -> list[SettingRow]:
    """Every setting that explains something of the score."""
    config = facts.best.config if facts.best is not None else {}
    return [SettingRow(name, share, value(config.get(name))) for name, share in facts.importance.shares.items()]


def trials(facts: Facts) -> list[TrialRow]:
    """The best trials inside the budget."""
    return [_trial(record, facts) for record in facts.scored[:MOST_TRIALS]]


def fates(facts: Facts) -> list[FateRow]:
    """By fate, the commonest first."""
    counts = Counter(record.fate for record in facts.records)
    rows = []
    for fate, count in counts.most_common():
        reasons = Counter(r.reason for r in facts.records if r.fate == fate and r.reason)
        reason = one_line(reasons.most_common(1)[0][0], 200) if reasons else ""
        rows.append(FateRow(fate, count, count / len(facts.records), visible(reason)))
    return rows


def seconds(facts: Facts) -> list[TimeRow]:
    """By kind; an epoch that a later attempt took over counts once."""
    epochs = {(r.origin, e.epoch): e for r in facts.records for e in r.curve}.values()
    spent = {kind: sum(epoch.seconds()[kind] for epoch in epochs) for kind in KINDS}
    total = sum(spent.values())
    return [TimeRow(kind, duration(s), s / total) for kind, s in spent.items() if s] if total > 0 else []


def label_columns(facts: Facts) -> list[str]:
    """Headings of the table of labels, beginning with that of the labels and ending with that of the bars."""
    known = ["F1", "precision", "recall", "rows"] if facts.analysis is not None else ["F1"]
    return ["label", *known, *(f"F1 of {b.name}" for b in _with_labels(facts)), "F1 as a bar"]


def labels(facts: Facts) -> list[LabelRow]:
    """Of test, the weakest first; nothing before a refit."""
    if facts.analysis is not None:
        known = facts.analysis.labels
    elif facts.test is not None:
        known = tuple(
            LabelScores(id=int(label), name=label, f1=f1, precision=0, recall=0, support=0, given=0)
            for label, f1 in facts.test.per_label.items()
        )
    else:
        return []
    places = sorted(range(len(known)), key=lambda place: known[place].f1)[:MOST_LABELS]
    return [_label(facts, known[place], place) for place in places]


def cards(examples: Sequence[Example], names: Mapping[int, str]) -> list[Card]:
    """Rows of test.

    Args:
        names: of the labels by id.
    """

    def words(ids: Sequence[int]) -> str:
        return visible(one_line(", ".join(names.get(label, str(label)) for label in ids), 200)) or "no label"

    return [
        Card(
            e.row, visible(e.image_id), visible(e.caption), words(e.true), words(e.given),
            f"{words([e.doubt.label])}: probability {e.doubt.probability:.3f}, "
            f"{'has it' if e.doubt.label in e.true else 'has it not'}", e.f1, e.picture,
        )
        for e in examples
    ]  # fmt: skip


def value(setting: object) -> str:
    """Of a setting, as people read it."""
    return visible(one_line(f"{setting:.4g}" if isinstance(setting, float) else str(setting), 120))


def _trial(record: Record, facts: Facts) -> TrialRow:
    error = record.best.standard_error if record.best is not None else 0.0
    return TrialRow(
        number=record.number,
        fate=record.fate,
        score=_f(record.score or 0.0),
        error=_f(error) if error > 0 else "",
        epochs=str(record.epochs),
        size=f"{facts.search.budget.bytes_of(record) / MiB:.2f}",
        time="" if record.seconds is None else duration(record.seconds),
        best=facts.best is not None and record.number == facts.best.number,
    )


def _label(facts: Facts, label: LabelScores, place: int) -> LabelRow:
    cells = [_f(label.f1)]
    if facts.analysis is not None:
        cells += [_f(label.precision), _f(label.recall), str(label.support)]
    cells += [_f(baseline.per_label[place]) for baseline in _with_labels(facts)]
    name = label.name if label.name == str(label.id) else f"{label.name} ({label.id})"
    return LabelRow(visible(one_line(name, 80)), tuple(cells), label.f1)


def _with_labels(facts: Facts) -> list[Baseline]:
    count = 0 if facts.test is None else len(facts.test.per_label)
    return [b for b in facts.baselines if b.rows == "test" and len(b.per_label) == count]


def _f(score: float) -> str:
    return f"{score:.4f}"
