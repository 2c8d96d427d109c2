"""The wheel holds plain files of captune alone, and does its work where nothing of this checkout is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("tuner", "model", "data_prep", "cluster", "results")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would put what an older build left in the checkout into it."""
    out = tmp_path_factory.mktemp("wheel")
    for name in (*FOLDERS, ".src"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, out / "source" / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, out / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, out / "source"]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("captune-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment with all that captune needs, and of captune the wheel."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "captune" not in entry.name and "__editable__" not in entry.name:
            (site / entry.name).symlink_to(entry)
    command = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps", wheel]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "bin" / "captune"


def run(command: Path, *arguments: str, folder: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """In a folder that is not the checkout, by a Python that is told of no other place to find modules."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [command, *arguments], capture_output=True, text=True, cwd=folder, env=environment, timeout=timeout
    )


def test_wheel_holds_the_sources_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = {".py", ".yaml", ".sh", ".html", ".css", ".mjs"}
    there = {
        f"captune/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds or path.name in ("Dockerfile", "portable.md")
    }
    door = {f"captune/{path.name}" for path in (ROOT / ".src" / "captune").iterdir() if path.is_file()}
    assert names == there | door


def test_installed_wheel_is_what_its_command_runs(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "--version", folder=tmp_path).stdout == f"captune {version('captune')}\n"
    size = run(installed, "size", "--json", folder=tmp_path)
    assert json.loads(size.stdout)["weights_bytes"] == 104_677_128
    code = "import captune; print(captune.__file__, captune.space('full').preset)"
    home = run(installed.with_name("python"), "-P", "-c", code, folder=tmp_path).stdout.split()
    assert home == [str(next(installed.parent.parent.glob("lib/python*/site-packages/captune/__init__.py"))), "full"]


@pytest.mark.soak
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_demo_of_an_installed_wheel_goes_the_whole_way_in_a_folder_of_foreign_modules(
    installed: Path, foreign: Path
) -> None:
    """Every verb runs there; names of the standard library and of what captune needs are somebody's too."""
    for name in ("random", "json", "keras", "numpy", "captune"):
        (foreign / f"{name}.py").write_text(f"raise RuntimeError('the {name} of somebody')\n")
    done = run(installed, "demo", "--out", "demo", folder=foreign, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "of somebody" not in done.stdout + done.stderr
    assert not [word for word in ("Traceback", "Warning", "(pid=", "tensorflow/") if word in done.stdout + done.stderr]
    proof = json.loads((foreign / "demo" / "run" / "winner" / "proof.json").read_text())
    assert proof["test"]["mean_f1"] > 0.4, "the commonest label alone scores some 0.3"
    assert proof["reloaded"]["max_difference"] <= 1e-6
    assert (foreign / "demo" / "winner.keras").is_file()
    assert len((foreign / "demo" / "submission.csv").read_text().splitlines()) == 61
    shown = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("$ captune ")]
    assert shown == ["prepare", "size", "search", "trials", "refit", "export", "evaluate", "predict"]
    assert all("lost" not in line for line in (foreign / "demo" / "trials.csv").read_text().splitlines())
