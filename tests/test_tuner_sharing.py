"""Two searches on one real cluster share it by weight; trials are a formula (tests/formula.py)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Captune
from ray_nodes import Head, ray_head, until
from test_survival import Search, kill, nothing_runs_on  # noqa: F401 - a fixture

from captune.cluster.nodes.claims import claims
from captune.cluster.nodes.session import session
from captune.data_prep.store import PreparedData

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
ENDLESS = {"trials": None, "time_limit": "1h", "halving": {"grace": 1000}, "cpus_per_trial": 1}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(cpus=3, RAY_AUTH_MODE="disabled") as started:
        yield started


def search(folder: Path, data: PreparedData, share: float) -> Search:
    folder.mkdir()
    return Search(folder, data, 100_000, seconds=0.3, start=0.1, settings=ENDLESS | {"share": share})


@pytest.mark.soak
def test_later_search_gets_its_share_and_all_when_the_other_is_killed(
    head: Head, captions_data: PreparedData, tmp_path: Path, captune: Captune
) -> None:
    first, second = (search(tmp_path / name, captions_data, share) for name, share in [("two", 2), ("one", 1)])

    def held() -> list[int]:
        return [next((each.held for each in claims() if each.run == str(s.run.path)), 0) for s in (first, second)]

    with session(head.address):
        one = first.start(head.address)
        until(lambda: held() == [3, 0])
        two = second.start(head.address)
        until(lambda: len(claims()) == 2)
        assert until(lambda: held() == [2, 1]) < 60
        until(lambda: any(record.fate == "complete" for record in second.records))
        kill(one)
        until(lambda: held() == [0, 3])
    told = captune("cluster", "status", "--address", head.address)
    assert f"{second.run.path}" in told.out and "3 of 3" in told.out and str(first.run.path) not in told.out
    until(lambda: len(second.starts()) == 3)
    two.terminate()
    second.finish(two)
    assert len(first.starts()) == len(second.starts()) == 3  # each worker ran trial after trial
    assert {record.fate for record in first.records if record.epochs} <= {"complete", "running"}  # none was ended
