"""The answer of a run in plain sentences, each of which stands only where it is known."""

from __future__ import annotations

from collections import Counter

from captune.errors import visible
from captune.model.config import TITLES
from captune.model.size import MiB
from captune.results.report_page.facts import Facts
from captune.results.summary import halving_saved, slot_hours

_SAID = 1.96  # standard errors to each side of a mean hold 95 %


def sentences(facts: Facts) -> list[str]:
    """Ten at most: what, how good, beside the baselines, how large, how sure, what it cost."""
    lines = [_what(facts), *_how_good(facts), _beside(facts), _how_large(facts), *_how_sure(facts), _why(facts)]
    return [visible(line) for line in (*lines, _fates(facts), _cost(facts)) if line]


def duration(seconds: float) -> str:
    """As people say it: '48 s', '12 min', '3 h 20 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _what(facts: Facts) -> str:
    search = facts.search
    labels = "" if facts.test is None else f" of {len(facts.test.per_label)} labels"
    state = "is looking" if facts.running else "looked"
    return (
        f"The search {state} for the best classifier{labels} that reads {search.read}, within "
        f"{_size(search.budget.limit)} of {'weights' if search.budget.measure == 'weights' else 'bundle'}, "
        f"from the preset {search.preset} on."
    )


def _how_good(facts: Facts) -> list[str]:
    best, test, metric = facts.best, facts.test, facts.search.metric
    if best is None or best.score is None or best.best is None:
        waiting = "none has a score yet" if facts.running else "none has a score"
        return [f"There is no answer so far: of {_count(len(facts.records), 'trial')} {waiting}."]
    error = best.best.standard_error
    interval = f" (95 % interval {_interval(best.score, error)})" if error > 0 else ""
    rows = f" on {test.validation_examples} validation rows" if test is not None else " on the validation rows"
    which = "The winner" if test is not None else "The best so far" if facts.running else "The best"
    found = (
        f"{which} is trial {best.number}: {TITLES[metric]} {best.score:.4f}{rows}{interval}, "
        f"after epoch {best.best_epoch}."
    )
    if test is None:
        return [found, "It is not proved yet: the best of many flatters itself on the rows that it was chosen by; "
                "`captune refit` trains it again and reads the test rows once."]  # fmt: skip
    averaged = []
    if test.members and test.validation is not None:
        trials = ", ".join(map(str, test.members))
        averaged = [
            f"It is shipped as the average of trials {trials}, chosen on validation, where they have "
            f"{TITLES[metric]} {test.validation:.4f} together."
        ]
    return [
        found,
        *averaged,
        f"Trained again and held against {test.examples} test rows that nothing had seen, it has mean F1 "
        f"{test.mean_f1:.4f} (95 % interval {test.low:.4f} to {test.high:.4f})"
        + (
            "."
            if metric == "mean_f1"
            else f", and {TITLES[metric]} {getattr(test, metric):.4f}, by which it was chosen."
        ),
        *([test.confirmed] if test.confirmed else []),
    ]


def _beside(facts: Facts) -> str:
    rows = "validation" if facts.test is None else "test"
    metric = "mean_f1" if facts.search.metric == "map" else facts.search.metric  # which no baseline has
    ours = facts.test if facts.test is not None else facts.best.best if facts.best is not None else None
    score = None if ours is None else getattr(ours, metric)
    baselines = [each for each in facts.baselines if each.rows == rows]
    if not baselines:
        return "This run has no baselines on these rows."
    said = " and ".join(f"{each.name} {getattr(each, metric):.4f}" for each in baselines)
    said = said if facts.search.metric == "mean_f1" else f"{TITLES[metric]} of {said}"
    if score is None:
        return f"Baselines on the {rows} rows: {said}."
    if facts.test is not None and facts.test.gain:
        return f"Baselines on the test rows: {said}; this has {facts.test.gain}."
    difference = score - max(getattr(each, metric) for each in baselines)
    verdict = f"{difference:.4f} more" if difference > 0 else f"{-difference:.4f} less: it is no better than these"
    return f"Baselines on the {rows} rows: {said}; this has {verdict}."


def _how_large(facts: Facts) -> str:
    best, budget = facts.best, facts.search.budget
    if best is None or not best.weights_bytes:
        return ""
    shipped = facts.test if facts.test is not None and facts.test.members else best
    share = 100 * budget.bytes_of(shipped) / budget.limit
    smaller = [r for r in facts.frontier if r in facts.equal and budget.bytes_of(r) < budget.bytes_of(best)]
    alike = (
        f"; as good within chance is trial {smaller[0].number} with {_size(budget.bytes_of(smaller[0]))}"
        if smaller
        else ""
    )
    part = f"{share:.{0 if share >= 10 else 1}f} % of the budget is used"
    fast = ""
    if facts.test is not None and facts.test.latency is not None:
        fast = f"; a row takes its file on one thread {facts.test.latency}"
    return f"Its weights take {_size(shipped.weights_bytes)}, {part}{alike}{fast}."


def _how_sure(facts: Facts) -> list[str]:
    said, best, test = [], facts.best, facts.test
    if best is not None and best.best is not None and best.best.standard_error > 0:
        equal = len(facts.equal)
        said.append(
            "No other trial comes within one standard error of it."
            if not equal
            else f"{_count(equal, 'other trial')} {'is' if equal == 1 else 'are'} within one standard error of it: "
            "the rows cannot tell them apart."
        )
    if test is not None:
        spread = ""
        if len(test.seeds) > 1:
            spread = f"; with {len(test.seeds)} seeds it has {min(test.seeds):.4f} to {max(test.seeds):.4f}"
        said.append(f"Its probabilities are off by {test.ece:.4f} on average (calibration error){spread}.")
    return said


def _why(facts: Facts) -> str:
    shares = list(facts.importance.shares.items())[:2]
    if not shares or shares[0][1] <= 0:
        return ""
    others = f", then {shares[1][0]} ({100 * shares[1][1]:.0f} %)" if len(shares) > 1 and shares[1][1] > 0.05 else ""
    return f"Of what settings explain of the score, {shares[0][0]} explains most ({100 * shares[0][1]:.0f} %){others}."


def _fates(facts: Facts) -> str:
    counts = Counter(record.fate for record in facts.records)
    slow = any(record.too_slow(facts.search.budget) for record in facts.records)
    why = "over the budget or too slow" if slow else "over the budget"
    refused = counts.pop("over_budget", 0)
    said = ", ".join(f"{count} {fate}" for fate, count in counts.most_common())
    over = f"; {refused} more {'was' if refused == 1 else 'were'} refused untrained, {why}" if refused else ""
    return f"{_count(sum(counts.values()), 'trial')}: {said or 'none'}{over}."


def _cost(facts: Facts) -> str:
    if not facts.seconds:
        return ""
    epochs = len({(record.origin, epoch.epoch) for record in facts.records for epoch in record.curve})
    saved = halving_saved(facts.records).epochs
    hours, price = slot_hours(facts.records), facts.search.price
    money = "" if price is None else f", which cost {price * hours:.2f} at {price:g} each"
    less = f"; halving left out {_count(saved, 'epoch')}" if saved else ""
    return (
        f"It took {duration(facts.seconds)} of search, {hours:.2f} slot hours{money}, and "
        f"{_count(epochs, 'epoch')}{less}."
    )


def _size(count: int) -> str:
    return f"{count / MiB:.2f} MiB"


def _interval(mean: float, error: float) -> str:
    return f"{max(0.0, mean - _SAID * error):.4f} to {min(1.0, mean + _SAID * error):.4f}"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
