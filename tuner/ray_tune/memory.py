"""How much of a GPU's memory the largest configuration of a search takes, measured before the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from pydantic import ValidationError

from captune.cluster.nodes.remote_task import run_on_node
from captune.cluster.nodes.resources import Node, Request, ResourceError, share_for
from captune.model.config import TrialConfig
from captune.model.flat import flatten, replace, unflatten
from captune.model.size import show_bytes
from captune.tuner.run.locations import open_data
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.training.runtime import CONTEXT

_DRAWS = 500
_BATCHES = 3  # what a framework allocates is there after the second


def measured_share(
    config: SearchConfig, feasible: FeasibleSpace, data: str, nodes: Sequence[Node], say: Callable[[str], None]
) -> float:
    """The share of a GPU for each trial, by what the largest configuration needs on one of the cluster. Says why.

    Ray must be connected.

    Args:
        data: path or address of the prepared data set, as nodes see it.
        nodes: of the cluster.

    Raises:
        ResourceError: there is no GPU whose memory can be measured, or the configuration does not fit on it.
    """
    trial = largest(config, feasible)
    if not any(node.gpus >= 1 for node in nodes):
        raise ResourceError("--gpus-per-trial auto: no node has a GPU; leave it out, or give a number")
    say("measuring the memory of the largest configuration on one GPU")
    try:
        peak, total = run_on_node(measure, flatten(trial), data, config.backend, request=Request(1, 1), say=say)
    except Exception as error:
        reason = " ".join(str(error).split())[-300:]
        raise ResourceError(f"--gpus-per-trial auto: {reason}; give a number instead") from None
    share = share_for(peak, total, CONTEXT)
    say(
        f"the largest configuration takes {show_bytes(peak)} of a GPU's {show_bytes(total)}: "
        f"{int(1 / share)} trials on each, --gpus-per-trial {share:g}"
    )
    return share


def largest(config: SearchConfig, feasible: FeasibleSpace) -> TrialConfig:
    """The configuration within the budget that is likely to need most memory while it trains.

    Of many draws, by the side of the pictures it trains on first, which is what activations grow with most, then by
    bytes; with the largest batch of all.
    """
    random = Random(config.seed)
    least = feasible.smallest  # where the budget is tight it may be all that fits
    configs = [feasible.bind(feasible.space.base), *([] if least is None else [least])]
    for _ in range(_DRAWS):
        with suppress(ValidationError):  # values that are impossible together
            configs.append(feasible.bind(feasible.space.draw(random)))
    fitting = [c for c in configs if feasible.budget.holds(feasible.size_of(c))]
    batch = max(c.train.batch_size for c in fitting)
    widest = max(fitting, key=lambda c: (_side(c), feasible.size_of(c).weights_bytes))
    return replace(widest, {"train.batch_size": batch})


def _side(config: TrialConfig) -> int:
    """Pixels a side of the pictures that a step reads; none where it reads features that were computed before."""
    if config.model.image is None or config.train.cached_features:
        return 0
    return config.model.image.seen_side


def measure(flat: dict[str, Any], data: str, backend: str, *, say: Callable[[str], None]) -> tuple[int, int]:
    """Trains a few batches in this process and returns the peak of its arrays and the memory of its GPU, in bytes."""
    from captune.tuner.training import runtime

    runtime.settle(1, backend)
    total = runtime.gpu_memory()
    if not total:
        raise ResourceError("no GPU of NVIDIA's is on the node that was asked")
    from captune.tuner.training.trial import begin, features_for, to_answer

    config, prepared = unflatten(flat), open_data(data, verify=False)
    rows = prepared.rows("train")[: _BATCHES * config.train.batch_size]
    features = features_for(config, prepared)
    training = begin(prepared, rows, config, seed=0, features=features)
    training.epoch(1)
    training.predict(to_answer(prepared, rows, config.model, features))
    return runtime.gpu_peak(), total[0]
