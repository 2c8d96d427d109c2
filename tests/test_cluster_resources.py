"""Packing: never more trials than fit, never fewer, and a request that fits nowhere says what there is."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captune.cluster.nodes.resources import Node, Request, ResourceError, default_request, slots

NODES = st.lists(st.builds(Node, st.integers(0, 64).map(float), st.integers(0, 8).map(float)), min_size=1, max_size=6)
# Hundredths, as people write them; Ray itself counts in ten-thousandths.
CPUS = st.integers(0, 1600).map(lambda n: n / 100)
GPUS = st.one_of(st.integers(0, 100).map(lambda n: n / 100), st.integers(1, 8).map(float))
REQUESTS = st.tuples(CPUS, GPUS).filter(lambda pair: sum(pair) > 0).map(lambda pair: Request(*pair))


def fitting(nodes: list[Node], request: Request) -> int:
    """Counted one trial at a time: each takes its CPUs from a node and its GPUs from single devices of that node."""
    count = 0
    for node in nodes:
        free, devices = round(node.cpus * 100), [100] * int(node.gpus)
        cpus, gpus = round(request.cpus * 100), round(request.gpus * 100)
        while free >= cpus:
            if gpus > 100:
                whole = [place for place, share in enumerate(devices) if share == 100][: gpus // 100]
                if len(whole) < gpus // 100:
                    break
                for place in whole:
                    devices[place] = 0
            elif gpus:
                place = next((place for place, share in enumerate(devices) if share >= gpus), None)
                if place is None:
                    break
                devices[place] -= gpus
            free -= cpus
            count += 1
    return count


@given(NODES, REQUESTS)
def test_slots_are_what_packing_one_by_one_finds(nodes: list[Node], request: Request) -> None:
    expected = fitting(nodes, request)
    if expected:
        assert slots(nodes, request) == expected
    else:
        with pytest.raises(ResourceError):
            slots(nodes, request)


@pytest.mark.parametrize(
    ("nodes", "request_", "expected"),
    [
        ([Node(8, 1)], Request(1, 0.4), 2),
        ([Node(8, 2)], Request(1, 0.4), 4),
        ([Node(64, 4)], Request(1, 0.5), 8),
        ([Node(8, 1)], Request(0, 0.1), 10),
        ([Node(8, 1)], Request(0, 1 / 3), 3),
        ([Node(64, 8)], Request(1, 2), 4),
        ([Node(64, 3), Node(64, 3)], Request(1, 2), 2),
        ([Node(2, 0)], Request(0.2, 0), 10),
        ([Node(1, 0)], Request(0.1, 0), 10),
        ([Node(2, 0)], Request(1, 0), 2),
        ([Node(3, 0), Node(3, 0)], Request(2, 0), 2),
        ([Node(4, 4)], Request(2, 1), 2),
        ([Node(0, 0), Node(2, 0)], Request(1, 0), 2),
    ],
)
def test_known_machines_hold_this_many_trials(nodes: list[Node], request_: Request, expected: int) -> None:
    assert slots(nodes, request_) == expected


@pytest.mark.parametrize("request_", [Request(9, 0), Request(1, 2), Request(1, 0.5)])
def test_request_that_fits_on_no_node_names_what_is_asked_and_what_is_there(request_: Request) -> None:
    nodes = [Node(2, 0), Node(8, 0)] if request_.gpus != 2 else [Node(8, 1), Node(8, 1)]
    with pytest.raises(ResourceError) as caught:
        slots(nodes, request_)
    message = str(caught.value)
    assert f"{request_.cpus:g} CPUs and {request_.gpus:g} GPUs" in message
    assert f"8 CPUs and {nodes[1].gpus:g} GPUs" in message
    assert "2 nodes" in message
    assert "--cpus-per-trial" in message and "--gpus-per-trial" in message


def test_no_node_at_all_is_refused() -> None:
    with pytest.raises(ResourceError, match="0 nodes"):
        slots([], Request(1, 0))


@pytest.mark.parametrize(
    ("cpus", "gpus"),
    [(0, 0), (-1, 0), (1, -1), (-1, 2), (math.nan, 0), (1, math.nan), (math.inf, 0), (1, math.inf), (1, 1.5), (1, 2.5)],
)
def test_impossible_request_is_refused(cpus: float, gpus: float) -> None:
    with pytest.raises(ResourceError):
        Request(cpus, gpus)


def test_without_gpus_a_trial_gets_one_cpu() -> None:
    assert default_request([Node(2, 0), Node(16, 0)], cpus=None, gpus=None) == Request(1, 0)


def test_with_a_gpu_anywhere_a_trial_gets_one() -> None:
    assert default_request([Node(2, 0), Node(16, 4)], cpus=None, gpus=None) == Request(4, 1)


@pytest.mark.parametrize(
    ("node", "gpus", "cpus"), [(Node(8, 1), 0.4, 4), (Node(8, 1), 0.5, 4), (Node(64, 8), 1, 8), (Node(64, 8), 4, 32)]
)
def test_cpus_of_a_node_are_shared_among_the_trials_that_its_gpus_hold(node: Node, gpus: float, cpus: float) -> None:
    assert default_request([node], cpus=None, gpus=gpus) == Request(cpus, gpus)


@pytest.mark.parametrize(("cpus", "gpus"), [(3, 0), (2, 0.5), (0, 1), (1, 2)])
def test_what_the_user_asks_for_is_kept(cpus: float, gpus: float) -> None:
    assert default_request([Node(8, 2)], cpus=cpus, gpus=gpus) == Request(cpus, gpus)


@pytest.mark.parametrize("gpus", [-1, -0.5, math.nan, math.inf, 1.5])
def test_impossible_share_of_gpus_is_refused_before_any_arithmetic_fails(gpus: float) -> None:
    with pytest.raises(ResourceError):
        slots([Node(8, 0), Node(8, 2)], default_request([Node(8, 0), Node(8, 2)], cpus=None, gpus=gpus))


@given(NODES, st.one_of(st.none(), GPUS))
def test_default_number_of_cpus_leaves_no_gpu_idle_that_has_a_cpu(nodes: list[Node], gpus: float | None) -> None:
    request = default_request(nodes, cpus=None, gpus=gpus)
    holding = [node for node in nodes if request.gpus and node.gpus >= request.gpus]
    enough = [Node(max(node.cpus, fitting([Node(1e6, node.gpus)], request)), node.gpus) for node in holding]
    if enough and request.cpus:
        again = default_request(enough, cpus=None, gpus=request.gpus)
        assert slots(enough, again) == fitting([Node(1e6, node.gpus) for node in enough], Request(1, again.gpus))
