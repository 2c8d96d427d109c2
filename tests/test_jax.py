"""JAX in the place of TensorFlow, on the CPU: a search, its winner, and what both make of the same bundle."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from captune.data_prep.store import PreparedData
from captune.results.run_folder import RunFolder
from captune.tuner.winner.formats.declarations import FORMATS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("jax") is None, reason="JAX is not installed"),
]


def captune(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: a process has one backend."""
    command = [sys.executable, "-m", "captune", *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250, env=os.environ | environment)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran


@pytest.fixture(scope="module")
def run(data: PreparedData, search_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("jax")
    settings = search_yaml.read_text().replace("fixed:\n", "fixed:\n  train.ema: 0.9\n  storage: int4\n")
    (folder / "search.yaml").write_text(settings)
    captune(
        *("search", data.path, "--run", folder / "run", "--config", folder / "search.yaml"),
        *("--backend", "jax", "--trials", 1, "--checkpoint-every", "1epoch"),
    )
    captune("refit", folder / "run")
    return RunFolder(folder / "run")


@pytest.mark.soak
def test_search_with_jax_ends_with_a_proved_winner(run: RunFolder) -> None:
    settings = json.loads(run.settings.read_text())
    assert settings["search"]["backend"] == "jax" and "jax" in settings["versions"]
    proof = json.loads(run.proof.read_text())
    assert proof["storage"] == "int4"
    assert proof["reloaded"]["mean_f1"] == proof["test"]["mean_f1"]
    assert proof["reloaded"]["max_difference"] <= 1e-6


@pytest.mark.soak
def test_replay_of_a_trial_of_jax_differs_by_nothing(run: RunFolder) -> None:
    told = json.loads(captune("replay", run.path, 0, "--json").stdout)
    assert told["largest_difference"] == 0.0


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("copy", "bundle"),
        ("winner.keras", "keras"),
        ("saved", "savedmodel"),
        ("winner.tflite", "litert"),
        ("winner.onnx", "onnx"),
    ],
)
def test_winner_of_jax_is_exported_in_every_format(run: RunFolder, tmp_path: Path, name: str, kind: str) -> None:
    if kind in FORMATS and not FORMATS[kind].is_installed:
        pytest.skip(f"pip install 'captune[{FORMATS[kind].extra}]'")
    told = captune("export", run.path, "--to", tmp_path / name, "--format", kind).stdout
    assert "weights as int4" in told if kind == "bundle" else "weights as float32" in told
    assert kind != "bundle" or "within 0.0e+00" in told, told
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.portable"]


@pytest.mark.soak
def test_both_backends_score_the_same_bundle_the_same(run: RunFolder, drawn: Path) -> None:
    def scores(backend: str) -> dict[str, Any]:
        told = captune(
            *("evaluate", run.bundle, drawn / "train.csv", drawn / "images", "--json"), KERAS_BACKEND=backend
        )
        return dict(json.loads(told.stdout))

    jax, tensorflow = scores("jax"), scores("tensorflow")
    for name in ("mean_f1", "micro_f1", "map"):
        assert jax[name] == pytest.approx(tensorflow[name], abs=2e-3), name
