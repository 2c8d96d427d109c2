"""Ray itself: started and stopped, or refused in one line and in seconds."""

import os
import socket
import time
from pathlib import Path

import pytest

from cluster.session import ClusterError, session

pytestmark = pytest.mark.cluster


def test_local_session_has_this_machines_cpus_and_leaves_nothing_behind() -> None:
    import ray

    with session(None) as nodes:
        assert ray.is_initialized()
        assert len(nodes) == 1
        assert 1 <= nodes[0].cpus <= (os.cpu_count() or 1)

        @ray.remote
        def process() -> int:
            return os.getpid()

        worker = ray.get(process.remote())
        assert worker != os.getpid()
        raylet = ray._private.worker._global_node.all_processes  # type: ignore[attr-defined]
        started = [info.process.pid for infos in raylet.values() for info in infos]
        assert started
    assert not ray.is_initialized()
    end = time.monotonic() + 20
    while time.monotonic() < end and any(_alive(pid) for pid in [worker, *started]):
        time.sleep(0.1)
    assert not [pid for pid in [worker, *started] if _alive(pid)]


def test_error_inside_a_session_passes_through_and_stops_ray() -> None:
    import ray

    with pytest.raises(KeyError, match="ours"), session(None):
        raise KeyError("ours")
    assert not ray.is_initialized()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_where_nothing_listens_is_refused_in_seconds(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ClusterError) as caught, session(address):
            pytest.fail("joined what is not there")
    assert time.monotonic() - started < 15
    message = str(caught.value)
    assert address in message
    assert "ray start --head" in message and "--address" in message
    assert "\n" not in message


@pytest.mark.parametrize("address", ["nowhere.invalid:6379", "127.0.0.1", "127.0.0.1:99999999", "", "not an address"])
def test_address_that_is_none_is_refused_in_seconds(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError) as caught, session(address):
        pytest.fail("joined what is not there")
    assert time.monotonic() - started < 15
    assert "\n" not in str(caught.value)


def test_session_can_be_opened_after_one_that_was_refused() -> None:
    with pytest.raises(ClusterError), session("127.0.0.1:1"):
        pass
    with session(None) as nodes:
        assert nodes


def _alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
