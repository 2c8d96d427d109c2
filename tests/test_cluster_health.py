"""What nodes are called, and which are given a rest."""

from captune.cluster.nodes.health import FAILURES, REST_SECONDS, NodeHealth, NodeNames


def test_node_rests_after_failures_in_a_row_and_no_longer_than_it_should() -> None:
    health = NodeHealth()
    for turn in range(FAILURES):
        assert health.resting(float(turn)) == {}
        health.failed("a", float(turn))
    last = float(FAILURES - 1)
    assert health.resting(last + 10) == {"a": REST_SECONDS - 10}
    assert health.resting(last + REST_SECONDS) == {}


def test_epoch_in_between_clears_a_node_and_says_nothing_of_others() -> None:
    health = NodeHealth()
    for _ in range(FAILURES - 1):
        health.failed("a", 0.0)
        health.failed("b", 0.0)
    health.well("a")
    health.well(None)
    health.failed("a", 0.0)
    assert health.resting(0.0) == {}
    health.failed("b", 0.0)
    assert health.resting(0.0).keys() == {"b"}


def test_node_that_fails_at_once_after_its_rest_rests_again() -> None:
    health = NodeHealth()
    for _ in range(FAILURES):
        health.failed("a", 0.0)
    later = REST_SECONDS + 1
    assert health.resting(later) == {}
    health.failed("a", later)
    assert health.resting(later) == {"a": REST_SECONDS}


def test_nodes_of_one_host_have_names_of_their_own_that_stay() -> None:
    names = NodeNames()
    heard = [("a", "1"), ("a", "2"), ("b", "3"), ("a", "1"), ("a", "4"), ("a", "2")]
    assert [names.of(host, node) for host, node in heard] == ["a", "a#2", "b", "a", "a#3", "a#2"]
