"""Runs and data sets at an address: each verb on them, searches cut short, taken over, and without their storage."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Captune
from object_storage import Proxy, files_in

from captune.cluster.object_storage import data_cache as node_data
from captune.cluster.object_storage.addresses import StorageError, join
from captune.cluster.object_storage.mirror import Mirror
from captune.cluster.object_storage.remote_folder import RemoteFolder
from captune.data_prep.store import PreparedData
from captune.results.records import load_records
from captune.results.run_folder import RunError, RunFolder
from captune.tuner.run.locations import is_run, open_data, preparing, reading, refitting, searching


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache and a folder for temporary files that are the test's own; copies in it are let go at its end."""
    monkeypatch.setenv("CAPTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    yield tmp_path / "cache"
    while node_data._locks:
        node_data._locks.popitem()[1].close()


def left_behind(tmp_path: Path) -> list[str]:
    # W&B, which Ray imports where it is there, keeps folders until the process ends.
    return sorted(path.name for path in (tmp_path / "tmp").iterdir() if "wandb" not in path.name)


# One by one


def test_path_is_used_as_it_is(data: PreparedData, tmp_path: Path, cache: Path) -> None:
    assert open_data(str(data.path), verify=True).path == data.path
    with preparing(str(tmp_path / "data")) as folder:
        assert folder == tmp_path / "data"
    with searching(str(tmp_path / "run"), new=True) as (run, mirror):
        assert (run.path, mirror, str(run)) == (tmp_path / "run", None, str(tmp_path / "run"))
    assert not cache.exists()


def test_run_is_there_once_its_settings_are(url: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert not is_run(str(tmp_path / "folder")) and not is_run(str(tmp_path / "none")) and not is_run(url)
    (tmp_path / "folder/run.json").touch()
    RemoteFolder(url).write("run.json", b"{}")
    assert is_run(str(tmp_path / "folder")) and is_run(url)


def test_data_at_an_address_is_brought_once(url: str, data: PreparedData, cache: Path) -> None:
    node_data.upload_data(data.path, url)
    first, second = open_data(url, verify=True), open_data(url, verify=True)
    assert first.path == second.path == cache / data.manifest.fingerprint
    assert files_in(first.path) == files_in(data.path)


def test_cache_without_room_is_told_with_the_variable_that_sets_it(
    url: str, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    node_data.upload_data(data.path, url)
    monkeypatch.setenv("CAPTUNE_CACHE_SIZE", "1KiB")
    with pytest.raises(StorageError, match="does not fit into"):
        open_data(url, verify=True)
    monkeypatch.setenv("CAPTUNE_CACHE_SIZE", "much")
    with pytest.raises(StorageError, match="CAPTUNE_CACHE_SIZE: a size needs a number and a unit"):
        open_data(url, verify=True)


def test_interrupted_preparation_goes_on_in_the_same_folder(url: str) -> None:
    folders = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), preparing(url) as folder:
            folders.append(folder)
            raise KeyboardInterrupt
    assert folders[0] == folders[1]
    with pytest.raises(KeyboardInterrupt), preparing(join(url, "other")) as other:
        folders.append(other)
        raise KeyboardInterrupt
    assert folders[2] != folders[0]


def test_search_that_never_was_leaves_nothing_at_its_address(url: str, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="ours"), searching(url, new=True) as (_, mirror):
        assert mirror is not None and RemoteFolder(url).list()
        raise KeyError("ours")
    assert not RemoteFolder(url).exists() and left_behind(tmp_path) == []


def test_address_that_holds_something_is_refused(url: str, tmp_path: Path) -> None:
    RemoteFolder(url).write("notes.txt", b"mine")
    with pytest.raises(RunError, match="holds something; give another --run"), searching(url, new=True):
        pass
    with pytest.raises(StorageError, match="holds no run"), searching(url):
        pass
    assert RemoteFolder(url).read("notes.txt") == b"mine" and left_behind(tmp_path) == []


def test_run_goes_on_where_another_machine_left_it(url: str, tmp_path: Path) -> None:
    for turn in range(3):
        with searching(url, new=turn == 0) as (run, _):
            run.path.mkdir(exist_ok=True)
            run.settings.write_text("{}")
            with run.journal.open("a") as journal:
                journal.write(f"{turn}\n")
        assert left_behind(tmp_path) == []
    with reading(url) as run:
        assert run.journal.read_text() == "0\n1\n2\n"
        assert str(run) == url


def test_twin_is_kept_where_the_last_of_it_cannot_be_uploaded(s3: str, server: str, proxy: Proxy) -> None:
    with (
        pytest.raises(StorageError, match="the run as it is now is in ") as caught,
        searching(s3.replace(server, proxy.address), new=True) as (run, _),
    ):
        run.path.mkdir()
        run.settings.write_text("{}")
        proxy.down = True
    assert str(run.path) in str(caught.value) and run.settings.read_text() == "{}"


def test_winner_that_cannot_be_uploaded_is_kept(s3: str, server: str, proxy: Proxy, tmp_path: Path) -> None:
    with searching(s3, new=True) as (run, _):
        run.path.mkdir()
        run.settings.write_text("{}")
    with (
        pytest.raises(StorageError, match="the winner is in ") as caught,
        refitting(s3.replace(server, proxy.address)) as run,
    ):
        run.bundle.mkdir(parents=True)
        (run.bundle / "bundle.json").write_text("{}")
        run.proof.write_text("{}")
        proxy.down = True
    kept = Path(str(caught.value).rpartition(" in ")[2])
    assert sorted(files_in(kept)) == ["bundle/bundle.json", "proof.json"]


def test_winner_of_another_refit_at_an_address_stays_and_this_one_is_kept(url: str) -> None:
    with searching(url, new=True) as (run, _):
        run.path.mkdir()
        run.settings.write_text("{}")
    with pytest.raises(StorageError, match="another winner") as caught, refitting(url) as run:
        run.bundle.mkdir(parents=True)
        (run.bundle / "bundle.json").write_text("ours")
        run.proof.write_text("{}")
        RemoteFolder(url).write("winner/proof.json", b"theirs")
    assert RemoteFolder(url).read("winner/proof.json") == b"theirs"
    assert (Path(str(caught.value).rpartition(" in ")[2]) / "bundle" / "bundle.json").read_text() == "ours"


def test_half_a_winner_at_an_address_does_not_stand_in_the_way_of_the_next_refit(url: str) -> None:
    with searching(url, new=True) as (run, _):
        run.path.mkdir()
        run.settings.write_text("{}")
    RemoteFolder(url).write("winner/bundle/bundle.json", b"{}")
    with refitting(url) as run:
        assert not run.winner.exists()
        run.bundle.mkdir(parents=True)
        run.proof.write_text("{}")
    with refitting(url) as run:
        assert run.proof.exists()


# Copied by other tools


def copied_down(url: str, folder: Path) -> Path:
    """What a plain copy of all files below an address leaves on a disk."""
    for name in RemoteFolder(url).list():
        RemoteFolder(url).download(name, folder / name)
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of this machine, as far as copying goes."""
    folder = tmp_path / "run"
    for name, text in {"run.json": "{}", "study.journal": "0\n", "summary.json": "{}", "lock": ""}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_copy_of_a_run_at_an_address_is_read_gone_on_with_and_refitted_on_a_disk(url: str, tmp_path: Path) -> None:
    with searching(url, new=True) as (run, _):
        run.path.mkdir()
        run.settings.write_text("{}")
        run.journal.write_text("0\n")
    copy = str(copied_down(url, tmp_path / "a copy"))
    with reading(copy) as run:
        assert run.journal.read_text() == "0\n" and str(run).endswith("/a%20copy")
    with searching(copy) as (run, _), run.journal.open("a") as journal:
        journal.write("1\n")
    with refitting(copy) as run:
        assert run.journal.read_text() == "0\n1\n"
        run.bundle.mkdir(parents=True)
        run.proof.write_text("{}")
    assert (tmp_path / "a copy" / "winner" / "proof.json").exists()
    assert is_run(copy) and left_behind(tmp_path) == []


def test_copy_of_a_run_folder_at_an_address_is_read_and_refitted_there(url: str, run_folder: Path) -> None:
    RemoteFolder(url).upload(run_folder, "")
    with reading(url) as run:
        assert run.journal.read_text() == "0\n" and not run.is_written
    with refitting(url) as run:
        run.bundle.mkdir(parents=True)
        run.proof.write_text("{}")
    assert RemoteFolder(url).exists("winner/proof.json")
    with pytest.raises(StorageError, match=r"is a copy of a run folder.* resume it there"), searching(url):
        pass
    assert RemoteFolder(url).read("study.journal") == b"0\n"


@pytest.mark.parametrize("missing", ["owner.json", "study.journal"])
def test_half_of_a_copied_run_is_told_by_what_it_lacks(url: str, missing: str, tmp_path: Path) -> None:
    with searching(url, new=True) as (run, _):
        run.path.mkdir()
        run.settings.write_text("{}")
        run.journal.write_text("0\n")
        run.summary.write_text("{}")
    RemoteFolder(url).remove("sign.json")
    RemoteFolder(url).remove(missing)
    for copy in (url, str(copied_down(url, tmp_path / "copy"))):
        with pytest.raises((RunError, StorageError), match=f"(lacks|in) {missing}"), reading(copy) as run:
            load_records(run)
        with pytest.raises((RunError, StorageError), match=f"lacks {missing}"), searching(copy):
            pass


@pytest.mark.parametrize("content", ["", None])
def test_run_folder_without_its_journal_is_told_and_resumed_where_no_trial_was_begun(
    run_folder: Path, content: str | None
) -> None:
    run = RunFolder(run_folder)
    run.journal.unlink()
    if content is not None:
        run.journal.write_text(content)
    with pytest.raises(RunError, match=r"no study in study\.journal.*`captune resume"):
        load_records(run)
    with pytest.raises(RunError, match=r"lacks study\.journal"), searching(str(run_folder)):
        pass
    run.summary.unlink()
    with searching(str(run_folder)), run.writing():
        assert load_records(run) == []  # the search has just begun


def test_journals_of_two_kinds_at_one_address_are_told(s3: str, run_folder: Path) -> None:
    with searching(s3, new=True) as (run, _):
        run.path.mkdir()
        run.settings.write_text("{}")
        run.journal.write_text("0\n")
    RemoteFolder(s3).upload(run_folder, "")
    with pytest.raises(StorageError, match="holds two journals"), reading(s3):
        pass


def test_owner_whose_journal_is_missing_is_told(url: str) -> None:
    with searching(url, new=True) as (run, _):
        run.path.mkdir()
        run.settings.write_text("{}")
        run.journal.write_text("0\n")
    RemoteFolder(url).write("owner.json", b'{"id": "other"}')
    with pytest.raises(StorageError, match=r"lacks the study\.journal that owner"), reading(url):
        pass


# The whole path


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.soak
@pytest.mark.parametrize("server", ["s3rver", "gs"])
def test_every_verb_works_on_addresses(
    server: str,
    request: pytest.FixtureRequest,
    drawn: Path,
    search_yaml: Path,
    captune: Captune,
    tmp_path: Path,
    cache: Path,
) -> None:
    url = request.getfixturevalue(server)
    data, run = join(url, "data"), join(url, "run")

    def done(*arguments: object) -> str:
        ran = captune(*arguments)
        assert ran.code == 0, ran.err
        return ran.out

    told = done("prepare", drawn / "train.csv", drawn / "images", "--out", data, "--side", 32)
    assert told.startswith(f"{data}: 120 of 120 rows")
    assert [path.name for path in cache.rglob("*.arrow")] == []
    settings = ("--config", search_yaml, "--cpus-per-trial", 1)
    assert f"{run}: " in done("search", data, "--run", run, *settings, "--trials", 2)
    assert captune("search", data, "--run", run, *settings).code == 2
    assert f"{run}: " in done("resume", run, "--trials", 4)
    rows = json.loads(done("trials", run, "--format", "json"))
    assert [row["number"] for row in rows if row["fate"] in ("complete", "stopped")] == [0, 1, 2, 3]
    assert json.loads(done("show", run, 0, "--json"))["number"] == 0
    assert f"{run}/winner/bundle" in done("refit", run)
    assert captune("refit", run).code == 2  # test is read once
    proof = json.loads(RemoteFolder(run).read("winner/proof.json") or b"")
    done("report", run, "--out", tmp_path / "report.html")
    done("export", run, "--to", tmp_path / "bundle")
    evaluated = json.loads(done("evaluate", tmp_path / "bundle", drawn / "train.csv", drawn / "images", "--json"))
    assert evaluated["examples"] == 120 and 0 < proof["test"]["mean_f1"] <= 1
    copy = copied_down(run, tmp_path / "copy")
    assert json.loads(done("trials", copy, "--format", "json")) == json.loads(done("trials", run, "--format", "json"))
    warm = ("search", data, "--run", join(url, "warm"), *settings, "--trials", 1, "--warm-start", run, "--dry-run")
    assert done(*warm).startswith("budget")
    kept = {name.split("/")[1] for name in RemoteFolder(run).list("checkpoints")}
    assert len(kept) == 3  # of the best, as --keep has it
    assert all(RemoteFolder(run).exists(f"checkpoints/{name}/last.safetensors") is False for name in kept)
    (copy,) = (path for path in cache.iterdir() if path.is_dir() and path.name != "prepare")
    assert PreparedData.open(copy).has_images
    assert left_behind(tmp_path) == []


@pytest.mark.soak
@pytest.mark.cluster
def test_killed_search_is_resumed_from_its_address_by_another_process(
    s3: str, captions_data: PreparedData, tmp_path: Path
) -> None:
    data, run, log = join(s3, "data"), join(s3, "run"), tmp_path / "trained.txt"
    node_data.upload_data(captions_data.path, data)
    formula = {"seconds": 0.5, "log": str(log), "settings": {"cpus_per_trial": 1, "halving": {"grace": 1000}}}
    environment = os.environ | {"CAPTUNE_FORMULA": json.dumps(formula)}
    command = [sys.executable, str(Path(__file__).parent / "formula.py"), data, run, "4"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)

    def trained() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    first = start()
    while not {"2 1", "3 1"} <= set(trained()):  # two trials are done, the next two under way
        time.sleep(0.1)
        assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    second = start()
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err.decode()
    with reading(run) as found:
        done = [record for record in load_records(found) if record.fate == "complete"]
    assert len(done) == 4
    assert all([epoch.epoch for epoch in record.curve] == list(range(1, 10)) for record in done)
    finished = [f"{origin} {epoch}" for origin in (0, 1) for epoch in range(1, 10)]
    assert sorted(line for line in trained() if line in finished) == finished  # none twice


@pytest.mark.soak
@pytest.mark.cluster
def test_search_whose_address_is_taken_over_ends_and_says_by_whom(
    s3: str, captions_data: PreparedData, tmp_path: Path
) -> None:
    run = join(s3, "run")
    formula = {"seconds": 0.3, "settings": {"cpus_per_trial": 1, "halving": {"grace": 1000}}}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "formula.py"), str(captions_data.path), run, "40"],
        env=os.environ | {"CAPTUNE_FORMULA": json.dumps(formula)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not RemoteFolder(run).list("study.journal"):
        time.sleep(0.2)
        assert process.poll() is None
    for _ in range(20):  # until nothing is written between the reading and the taking over
        with reading(run) as found, suppress(StorageError):
            Mirror(found.path, run, interval=3600)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"was taken over by process {os.getpid()} on " in err
