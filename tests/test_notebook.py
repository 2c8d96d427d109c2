"""A notebook goes the whole way in a folder of somebody's modules, and changes nothing of its process."""

from pathlib import Path

import pytest

from captune.data_prep.demo import draw

FOREIGN = ("model", "cluster", "results", "tuner", "data_prep")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder where somebody has modules of the names of captune's folders, all of which raise."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in FOREIGN:
        (folder / f"{name}.py").write_text(f"raise RuntimeError('the {name} of somebody')\n")
    return folder


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


@pytest.mark.soak
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
    NotebookClient(notebook, timeout=250, kernel_name="python3", resources=resources).execute()
    results = [
        [str(output.data["text/plain"]) for output in cell.outputs if output.output_type == "execute_result"]
        for cell in notebook.cells
    ]
    assert results[2] == ["(1, True)"]
    assert results[3][0].startswith("[(") and (elsewhere / "winner.keras").is_file()
    assert results[4] == ["[]"]
    assert results[5] == ["(True, False)"]
    searched = notebook.cells[1].outputs
    assert any("1 of 1 trial" in str(output.get("data")) for output in searched), "how the search stands"
    said = "".join(output.text for cell in notebook.cells[1:] for output in cell.outputs if "text" in output)
    assert not [word for word in ("ipywidgets", "tensorflow", "TF_", "Warning", "(pid=", "ray.init") if word in said], (
        said
    )
