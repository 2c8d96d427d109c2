"""Work sent to a node of a real cluster: what it says, how it fails, and what becomes of it when the node is lost."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray_nodes import Nodes

from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.remote_task import run_on_node
from captune.cluster.nodes.resources import Request
from captune.cluster.nodes.session import session
from captune.results.run_folder import RunError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a node's process has no path to the tests
    with Nodes() as nodes:
        nodes.add(cpus=1, gpus=2)
        yield nodes


def add(one: int, other: int, *, say: Callable[[str], None]) -> int:
    say(f"adding in {len(os.environ['CUDA_VISIBLE_DEVICES'].split(','))} GPUs")
    return one + other


def refuse(*, say: Callable[[str], None]) -> None:
    say("about to refuse")
    raise RunError("there is no run")


def die(marker: str, *, say: Callable[[str], None]) -> str:
    with Path(marker).open("a") as file:
        file.write("begun\n")
    say("about to die")
    if len(Path(marker).read_text().splitlines()) < 2:
        time.sleep(0.5)
        os._exit(1)
    return "done"


def always_die(*, say: Callable[[str], None]) -> None:
    os._exit(1)


class Holder:
    """Has the node's GPUs for as long as it lives."""

    def holds(self) -> None:
        """Answers once it does."""


def test_result_and_what_was_said_come_back(nodes: Nodes) -> None:
    messages: list[str] = []
    with session(nodes.address):
        assert run_on_node(add, 1, 2, request=Request(1, 2), say=messages.append) == 3
    assert messages[0].startswith("on node ") and messages[1:] == ["adding in 2 GPUs"]


def test_error_comes_back_as_it_was_raised(nodes: Nodes) -> None:
    messages: list[str] = []
    with session(nodes.address), pytest.raises(RunError, match=r"^there is no run$"):
        run_on_node(refuse, request=Request(1, 0), say=messages.append)
    assert messages[-1] == "about to refuse"


def test_lost_work_is_begun_again(nodes: Nodes, tmp_path: Path) -> None:
    messages: list[str] = []
    with session(nodes.address):
        assert run_on_node(die, str(tmp_path / "marker"), request=Request(1, 0), say=messages.append) == "done"
    assert messages.count("about to die") == 2
    assert any(text.startswith("attempt 1 of 3 was lost with its node or process") for text in messages)


def test_work_that_is_lost_each_time_is_given_up(nodes: Nodes) -> None:
    messages: list[str] = []
    with session(nodes.address), pytest.raises(ClusterError, match="lost 3 times"):
        run_on_node(always_die, request=Request(1, 0), say=messages.append)


def test_work_that_waits_says_for_what(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captune.cluster.nodes.remote_task._WAIT_SECONDS", 1.0)
    messages: list[str] = []
    with session(nodes.address):
        import ray

        holder = ray.remote(num_gpus=2)(Holder).remote()
        ray.get(holder.holds.remote())
        later = threading.Timer(3.0, ray.kill, [holder])
        later.start()
        assert run_on_node(add, 1, 2, request=Request(1, 1), say=messages.append) == 3
        later.join()
    assert messages[0].startswith("waiting for room: 1 CPUs and 1 GPUs; ")
    assert messages[-1] == "adding in 1 GPUs"
