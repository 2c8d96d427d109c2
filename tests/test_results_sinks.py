"""A run as TensorBoard, MLflow and Weights & Biases have it: read back, its values are those of the table."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Captune, refused
from study_runs import begin, fill, new_run, report, study_of

from captune.results.attributes import TrialAttributes
from captune.results.records import Record, load_records
from captune.results.run_folder import RunFolder
from captune.results.sinks.follow import follow
from captune.results.sinks.sink import Point, SinkError
from captune.tuner.api import logs
from captune.tuner.api.logs import logging_to
from captune.tuner.api.runs import Run

METRICS = ("mean_f1", "micro_f1", "macro_f1", "map", "ece")


class Noted:
    """A sink that remembers what it was told."""

    def __init__(self, broken: bool = False) -> None:
        self.epochs: dict[int, list[int]] = {}
        self.fates: dict[int, str] = {}
        self.closed = 0
        self._broken = broken

    def report(self, record: Record, points: Sequence[Point]) -> None:
        if self._broken:
            raise ConnectionError("no route\nto host")
        self.epochs.setdefault(record.number, []).extend(point.epoch for point in points)

    def end(self, record: Record) -> None:
        assert record.number not in self.fates
        self.fates[record.number] = record.fate

    def close(self) -> None:
        self.closed += 1


def test_each_report_and_each_end_is_told_once_and_in_order(tmp_path: Path) -> None:
    run, sink = new_run(tmp_path / "run"), Noted()
    looks = iter(range(9))

    def over() -> bool:
        look = next(looks)
        if look == 1:
            fill(run)
        if look == 2:
            study = study_of(run)
            trial = begin(study, 0.5)
            report(study, trial, 1, 0.1)
            report(study, trial, 2, 0.2)
            TrialAttributes(fate="failed").write(trial)
        return look == 4

    with run.writing():
        assert follow(run, sink, over) == 5
    assert sink.epochs == {0: [1, 2, 3], 1: [1], 4: [1], 5: [1], 6: [1, 2]}  # 2 was refused, 3 is no trial
    assert sink.fates == {0: "complete", 1: "stopped", 4: "diverged", 6: "failed"}
    assert sink.closed == 1


def test_sink_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"^no route to host$"):
        follow(fill(new_run(tmp_path / "run")), Noted(broken=True), lambda: True)


def events_of(folder: Path) -> Iterator[Any]:
    """Of TensorBoard's files: a length, its sum, the event, its sum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event()
            event.ParseFromString(content[place + 12 : place + 12 + length])
            place += length + 16
            yield event


