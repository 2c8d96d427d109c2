"""The plots of a page. However many trials there are, so many points are drawn that the page stays small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from captune.errors import one_line, visible
from captune.model.config import TITLES
from captune.model.size import MiB
from captune.results.error_analysis import Bin
from captune.results.records import Record
from captune.results.report_page.facts import Facts
from captune.results.report_page.svg import FAINT, INK, MAIN, SECOND, WARNING, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 500
MOST_CURVES = 60
BRIGHT_CURVES = 5
_MOST_CHOICES = 12  # values of a setting that stand beside each other as words
_LABEL = 24  # characters of a word at an axis


def progress(facts: Facts) -> str:
    """Score of each trial over the time of search, and the best so far."""
    ended = [(facts.spans[r.number][1] / 60, r) for r in scored(facts) if r.number in facts.spans]
    ended.sort(key=lambda point: point[0])
    points = thinned(ended, lambda point: point[1].score or 0.0)
    low = floor([r.score or 0.0 for _, r in ended])
    best = [ended[0]]
    for minute, record in ended:
        if (record.score or 0.0) > (best[-1][1].score or 0.0):
            best.append((minute, record))

    def draw(axes: Axes) -> None:
        for fate, colour, marker in (("stopped", FAINT, "v"), ("complete", MAIN, "o"), ("running", SECOND, "s")):
            group = [(minute, max(low, r.score or 0.0)) for minute, r in points if r.fate == fate]
            if group:
                axes.scatter(
                    [m for m, _ in group],
                    [s for _, s in group],
                    s=16,
                    color=colour,
                    marker=marker,
                    label=fate,
                    linewidths=0,
                )
        steps = [*best, (ended[-1][0], best[-1][1])]
        axes.step(
            [m for m, _ in steps], [r.score or 0.0 for _, r in steps], where="post", color=INK, label="best so far"
        )
        _baselines(axes, facts)
        axes.set(
            xlabel="minutes of search", ylabel=TITLES[facts.search.metric], ylim=(low - _margin(low, best[-1][1]), None)
        )
        _legend_above(axes)

    first, last = best[0][1], best[-1][1]
    return drawn(
        "progress",
        f"Scores of {len(ended)} trials over {ended[-1][0]:.1f} minutes of search; the best so far rises from "
        f"{first.score:.4f} to {last.score:.4f}, reached after {best[-1][0]:.1f} minutes by trial {last.number}.",
        draw,
    )


def curves(facts: Facts) -> str:
    """Score after each epoch: the best trials by their numbers, the others faint."""
    ranked = sorted(scored(facts), key=lambda r: -(r.score or 0.0))
    bright, others = ranked[:BRIGHT_CURVES], thinned(ranked[BRIGHT_CURVES:], lambda r: r.score or 0.0, MOST_CURVES)
    low = floor([e.score for r in ranked for e in r.curve if math.isfinite(e.score)])

    def draw(axes: Axes) -> None:
        for record in others:
            axes.plot(*_curve(record, low), color=FAINT, alpha=0.45, linewidth=0.8)
        styles = ("-", "--", "-.", ":", (0, (5, 1)))
        for place, (record, style) in enumerate(zip(bright, styles, strict=False)):
            colour = MAIN if place == 0 else SECOND
            axes.plot(*_curve(record, low), style if isinstance(style, str) else "-", color=colour, marker=".",
                      label=f"trial {record.number}")  # fmt: skip
        axes.set(xlabel="epoch", ylabel=f"{TITLES[facts.search.metric]} on validation")
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize=8, loc="lower right")

    said = "; ".join(f"trial {r.number} reaches {r.score:.4f} after epoch {r.best_epoch}" for r in bright)
    return drawn("curves", f"Learning curves of {len(bright) + len(others)} trials: {said}.", draw)


def over_budget(facts: Facts) -> list[Record]:
    """Trials that were refused for their bytes."""
    return [r for r in facts.records if r.fate == "over_budget" and not r.too_slow(facts.search.budget)]


def sizes(facts: Facts) -> str:
    """Bytes against score, the budget's line, and what was refused for its bytes."""
    budget = facts.search.budget
    points = [r for r in thinned(scored(facts), lambda r: r.score or 0.0) if budget.bytes_of(r)]
    refused = thinned(over_budget(facts), lambda r: -budget.bytes_of(r))
    low, limit = floor([r.score or 0.0 for r in points]), budget.limit / MiB
    all_bytes = [budget.bytes_of(r) / MiB for r in (*points, *refused)]

    def draw(axes: Axes) -> None:
        axes.scatter([budget.bytes_of(r) / MiB for r in points], [max(low, r.score or 0.0) for r in points],
                     s=16, color=MAIN, linewidths=0, label="scored")  # fmt: skip
        if refused:
            axes.scatter([budget.bytes_of(r) / MiB for r in refused], [low] * len(refused),
                         s=24, color=WARNING, marker="x", linewidths=1, label="refused, over the budget")  # fmt: skip
        ahead = facts.frontier
        if ahead:
            axes.step([budget.bytes_of(r) / MiB for r in ahead], [max(low, r.score or 0.0) for r in ahead],
                      where="post", color=INK, linewidth=1, label="best for each size")  # fmt: skip
        axes.axvline(limit, color=WARNING, linestyle="--", linewidth=1, label=f"budget, {limit:.4g} MiB")
        if max([*all_bytes, limit]) > 8 * min([*all_bytes, limit]):
            _logarithmic(axes)
        axes.set(
            xlabel=f"MiB of {'weights' if budget.measure == 'weights' else 'the bundle'}",
            ylabel=TITLES[facts.search.metric],
        )
        _legend_above(axes)

    return drawn(
        "sizes",
        f"{len(points)} scored trials from {min(all_bytes):.2f} to {max(all_bytes):.2f} MiB against the budget of "
        f"{limit:.4g} MiB; {len(refused)} refused ones lie beyond it.",
        draw,
    )


