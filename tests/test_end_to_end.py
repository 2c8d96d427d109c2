"""The whole path through the command line, with Ray and Keras: one search shared by most tests, others small."""

import csv
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import PREFLIGHT, rest_in_soak
from chromium import CHROMIUM
from conftest import Captune, Ran, refused
from test_results_report_page_browser import assert_whole as assert_whole_page
from test_results_report_page_browser import needs_chromium

from captune.data_prep.store import PreparedData
from captune.model.flat import flatten
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.records import load_records
from captune.results.run_folder import RunFolder

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

CAPTIONS_YAML = """\
preset: captions
halving: {grace: 1, reduction: 2}
fixed: {train.epochs: 3, train.batch_size: 32, text.units: 16}
space:
  text.embedding: {low: 8, high: 24, step: 8}
  train.learning_rate: {low: 1e-3, high: 1e-2, log: true}
"""
PICTURES_YAML = """\
preset: compact
modality: image
fixed: {train.epochs: 1, train.batch_size: 32, image.width: 4, image.stages: 2, head_units: 16}
"""
# Under TIGHT_BUDGET four of the 32 lengths of word vectors fit, the preset's own not among them.
TIGHT_YAML = """\
preset: captions
halving: {grace: 1, reduction: 2}
fixed: {train.epochs: 4, train.batch_size: 16, text.units: 32, text.dense: 0}
space:
  text.embedding: {low: 8, high: 256, step: 8}
  train.learning_rate: {low: 1e-2, high: 8e-2, log: true}
"""
TIGHT_BUDGET = 20_000
ROW_KEYS = {"number", "fate", "mean_f1", "epochs", "weights_bytes", "seconds", "node", "reason", "config"}
ROW_KEYS |= {"bundle_bytes", "margin_bytes"}
# Prints its address, and lives until its standard input closes; Ray then stops what it started.
CLUSTER = """\
import sys, ray
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, object_store_memory=10**8,
         log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""
# Every actor that a running Ray knows of, dead ones too.
ACTORS = """\
import json, sys, ray
from ray._private import state
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(json.dumps({key: actor["ActorClassName"] for key, actor in state.actors().items()}))
"""
# `captune` that does not throw Ray's own folder of the experiment away, but leaves it in the folder named first, and
# beside it, a line each, what every trial is told that Ray's controller takes on.
KEEPING = """\
import json, sys
from contextlib import nullcontext
from pathlib import Path
import captune.files
from captune.model.flat import flatten
folder = sys.argv.pop(1)
def kept():
    from ray.tune.execution.tune_controller import TuneController
    add = TuneController.add_trial
    def noted(self, trial):
        with open(folder + ".jsonl", "a") as file:
            job = trial.config["assignment"].job
            file.write(json.dumps({"origin": job.origin, "config": flatten(job.config)}) + "\\n")
        add(self, trial)
    TuneController.add_trial = noted
    return nullcontext(Path(folder))
captune.files.scratch = kept  # before it is imported by name
from captune.tuner.command import main as cli
cli.main()
"""


def start(
    *arguments: object, environment: dict[str, str] | None = None, program: Sequence[object] = ("-m", "captune")
) -> subprocess.Popen[str]:
    """`captune ARGUMENTS` as a terminal runs it: leader of a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=os.environ | (environment or {}),
    )


def finished(process: subprocess.Popen[str], *, within: float = 300) -> Ran:
    """What the process left; it is ended where it takes longer."""
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"not done after {within} s: {out}{err}") from None
    return Ran(process.returncode, out.encode(), err)


def run_process(*arguments: object, **how: Any) -> Ran:
    return finished(start(*arguments, **how))


@dataclass(frozen=True)
class Cluster:
    """A running Ray and what a process needs to be let in."""

    address: str
    environment: dict[str, str]

    def run(self, *arguments: object, **how: Any) -> Ran:
        """`captune ARGUMENTS --address ...`."""
        return run_process(*arguments, "--address", self.address, environment=self.environment, **how)

    def actors(self) -> dict[str, str]:
        """Class of each actor that there has been since this Ray was started."""
        done = subprocess.run(
            [sys.executable, "-c", ACTORS, self.address],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | self.environment,
        )
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found


