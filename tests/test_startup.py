"""Help is instant: the heavy libraries are loaded by the verbs that need them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from captune.data_prep.store import PreparedData
from captune.model.presets import PRESETS

HEAVY = ("tensorflow", "keras", "ray", "nltk", "optuna", "pandas", "sklearn", "scipy", "pyarrow", "PIL")
# Like the entry point that pip writes; afterwards names of loaded modules stand on the last line.
PROBE = """\
import sys
from captune.tuner.command.main import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
print("\\n" + " ".join(sys.modules))
sys.exit(code)
"""
# The same for `search --dry-run` of several presets; before the modules, the seconds of each.
DRY_RUNS = """\
import sys, time
before = time.process_time()
from captune.tuner.command.main import main
seconds = []
data, *presets = sys.argv[1:]
for preset in presets:
    sys.argv = ["captune", "search", data, "--run", "run", "--preset", preset, "--trials", "3", "--dry-run"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    seconds.append(time.process_time() - before)
    before = time.process_time()
print(*seconds, " ".join(sys.modules), sep="\\n")
"""


def loaded_by(*arguments: str, status: int = 0, folder: Path | None = None) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == status, done
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["refit", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(*arguments).isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["size"], ["size", "--storage", "int8", "--json"], ["space"]], ids=" ".join)
def test_verb_that_computes_nothing_loads_neither_framework_nor_ray(arguments: list[str]) -> None:
    assert loaded_by(*arguments).isdisjoint({"tensorflow", "keras", "ray", "optuna", "pandas", "nltk"})


def test_trials_of_a_folder_loads_neither_framework_nor_ray(old: Path) -> None:
    assert loaded_by("trials", str(old / "run")).isdisjoint({"tensorflow", "keras", "ray", "nltk"})


def test_size_of_what_does_not_fit_loads_nothing_heavy() -> None:
    assert loaded_by("size", "--budget", "1MiB", status=1).isdisjoint(HEAVY)


@pytest.mark.slow
def test_dry_run_of_every_preset_takes_seconds_starts_no_ray_and_writes_nothing(
    data: PreparedData, tmp_path: Path
) -> None:
    """In one process, the slowest preset first: what it takes has the imports in it. Of the CPU, whoever else runs."""
    before = {path: path.stat().st_mtime_ns for path in data.path.rglob("*")}
    presets = sorted(PRESETS, key=lambda name: name != "full")
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUNS, data.path, *presets], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    *seconds, modules = done.stdout.splitlines()[-len(presets) - 1 :]
    assert max(map(float, seconds)) < 5, seconds
    assert set(modules.split()).isdisjoint({"ray", "tensorflow", "keras"})
    assert done.stdout.count("runs 1.") == len(presets)
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in data.path.rglob("*")} == before


@pytest.mark.slow
def test_search_of_a_space_in_which_nothing_fits_ends_before_ray_is_loaded(data: PreparedData, tmp_path: Path) -> None:
    loaded = loaded_by(
        *("search", str(data.path), "--run", "run", "--trials", "3", "--budget", "1kB"), status=2, folder=tmp_path
    )
    assert loaded.isdisjoint({"ray", "tensorflow", "keras", "optuna"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_takes_hardly_more_than_its_libraries() -> None:
    """Of processor time, as machines are shared: 0.3 s on a quiet one, of which help by Typer alone is a half."""
    alone = "import typer\napp = typer.Typer()\n@app.command()\ndef verb(): ...\napp(['--help'])"

    def seconds(*words: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *words], capture_output=True, check=True)
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    pairs = [(seconds("-m", "captune", "--help"), seconds("-c", alone)) for _ in range(5)]
    # What else the machine does makes each longer, never shorter.
    assert min(own for own, _ in pairs) < 3 * min(typer for _, typer in pairs), pairs
