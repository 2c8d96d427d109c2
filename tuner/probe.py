"""How much of a GPU's memory the largest configuration of a search takes, measured before the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from pydantic import ValidationError

from cluster.errand import run_on_node
from cluster.resources import Node, Request, ResourceError, share_for
from model.config import TrialConfig, flatten, replace, unflatten
from model.size import show_bytes
from tuner.config import SearchConfig
from tuner.places import open_data
from tuner.process import CONTEXT
from tuner.reach import Reach

_DRAWS = 500
_BATCHES = 3  # what a framework allocates is there after the second


def measured_share(
    config: SearchConfig, reach: Reach, data: str, nodes: Sequence[Node], say: Callable[[str], None]
) -> float:
    """The share of a GPU for each trial, by what the largest configuration needs on one of the cluster. Says why.

    Ray must be connected.

    Args:
        data: path or address of the prepared data set, as nodes see it.
        nodes: of the cluster.

    Raises:
        ResourceError: there is no GPU whose memory can be measured, or the configuration does not fit on it.
    """
    chosen = largest(config, reach)
    if not any(node.gpus >= 1 for node in nodes):
        raise ResourceError("--gpus-per-trial auto: no node has a GPU; leave it out, or give a number")
    say("measuring the memory of the largest configuration on one GPU")
    try:
        asked = flatten(chosen), data, config.backend
        peak, total = run_on_node(measure, *asked, request=Request(1, 1), say=say)
    except Exception as error:
        reason = " ".join(str(error).split())[-300:]
        raise ResourceError(f"--gpus-per-trial auto: {reason}; give a number instead") from None
    share = share_for(peak, total, CONTEXT)
    say(
        f"the largest configuration takes {show_bytes(peak)} of a GPU's {show_bytes(total)}: "
        f"{int(1 / share)} trials on each, --gpus-per-trial {share:g}"
    )
    return share


def largest(config: SearchConfig, reach: Reach) -> TrialConfig:
    """The configuration within the budget that is likely to need most memory while it trains.

    Of many draws, by the side of the pictures it trains on first, which is what activations grow with most, then by
    bytes; with the largest batch of all.
    """
    random = Random(config.seed)
    least = reach.smallest()  # where the budget is tight it may be all that fits
    found = [reach.bind(reach.space.base), *([] if least is None else [least])]
    for _ in range(_DRAWS):
        with suppress(ValidationError):  # values that are impossible together
            found.append(reach.bind(reach.space.draw(random)))
    fitting = [known for known in found if reach.budget.holds(reach.size_of(known))]
    batch = max(known.train.batch_size for known in fitting)
    widest = max(fitting, key=lambda known: (_side(known), reach.size_of(known).weights_bytes))
    return replace(widest, {"train.batch_size": batch})


def _side(config: TrialConfig) -> int:
    """Pixels a side of the pictures that a step reads; none where it reads features that were computed before."""
    if config.model.image is None or config.train.cached_features:
        return 0
    return config.model.image.seen_side


def measure(flat: dict[str, Any], data: str, backend: str, *, say: Callable[[str], None]) -> tuple[int, int]:
    """Trains a few batches in this process and returns the peak of its arrays and the memory of its GPU, in bytes."""
    from tuner import process

    process.settle(1, backend)
    total = process.gpu_memory()
    if not total:
        raise ResourceError("no GPU of NVIDIA's is on the node that was asked")
    from model.training import Training
    from tuner.trial import EVALUATION_BATCH, batches, features_for, shuffled

    config, prepared = unflatten(flat), open_data(data)
    rows = prepared.rows("train")[: _BATCHES * config.train.batch_size]
    features = features_for(config, prepared)
    source = shuffled(prepared, rows, config, 0, features)
    counts = prepared.labels[rows].sum(axis=0).tolist()
    training = Training(config, source, counts, seed=0, bfloat16=process.in_bfloat16(config.train.precision))
    training.epoch(1)
    training.predict(batches(prepared, rows[:EVALUATION_BATCH], config.model, EVALUATION_BATCH, features=features))
    return process.gpu_peak(), total[0]