@dataclass(frozen=True)
class Search:
    """A finished search."""

    run: Path
    ran: Ran
    polls: Sequence[Ran] = ()  # what `captune trials` told while it went on
    actors: Sequence[str] = ()  # classes of those that Ray started for it

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.run / "summary.json").read_text())
        return content


def trials(captune: Captune, run: Path) -> list[dict[str, Any]]:
    ran = captune("trials", run, "--format", "json")
    assert ran.code == 0, ran
    content: list[dict[str, Any]] = json.loads(ran.out)
    return content


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def searched(captune: Captune, data: PreparedData, search_yaml: Path, folder: Path) -> Search:
    """Four trials on a local Ray, the table of trials asked for all the while."""
    run = folder / "both"
    process = start("search", data.path, "--run", run, "--config", search_yaml)
    polls = []
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "run.json").exists():
            polls.append(captune("trials", run, "--format", "json"))
        time.sleep(3)
    return Search(run, finished(process, within=1), polls)


@pytest.fixture(scope="session")
def refitted(captune: Captune, searched: Search) -> Ran:
    assert searched.ran.code == 0
    return captune("refit", searched.run)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four CPUs and two GPUs, all of them logical, behind a token that is made here and used nowhere else."""
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    quiet = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment | quiet,
    )
    assert process.stdin is not None and process.stdout is not None
    port = process.stdout.readline().strip().rpartition(":")[2]
    yield Cluster(f"127.0.0.1:{port}", environment)
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="session")
def captions_yaml(folder: Path) -> Path:
    path = folder / "captions.yaml"
    path.write_text(CAPTIONS_YAML)
    return path


@pytest.fixture(scope="session")
def captions_searches(cluster: Cluster, captions_data: PreparedData, captions_yaml: Path, folder: Path) -> list[Search]:
    """The same search on captions alone twice, one trial at a time."""
    return [
        Search(
            folder / name,
            cluster.run(
                *("search", captions_data.path, "--run", folder / name, "--config", captions_yaml),
                *("--trials", 3, "--seed", 3, "--cpus-per-trial", 4, "--gpus-per-trial", 0),
            ),
        )
        for name in ("captions", "captions-again")
    ]


@pytest.fixture(scope="session")
def pictures_search(cluster: Cluster, pictures_data: PreparedData, folder: Path) -> Search:
    """One trial on pictures alone, half a GPU each, shipped as int8."""
    (folder / "pictures.yaml").write_text(PICTURES_YAML)
    run = folder / "pictures"
    ran = cluster.run(
        *("search", pictures_data.path, "--run", run, "--config", folder / "pictures.yaml"),
        *("--trials", 1, "--gpus-per-trial", 0.5, "--storage", "int8", "--measure", "bundle"),
    )
    return Search(run, ran)


@pytest.fixture(scope="session")
def tight_search(cluster: Cluster, captions_data: PreparedData, folder: Path) -> Search:
    """Both objectives, two trials at a time, in a space of which an eighth fits."""
    (folder / "tight.yaml").write_text(TIGHT_YAML)
    run = folder / "tight"
    before = cluster.actors()
    ran = cluster.run(
        *("search", captions_data.path, "--run", run, "--config", folder / "tight.yaml"),
        *("--budget", f"{TIGHT_BUDGET}B", "--objectives", "mean_f1,bytes", "--trials", 6, "--seed", 3),
        *("--cpus-per-trial", 2, "--gpus-per-trial", 0),
        program=("-c", KEEPING, folder / "tight-ray"),
    )
    after = cluster.actors()
    return Search(run, ran, actors=[after[key] for key in after.keys() - before.keys()])


def test_search_ends_well_and_says_what_comes_next(searched: Search) -> None:
    assert searched.ran.code == 0, searched.ran
    assert "best: trial " in searched.ran.out
    assert f"captune refit {searched.run}" in searched.ran.out
    assert "Traceback" not in searched.ran.err
    assert "Warning" not in searched.ran.err


def test_search_says_what_it_is_up_against_before_it_starts_and_not_among_its_results(searched: Search) -> None:
    told = [line.split()[0] for line in searched.ran.err.splitlines()]
    assert told[:4] == ["budget", "space", "fits", "sizes"]
    assert told.count("runs") == 3
    assert "runs 1." not in searched.ran.out


@pytest.mark.parametrize("source", ["searched", "tight_search"])
def test_search_runs_first_what_was_foretold(
    request: pytest.FixtureRequest, captune: Captune, data: PreparedData, captions_data: PreparedData, source: str
) -> None:
    from captune.tuner.decisions.preflight import inspect
    from captune.tuner.run.settings import RunSettings, check

    search = request.getfixturevalue(source)
    settings = RunSettings.of(RunFolder(search.run)).search
    source_data = data if source == "searched" else captions_data
    counts = source_data.manifest.counts
    foretold = inspect(settings, check(settings, source_data), source_data.num_pictures, counts).first
    launched = [row for row in trials(captune, search.run) if row["fate"] != "over_budget"]
    assert [flatten(one.config) for one in foretold] == [row["config"] for row in launched[:3]]
    assert [one.size.weights_bytes for one in foretold] == [row["weights_bytes"] for row in launched[:3]]


def test_what_is_over_the_budget_never_reaches_ray(tight_search: Search, captune: Captune) -> None:
    """By Ray's own books: the actors it started, the trials of its controller, and a folder for each."""
    assert tight_search.ran.code == 0, tight_search.ran
    rows = trials(captune, tight_search.run)
    refused = {row["number"]: row for row in rows if row["fate"] == "over_budget"}
    launched = {row["number"]: row for row in rows if row["fate"] != "over_budget"}
    assert len(refused) > len(launched) == 6
    assert 0 in refused, "the preset is refused as any other"
    for row in refused.values():
        assert row["margin_bytes"] == TIGHT_BUDGET - row["weights_bytes"] < 0
        assert (row["epochs"], row["node"], row["mean_f1"]) == (0, None, None)
        assert "over by" in row["reason"]
    assert all(0 <= row["margin_bytes"] == TIGHT_BUDGET - row["weights_bytes"] for row in launched.values())

    slots = tight_search.summary["slots"]
    assert slots == 2
    assert 1 <= len(tight_search.actors) <= slots, "workers live on, and none is lost here"
    known = [json.loads(line) for line in tight_search.run.with_name("tight-ray.jsonl").read_text().splitlines()]
    assert sorted(trial["origin"] for trial in known) == sorted(launched)
    for trial in known:
        assert trial["config"] == launched[trial["origin"]]["config"]
    experiment = tight_search.run.with_name("tight-ray") / "experiment"
    assert len([path for path in experiment.iterdir() if path.is_dir()]) == len(launched)


