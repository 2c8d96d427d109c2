"""Records from a real journal, written as the search writes it, whole or cut short."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import epoch as a_report
from builders import refused
from optuna.trial import TrialState

from captune.model.metrics import Epoch
from captune.model.presets import CAPTIONS
from captune.results.attributes import FATES, SCORED, epoch_attribute
from captune.results.journal import STUDY_NAME, open_storage
from captune.results.records import Record, left_behind, load_records
from captune.results.run_folder import BusyError, RunError, RunFolder


def epoch(number: int, mean_f1: float, loss: float = 0.5) -> Epoch:
    return a_report(number, mean_f1, loss=loss, micro_f1=mean_f1 - 0.1, macro_f1=mean_f1 - 0.2, map=mean_f1 / 2)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder whose search has not made its study."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.settings.write_text('{"seed": 3}')
    return folder


def new_study(run: RunFolder) -> optuna.Study:
    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=open_storage(run, wait=pytest.fail),
        sampler=optuna.samplers.RandomSampler(seed=0),
        direction="maximize",
        load_if_exists=True,
    )


def launch(study: optuna.Study, config: dict[str, Any] | None = None) -> optuna.Trial:
    """A trial that the gate has let through."""
    trial = study.ask()
    trial.suggest_float("train.learning_rate", 1e-4, 1e-2)
    trial.set_user_attr("config", config or {"train.learning_rate": 0.001, "image": None})
    weights = 1000 + trial.number
    trial.set_user_attr(
        "size", {"weights_bytes": weights, "bundle_bytes": weights + 300, "margin_bytes": 5000 - weights}
    )
    trial.set_user_attr("seed", 77)
    trial.set_user_attr("threads", 2)
    return trial


def report(trial: optuna.Trial, *epochs: Epoch) -> None:
    for place, each in enumerate(epochs, 40):
        trial.set_user_attr(*epoch_attribute(each, place))
        trial.set_user_attr("node", "machine-1")
        if math.isfinite(each.mean_f1):
            trial.report(each.mean_f1, each.epoch)


def end(study: optuna.Study, trial: optuna.Trial, fate: str, reason: str | None = None, best: float = 0.0) -> None:
    trial.set_user_attr("fate", fate)
    if reason is not None:
        trial.set_user_attr("reason", reason)
    if fate == "complete":
        study.tell(trial, best)
    else:
        study.tell(trial, state=TrialState.FAIL if fate in ("failed", "lost") else TrialState.PRUNED)


def only(run: RunFolder) -> Record:
    (record,) = load_records(run)
    return record


def test_complete_trial_is_read_back_as_it_was_written(run: RunFolder) -> None:
    study = new_study(run)
    trial = launch(study)
    curve = (epoch(1, 0.5), epoch(2, 0.7))
    report(trial, *curve)
    end(study, trial, "complete", best=0.7)
    record = only(run)
    assert record.curve == curve
    assert (record.number, record.fate, record.mean_f1, record.best_epoch, record.epochs) == (0, "complete", 0.7, 2, 2)
    assert (record.weights_bytes, record.bundle_bytes, record.margin_bytes) == (1000, 1300, 4000)
    assert (record.node, record.reason, record.seed, record.threads) == ("machine-1", None, 77, 2)
    assert (record.origin, record.order) == (0, {1: 40, 2: 41})
    assert record.config == {"train.learning_rate": 0.001, "image": None}
    assert record.seconds is not None and 0 <= record.seconds < 60


def test_score_is_that_of_the_best_epoch_not_of_the_last(run: RunFolder) -> None:
    study = new_study(run)
    trial = launch(study)
    report(trial, epoch(1, 0.0), epoch(2, 0.9), epoch(3, 0.9), *(epoch(number, 0.6) for number in range(4, 13)))
    end(study, trial, "stopped", "halving at epoch 12")
    record = only(run)
    assert (record.mean_f1, record.best_epoch, record.epochs) == (0.9, 2, 12), "of equally good ones the first"
    assert [each.epoch for each in record.curve] == list(range(1, 13))
    assert record.best == epoch(2, 0.9)
    row = record.row()
    assert (row["mean_f1"], row["micro_f1"], row["macro_f1"], row["map"]) == (0.9, 0.8, 0.7, 0.45)


@pytest.mark.parametrize("fate", FATES)
def test_every_fate_is_read_with_its_reason(run: RunFolder, fate: str) -> None:
    study = new_study(run)
    trial = launch(study)
    if fate in SCORED:
        report(trial, epoch(1, 0.5))
    end(study, trial, fate, "because", best=0.5)
    record = only(run)
    assert (record.fate, record.reason) == (fate, "because")
    assert (record.mean_f1 is None) == (fate not in SCORED)


def test_refused_trial_never_ran(run: RunFolder) -> None:
    study = new_study(run)
    trial = study.ask()
    trial.set_user_attr("size", {"weights_bytes": 10**9, "bundle_bytes": 10**9 + 300, "margin_bytes": -(10**8)})
    end(study, trial, "over_budget", "needs more")
    record = only(run)
    assert record.row()["margin_bytes"] == -(10**8)
    assert (record.epochs, record.node, record.seed, record.best, record.config) == (0, None, None, None, {})


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_diverged_epoch_is_kept_without_a_score(run: RunFolder, loss: float) -> None:
    study = new_study(run)
    trial = launch(study)
    lost = a_report(2, math.nan, loss=loss, rule=None, train_seconds=1.0)
    report(trial, epoch(1, 0.4), lost)
    end(study, trial, "diverged", "loss nan in epoch 2")
    record = only(run)
    assert (record.mean_f1, record.best_epoch, record.epochs) == (0.4, 1, 2)
    assert math.isnan(record.curve[1].mean_f1) and math.isnan(record.curve[1].loss)
    assert record.curve[1].train_seconds == 1.0


def test_journal_holds_no_nan(run: RunFolder) -> None:
    study = new_study(run)
    trial = launch(study)
    report(trial, a_report(1, math.nan, loss=math.inf, rule=None))
    end(study, trial, "diverged")
    assert (only(run).mean_f1, only(run).best) == (None, None)
    for line in run.journal.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_running_trial_shows_the_epochs_that_it_has(run: RunFolder) -> None:
    report(launch(new_study(run)), epoch(1, 0.3))
    record = only(run)
    assert (record.fate, record.mean_f1, record.epochs, record.seconds) == ("running", 0.3, 1, None)


def test_enqueued_trial_waits_and_has_no_size_yet(run: RunFolder) -> None:
    new_study(run).enqueue_trial({"train.learning_rate": 0.001})
    record = only(run)
    assert record.fate == "waiting"
    assert (record.weights_bytes, record.bundle_bytes, record.margin_bytes) == (0, 0, 0)
    row = record.row()
    assert (row["weights_bytes"], row["bundle_bytes"], row["margin_bytes"]) == (None, None, None)


def test_row_of_a_trial_of_exactly_the_budget_has_a_margin_of_0(run: RunFolder) -> None:
    trial = new_study(run).ask()
    trial.set_user_attr("size", {"weights_bytes": 700, "bundle_bytes": 900, "margin_bytes": 0})
    row = only(run).row()
    assert (row["weights_bytes"], row["bundle_bytes"], row["margin_bytes"]) == (700, 900, 0)


def test_attempt_that_continues_a_lost_trial_names_the_first(run: RunFolder) -> None:
    study = new_study(run)
    end(study, launch(study), "lost", "its worker died")
    study.enqueue_trial({}, user_attrs={"replaces": 0, "tries": 2})
    assert [(record.number, record.origin) for record in load_records(run)] == [(0, 0), (1, 0)]


def test_draws_that_are_no_trials_are_no_records_and_shift_no_number(run: RunFolder) -> None:
    study = new_study(run)
    end(study, launch(study), "complete", best=0.5)
    for reason, state in (("impossible: x", TrialState.PRUNED), ("repeats an earlier trial", TrialState.FAIL)):
        trial = launch(study)
        trial.set_user_attr("void", reason)
        study.tell(trial, state=state)
    end(study, launch(study), "stopped")
    assert [(record.number, record.fate) for record in load_records(run)] == [(0, "complete"), (3, "stopped")]


def test_study_of_two_objectives_is_read_as_any_other(run: RunFolder) -> None:
    study = optuna.create_study(
        study_name=STUDY_NAME, storage=open_storage(run, wait=pytest.fail), directions=["maximize", "minimize"]
    )
    trial = launch(study)
    for each in (epoch(1, 0.4), epoch(2, 0.7)):  # no intermediate values: Optuna takes none of several objectives
        trial.set_user_attr(*epoch_attribute(each, each.epoch))
    trial.set_user_attr("fate", "complete")
    study.tell(trial, [0.7, 1000])
    record = only(run)
    assert (record.fate, record.mean_f1, record.best_epoch, record.weights_bytes) == ("complete", 0.7, 2, 1000)


def test_records_stand_in_the_order_of_their_numbers(run: RunFolder) -> None:
    study = new_study(run)
    trials = [launch(study) for _ in range(5)]
    for trial in reversed(trials):
        end(study, trial, "failed", "x")
    assert [record.number for record in load_records(run)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("tail", ['{"op_code":', '{"op_code":8,"worker_id":"a"', "\x00\x00\x00", "{"])
def test_half_written_last_line_hides_no_trial(run: RunFolder, tail: str) -> None:
    study = new_study(run)
    trial = launch(study)
    report(trial, epoch(1, 0.5))
    end(study, trial, "complete", best=0.5)
    before = load_records(run)
    with run.journal.open("a") as file:
        file.write(tail)
    assert load_records(run) == before


def test_search_goes_on_after_a_half_written_last_line(run: RunFolder) -> None:
    study = new_study(run)
    end(study, launch(study), "failed", "x")
    with run.journal.open("a") as file:
        file.write('{"op_code":8,"worker')
    again = new_study(run)
    end(again, launch(again), "failed", "y")
    assert [record.reason for record in load_records(run)] == ["x", "y"]


def test_every_cut_of_the_journal_is_readable_and_only_ever_grows(run: RunFolder) -> None:
    study = new_study(run)
    for _ in range(2):
        trial = launch(study)
        report(trial, epoch(1, 0.5))
        end(study, trial, "complete", best=0.5)
    content, counts = run.journal.read_bytes(), []
    with run.writing():  # else one without a study is told
        for length in range(0, len(content), 37):
            run.journal.write_bytes(content[:length])
            counts.append(len(load_records(run)))
    assert counts == sorted(counts) and counts[-1] == 2


def test_what_nobody_runs_any_more_is_lost_or_waits(run: RunFolder) -> None:
    study = new_study(run)
    report(launch(study), epoch(1, 0.5))
    study.ask()  # killed before it was let through
    end(study, launch(study), "complete", best=0.5)
    assert [record.fate for record in load_records(run)] == ["running", "running", "complete"]
    lost, waiting, complete = map(left_behind, load_records(run))
    assert (lost.fate, lost.reason, lost.mean_f1, lost.seconds) == ("lost", "the search ended without it", 0.5, None)
    assert (waiting.fate, waiting.reason) == ("waiting", None)
    assert complete == load_records(run)[2]


def test_reading_changes_no_file(run: RunFolder) -> None:
    study = new_study(run)
    launch(study)
    with run.journal.open("a") as file:
        file.write('{"half')
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    load_records(run)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_reader_in_another_process_sees_a_search_that_writes_on(run: RunFolder) -> None:
    study = new_study(run)
    report(launch(study), epoch(1, 0.5))
    code = (
        "import sys; from pathlib import Path; from captune.results.records import load_records;"
        "from captune.results.run_folder import RunFolder;"
        "print([(r.fate, r.mean_f1) for r in load_records(RunFolder(Path(sys.argv[1])))])"
    )
    reader = subprocess.run([sys.executable, "-c", code, run.path], capture_output=True, text=True, check=True)
    assert reader.stdout.strip() == "[('running', 0.5)]"
    assert reader.stderr == ""
    launch(study)
    assert len(load_records(run)) == 2


def test_run_before_its_first_trial_has_no_records_and_one_without_a_study_is_told(run: RunFolder) -> None:
    for make in (lambda: None, run.journal.touch):
        make()
        with run.writing():
            assert load_records(run) == []
        refused(lambda: load_records(run), "no study in study.journal", "captune resume", error=RunError)
    new_study(run)
    assert load_records(run) == []


@pytest.mark.parametrize("content", [None, "", "{", '["half', b"\xff\xfe"])
def test_folder_without_a_readable_run_json_holds_no_run(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: load_records(RunFolder(tmp_path)), "holds no run", error=RunError)


def test_missing_folder_holds_no_run_and_is_not_made_nor_does_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("nowhere", "file"):
        refused(partial(load_records, RunFolder(tmp_path / name)), "holds no run", error=RunError)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "line", ["[]", "5", "{}", '{"op_code": 99}', '{"op_code": 4}', "not JSON", "[" * 100_000, '{"op_code": "x"}']
)
@pytest.mark.parametrize("last", [True, False])
def test_line_that_no_search_writes_is_refused_by_its_number(run: RunFolder, line: str, last: bool) -> None:
    launch(new_study(run))
    lines = run.journal.read_text().splitlines()
    place = len(lines) if last else 1
    lines.insert(place, line)
    run.journal.write_text("\n".join(lines) + "\n")
    refused(lambda: load_records(run), "study.journal", f"line {place + 1} ", error=RunError)


@pytest.mark.parametrize("value", [["x"], [None], "x", 5, [[1]], [1, 2, 3]])
def test_trial_whose_scores_are_none_is_refused_in_one_line(run: RunFolder, value: Any) -> None:
    study = new_study(run)
    end(study, launch(study), "complete", best=0.5)
    lines = [json.loads(line) for line in run.journal.read_bytes().splitlines()]
    for log in lines:
        log.pop("crc32")  # as an earlier captune wrote it
        if log.get("values"):
            log["values"] = value
    run.journal.write_text("".join(f"{json.dumps(log)}\n" for log in lines))
    try:
        load_records(run)
    except RunError as error:
        assert "study.journal" in str(error)


def test_score_that_was_changed_is_refused_with_its_line(run: RunFolder) -> None:
    study = new_study(run)
    trial = launch(study)
    report(trial, epoch(1, 0.8125))
    end(study, trial, "complete", best=0.8125)
    content = run.journal.read_bytes()
    place = content.index(b"0.8125")
    run.journal.write_bytes(content[:place] + b"0.9125" + content[place + 6 :])
    number = len(content[:place].splitlines())
    refused(lambda: load_records(run), "study.journal", f"line {number} ", error=RunError)


def test_line_of_an_earlier_captune_has_no_sum_and_is_read(run: RunFolder) -> None:
    study = new_study(run)
    end(study, launch(study), "failed", "x")
    before = load_records(run)
    lines = [json.loads(line) for line in run.journal.read_bytes().splitlines()]
    assert all(log.pop("crc32") > 0 for log in lines)
    run.journal.write_text("".join(f"{json.dumps(log)}\n" for log in lines))
    assert load_records(run) == before


def test_optuna_s_own_backend_reads_what_a_search_writes(run: RunFolder) -> None:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = new_study(run)
    trial = launch(study)
    report(trial, epoch(1, 0.5))
    end(study, trial, "complete", best=0.5)
    theirs = optuna.load_study(study_name=STUDY_NAME, storage=JournalStorage(JournalFileBackend(str(run.journal))))
    assert [trial.value for trial in theirs.trials] == [0.5]


def test_attribute_that_no_search_writes_is_refused_in_one_line(run: RunFolder) -> None:
    launch(new_study(run)).set_user_attr("seed", "five")
    refused(lambda: load_records(run), "trial 0", "seed 'five'", error=RunError)


def test_study_of_another_name_is_not_ours(run: RunFolder) -> None:
    optuna.create_study(study_name="other", storage=open_storage(run, wait=pytest.fail)).ask()
    refused(lambda: load_records(run), "no study in study.journal", error=RunError)


def test_whole_configuration_survives_the_journal(run: RunFolder) -> None:
    from captune.model.flat import flatten, unflatten

    launch(new_study(run), flatten(CAPTIONS))
    assert unflatten(only(run).config) == CAPTIONS


def test_file_names_of_a_run_all_differ_and_lie_inside_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    names = [folder.journal, folder.settings, folder.summary, folder.tracebacks, folder.checkpoints, folder.winner]
    names += [folder.proof, folder.bundle, folder.lock, folder.refit_lock]
    assert len(set(names)) == len(names)
    assert all(tmp_path in path.parents for path in names)
    assert folder.proof.parent == folder.bundle.parent == folder.winner


# Who may write


def left_of_a_killed_one(folder: RunFolder) -> Path:
    path = folder.path / ".captune-0123abcd.tmp"
    path.mkdir()
    return path


def test_refit_keeps_refits_and_searches_out_and_cleans_up_first(run: RunFolder) -> None:
    left = left_of_a_killed_one(run)
    with run.refitting():
        assert not left.exists()
        for anyway in (False, True):
            with pytest.raises(BusyError, match="being refitted by another process"), run.refitting(anyway=anyway):
                pass
        with pytest.raises(BusyError, match="another process"), run.writing():
            pass
    with run.writing():
        pass


def test_refit_beside_a_search_has_to_be_asked_for_and_touches_nothing_of_it(run: RunFolder) -> None:
    left = left_of_a_killed_one(run)
    with run.writing():
        with pytest.raises(BusyError, match=r"being searched by another process.*--anyway"), run.refitting():
            pass
        with run.refitting(anyway=True), pytest.raises(BusyError), run.refitting(anyway=True):
            pass
    assert left.exists()


def test_refit_anyway_where_nobody_searches_keeps_searches_out(run: RunFolder) -> None:
    with run.refitting(anyway=True), pytest.raises(BusyError), run.writing():
        pass


def test_what_is_no_run_is_not_locked(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"), RunFolder(tmp_path).refitting():
        pass
    assert not list(tmp_path.iterdir())


def test_lock_that_cannot_be_held_is_told(run: RunFolder) -> None:
    os.mkfifo(run.lock)
    with pytest.raises(RunError, match=r"lock cannot be held .*writable"), run.writing():
        pass


def test_reading_says_how_far_it_is(run: RunFolder) -> None:
    study = new_study(run)
    for _ in range(1250):
        study.enqueue_trial({})
    read: list[tuple[int, int]] = []
    load_records(run, progress=lambda done, total: read.append((done, total)))
    size = run.journal.stat().st_size
    assert [total for _, total in read] == [size] * len(read)
    assert 0 < read[0][0] < size and read == sorted(read)
