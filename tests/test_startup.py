"""Help is instant: the heavy libraries are loaded by the verbs that need them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("tensorflow", "keras", "ray", "nltk", "optuna", "pandas", "sklearn", "scipy", "pyarrow", "PIL")
# Like the entry point that pip writes; afterwards names of loaded modules stand on the last line.
PROBE = """\
import sys
from tuner.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("\\n" + " ".join(sys.modules))
"""


def loaded_by(*arguments: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["refit", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(*arguments).isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["size"], ["space"]], ids=" ".join)
def test_verb_that_computes_nothing_loads_neither_framework_nor_ray(arguments: list[str]) -> None:
    assert loaded_by(*arguments).isdisjoint({"tensorflow", "keras", "ray", "optuna", "pandas", "nltk"})


def test_trials_of_a_folder_loads_neither_framework_nor_ray(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert loaded_by("trials", str(tmp_path)).isdisjoint({"tensorflow", "keras", "ray", "nltk"})


def test_help_takes_less_than_half_a_second() -> None:
    """The best of five, as another process may have the core; the interpreter and Typer alone take 0.15 s here."""
    command = [str(Path(sys.executable).with_name("captune")), "--help"]
    if not Path(command[0]).exists():
        command = [sys.executable, "-m", "tuner.cli", "--help"]
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True, env=os.environ)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5, seconds