def test_search_of_both_objectives_ends_with_its_frontier(tight_search: Search, captune: Captune) -> None:
    import optuna

    rows = [row for row in trials(captune, tight_search.run) if row["mean_f1"] is not None]
    frontier = tight_search.summary["frontier"]
    sizes = [point["weights_bytes"] for point in frontier]
    scores = [point["mean_f1"] for point in frontier]
    assert sizes == sorted(set(sizes))
    assert scores == sorted(set(scores))
    assert scores[-1] == max(row["mean_f1"] for row in rows) == tight_search.summary["best"]["mean_f1"]
    for row in rows:
        beaten = [
            point["number"]
            for point in frontier
            if point["weights_bytes"] <= row["weights_bytes"] and point["mean_f1"] >= row["mean_f1"]
        ]
        assert beaten, row
    ran = captune("trials", tight_search.run, "--frontier", "--format", "json")
    assert [row["number"] for row in json.loads(ran.out)] == [point["number"] for point in frontier]

    study = optuna.load_study(study_name=STUDY_NAME, storage=open_storage(RunFolder(tight_search.run)))
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    told = {trial.number: trial.values for trial in study.trials if trial.state.name == "COMPLETE"}
    assert told == {row["number"]: [row["mean_f1"], row["weights_bytes"]] for row in rows if row["fate"] == "complete"}
    assert told


