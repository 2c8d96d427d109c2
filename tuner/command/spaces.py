"""The verbs that compute nothing long: size, space, explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from captune.tuner.api.progress import say
from captune.tuner.command.arguments import AsJson
from captune.tuner.command.console import fail, print_json, tell, tell_lines


def size(
    settings: dict[str, Any],
    config: Annotated[Path | None, typer.Option(help="YAML: preset, and dotted names that change it")] = None,
    as_json: AsJson = False,
) -> None:
    """Bytes of a configuration, before anything is built. Exit status 1 when it does not fit."""
    from captune.tuner.api.sizes import size as size_of

    if config is not None and "preset" in settings:
        fail("--preset and --config exclude each other; a config file may name its preset")
    report = size_of(config=config, **settings)
    if as_json:
        size, budget = report.size, report.budget
        counts = ("parameters", "trainable", "frozen", "weights_bytes", "bundle_bytes", "storage")
        print_json(
            {name: getattr(size, name) for name in counts}
            | {"budget_bytes": budget.limit, "measure": budget.measure, "margin_bytes": report.margin_bytes}
            | {"fits": report.fits, "would_fit": list(report.would_fit), "parts": size.parts}
        )
    else:
        tell(report)
    if not report.fits:
        changes = "; ".join(report.would_fit) or "several smaller settings together"
        say(f"{report.refusal}; would fit: {changes}; or raise --budget")
        raise typer.Exit(1)


def space(settings: dict[str, Any]) -> None:
    """Prints a search.yaml to edit, that of preset compact if none is named."""
    from captune.tuner.api.spaces import search_yaml

    tell(search_yaml(settings.get("preset", "compact")), end="")


def explain(
    name: Annotated[str | None, typer.Argument(help="e.g. time_limit or train.learning_rate; none: list all")] = None,
) -> None:
    """Says what a setting is: its unit, its range or choices, its default in each preset."""
    from captune.tuner.api.spaces import explain as explanation_of

    tell_lines(explanation_of(name))
