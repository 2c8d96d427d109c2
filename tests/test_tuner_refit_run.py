"""Refits on nodes of a real cluster, and on several devices at once."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import rest_in_soak
from conftest import Captune
from ray_nodes import Nodes
from two_devices import printed_with_two_devices

from captune.data_prep.store import PreparedData
from captune.results.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(300)]

TOGETHER = """
    data, folder, batch = arguments
    from test_tuner_refit import BUDGET, TINY, record
    from captune.data_prep.store import PreparedData
    from captune.model import training
    from captune.model.flat import replace
    from captune.model.presets import PRESETS
    from captune.results.run_folder import RunFolder
    from captune.tuner.winner.refit import refit
    from captune.tuner.space.space import bind

    prepared = PreparedData.open(data)
    changes = {"train.batch_size": int(batch), "train.ema": 0.9 if backend == "tensorflow" else 0.0}
    changes["storage"] = "int4"  # which changes weights within a step
    config = bind(replace(PRESETS["captions"], TINY | changes), prepared.manifest)
    made = []
    class Seen(training.Training):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(self)
    training.Training = Seen
    proof = refit(
        RunFolder(__import__("pathlib").Path(folder)), record(config, best=2), prepared, BUDGET,
        seeds=1, spread=runtime.spread(2), say=lambda text: None,
    )
    weight = made[0]._trained.trainable_variables[0].value
    if backend == "tensorflow":
        devices = len(weight.values)
    else:
        devices = len(weight.sharding.device_set)
    print(json.dumps({"proof": json.loads(proof.to_json()), "devices": devices}))
"""


@pytest.mark.parametrize(("backend", "batch"), rest_in_soak([("tensorflow", 32), ("jax", 31)], ("jax", 31)))
def test_two_devices_train_one_network_which_is_shipped_as_any_other(
    backend: str, batch: int, captions_data: PreparedData, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    # Of 107 rows: the last batch is odd.
    found = printed_with_two_devices(TOGETHER, backend, captions_data.path, tmp_path / "run", batch)
    proof = found["proof"]
    assert found["devices"] == 2
    assert proof["reloaded"]["max_difference"] <= 1e-6
    assert proof["epochs"] == 2 and proof["test"]["mean_f1"] > 0


def apart(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`captune ARGUMENTS` in a process of its own: one that had a local Ray of its own asks every other for a token."""
    command = [sys.executable, "-m", "captune", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent.parent)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as found:
        found.add(cpus=2, gpus=1)
        yield found


@pytest.fixture(scope="module")
def searched(captions_data: PreparedData, captune: Captune, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A search of one trial."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "search.yaml").write_text(
        "preset: captions\nfixed: {train.epochs: 1, text.units: 8, text.embedding: 8}\n"
        "space: {train.learning_rate: {low: 1e-3, high: 1e-2, log: true}}\n"
    )
    ran = captune(
        "search", captions_data.path, "--run", folder / "run", "--config", folder / "search.yaml", "--trials", 1
    )
    assert ran.code == 0, ran.err
    return RunFolder(folder / "run")


@pytest.mark.soak
def test_winner_is_refitted_on_a_node(nodes: Nodes, searched: RunFolder) -> None:
    ran = apart("refit", searched.path, "--address", nodes.address, "--gpus", 1)
    assert ran.returncode == 0, ran.stderr
    assert "on node " in ran.stderr and "refit 1 of 1: 1 epochs" in ran.stderr
    assert ran.stdout.startswith("trial 0, 1 epochs on train + validation")
    assert json.loads(searched.proof.read_text())["reloaded"]["max_difference"] <= 1e-6
    again = apart("refit", searched.path, "--address", nodes.address)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.splitlines()[-1].startswith(f"error: {searched.path}/winner exists; move it away")


@pytest.fixture
def unrefitted(searched: RunFolder) -> RunFolder:
    shutil.rmtree(searched.winner, ignore_errors=True)
    return searched


@pytest.mark.soak
def test_refit_that_no_node_can_do_is_refused(nodes: Nodes, unrefitted: RunFolder) -> None:
    ran = apart("refit", unrefitted.path, "--address", nodes.address, "--gpus", 2, "--cpus", 1)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert (
        "the refit asks for 1 CPUs and 2 GPUs, the largest of 2 nodes has 2 CPUs and 1 GPUs; lower --cpus" in ran.stderr
    )


@pytest.mark.soak
def test_more_gpus_than_this_machine_has_are_refused(unrefitted: RunFolder) -> None:
    ran = apart("refit", unrefitted.path, "--gpus", 99)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "99 GPUs are to train together, this process sees " in ran.stderr
    assert apart("refit", unrefitted.path, "--cpus", 1).returncode == 2