def test_run_json_holds_what_was_asked_on_which_data_with_which_versions(searched: Search, data: PreparedData) -> None:
    content = json.loads((searched.run / "run.json").read_text())
    assert content["search"]["preset"] == "compact"
    assert content["search"]["trials"] == 4
    assert content["search"]["space"]["image.width"] == [4, 8]
    assert content["data"] == str(data.path)
    assert content["fingerprint"] == data.manifest.fingerprint
    assert {"captune", "keras", "tensorflow", "ray", "optuna", "python"} <= content["versions"].keys()


def test_summary_json_has_the_keys_that_users_build_on(searched: Search, captune: Captune) -> None:
    summary, rows = searched.summary, trials(captune, searched.run)
    assert summary["trials"] == Counter(row["fate"] for row in rows)
    assert sum(summary["trials"].values()) == 4
    assert summary["epochs"] == sum(row["epochs"] for row in rows)
    assert summary["slots"] >= 1
    assert 0 < sum(summary["busy_seconds"].values()) < summary["wall_seconds"] * summary["slots"]
    assert summary["interrupted"] is False
    assert summary["best"]["mean_f1"] == max(row["mean_f1"] for row in rows)
    keys = {"number", "mean_f1", "score", "weights_bytes", "bundle_bytes"}
    assert all(point.keys() == keys for point in summary["frontier"])
    assert summary["frontier"][-1]["mean_f1"] == summary["best"]["mean_f1"]


