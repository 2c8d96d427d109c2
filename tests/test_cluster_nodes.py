"""Searches on several real Ray nodes of this machine, whose GPUs are numbers that Ray counts.

Trials are a formula (tests/formula.py); nodes come, go, are drained, and lack what they need.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Captune
from ray_nodes import Nodes, until
from test_survival import Search, nothing_runs_on  # noqa: F401 - a fixture

from captune.cluster.nodes.address import ClusterError
from captune.cluster.nodes.inspection import NodeRequirements, check_nodes, how_nodes_are, versions
from captune.cluster.nodes.resources import Node, Request, limits
from captune.cluster.nodes.session import alive, session
from captune.data_prep.store import PreparedData

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with Nodes() as nodes:
        yield nodes


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """A head without CPUs; what a test adds is gone for the next."""
    yield cluster
    while cluster.others:
        cluster.kill(cluster.others[0], signed_off=True)
    cluster.wait(1)


def running(search: Search) -> int:
    return sum(record.fate == "running" and record.epochs > 0 for record in search.records)


@pytest.mark.soak
def test_slots_fill_at_once_and_follow_nodes_that_come_and_go(nodes: Nodes, data: PreparedData, tmp_path: Path) -> None:
    first, *_ = [nodes.add(cpus=2, gpus=2), nodes.add(cpus=2, gpus=1), nodes.add(cpus=2, gpus=1)]
    # Four GPUs, two trials on each; none is stopped early.
    shares = {"gpus_per_trial": 0.5, "cpus_per_trial": 0.1, "halving": {"grace": 1000}}
    go = tmp_path / "go"
    search = Search(tmp_path, data, 24, settings=shares, hold=str(go))
    process = search.start(nodes.address)
    until(lambda: search.run.journal.exists() and running(search) == 8)
    nodes.kill(first)
    until(lambda: any(record.fate == "lost" for record in search.records))
    nodes.add(cpus=2, gpus=2)
    until(lambda: running(search) == 8)
    go.touch()
    summary = search.finish(process)
    done = [record for record in search.records if record.fate in ("complete", "stopped")]
    assert len(done) == 24
    assert len({json.dumps(record.config, sort_keys=True) for record in done}) == 24
    assert summary["trials"]["lost"] >= 1


@pytest.mark.soak
def test_node_that_joins_trains_though_its_worker_takes_longer_to_start_than_trials_last(
    nodes: Nodes, data: PreparedData, tmp_path: Path
) -> None:
    nodes.add(cpus=1)
    search = Search(tmp_path, data, 1000, seconds=0.03, start=4.0, settings={"halving": {"grace": 1000}})
    process = search.start(nodes.address)
    until(lambda: search.run.journal.exists() and any(record.fate == "complete" for record in search.records))
    nodes.add(cpus=1)
    until(lambda: len({record.node for record in search.records if record.fate == "complete"}) == 2, 60)
    started = search.starts()
    process.terminate()
    summary = search.finish(process)
    assert len(started) == len(set(started)) == 2  # a worker on each, and none that was ended before its first trial
    host, other = sorted({record.node for record in search.records if record.node})
    assert other == f"{host}#2"
    assert summary["slots"] == 2
    assert 8 < summary["busy_seconds"]["start"] < summary["wall_seconds"] * 2


@pytest.mark.soak
def test_trial_on_a_node_that_is_recalled_goes_on_elsewhere_from_the_epoch_it_was_at(
    nodes: Nodes, data: PreparedData, tmp_path: Path
) -> None:
    recalled = nodes.add(cpus=1)
    search = Search(tmp_path, data, 1, seconds=1.5, settings={"checkpoint_every": "1h"})
    process = search.start(nodes.address)
    until(lambda: search.run.journal.exists() and any(record.epochs >= 2 for record in search.records))
    nodes.add(cpus=1)
    nodes.drain(recalled)
    search.finish(process)
    first, second = search.records
    assert (first.fate, second.fate) == ("lost", "complete")
    assert "taken away" in str(first.reason)
    trained = [tuple(map(int, line.split())) for line in search.log.read_text().splitlines()]
    assert trained == [(0, epoch) for epoch in range(1, second.epochs + 1)]  # no epoch twice


def test_every_node_is_looked_at_before_a_search(
    nodes: Nodes, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.add(cpus=2)
    path, fingerprint = str(data.path), data.manifest.fingerprint
    folder = str(tmp_path / "run")
    with session(nodes.address) as there:
        assert len(there) == 2
        good = NodeRequirements(path, fingerprint, folder, versions())
        with monkeypatch.context() as patch:  # the first process of a node that has only just started
            patch.setattr("captune.cluster.nodes.inspection.SECONDS", 60.0)
            assert check_nodes(there, good) == []
        for requirements, complaint in [
            (NodeRequirements(str(tmp_path / "none"), fingerprint, folder, versions()), "not a prepared data set"),
            (NodeRequirements(path, "other", folder, versions()), "another data set"),
            (NodeRequirements(path, fingerprint, folder, versions() | {"ray": "1.0"}), "instead of 1.0"),
        ]:
            started = time.monotonic()
            with pytest.raises(ClusterError, match=f"node .*{complaint}"):
                check_nodes(there, requirements)
            assert time.monotonic() - started < 10
        rows = how_nodes_are(alive())
        assert sorted(row["cpus"] for row in rows) == [0, 2]
        assert all(row["answered"] and 0 < row["memory_taken"] < row["memory"] for row in rows)


@pytest.mark.soak
def test_node_of_another_captune_is_named(
    nodes: Nodes, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution = tmp_path / "captune-9.9.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: captune\nVersion: 9.9\n")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        nodes.add(cpus=2)
    monkeypatch.chdir(tmp_path)  # Ray's workers look in the driver's folder first
    monkeypatch.setattr("captune.cluster.nodes.inspection.SECONDS", 60.0)
    requirements = NodeRequirements(str(data.path), data.manifest.fingerprint, str(tmp_path / "run"), versions())
    with session(nodes.address) as there, pytest.raises(ClusterError, match=r"captune 9\.9 instead of .* all nodes"):
        check_nodes(there, requirements)


def test_request_that_no_node_can_meet_is_refused_with_the_numbers(
    nodes: Nodes, data: PreparedData, tmp_path: Path
) -> None:
    nodes.add(cpus=2, gpus=1)
    search = Search(tmp_path, data, 3, settings={"gpus_per_trial": 2.0, "cpus_per_trial": 1.0})
    _, err = search.start(nodes.address).communicate(timeout=60)
    assert "a trial asks for 1 CPUs and 2 GPUs" in err and "1 GPUs" in err and "--slots" in err


def test_status_shows_nodes_and_trials(nodes: Nodes, data: PreparedData, tmp_path: Path, captune: Captune) -> None:
    nodes.add(cpus=2, gpus=1)
    shares = {"gpus_per_trial": 0.5, "cpus_per_trial": 0.5, "halving": {"grace": 1000}}
    search = Search(tmp_path, data, 2, seconds=4.0, settings=shares)
    process = search.start(nodes.address)
    until(lambda: search.run.journal.exists() and running(search) == 2)
    told = json.loads(captune("cluster", "status", "--address", nodes.address, "--json").out)
    process.terminate()
    assert search.finish(process)["interrupted"]  # a scheduler's signal ends a search as Ctrl-C does
    busy = max(told["nodes"], key=lambda row: row["trials"])
    assert (busy["trials"], busy["gpus"], busy["gpus_taken"], busy["cpus_taken"]) == (2, 1, 1, 1)
    (alone,) = told["searches"]
    assert (alone["run"], alone["held"], alone["slots"]) == (str(search.run.path), 2, 2)


def test_what_limits_a_search_is_said() -> None:
    text = limits([Node(8, 2), Node(8, 1)], Request(1, 0.5))
    assert text.startswith("6 trials at once") and "GPUs are what limits" in text
    assert "CPUs are what limits" in limits([Node(2, 2)], Request(1, 0.25))
