"""Optuna's dashboard of a run, asked over HTTP as a browser does."""

import hashlib
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Captune, refused
from study_runs import fill, new_run

from captune.tuner.api.studies import serving

dashboard = pytest.mark.skipif(find_spec("optuna_dashboard") is None, reason="pip install 'captune[dashboard]'")


@contextmanager
def served(where: Path) -> Iterator[str]:
    with serving(str(where), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def status_of(request: urllib.request.Request | str) -> int:
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def content_of(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


@dashboard
@pytest.mark.parametrize("running", [True, False], ids=["running", "finished"])
@pytest.mark.parametrize("objectives", [("mean_f1",), ("mean_f1", "bytes")], ids=len)
def test_dashboard_has_names_fates_and_constraints_and_leaves_the_journal_alone(
    tmp_path: Path, objectives: tuple[str, ...], running: bool
) -> None:
    run = fill(new_run(tmp_path / "on captions", objectives))
    before = hashlib.sha256(run.journal.read_bytes()).digest()
    with served(run.path) as url:
        if running:
            with run.writing():
                detail = content_of(f"{url}/api/studies/0")
        else:
            detail = content_of(f"{url}/api/studies/0")
        assert [each["study_name"] for each in content_of(f"{url}/api/studies")["study_summaries"]] == ["on captions"]
        assert status_of(f"{url}/dashboard") == 200
    assert detail["objective_names"] == list(objectives)
    fates = [{each["key"]: each["value"] for each in trial["user_attrs"]}["fate"] for trial in detail["trials"]]
    assert fates == ["complete", "stopped", "over_budget", "diverged", "running" if running else "lost"]
    assert [trial["constraints"] for trial in detail["trials"]] == [[-0.5], [-0.75], [0.5], [-0.5, 1.0], [-0.5]]
    assert [trial["number"] for trial in detail["best_trials"]] == [0]
    assert {"key": "preset", "value": "captions"} in detail["user_attrs"]
    assert hashlib.sha256(run.journal.read_bytes()).digest() == before


@dashboard
@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("DELETE", "/api/studies/0", None, 405),
        ("PUT", "/api/studies/0/note", None, 405),
        ("POST", "/api/trials/5/tell", None, 405),
        ("GET", "/api/studies", "evil.example:80", 403),
        ("GET", "/api/studies", "localhost:9", 200),
    ],
)
def test_dashboard_refuses_what_writes_and_who_is_not_here(
    tmp_path: Path, method: str, path: str, host: str | None, status: int
) -> None:
    run = fill(new_run(tmp_path / "run"))
    with served(run.path) as url:
        headers = {} if host is None else {"Host": host}
        assert status_of(urllib.request.Request(url + path, method=method, headers=headers)) == status


@dashboard
def test_port_that_is_taken_is_told_in_one_line(tmp_path: Path, captune: Captune) -> None:
    run = fill(new_run(tmp_path / "run"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        refused(captune("dashboard", run.path, "--port", other.getsockname()[1]), "--port", "give another")


def test_dashboard_that_is_not_installed_is_told_with_the_command(
    tmp_path: Path, captune: Captune, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr("captune.tuner.api.studies.find_spec", absent)
    refused(captune("dashboard", new_run(tmp_path / "run").path), "pip install 'captune[dashboard]'")