def test_every_trial_has_a_score_a_size_and_a_fate(searched: Search, captune: Captune) -> None:
    rows = trials(captune, searched.run)
    assert [row["number"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert row.keys() >= ROW_KEYS
        assert row["fate"] in ("complete", "stopped")
        assert 0 < row["mean_f1"] <= 1
        assert 1 <= row["epochs"] <= 3
        assert 0 < row["weights_bytes"] < row["bundle_bytes"] < 10**6
        assert row["margin_bytes"] == 100 * 2**20 - row["weights_bytes"]
        assert row["seconds"] > 0
        assert row["node"]
        assert (row["reason"] is None) == (row["fate"] == "complete")


def test_trial_0_is_the_preset_with_what_was_fixed(searched: Search, captune: Captune) -> None:
    config = trials(captune, searched.run)[0]["config"]
    assert (config["image.width"], config["text.units"], config["head_units"]) == (4, 16, 16)
    assert config["train.learning_rate"] == 6e-3
    assert (config["num_labels"], config["image.side"]) == (6, 32)


def test_trials_are_readable_while_the_search_runs(searched: Search) -> None:
    assert len(searched.polls) > 3
    assert [poll for poll in searched.polls if poll.code != 0 or poll.err] == []
    seen = [json.loads(poll.out) for poll in searched.polls]
    assert [len(rows) for rows in seen] == sorted(len(rows) for rows in seen)
    assert any(row["fate"] == "running" for rows in seen for row in rows)


def test_csv_parquet_and_markdown_hold_the_same_trials(searched: Search, captune: Captune, tmp_path: Path) -> None:
    import pyarrow.parquet

    rows = trials(captune, searched.run)
    (tmp_path / "t.csv").write_bytes(captune("trials", searched.run, "--format", "csv").stdout)
    (tmp_path / "t.parquet").write_bytes(captune("trials", searched.run, "--format", "parquet").stdout)
    with (tmp_path / "t.csv").open(newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_parquet = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert list(from_csv[0]) == list(from_parquet[0])
    for row, plain, typed in zip(rows, from_csv, from_parquet, strict=True):
        assert float(plain["mean_f1"]) == typed["mean_f1"] == row["mean_f1"]
        assert int(plain["number"]) == typed["number"] == row["number"]
        assert float(plain["train.learning_rate"]) == row["config"]["train.learning_rate"]
    markdown = captune("trials", searched.run, "--format", "markdown").out.splitlines()
    assert len(markdown) == 2 + len(rows)
    assert all(line.count("|") == markdown[0].count("|") for line in markdown)


def test_show_tells_a_trial_with_its_curve(searched: Search, captune: Captune) -> None:
    content = json.loads(captune("show", searched.run, 0, "--json").out)
    assert len(content["curve"]) == content["epochs"]
    assert max(epoch["mean_f1"] for epoch in content["curve"]) == content["mean_f1"]
    assert "train.learning_rate" in captune("show", searched.run, 0).out


def test_search_into_an_existing_run_is_refused_and_changes_nothing(
    searched: Search, captune: Captune, data: PreparedData
) -> None:
    before = (searched.run / "study.journal").read_bytes()
    ran = captune("search", data.path, "--run", searched.run, "--trials", 1)
    assert ran.code == 2
    assert "exists" in ran.err
    assert (searched.run / "study.journal").read_bytes() == before


@pytest.mark.soak
def test_replay_of_a_trial_shipped_as_int8_differs_by_nothing(pictures_search: Search) -> None:
    ran = run_process("replay", pictures_search.run, 0)
    assert ran.code == 0 and "largest difference 0.0e+00" in ran.out, ran


@pytest.mark.soak
def test_replay_where_versions_or_data_differ_is_refused_unless_told_otherwise_and_differs_by_nothing(
    searched: Search, captune: Captune, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(searched.run, copied)
    settings = json.loads((copied / "run.json").read_text())
    settings["versions"]["optuna"] = "1.0"
    settings["fingerprint"] = "another"
    (copied / "run.json").write_text(json.dumps(settings))
    row = max(trials(captune, copied), key=lambda row: row["epochs"])
    ran = captune("replay", copied, row["number"])
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert "optuna was 1.0, now it is" in ran.err and "does not hold the data of the run" in ran.err
    assert "--force" in ran.err
    ran = run_process("replay", copied, row["number"], "--force", "--json")
    assert ran.code == 0, ran
    assert "note: optuna was 1.0" in ran.err
    told = json.loads(ran.out)
    assert [each["epoch"] for each in told["epochs"]] == list(range(1, row["epochs"] + 1))
    assert max(each["old"] for each in told["epochs"]) == row["mean_f1"]
    assert told["largest_difference"] == 0.0


def test_replay_of_what_never_trained_is_refused(tight_search: Search, captune: Captune) -> None:
    refused = next(row["number"] for row in trials(captune, tight_search.run) if row["fate"] == "over_budget")
    for number, words in ((refused, "(over_budget) trained no epoch"), (999, "no trial 999")):
        ran = captune("replay", tight_search.run, number)
        assert ran.code == 2 and words in ran.err


@pytest.mark.soak
def test_search_that_starts_from_an_older_one_trains_its_best_first(
    cluster: Cluster, captions_searches: list[Search], captune: Captune, captions_data: PreparedData, tmp_path: Path
) -> None:
    old = captions_searches[0]
    complete = [row for row in trials(captune, old.run) if row["fate"] == "complete"]
    best = max(complete, key=lambda row: (row["mean_f1"], -row["number"]))
    ran = cluster.run(
        *("search", captions_data.path, "--run", tmp_path / "run", "--config", old.run.parent / "captions.yaml"),
        *("--trials", 2, "--seed", 9, "--cpus-per-trial", 4, "--gpus-per-trial", 0, "--warm-start", old.run),
    )
    assert ran.code == 0, ran
    assert "finished trials of" in ran.err and "inform the sampler" in ran.err
    rows = trials(captune, tmp_path / "run")
    assert len(rows) == 2
    assert best["config"] in [row["config"] for row in rows]


def test_refit_proves_what_it_ships(searched: Search, refitted: Ran, captune: Captune) -> None:
    assert refitted.code == 0, refitted
    proof = json.loads((searched.run / "winner" / "proof.json").read_text())
    best = max(trials(captune, searched.run), key=lambda row: (row["mean_f1"], -row["weights_bytes"]))
    assert proof["search"]["mean_f1"] == best["mean_f1"]
    assert proof["config"] == next(r for r in trials(captune, searched.run) if r["number"] == proof["trial"])["config"]
    assert 0 <= proof["test"]["low"] <= proof["test"]["mean_f1"] <= proof["test"]["high"] <= 1
    assert proof["reloaded"]["max_difference"] <= 1e-6
    assert proof["reloaded"]["mean_f1"] == pytest.approx(proof["test"]["mean_f1"], abs=1e-6)
    assert proof["weights_bytes"] == best["weights_bytes"] <= 100 * 2**20
    page = (searched.run / "winner" / "report.html").read_text()
    assert "The winner is trial" in page and 'src="data:image/jpeg' in page
    files = (searched.run / "winner" / "bundle").iterdir()
    assert proof["bundle_bytes"] == sum(file.stat().st_size for file in files)
    names = {path.name for path in (searched.run / "winner").iterdir()}
    documents = {"proof.json", "error_analysis.json", "report.html", "README.md"}
    assert names == documents | {"bundle", "bundle.portable"}


@needs_chromium
def test_page_of_a_refit_opens_in_a_browser_with_every_section(searched: Search, refitted: Ran) -> None:
    assert refitted.code == 0
    assert_whole_page(searched.run / "winner" / "report.html")


def test_refit_a_second_time_is_refused(searched: Search, refitted: Ran, captune: Captune) -> None:
    before = (searched.run / "winner" / "proof.json").read_bytes()
    ran = captune("refit", searched.run)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1 and "exists" in ran.err
    assert (searched.run / "winner" / "proof.json").read_bytes() == before


@pytest.mark.parametrize(
    ("form", "name"),
    rest_in_soak(
        [("bundle", "shipped"), ("keras", "shipped.keras"), ("onnx", "shipped.onnx"), ("litert", "shipped.tflite")],
        ("onnx", "shipped.onnx"),
    ),
)
def test_export_gives_the_same_probabilities(
    searched: Search, refitted: Ran, captune: Captune, tmp_path: Path, form: str, name: str
) -> None:
    target = tmp_path / "deep" / name
    ran = captune("export", searched.run, "--to", target, "--format", form)
    assert ran.code == 0, ran
    assert target.is_dir() if form == "bundle" else target.is_file()
    assert {path.name for path in target.parent.iterdir()} == {name, f"{name}.portable"}
    refused = captune("export", searched.run, "--to", target, "--format", form)
    assert refused.code == 2
    assert "exists" in refused.err


def test_evaluate_json_has_the_keys_that_users_build_on(
    searched: Search, refitted: Ran, captune: Captune, drawn: Path
) -> None:
    ran = captune("evaluate", searched.run / "winner" / "bundle", drawn / "train.csv", drawn / "images", "--json")
    assert ran.code == 0, ran
    scores = json.loads(ran.out)
    assert scores["examples"] == 120
    assert list(scores["per_label"]) == ["1", "2", "3", "5", "6", "8"]
    for name in ("mean_f1", "micro_f1", "macro_f1", "map"):
        assert 0 < scores[name] <= 1
    assert scores["macro_f1"] == pytest.approx(sum(scores["per_label"].values()) / 6)


def test_predict_gives_every_row_a_label_in_the_order_of_the_csv(
    searched: Search, refitted: Ran, captune: Captune, drawn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "submission.csv"
    arguments = ("predict", searched.run / "winner" / "bundle", drawn / "test.csv", drawn / "images", "--out", out)
    assert captune(*arguments).code == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (drawn / "test.csv").open(newline="") as file:
        asked = [row["ImageID"] for row in csv.DictReader(file)]
    assert list(rows[0]) == ["ImageID", "Labels"]
    assert [row["ImageID"] for row in rows] == asked
    assert all({int(label) for label in row["Labels"].split()} <= {1, 2, 3, 5, 6, 8} for row in rows)
    assert all(row["Labels"] for row in rows)
    assert captune(*arguments).code == 2, "an existing file is not overwritten"


@pytest.mark.soak
def test_captions_alone_are_searched_and_refitted(
    captions_searches: list[Search], captune: Captune, drawn: Path
) -> None:
    search = captions_searches[0]
    assert search.ran.code == 0, search.ran
    assert search.summary["slots"] == 1
    assert {name.split(".")[0] for name in trials(captune, search.run)[0]["config"]} >= {"text"}
    assert trials(captune, search.run)[0]["config"]["image"] is None
    assert captune("refit", search.run).code == 0
    if CHROMIUM:
        assert_whole_page(search.run / "winner" / "report.html")
    scored = captune("evaluate", search.run / "winner" / "bundle", drawn / "train.csv", "--json")
    assert scored.code == 0, "a bundle that reads captions needs no pictures"


@pytest.mark.soak
def test_same_seed_one_slot_gives_the_same_trials_and_scores(captions_searches: list[Search], captune: Captune) -> None:
    def said(search: Search) -> list[dict[str, Any]]:
        rows = trials(captune, search.run)
        return [{k: v for k, v in row.items() if k not in ("seconds", "node")} for row in rows]

    first, second = map(said, captions_searches)
    assert len(first) == 3
    assert first == second


@pytest.mark.soak
def test_pictures_alone_are_searched_and_refitted_on_halves_of_a_gpu(pictures_search: Search, captune: Captune) -> None:
    assert pictures_search.ran.code == 0, pictures_search.ran
    assert pictures_search.summary["slots"] == 4
    (row,) = trials(captune, pictures_search.run)
    assert row["config"]["text"] is None
    assert captune("refit", pictures_search.run).code == 0
    assert not (pictures_search.run / "winner" / "bundle" / "vocabulary.json").exists()


@pytest.mark.soak
def test_search_for_int8_proves_the_int8_that_it_ships(pictures_search: Search, captune: Captune) -> None:
    captune("refit", pictures_search.run)  # done before, unless this test runs alone
    proof = json.loads((pictures_search.run / "winner" / "proof.json").read_text())
    (row,) = trials(captune, pictures_search.run)
    assert (proof["storage"], proof["measure"]) == ("int8", "bundle")
    assert row["config"]["storage"] == proof["config"]["storage"] == "int8"
    assert proof["reloaded"] == {"mean_f1": proof["test"]["mean_f1"], "max_difference": 0}
    assert proof["weights_bytes"] == row["weights_bytes"]
    assert 0.95 * row["bundle_bytes"] < proof["bundle_bytes"] <= row["bundle_bytes"]
    assert row["margin_bytes"] == 100 * 2**20 - row["bundle_bytes"]
    manifest = json.loads((pictures_search.run / "winner" / "bundle" / "bundle.json").read_text())
    assert manifest["model"]["storage"] == "int8"


def test_time_limit_ends_the_search_with_no_trial_left_running(
    cluster: Cluster, captune: Captune, captions_data: PreparedData, captions_yaml: Path, tmp_path: Path
) -> None:
    ran = cluster.run(
        *("search", captions_data.path, "--run", tmp_path / "run", "--config", captions_yaml),
        *("--time-limit", "8s", "--cpus-per-trial", 4, "--gpus-per-trial", 0),
    )
    rows = trials(captune, tmp_path / "run")
    scored = [row for row in rows if row["mean_f1"] is not None]
    assert ran.code == (0 if scored else 1), ran  # a slow machine may score nothing in this time
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 8 <= summary["wall_seconds"] < 16
    assert summary["interrupted"] is False
    assert rows
    assert not [row for row in rows if row["fate"] == "running"]
    # On a machine that starts Ray in eight seconds the preset waits for a resume.
    assert rows[0]["fate"] != "waiting" or len(rows) == 1


def test_request_that_no_node_meets_is_refused_in_one_line(
    cluster: Cluster, captions_data: PreparedData, captions_yaml: Path, tmp_path: Path
) -> None:
    ran = cluster.run(
        *("search", captions_data.path, "--run", tmp_path / "run", "--config", captions_yaml),
        *("--trials", 1, "--gpus-per-trial", 8),
    )
    assert ran.code == 2
    assert "--gpus-per-trial" in ran.err
    assert "Traceback" not in ran.err
    assert not (tmp_path / "run").exists(), "the same command can be given again, mended"


@pytest.mark.soak
def test_search_of_a_space_that_is_used_up_says_so_and_a_resume_refuses_nothing_anew(
    cluster: Cluster, captune: Captune, captions_data: PreparedData, tmp_path: Path
) -> None:
    """Of three configurations one fits."""
    run, path = tmp_path / "my run", tmp_path / "search.yaml"
    path.write_text(
        "preset: captions\nfixed: {train.epochs: 1, text.units: 8}\nspace: {text.embedding: [8, 512, 1024]}\n"
    )
    settings = ("--config", path, "--budget", "20KiB", "--trials", 9, "--gpus-per-trial", 0)
    ran = cluster.run("search", captions_data.path, "--run", run, *settings)
    assert ran.code == 0 and "used up" in ran.err and "only 1 of 9 trials" in ran.err, ran
    assert f"captune refit '{run}'" in ran.out, "quoted for the shell"
    rows = trials(captune, run)
    assert [row["fate"] for row in rows if row["fate"] != "over_budget"] == ["complete"] and len(rows) <= 3
    ran = cluster.run("resume", run)
    assert ran.code == 0 and "used up" in ran.err, ran
    again = trials(captune, run)
    assert len(again) <= 3 and again[: len(rows)] == rows


def test_address_where_nothing_listens_is_told_in_one_line(
    captune: Captune, captions_data: PreparedData, captions_yaml: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    ran = captune(
        *("search", captions_data.path, "--run", tmp_path / "run", "--config", captions_yaml),
        *("--trials", 1, "--address", "127.0.0.1:9"),
    )
    assert ran.code == 1
    said = [line for line in ran.err.splitlines() if not line.startswith(PREFLIGHT)]
    assert len(said) == 1, ran.err
    assert said[0].startswith("error: no Ray can be reached at 127.0.0.1:9")
    assert not (tmp_path / "run").exists()
    assert time.monotonic() - started < 30


@pytest.mark.soak
def test_search_interrupted_before_its_first_trial_can_be_resumed(
    captune: Captune, captions_data: PreparedData, captions_yaml: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start("search", captions_data.path, "--run", run, "--config", captions_yaml, "--trials", 30)
    while not (run / "run.json").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)  # in the middle of the imports
    os.killpg(process.pid, signal.SIGINT)
    ran = finished(process, within=60)  # seconds, on a machine with much else to do
    assert ran.code == 130, ran
    said = [line for line in ran.err.splitlines() if not line.startswith(PREFLIGHT)]
    assert said == [f"interrupted; go on with: captune resume {run}"]
    listed = captune("trials", run)
    assert "running" not in listed.out
    if listed.code:  # not even its study was begun
        refused(listed, "no study in study.journal", f"captune resume {run}")


@pytest.mark.soak
def test_interrupted_search_ends_soon_and_resume_brings_it_to_its_end(
    cluster: Cluster, captune: Captune, captions_data: PreparedData, captions_yaml: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start("search", captions_data.path, "--run", run, "--config", captions_yaml, "--trials", 30)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.3)
        fates = {each.fate for each in load_records(RunFolder(run))} if (run / "study.journal").exists() else set()
        if "running" in fates and {"complete", "stopped"} & fates:
            break
    assert process.poll() is None, finished(process)
    sent = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends Ctrl-C to the whole group
    ran = finished(process, within=60)
    assert time.monotonic() - sent <= 15
    assert f"captune resume {run}" in ran.err, ran
    assert "Traceback" not in ran.err
    assert ran.code == 130, ran
    left = trials(captune, run)
    assert not [row for row in left if row["fate"] in ("running", "waiting")]
    lost = [row for row in left if row["fate"] == "lost"]
    assert lost
    done = [row for row in left if row["fate"] in ("complete", "stopped")]
    wanted = len(done) + len(lost) + 1
    ran = cluster.run("resume", run, "--trials", wanted)
    assert ran.code == 0, ran
    assert json.loads((run / "run.json").read_text())["search"]["trials"] == wanted, "for the next resume"
    after = trials(captune, run)
    assert after[: len(left)] == left, "what was told stays told"
    finally_done = [row for row in after if row["fate"] in ("complete", "stopped", "diverged", "failed")]
    assert len(finally_done) == wanted
    assert not [row for row in after if row["fate"] in ("running", "waiting")]
    again = after[len(left) :][: len(lost)]
    assert [row["config"] for row in again] == [row["config"] for row in lost]
    assert json.loads((run / "summary.json").read_text())["interrupted"] is False
