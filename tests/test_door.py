"""`import captune`: a light door, whose examples are true, and which leaves the caller's process as it was."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import refused

import captune
from captune.data_prep.demo import draw
from captune.data_prep.store import PreparedData
from captune.tuner.space.config import read_search

PACKAGE = Path(captune.__file__).parent
FOREIGN = ("model", "cluster", "results", "tuner", "data_prep")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder where somebody has modules of the names of captune's folders, all of which raise."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in FOREIGN:
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name} of somebody')\n")
    return folder


# The door itself


def test_importing_captune_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'pandas', 'optuna', 'ray', 'keras', 'tensorflow', 'typer', 'pydantic'}"
    code = f"import sys, captune; print({heavy} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_every_name_is_there_and_no_other_is() -> None:
    assert {name for name in captune.__all__ if getattr(captune, name) is None} == set()
    assert set(captune.__all__) <= set(dir(captune))
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = captune.serch


def test_size_is_that_of_the_paper() -> None:
    report = captune.size("paper")
    assert "99.83 MiB (104.68 MB) as float32" in str(report)
    assert report.fits and report.margin_bytes == 100 * 2**20 - 104_677_128
    assert not captune.size("paper", budget="50MiB").fits


def test_space_in_python_is_the_space_of_the_file(data: PreparedData, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(
        "preset: compact\ntrials: 3\nfixed: {train.epochs: 2}\nspace:\n"
        "  text.encoder: [average, convolution]\n"
        "  text.kernel: {low: 1, high: 3, when: {text.encoder: convolution}}\n"
        "  train.learning_rate: {low: 1e-3, high: 1e-2, log: true}\n"
    )
    space = captune.space(
        "compact",
        {
            "text.encoder": ["average", "convolution"],
            "text.kernel": captune.Int(1, 3, when={"text.encoder": "convolution"}),
            "train.learning_rate": captune.Float(1e-3, 1e-2, log=True),
        },
        fixed={"train.epochs": 2},
    )
    asked = captune.plan(str(data.path), tmp_path / "run", space, trials=3)
    by_file = read_search(path, preset=None, default_preset="compact", overrides={})
    assert asked.config.build_space() == by_file.build_space()
    assert asked.report and not (tmp_path / "run").exists()


def test_space_of_a_preset_is_the_one_that_ships() -> None:
    shipped = read_search(None, preset="captions", default_preset="captions", overrides={"trials": 1})
    assert dict(captune.space("captions").dimensions) == shipped.space


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: captune.plan(data, "run", budget="100"), ("budget", "MiB")),
        (lambda data: captune.plan(data, "run", trial=3), ("trial",)),
        (lambda data: captune.plan(data, "run", "papers"), ("papers", "compact")),
        (lambda data: captune.plan(data, "run", "compact", config="x.yaml"), ("space",)),
        (lambda data: captune.plan(data, "run"), ("end", "trials")),
        (lambda data: captune.prepare("x.csv", out="x", format="tsv"), ("format", "kaggle")),  # type: ignore[arg-type]
        (lambda data: captune.prepare("x.csv", out="x", labels="3-1"), ("labels", "3-1")),
        (lambda data: captune.open_run(data), ("no run",)),
        (lambda data: captune.explain("train.learning"), ("train.learning_rate",)),
        (lambda data: captune.size(storage="int4"), ("storage", "int8")),  # type: ignore[arg-type]
    ],
)
def test_mistake_is_told_in_one_line(call: Callable[[str], Any], words: tuple[str, ...], data: PreparedData) -> None:
    refused(lambda: call(str(data.path)), *words, error=captune.UsageError)


def test_what_a_library_changes_is_changed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    from captune.tuner.api.caller import left_as_it_was

    monkeypatch.setenv("MINE", "before")
    environment, filters = dict(os.environ), list(warnings.filters)
    with pytest.raises(KeyError), left_as_it_was():
        os.environ["MINE"], os.environ["THEIRS"] = "after", "set"
        warnings.simplefilter("error")
        raise KeyError
    assert (dict(os.environ), warnings.filters) == (environment, filters)


# In a notebook, in somebody's folder

CELLS = [
    """
import os, warnings, signal, logging
import optuna
def state():
    return (
        dict(os.environ), list(warnings.filters), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM),
        optuna.logging.get_verbosity(), logging.getLogger("ray").level,
    )
before = state()
""",
    """
import captune
data = captune.prepare("pictures/train.csv", "pictures/images", out="data", side=32)
print(captune.size("paper"))
space = captune.space(
    "compact",
    {"train.learning_rate": captune.Float(1e-3, 1e-2, log=True)},
    fixed={"train.epochs": 2, "image.width": 4, "image.stages": 2, "text.units": 16, "head_units": 16},
)
run = captune.search(data, "run", space, trials=1, budget="100MiB")
""",
    "len(run.trials().sort_values('mean_f1')), captune.open_run('run') == run",
    """
winner = run.refit()
winner.export("winner.keras", format="keras")
captune.load("run/winner/bundle").predict(captions=["a dog on a beach"], images=["pictures/images/scene_00000.jpg"])
""",
    "[name for name, old, new in zip(('environment', 'filters', 'SIGINT', 'SIGTERM', 'optuna', 'ray'), before, state())"
    " if old != new]",
    """
import threading, signal as s
threading.Timer(8.0, lambda: os.kill(os.getpid(), s.SIGINT)).start()  # as a notebook's interrupt does
long = captune.search(data, "long", space, trials=10_000)
long.summary.interrupted, long.resume(trials=1).summary.interrupted
""",
]


@pytest.mark.slow
@pytest.mark.cluster
def test_notebook_in_a_folder_of_foreign_modules_goes_the_whole_way_and_changes_nothing(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    draw(elsewhere / "pictures", count=60, unlabelled=0)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    resources = {"metadata": {"path": str(elsewhere)}}
    NotebookClient(notebook, timeout=200, kernel_name="python3", resources=resources).execute()
    results = [
        [str(output.data["text/plain"]) for output in cell.outputs if output.output_type == "execute_result"]
        for cell in notebook.cells
    ]
    assert results[2] == ["(1, True)"]
    assert results[3][0].startswith("[(") and (elsewhere / "winner.keras").is_file()
    assert results[4] == ["[]"]
    assert results[5] == ["(True, False)"]
    searched = notebook.cells[1].outputs
    assert any("1 complete of 1" in str(output.get("data")) for output in searched), "the line of progress"
    said = "".join(output.text for cell in notebook.cells[1:] for output in cell.outputs if "text" in output)
    assert not [word for word in ("ipywidgets", "tensorflow", "TF_", "Warning", "(pid=", "ray.init") if word in said], (
        said
    )


# An install that cannot work


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
    ours = {"budget", "fits", "sizes", "fixed", "disk", "runs", "never", "preset"}
    assert [line for line in report if line.split()[0] not in ours] == []
    assert done.stdout == ""
