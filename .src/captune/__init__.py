"""Searches for the best image-caption classifier that fits a size budget, on one machine or on a Ray cluster.

    import captune

    data = captune.prepare("train.csv", "pictures", out="data", side=224)
    run = captune.search(data, "run", "compact", trials=50, budget="100MiB")
    winner = run.refit()
    captune.load("run/winner/bundle").predict(captions=["a dog on a beach"], images=["dog.jpg"])

What is heavy is loaded by what needs it: `import captune` takes a moment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captune.errors import Error, UsageError, WorkError

if TYPE_CHECKING:
    from captune.tuner.api.classifier import Classifier, load
    from captune.tuner.api.comparisons import compare
    from captune.tuner.api.datasets import DataSet, prepare
    from captune.tuner.api.plans import Plan, plan, search
    from captune.tuner.api.runs import Run, open_run
    from captune.tuner.api.sizes import SizeReport, size
    from captune.tuner.api.spaces import Choice, Float, Int, SearchSpace, explain, search_yaml, space
    from captune.tuner.api.weights import convert_weights
    from captune.tuner.api.winners import Winner

_HOMES = {
    "classifier": ("Classifier", "load"),
    "comparisons": ("compare",),
    "datasets": ("DataSet", "prepare"),
    "plans": ("Plan", "plan", "search"),
    "runs": ("Run", "open_run"),
    "sizes": ("SizeReport", "size"),
    "spaces": ("Choice", "Float", "Int", "SearchSpace", "explain", "search_yaml", "space"),
    "weights": ("convert_weights",),
    "winners": ("Winner",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Choice",
    "Classifier",
    "DataSet",
    "Error",
    "Float",
    "Int",
    "Plan",
    "Run",
    "SearchSpace",
    "SizeReport",
    "UsageError",
    "Winner",
    "WorkError",
    "__version__",
    "compare",
    "convert_weights",
    "explain",
    "load",
    "open_run",
    "plan",
    "prepare",
    "search",
    "search_yaml",
    "size",
    "space",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("captune")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'captune' has no attribute {name!r}")
    from captune.tuner.api.caller import left_as_it_was

    with left_as_it_was():  # NumPy and others add warning filters
        return getattr(import_module(f"captune.tuner.api.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
