"""`import captune`: a light door, whose examples are true, and which leaves the caller's process as it was."""

import doctest
import importlib
import inspect
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import PREFLIGHT, refused

import captune
from captune.data_prep.store import PreparedData
from captune.tuner.api.caller import left_as_it_was

PACKAGE = Path(captune.__file__).parent
ROOMS = sorted(path.stem for path in (PACKAGE / "tuner" / "api").glob("[!_]*.py"))
# Prints what of the process a call has changed.
CHANGED = """\
import logging, os, signal, sys, warnings
def state():
    return {
        "environment": dict(os.environ), "filters": list(warnings.filters), "path": list(sys.path),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "log": [logging.root.level, list(logging.root.handlers), logging.getLogger("ray").level],
        "hooks": [sys.excepthook, sys.displayhook], "folder": os.getcwd(),
    }
before = state()
import captune
CALL
after = state()
print([name for name in before if before[name] != after[name]])
"""


def test_importing_captune_loads_nothing_heavy_and_takes_a_moment() -> None:
    code = "import sys; before = {*sys.modules}; import captune; print(*sys.modules.keys() - before)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 2, "0.05 s on a machine with nothing else to do"
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded <= {"captune"} | set(sys.stdlib_module_names)


def test_every_name_is_there_and_no_other_is() -> None:
    assert {name for name in captune.__all__ if getattr(captune, name) is None} == set()
    assert set(captune.__all__) <= set(dir(captune))
    assert sorted(captune.__all__) == captune.__all__
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = captune.serch


def test_everything_of_the_door_is_explained_with_an_example() -> None:
    for name in set(captune.__all__) - {"__version__", "Error", "UsageError", "WorkError"}:
        text = inspect.getdoc(getattr(captune, name)) or ""
        assert ">>> " in text, f"captune.{name} has no example"


@pytest.mark.parametrize(
    "room", [pytest.param(room, marks=[pytest.mark.slow] if room == "classifier" else []) for room in ROOMS]
)
def test_examples_are_true(room: str, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with data, a run and its winner."""
    monkeypatch.chdir(old)
    module = importlib.import_module(f"captune.tuner.api.{room}")
    options = doctest.NORMALIZE_WHITESPACE | doctest.REPORT_NDIFF
    assert doctest.testmod(module, extraglobs={"captune": captune}, optionflags=options).failed == 0


def test_size_is_that_of_the_paper() -> None:
    report = captune.size("paper")
    assert "99.83 MiB (104.68 MB) as float32" in str(report)
    assert report.fits and report.margin_bytes == 100 * 2**20 - 104_677_128
    assert not captune.size("paper", budget=104_677_127).fits
    assert captune.size("paper", budget=104_677_128).fits


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: captune.plan(data, "run", budget="100"), ("budget", "MiB")),
        (lambda data: captune.plan(data, "run", trial=3), ("trial",)),
        (lambda data: captune.plan(data, "run", trials=0), ("trials", "1", "0")),
        (lambda data: captune.plan(data, "run", "papers"), ("papers", "compact")),
        (lambda data: captune.plan(data, "run", "compact", config="x.yaml"), ("space",)),
        (lambda data: captune.plan(data, "run"), ("end", "trials")),
        (lambda data: captune.plan(data, "run", trials=1, budget="1kB"), ("smallest", "budget", "over by")),
        (lambda data: captune.plan(f"{data}-none", "run", trials=1), ("-none",)),
        (lambda data: captune.prepare("x.csv", out="x", format="tsv"), ("format", "kaggle")),  # type: ignore[arg-type]
        (lambda data: captune.prepare("x.csv", out="x", labels="3-1"), ("labels", "3-1")),
        (lambda data: captune.prepare("x.csv", out="x", categories=[1]), ("categories", "coco")),
        (lambda data: captune.open_run(data), ("no run",)),
        (lambda data: captune.explain("train.learning"), ("train.learning_rate",)),
        (lambda data: captune.size("papers"), ("papers", "compact")),
        (lambda data: captune.size(storage="int2"), ("storage", "int4")),  # type: ignore[arg-type]
        (lambda data: captune.space("papers", {}), ("papers", "compact")),
        (lambda data: captune.space("compact", {"train.lr": [1]}), ("train.lr", "train.learning_rate")),
        (lambda data: captune.space("compact", {"head_units": captune.Int(64, 8)}), ("head_units", "64", "8")),
        (lambda data: captune.space("compact", fixed={"train.epochs": 0}), ("train.epochs", "0")),
        (lambda data: captune.space("compact", {"head_units": (8, 64)}), ("head_units", "(8, 64)", "Float or Int")),
    ],
)
def test_mistake_is_told_in_one_line(call: Callable[[str], Any], words: tuple[str, ...], data: PreparedData) -> None:
    refused(lambda: call(str(data.path)), *words, error=captune.UsageError)


def test_what_a_library_changes_is_changed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "before")
    environment, filters = dict(os.environ), list(warnings.filters)
    with pytest.raises(KeyError), left_as_it_was():
        os.environ["MINE"], os.environ["THEIRS"] = "after", "set"
        del os.environ["PATH"]
        warnings.simplefilter("error")
        raise KeyError
    assert (dict(os.environ), warnings.filters) == (environment, filters)


@pytest.mark.parametrize(
    "call",
    [
        "captune.space('full'), captune.explain()",
        "captune.prepare('train.csv', out='new')",
        "captune.plan('data', 'new', trials=3)",
        "captune.open_run('run').trials(), captune.open_run('run').winner.proof",
        pytest.param("captune.load('run/winner/bundle').evaluate('train.csv')", marks=pytest.mark.slow),
    ],
)
def test_first_call_of_a_process_changes_nothing_of_it(call: str, old: Path) -> None:
    code = CHANGED.replace("CALL", call)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=old)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.soak
@pytest.mark.cluster
def test_worker_that_cannot_import_captune_ends_the_search_in_one_line(
    captions_data: PreparedData, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site / "captune", ignore=shutil.ignore_patterns("__pycache__"))
    worker = site / "captune" / "tuner" / "ray_tune" / "worker.py"
    worker.write_text(
        worker.read_text().replace(
            "import os\n",
            "import os\nimport sys\nif sys.argv[0].endswith('default_worker.py'):\n"
            "    raise ImportError(\"cannot import name 'x' from 'y'\")\n",
            1,
        )
    )
    command = [sys.executable, "-P", "-m", "captune", "search", captions_data.path, "--run", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, command), "--preset", "captions", "--trials", "3"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done
    *report, last = done.stderr.strip().splitlines()
    assert last.startswith("error: workers cannot load captune: ImportError: cannot import name 'x' from 'y'"), last
    ours = (*PREFLIGHT, "no trial done of 3")
    assert [line for line in report if not line.startswith(ours)] == []
    assert done.stdout == ""
