"""The door in a notebook, in a folder of foreign modules, on drawn data: the whole way, and an interrupt."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from ray_nodes import ray_head, until, without_ray

import captune
from captune.data_prep.demo import draw

# What the caller has set differs from what everything starts with.
STATE = """
import os, warnings, signal, logging
import optuna
optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("ray").setLevel(33)
os.environ["MINE"] = "x"
warnings.filterwarnings("error", "of the caller's own")
def state():
    return {
        "environment": dict(os.environ), "filters": list(warnings.filters),
        "SIGINT": signal.getsignal(signal.SIGINT), "SIGTERM": signal.getsignal(signal.SIGTERM),
        "optuna": optuna.logging.get_verbosity(), "ray": logging.getLogger("ray").level,
        "root": [logging.root.level, *logging.root.handlers],
    }
def changed():
    return [name for name, value in state().items() if before[name] != value]
before = state()
"""
LINES = """
import captune
data = captune.prepare("train.csv", "pictures", out="data", side=32)
print(captune.size("paper"))                                   # 99.83 MiB of float32 weights
space = captune.space(
    "compact",
    {"train.learning_rate": captune.Float(1e-3, 1e-2, log=True)},
    fixed={"train.epochs": 2, "image.width": 4, "image.stages": 2, "text.units": 16, "head_units": 16},
)
run = captune.search(data, "run", space, trials=2, budget="100MiB", address="auto")
"""
READING = 'run.trials().sort_values("mean_f1")             # a pandas DataFrame; also captune.open_run("run")'
WINNER = """
winner = run.refit()                                           # winner.proof.test.mean_f1
winner.export("winner.keras", format="keras")
captune.load("run/winner/bundle").predict(captions=["a dog on a beach"], images=["dog.jpg"])
"""
LONG = """
long = captune.search(data, "long", space, trials=10_000)
long.summary.interrupted
"""
GOING_ON = """
seen = len(long.records())
long.resume(trials=seen + 1)
long.summary.interrupted, len(long.records()) > seen
"""
CELLS = [STATE, LINES, READING, WINNER, "changed()", LONG, "changed()", GOING_ON, "changed()"]


@pytest.mark.slow
@pytest.mark.cluster
def test_ten_lines_and_an_interrupt_in_a_folder_of_foreign_modules(foreign: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    draw(foreign / "drawn", count=60, unlabelled=0)
    (foreign / "drawn" / "train.csv").rename(foreign / "train.csv")
    (foreign / "drawn" / "images").rename(foreign / "pictures")
    (foreign / "dog.jpg").write_bytes((foreign / "pictures" / "scene_00000.jpg").read_bytes())
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = NotebookClient(
        notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(foreign)}}
    )

    def interrupt() -> None:
        """When a trial is at work; it reaches every process of the kernel's group."""
        journal = foreign / "long" / "study.journal"
        until(lambda: journal.is_file() and b"epoch" in journal.read_bytes(), 200)
        asyncio.run(client.km.interrupt_kernel())

    # Workers import captune from where this process has it.
    python_path = os.pathsep.join(filter(None, [str(Path(captune.__file__).parent.parent), os.getenv("PYTHONPATH")]))
    with ray_head(cpus=2, PYTHONPATH=python_path) as head:
        threading.Thread(target=interrupt, daemon=True).start()
        kernel = without_ray(RAY_ADDRESS=head.address, RAY_AUTH_MODE="disabled", PYTHONPATH=python_path)
        client.execute(env=kernel)

    shown = [
        [output["data"] for output in cell.outputs if output.output_type in ("execute_result", "display_data")]
        for cell in notebook.cells
    ]
    texts = [[data["text/plain"] for data in cell] for cell in shown]
    assert "2 complete of 2; best mean F1 0." in texts[1][-1], "the line of progress"
    assert "text/html" in shown[2][-1] and "mean_f1" in texts[2][-1], "a DataFrame"
    assert texts[3][-1].startswith("[(") and (foreign / "winner.keras").is_file()
    assert texts[5][-1] == "True"
    assert texts[7][-1] == "(False, True)"
    assert [texts[place] for place in (4, 6, 8)] == [["[]"]] * 3, "nothing of the process has changed"

    cells = notebook.cells[1:]  # what the first prints is of the caller's own import
    said = [line for cell in cells for output in cell.outputs for line in output.get("text", "").splitlines()]
    ours = ("parameters", "image", "text", "head", "weights", "bundle", "budget", "fits", "sizes", "fixed", "disk")
    ours += ("runs", "refit", "epoch", "loading", "limits", "cluster")
    assert [line for line in said if not line.startswith(ours)] == []
