"""The page: facts set into the template, everything a person typed escaped."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from captune.errors import visible
from captune.model.config import TITLES
from captune.results.report_page import plots, tables
from captune.results.report_page.answer import duration, sentences
from captune.results.report_page.facts import Facts
from captune.results.report_page.template import rendered

MOST_SLICES = 6
_SECTIONS = (
    ("answer", "The answer"), ("progress", "Score over time"), ("curves", "Learning curves"),
    ("sizes", "Size against score"), ("importance", "What the score hangs on"), ("slices", "Setting by setting"),
    ("trials", "The best trials"), ("fates", "What became of the trials"), ("time", "Where the time went"),
    ("labels", "Label by label"), ("calibration", "Calibration"), ("examples", "Right and wrong on test"),
    ("settings", "Settings of the best"),
)  # fmt: skip
_AFTER_REFIT = "The study keeps no answers to single rows: this is known after `captune refit`."
_OLD_REFIT = "The refit of this run was by an earlier captune, which kept no answers to single rows."


def page(facts: Facts) -> str:
    """One file of HTML: no script, nothing fetched, the same for the same facts."""
    names = {} if facts.analysis is None else {label.id: label.name for label in facts.analysis.labels}
    unknown = _AFTER_REFIT if facts.test is None else _OLD_REFIT
    rows = "validation" if facts.test is None else "test"
    content = {
        "name": visible(facts.search.name),
        "created": facts.search.created[:16].replace("T", " "),
        "state": "which is running" if facts.running else "ended",
        "sections": _SECTIONS,
        "title": TITLES[facts.search.metric],
        "sentences": sentences(facts),
        "baselines": tables.scores(facts),
        "baseline_rows": rows,
        "plots": _plots(facts),
        "importance": tables.importances(facts),
        "importance_note": _importance_note(facts),
        "slices": _slices(facts),
        "trials": tables.trials(facts),
        "trials_note": f"The best {min(len(facts.scored), tables.MOST_TRIALS)} of {len(facts.scored)} that may win",
        "fates": tables.fates(facts),
        "seconds": tables.seconds(facts),
        "seconds_note": f"Seconds of all trials together; {duration(facts.seconds)} passed",
        "label_columns": tables.label_columns(facts),
        "labels": tables.labels(facts),
        "labels_note": _labels_note(facts) or unknown,
        "calibration_svg": _calibration(facts),
        "calibration_note": _calibration_note(facts) or unknown,
        "bins": () if facts.analysis is None else facts.analysis.bins,
        "examples_note": unknown,
        "analysis": facts.analysis and {
            kind: tables.cards(getattr(facts.analysis, kind), names) for kind in ("right", "worst", "suspects")
        },
        "settings": _settings(facts),
        "versions": ", ".join(f"{name} {version}" for name, version in facts.search.versions.items()),
    }  # fmt: skip
    return rendered("page.html", content)


def _plots(facts: Facts) -> list[dict[str, Any]]:
    titles = dict(_SECTIONS)
    scored, refused = plots.scored(facts), len(plots.over_budget(facts))
    low = plots.floor([record.score or 0.0 for record in scored])
    below = sum((record.score or 0.0) < low for record in scored)
    edge = f" {below} below {low:.3f} are drawn at the lower edge." if below else ""
    thin = (
        f" {plots.MOST_POINTS} of {len(scored)} are drawn, the best among them."
        if len(scored) > plots.MOST_POINTS
        else ""
    )
    captions = {
        "progress": "Each point is a trial at its end, a running one at its last report; the line is the best so far, "
        f"dotted baselines.{edge}{thin}",
        "curves": f"The best {min(len(scored), plots.BRIGHT_CURVES)} trials by number, others faint.",
        "sizes": f"{len(scored)} scored trials; {refused} refused ones have no score and lie at the lower edge."
        f"{edge}{thin}",
    }
    made = {"progress": plots.progress, "curves": plots.curves, "sizes": plots.sizes}
    return [
        {
            "id": name,
            "title": titles[name],
            "svg": Markup(draw(facts)) if scored else "",
            "caption": captions[name] if scored else "No trial has a score yet.",
        }
        for name, draw in made.items()
    ]


def _slices(facts: Facts) -> list[dict[str, Any]]:
    """Of the settings that explain most; where that is not known, of the first that differ."""
    scored = plots.scored(facts)
    differ = [
        n for n in facts.searched if len({repr(r.config.get(n)) for r in scored if r.config.get(n) is not None}) > 1
    ]
    ranked = sorted(differ, key=lambda name: -facts.importance.shares.get(name, 0.0))[:MOST_SLICES]
    slices = []
    for place, name in enumerate(ranked):
        share = facts.importance.shares.get(name)
        caption = visible(name) if share is None else f"{visible(name)}: {100 * share:.0f} % of what settings explain"
        slices.append({"svg": Markup(plots.of_setting(facts, name, place)), "caption": caption})
    return slices


def _importance_note(facts: Facts) -> str:
    found = facts.importance
    note = found.missing or (
        f"How much of the score each setting explains, by a forest fitted to {found.trials} scored trials: "
        "of all that settings explain, and by association alone"
    )
    if found.conditional:
        note += f". Not compared, as only some trials have them: {', '.join(map(visible, found.conditional))}"
    return note


def _labels_note(facts: Facts) -> str:
    if facts.test is None:
        return ""
    count, most = len(facts.test.per_label), tables.MOST_LABELS
    part = f"the {most} weakest of {count} labels" if count > most else f"{count} labels, the weakest first"
    lacking = "" if facts.analysis is not None else "; the refit was by an earlier captune, which kept F1 alone"
    return f"On {facts.test.examples} test rows: {part}{lacking}"


def _calibration(facts: Facts) -> str:
    if facts.analysis is None or facts.test is None:
        return ""
    return Markup(plots.calibration(facts.analysis.bins, facts.test.ece))


def _calibration_note(facts: Facts) -> str:
    best = facts.best.best if facts.best is not None else None
    if facts.analysis is not None and facts.test is not None:
        return (
            f"Of pairs of test row and label that were said to be true with a probability, the share that is. "
            f"Expected calibration error {facts.test.ece:.4f}: 0 would be never off."
        )
    if facts.test is not None:
        return f"Expected calibration error on test {facts.test.ece:.4f}. {_OLD_REFIT}"
    return "" if best is None else f"Expected calibration error on validation {best.ece:.4f}. {_AFTER_REFIT}"


def _settings(facts: Facts) -> list[tuple[str, str, bool]]:
    config = {} if facts.best is None else facts.best.config
    shown = [
        (visible(name), tables.value(setting), name in facts.searched)
        for name, setting in config.items()
        if setting is not None
    ]
    return sorted(shown, key=lambda row: not row[2])