def board_of(folder: Path) -> tuple[dict[str, dict[int, float]], dict[str, Any]]:
    """Curves by name and epoch, and the settings in the table of hyperparameters."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    curves: dict[str, dict[int, float]] = {}
    settings: dict[str, Any] = {}
    for event in events_of(folder):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                data = HParamsPluginData()
                data.ParseFromString(value.metadata.plugin_data.content)
                for name, setting in data.session_start_info.hparams.items():
                    settings[name] = getattr(setting, setting.WhichOneof("kind"))
            else:
                curves.setdefault(value.tag, {})[event.step] = value.simple_value
    return curves, settings


def test_tensorboard_has_the_values_of_the_table_also_when_written_twice(tmp_path: Path, captune: Captune) -> None:
    run = fill(new_run(tmp_path / "run"))
    for _ in range(2):
        shown = captune("log", run.path, "--to", "tensorboard")
        assert shown.code == 0 and "4 trials" in shown.out and "tensorboard --logdir" in shown.out
    folders = sorted(path.name for path in (run.logs / "tensorboard").iterdir())
    assert folders == ["trial-0000", "trial-0001", "trial-0004", "trial-0005"]
    for record in load_records(run):
        if record.fate not in ("complete", "stopped"):
            continue
        curves, settings = board_of(run.logs / "tensorboard" / f"trial-{record.number:04}")
        assert curves["mean_f1"] == pytest.approx({epoch.epoch: epoch.mean_f1 for epoch in record.curve})
        row = record.row()
        for name in METRICS:
            assert list(curves[f"best_{name}"].values()) == pytest.approx([row[name]])
        assert list(curves["weights_bytes"].values()) == [row["weights_bytes"]]
        expected = {name: value for name, value in record.config.items() if value is not None}
        assert settings == {**expected, "fate": record.fate}


def test_files_of_others_in_the_folder_stay(tmp_path: Path) -> None:
    run = fill(new_run(tmp_path / "run"))
    other = run.logs / "tensorboard" / "trial-0000" / "events.out.tfevents.1.mine"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    Run(str(run.path)).log("tensorboard")
    assert other.exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mlflow") is None, reason="pip install 'captune[mlflow]'")
def test_mlflow_has_the_values_of_the_table_also_when_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    run = fill(new_run(tmp_path / "run"))
    for _ in range(2):
        Run(str(run.path)).log("mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{run.logs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("run")
    runs = {int(each.data.tags["captune.trial"]): each for each in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == [0, 1, 4, 5]
    assert [runs[number].info.status for number in (0, 1, 4, 5)] == ["FINISHED", "FINISHED", "FAILED", "KILLED"]
    for record in load_records(run):
        if record.fate not in ("complete", "stopped"):
            continue
        logged, row = runs[record.number], record.row()
        assert {name: logged.data.metrics[f"best_{name}"] for name in METRICS} == {name: row[name] for name in METRICS}
        assert logged.data.metrics["weights_bytes"] == row["weights_bytes"]
        assert logged.data.tags["fate"] == record.fate
        assert logged.data.params["train.learning_rate"] == str(record.config["train.learning_rate"])
        history = client.get_metric_history(logged.info.run_id, "mean_f1")
        assert [(point.step, point.value) for point in history] == [(e.epoch, e.mean_f1) for e in record.curve]


def wandb_of(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows and the summary in an offline file: records in the log format of LevelDB after seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if 32768 - place % 32768 < 7:  # no header begins at the end of a block
            place += 32768 - place % 32768
        if kind not in (1, 4):  # more of it follows
            continue
        record, whole = Record.FromString(whole), b""
        if record.HasField("history"):
            items = record.history.item
            rows.append({".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items})
        for item in record.summary.update:
            summary[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return rows, summary


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="pip install 'captune[wandb]'")
def test_wandb_offline_has_the_values_of_the_table_also_when_written_twice(tmp_path: Path) -> None:
    run = fill(new_run(tmp_path / "run"))
    code = "import sys\nfrom captune.tuner.api.runs import Run\nfor _ in range(2): Run(sys.argv[1]).log('wandb')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    # A process of its own: wandb leaves a service running.
    subprocess.run([sys.executable, "-c", code, str(run.path)], env=environment, check=True, timeout=200)
    paths = list(run.logs.glob("wandb/offline-run-*/*.wandb"))
    logged = {int(path.stem.rpartition("-")[2]): wandb_of(path) for path in paths}
    assert sorted(logged) == [0, 1, 4, 5] and len(paths) == 4
    for record in load_records(run):
        if record.fate not in ("complete", "stopped"):
            continue
        rows, summary = logged[record.number]
        assert [(row["epoch"], row["mean_f1"]) for row in rows] == [(e.epoch, e.mean_f1) for e in record.curve]
        row = record.row()
        assert {name: summary[f"best_{name}"] for name in METRICS} == {name: row[name] for name in METRICS}
        assert summary["weights_bytes"] == row["weights_bytes"] and summary["fate"] == record.fate


def search_in(run: RunFolder) -> None:
    with run.writing():
        fill(run)


def test_live_sink_is_whole_when_the_search_has_returned(tmp_path: Path) -> None:
    run, told = new_run(tmp_path / "run"), list[str]()
    with logging_to(run, ["tensorboard"], told.append):
        search_in(run)
    assert not any(text.startswith("note") for text in told)
    curves, settings = board_of(run.logs / "tensorboard" / "trial-0000")
    assert curves["mean_f1"] == pytest.approx({1: 0.5, 2: 0.8, 3: 0.7}) and settings["fate"] == "complete"


def test_live_sink_that_cannot_write_is_told_once_and_the_search_goes_on(tmp_path: Path) -> None:
    run, told = new_run(tmp_path / "run"), list[str]()
    run.logs.write_text("no folder")
    with logging_to(run, ["tensorboard"], told.append):
        search_in(run)
    assert len(load_records(run)) == 5
    (complaint,) = [text for text in told if text.startswith("note")]
    assert complaint.startswith("note: tensorboard got no more") and "captune log" in complaint


def test_live_sink_that_hangs_is_ended_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, told = new_run(tmp_path / "run"), list[str]()
    for name in ("_END_SECONDS", "_SOON_SECONDS"):  # it has not even been imported by then
        monkeypatch.setattr(logs, name, 0.01)
    with logging_to(run, ["tensorboard"], told.append):
        search_in(run)
    assert len(told) == 2 and "still writing tensorboard" in told[0] and "not written whole in" in told[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "DATA", "--run", "R", "--log", "tensorbord"), ("--log", "tensorboard", "mlflow", "wandb")),
        (("log", "RUN", "--to", "comet"), ("comet", "tensorboard")),
        (("log", "NOWHERE", "--to", "tensorboard"), ("NOWHERE",)),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, captune: Captune, arguments: tuple[str, ...], words: tuple[str, ...], captions_data: Any
) -> None:
    places = {"DATA": str(captions_data.path), "RUN": str(new_run(tmp_path / "run").path), "R": str(tmp_path / "new")}
    typed = [places.get(word, word) for word in arguments] + (["--trials", "1"] if arguments[0] == "search" else [])
    refused(captune(*typed), *words)
    assert not (tmp_path / "new").exists()


def test_missing_extra_is_told_with_the_command(
    tmp_path: Path, captune: Captune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captune.tuner.api.logs.find_spec", lambda name: None)
    refused(captune("log", new_run(tmp_path / "run").path, "--to", "wandb"), "pip install 'captune[wandb]'")
