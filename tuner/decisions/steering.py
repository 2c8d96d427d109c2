"""What people have a search do: configurations of their own next, and an end to a trial."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from captune.model.flat import Flat
from captune.results.attributes import TrialAttributes

FIRST = "first"
"""The request for the configurations that search.yaml has first."""


def enqueue(study: optuna.Study, parameters: Sequence[Flat], request: str, *, begin: int = 1) -> int:
    """Hands out configurations before the sampler's own, each once for a request, however often that is taken up.

    Args:
        parameters: of each, see `FeasibleSpace.chosen`.
        request: by its name.
        begin: place of the first of them in the request.

    Returns:
        How many had not been enqueued before.
    """
    known = {TrialAttributes.of(trial).request for trial in study.get_trials(deepcopy=False)}
    new = {f"{request}:{place}": values for place, values in enumerate(parameters, begin)}
    for name in new.keys() & known:
        del new[name]
    for name, values in new.items():
        study.enqueue_trial(values, user_attrs=TrialAttributes(request=name).values())
    return len(new)