def of_setting(facts: Facts, name: str, place: int) -> str:
    """Scores by the values of one setting."""
    points = [(r.config[name], r.score or 0.0) for r in scored(facts) if r.config.get(name) is not None]
    points = thinned(points, lambda point: point[1])
    low = floor([score for _, score in points])
    values = [value for value, _ in points]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    scores = [max(low, score) for _, score in points]
    distinct = sorted(set(values)) if numbers else sorted({str(value) for value in values})[:_MOST_CHOICES]

    def draw(axes: Axes) -> None:
        if numbers:
            axes.scatter(values, scores, s=12, color=MAIN, linewidths=0, alpha=0.8)
            if min(values) > 0 and max(values) >= 20 * min(values):
                _logarithmic(axes)
            else:
                axes.locator_params(axis="x", nbins=4)
        else:
            shown = [(distinct.index(str(v)), s) for v, s in zip(values, scores, strict=True) if str(v) in distinct]
            axes.scatter([p for p, _ in shown], [s for _, s in shown], s=12, color=MAIN, linewidths=0, alpha=0.8)
            words = [one_line(visible(str(value)), _LABEL) for value in distinct]
            axes.set_xticks(range(len(distinct)), words, rotation=20 if sum(map(len, words)) > 40 else 0)
            axes.margins(x=0.15)
        axes.set(xlabel=one_line(visible(name), 60), ylabel=TITLES[facts.search.metric])

    best = max(points, key=lambda point: point[1])
    what = f"Scores of {len(points)} trials by {visible(name)}; the best, {best[1]:.4f}, has {visible(str(best[0]))}."
    return drawn(f"setting-{place}", one_line(what, 400), draw, size=(3.6, 2.4))


def calibration(bins: Sequence[Bin], error: float) -> str:
    """Shares of true labels against the probabilities that were said."""
    most = max(each.pairs for each in bins)

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="as it should be")
        axes.plot([b.probability for b in bins], [b.share for b in bins], color=MAIN, linewidth=1.2)
        areas = [12 + 60 * math.sqrt(b.pairs / most) for b in bins]
        axes.scatter([b.probability for b in bins], [b.share for b in bins], s=areas, color=MAIN, linewidths=0,
                     label="larger: more pairs")  # fmt: skip
        axes.set(
            xlabel="probability that was said", ylabel="share that is true", xlim=(-0.02, 1.02), ylim=(-0.04, 1.04)
        )
        axes.legend(fontsize=8, loc="upper left")

    said = ", ".join(f"{b.probability:.2f} said {b.share:.2f} true" for b in bins)
    return drawn("calibration", f"Reliability, calibration error {error:.4f}: {said}.", draw, size=(4.6, 3.6))


def thinned(values: Sequence[Any], score: Any, most: int = MOST_POINTS) -> list[Any]:
    """At most so many in their order: the best fifth of these, and of the others at equal distances."""
    if len(values) <= most:
        return list(values)
    best = set(sorted(range(len(values)), key=lambda i: -score(values[i]))[: most // 5])
    others = [i for i in range(len(values)) if i not in best]
    room = most - len(best)
    return [values[i] for i in sorted(best | {others[i * len(others) // room] for i in range(room)})]


def floor(scores: Sequence[float]) -> float:
    """Where the axis of scores begins: a few trials that learnt nothing would press all others to its top.

    Scores below are drawn at the edge.
    """
    ranked = sorted(scores)
    if not ranked:
        return 0.0
    tenth, top = ranked[len(ranked) // 10], ranked[-1]
    return max(ranked[0], tenth - (top - tenth))


def scored(facts: Facts) -> list[Record]:
    """Trials that have a score that counts, running ones among them."""
    return [r for r in facts.records if r.score is not None and r.fate in ("complete", "stopped", "running")]


def _logarithmic(axes: Axes) -> None:
    """Plain numbers: Matplotlib's own labels are formulas."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}" if len(axes.get_xticks()) < 4 else "")


def _legend_above(axes: Axes) -> None:
    """Where no point lies."""
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)


def _margin(low: float, best: Record) -> float:
    return max(0.005, 0.05 * ((best.score or 0.0) - low))


def _curve(record: Record, low: float) -> tuple[list[int], list[float]]:
    epochs = [epoch for epoch in record.curve if math.isfinite(epoch.score)]
    return [epoch.epoch for epoch in epochs], [max(low, epoch.score) for epoch in epochs]


def _baselines(axes: Axes, facts: Facts) -> None:
    for baseline in facts.baselines:
        score = getattr(baseline, facts.search.metric, None)  # none of `map`
        if baseline.rows == "validation" and score is not None:
            axes.axhline(score, color=WARNING, linestyle=":", linewidth=1)
            name, place = one_line(visible(baseline.name), 40), (0.01, score)
            # Clipped with its line, where that lies below all scores.
            where: Any = ("axes fraction", "data")
            axes.annotate(name, place, xycoords=where, fontsize=8, va="bottom", annotation_clip=True)
