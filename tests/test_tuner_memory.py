"""The share of a GPU for each trial, with clusters and GPUs that these tests make up."""

from typing import Any

import pytest
from builders import feasible
from hypothesis import given
from hypothesis import strategies as st

from captune.cluster.nodes.resources import Node, Request, ResourceError, share_for
from captune.data_prep.store import PreparedData
from captune.model.config import ImageConfig, TrialConfig
from captune.model.flat import flatten, unflatten
from captune.model.size import Contents
from captune.tuner.ray_tune.memory import largest, measure, measured_share
from captune.tuner.space.config import SearchConfig
from captune.tuner.space.feasibility import FeasibleSpace
from captune.tuner.space.space import bind
from captune.tuner.training.inference import rows_at_once
from captune.tuner.training.runtime import CONTEXT

GIB = 2**30
CONTENTS = Contents.typical(18)
CONFIG = SearchConfig.model_validate({"preset": "compact", "modality": "both", "trials": 3})


def batch_of(config: TrialConfig) -> int:
    return config.train.batch_size


# The share


@given(
    peak=st.integers(1, 80 * GIB),
    total=st.integers(8 * GIB, 24 * GIB),
    overhead=st.integers(GIB // 4, GIB),  # what CUDA takes: below a hundred trials whose share Ray counts apart
)
def test_trials_of_the_share_fit_side_by_side_and_one_more_would_not(peak: int, total: int, overhead: int) -> None:
    share = share_for(peak, total, overhead)
    assert 0 < share <= 1
    together = int(1 / share)
    needed = 1.2 * peak + overhead
    assert together == 1 or together * needed <= total * (1 + 1e-9)
    assert (together + 1) * needed > total * (1 - 1e-9)


@pytest.mark.parametrize(
    ("peak", "total", "share"),
    [
        (2 * GIB, 16 * GIB, 0.2),  # 2.4 and 0.5 GiB: five
        (5 * GIB, 16 * GIB, 0.5),
        (7 * GIB, 16 * GIB, 1.0),
        (30 * GIB, 16 * GIB, 1.0),  # more than there is: one, and it may still fail
        (1 * GIB, 6 * GIB, 0.3333),  # never rounded up, or the last would find no room
    ],
)
def test_share_of_a_measured_peak(peak: int, total: int, share: float) -> None:
    assert share_for(peak, total, GIB // 2) == share


# The largest configuration


def test_largest_pictures_come_before_more_weights() -> None:
    reach = feasible({"image.max_side": [16, 64], "text.embedding": [8, 512]}, fixed={"image.max_side": 16})
    chosen = largest(CONFIG, reach)
    assert chosen.model.image is not None and chosen.model.text is not None
    assert (chosen.model.image.seen_side, chosen.model.text.embedding) == (64, 512)


def test_largest_has_the_largest_batch_that_any_has() -> None:
    chosen = largest(CONFIG, feasible({"train.batch_size": [16, 128, 64]}, fixed={"train.batch_size": 16}))
    assert batch_of(chosen) == 128


def test_largest_is_within_the_budget() -> None:
    dimensions = {"text.units": [16, 1024]}
    wide = feasible(dimensions)
    limit = wide.size_of(wide.space.at({"text.units": 1024})).weights_bytes
    for budget, units in ((limit, 1024), (limit - 1, 16)):
        chosen = largest(CONFIG, feasible(dimensions, budget))
        assert chosen.model.text is not None and chosen.model.text.units == units


def test_largest_is_found_where_the_preset_and_most_draws_are_over_the_budget() -> None:
    dimensions = {"text.embedding": {"low": 8, "high": 1024}, "text.units": {"low": 8, "high": 1024}}
    smallest = feasible(dimensions).smallest
    assert smallest is not None
    limit = feasible(dimensions).size_of(smallest).weights_bytes
    assert largest(CONFIG, feasible(dimensions, limit)) == smallest  # one of a million


def test_pictures_of_which_only_features_are_read_do_not_count() -> None:
    cached = {"train.cached_features": True, "image.frozen": True, "image.weights": "imagenet"}
    fixed = {"image.backbone": "MobileNetV3Small", "train.augment.shift": 0.0, **cached}
    chosen = largest(CONFIG, feasible({"train.cached_features": [True, False]}, fixed=fixed))
    assert not chosen.train.cached_features  # though the preset, which comes first, is as large


def test_largest_is_the_same_each_time_and_can_be_sent(data: PreparedData) -> None:
    config = SearchConfig.model_validate({"preset": "compact", "modality": "both", "trials": 3, "seed": 5})
    space = config.build_space()
    reach = FeasibleSpace(space, lambda found: bind(found, data.manifest), config.limit, CONTENTS)
    chosen = largest(config, reach)
    assert chosen == largest(config, reach) == unflatten(flatten(chosen))
    assert chosen.model.num_labels == len(data.manifest.label_ids)


# Measuring on a cluster


Answer = tuple[int, int] | Exception


def ask(
    monkeypatch: pytest.MonkeyPatch, data: PreparedData, gpus: float, answer: Answer
) -> tuple[float, list[str], list[Any]]:
    """The share, what was said, and what was sent to a node, which gives `answer`."""
    sent: list[Any] = []

    def run(work: Any, *arguments: Any, request: Request, say: Any) -> tuple[int, int]:
        sent.extend([work, *arguments, request])
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("captune.tuner.ray_tune.memory.run_on_node", run)
    said: list[str] = []
    nodes = [Node(8, 0), Node(8, gpus)]
    return measured_share(CONFIG, feasible({}), str(data.path), nodes, said.append), said, sent


def test_share_follows_from_what_was_measured_on_one_whole_gpu(
    monkeypatch: pytest.MonkeyPatch, data: PreparedData
) -> None:
    share, said, sent = ask(monkeypatch, data, 2.0, (2 * GIB, 16 * GIB))
    assert share == share_for(2 * GIB, 16 * GIB, CONTEXT) == 0.2
    assert (
        "2.00 GiB (2.15 GB) of a GPU's 16.00 GiB" in said[-1] and "5 trials on each, --gpus-per-trial 0.2" in said[-1]
    )
    assert (sent[0], sent[2], sent[-1]) == (measure, str(data.path), Request(1, 1))


def test_cluster_without_a_gpu_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, data: PreparedData
) -> None:
    with pytest.raises(ResourceError, match=r"--gpus-per-trial auto: no node has a GPU; leave it out, or give a num"):
        ask(monkeypatch, data, 0.0, AssertionError("measured"))


def test_measurement_that_fails_is_one_line_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, data: PreparedData
) -> None:
    told = RuntimeError("a traceback\n" * 100 + "ResourceExhaustedError: OOM when\nallocating")
    with pytest.raises(ResourceError, match=r"auto: .*OOM when allocating; give a number instead$") as caught:
        ask(monkeypatch, data, 1.0, told)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_node_whose_gpu_cannot_be_measured_says_so(monkeypatch: pytest.MonkeyPatch, data: PreparedData) -> None:
    from captune.tuner.training import runtime

    monkeypatch.setattr(runtime, "settle", lambda *arguments: None)  # which would import Keras
    monkeypatch.setattr(runtime, "gpu_memory", lambda: [])
    with pytest.raises(ResourceError, match="no GPU of NVIDIA's"):
        measure(flatten(CONFIG.build_space().base), str(data.path), "tensorflow", say=print)


@pytest.mark.parametrize(("side", "rows"), [(16, 256), (64, 256), (96, 174), (224, 32), (1024, 1)])
def test_larger_pictures_are_answered_fewer_at_once(side: int, rows: int) -> None:
    assert rows_at_once(ImageConfig(side=side)) == rows
    assert rows_at_once(ImageConfig(side=1024, max_side=side)) == rows, "what the backbone sees counts"
    assert rows_at_once(None) == 256
