"""A search is steered while it runs: what people ask for is checked at once, and taken up once."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import rest_in_soak
from conftest import Captune, refused
from study_runs import study_of
from test_endings import Desk, desk, end, until  # noqa: F401 - the fixture

from captune.data_prep.store import PreparedData
from captune.results.attributes import TrialAttributes
from captune.results.records import Record, load_records
from captune.results.run_folder import RunFolder
from captune.tuner.run.requests import Request, Requests

SEARCH_YAML = """\
preset: captions
trials: 4
halving: {grace: 1, reduction: 2}
space:
  text.embedding: {low: 8, high: 24, step: 8}
  train.learning_rate: {low: 1e-3, high: 1e-2, log: true}
fixed: {train.epochs: 9, text.embedding: 16, text.units: 16}
"""


@pytest.fixture
def begun(tmp_path: Path, captions_data: PreparedData) -> RunFolder:
    """The run folder of a search that ended before its first trial."""
    from captune.tuner.api.plans import plan
    from captune.tuner.run.settings import create

    settings = tmp_path / "search.yaml"
    settings.write_text(SEARCH_YAML)
    run = RunFolder(tmp_path / "run")
    planned = plan(captions_data.path, run.path, config=settings)
    create(run, planned.config, planned.data.prepared, source=str(captions_data.path))
    study_of(run)
    return run


def written(folder: Path, text: str) -> Path:
    path = folder / "chosen.yaml"
    path.write_text(text)
    return path


def test_requests_wait_in_their_order_until_they_are_removed(begun: RunFolder) -> None:
    requests = Requests(begun)
    assert requests.names() == []
    asked = [Request(configurations=({"text.embedding": 16},)), Request(stop=3), Request(pin=4), Request()]
    for request in asked:
        requests.add(request)
    assert [requests.read(name) for name in requests.names()] == asked
    requests.remove(requests.names()[1])
    assert [requests.read(name) for name in requests.names()] == [asked[0], *asked[2:]]


@pytest.mark.slow
def test_what_is_enqueued_is_checked_at_once_and_left_for_the_driver(captune: Captune, begun: RunFolder) -> None:
    folder = begun.path.parent
    file = written(folder, "- text.embedding: 24\n- train.learning_rate: 2e-3\n")
    ran = captune("enqueue", begun.path, file)
    assert (ran.code, ran.out) == (0, f"2 configurations to be tried next, by: captune resume {begun.path}\n")
    (name,) = Requests(begun).names()
    assert Requests(begun).read(name).configurations == ({"text.embedding": 24}, {"train.learning_rate": 0.002})
    for text, *words in (
        ("- text.embedding: 8\n- text.embedding: 17\n", "line 2: 2: text.embedding: the space has from 8 to 24 by 8"),
        ("text.embedding: 24\n", "line 1: it is the same as one that waits to be tried; leave it out"),
        ("text.embeddings: 16\n", "line 1: text.embeddings: unknown name"),
        ("- {}\n", "line 1: 1: it is the same as trial 0"),
        ("text.embedding: [16]\n", "text.embedding"),
        ("", "is empty"),
    ):
        refused(captune("enqueue", begun.path, written(folder, text)), str(file), *words)
    assert Requests(begun).names() == [name]
    refused(captune("enqueue", folder, written(folder, "a: 1")), "holds no run")
    for verb in ("stop", "pin"):
        refused(captune(verb, begun.path, 0), "the run has no trial 0")


def test_what_the_driver_has_taken_up_is_not_enqueued_again(begun: RunFolder) -> None:
    import captune

    study_of(begun).enqueue_trial({"text.embedding": 8, "train.learning_rate": 0.004})
    with pytest.raises(captune.Error, match="1: it is the same as one that waits to be tried"):
        captune.open_run(str(begun.path)).enqueue({"text.embedding": 8, "train.learning_rate": 0.004})


def test_python_door_tells_the_configuration_that_is_wrong(begun: RunFolder) -> None:
    import captune

    run = captune.open_run(str(begun.path))
    assert run.enqueue({"text.embedding": 24}) == 1
    with pytest.raises(captune.Error, match=r"configurations: 2: text.embedding: the space has"):
        run.enqueue([{"text.embedding": 8}, {"text.embedding": 9}])


def test_configurations_beyond_the_trials_of_a_search_are_told_with_the_trials_they_need(
    captune: Captune, begun: RunFolder, tmp_path: Path
) -> None:
    study = study_of(begun)
    for fate in ("complete", "failed", "diverged", "lost"):
        trial = study.ask()
        TrialAttributes(fate=fate).write(trial)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    resume = f"by: captune resume {begun.path}"
    one = written(tmp_path, "text.embedding: 24\n")
    assert captune("enqueue", begun.path, one).out == f"1 configuration to be tried next, {resume}\n"
    two = "- text.embedding: 8\n- train.learning_rate: 2e-3\n"
    assert captune("enqueue", begun.path, written(tmp_path, two)).out == (
        f"2 configurations to be tried next, {resume} --trials 6\n"
    )
    (begun.requests / "x.json").write_text("[]")
    with begun.writing():
        assert captune("enqueue", begun.path, written(tmp_path, "train.learning_rate: 3e-3")).out == (
            "1 configuration to be tried next, as far as its trials go; for all of them, when it has ended: captune "
            f"resume {begun.path} --trials 7\n"
        )


def trials(run: RunFolder) -> list[Record]:
    return load_records(run) if run.journal.exists() else []


@pytest.mark.cluster
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("killed", rest_in_soak([False, True], True), ids=["goes on", "killed and resumed"])
def test_search_tries_what_is_enqueued_and_ends_what_is_stopped_while_it_runs(
    desk: Desk,  # noqa: F811
    captune: Captune,
    captions_data: PreparedData,
    killed: bool,
) -> None:
    settings = desk.folder / "search.yaml"
    first = "first:\n- {text.embedding: 24, train.learning_rate: 4e-3}\n"
    settings.write_text(SEARCH_YAML.replace("trials: 4", "trials: 5") + first)
    run = RunFolder(desk.run)
    options = ["--slots", 1, "--cpus-per-trial", 1]
    process = desk.start("search", captions_data.path, "--run", desk.run, "--config", settings, *options)
    until(lambda: process.poll() is not None or any(record.epochs for record in trials(run)), 300)
    file = written(desk.folder, json.dumps([{"text.embedding": 8, "train.learning_rate": 0.005}]))
    assert captune("enqueue", desk.run, file).out == "1 configuration to be tried next\n"
    assert captune("stop", desk.run, 0).out == "trial 0 is to end\n"
    if killed:
        end(process, "SIGKILL")
        desk.hold = False
        process = desk.start("resume", desk.run)
    else:
        until(lambda: trials(run)[0].fate == "stopped", 300)
        (desk.folder / "nothing").touch()
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    done = [record for record in trials(run) if record.fate in ("complete", "stopped")]
    drawn: list[Any] = [(r.config["text.embedding"], r.config["train.learning_rate"]) for r in done]
    assert (24, 4e-3) in drawn and (8, 5e-3) in drawn and len(drawn) == 5
    assert [drawn.count(each) for each in ((24, 4e-3), (8, 5e-3))] == [1, 1]
    assert drawn.index((24, 4e-3)) <= 1 and drawn.index((8, 5e-3)) <= 2
    assert killed or (done[0].number, done[0].reason) == (0, "by hand")
    assert Requests(run).names() == []
