"""Jobs of real Ray heads, on whose nodes captune is not installed, and servers that are none."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import venv
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from object_storage import Proxy
from ray_nodes import ROOT, TOKEN, one_line_of, ray_head, until, without_ray

from captune.cluster.jobs import server as module
from captune.cluster.jobs.follow import follow
from captune.cluster.jobs.package import JobError, shipment
from captune.cluster.jobs.submit import submit
from captune.data_prep.store import PreparedData

pytestmark = pytest.mark.cluster

FILES = {"--config": "search.yaml"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder that is not the code's, and holds what might be taken for it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/size.py").write_text("raise SystemExit('the wrong model')")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def bare() -> Iterator[Path]:
    """The bin folder of an environment with all that captune needs, without captune."""
    folder = Path(tempfile.mkdtemp(prefix="cjv", dir="/tmp"))
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "captune" not in entry.name and "__editable__" not in entry.name:
            (site / entry.name).symlink_to(entry)
    yield folder / "bin"
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def head(bare: Path) -> Iterator[str]:
    with ray_head(bare, cpus=2) as head:
        yield head.jobs


def send(address: str, *arguments: str, joins: bool = False) -> tuple[str, list[str]]:
    """A job's id, and what a person reads."""
    lines: list[str] = []
    return submit(address, arguments, files=FILES, joins=joins, say=lines.append), lines


def start(address: str, entrypoint: str) -> str:
    """A job that is a shell command."""
    from ray.job_submission import JobSubmissionClient

    return str(JobSubmissionClient(address).submit_job(entrypoint=entrypoint))


def followed(address: str, job: str) -> tuple[int, str, list[str]]:
    """Exit status, log, and what a person reads."""
    pieces: list[str] = []
    lines: list[str] = []
    return follow(address, job, write=pieces.append, say=lines.append), "".join(pieces), lines


def ray_job(verb: str, address: str, *arguments: str) -> str:
    """What Ray's own command prints."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", verb, "--address", address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=without_ray()).stdout


def refused(call: Callable[[], object], *words: object, within: float = 13) -> str:
    return one_line_of(JobError, call, *words, within=within)


def test_shipped_folder_runs_where_captune_is_not_installed_and_knows_its_version(bare: Path, tmp_path: Path) -> None:
    shipment(["size"], files=FILES).write(tmp_path / "folder")
    code = "from captune.tuner.run.settings import versions; print(versions('tensorflow')['captune'])"
    command = [str(bare / "python"), "-c", code]
    # Not installed, indeed.
    assert subprocess.run(command, cwd=tmp_path, env=without_ray(), capture_output=True).returncode
    ran = subprocess.run(command, cwd=tmp_path / "folder", env=without_ray(), capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, version("captune")), ran


# Where it is sent

VERBS: dict[str, Callable[[str], object]] = {
    "submit": lambda address: send(address, "size"),
    "follow": lambda address: followed(address, "raysubmit_x"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_address_where_nothing_listens_is_refused_in_seconds(verb: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        refused(lambda: VERBS[verb](address), address, 8265, "refused")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "head:8265",
        "ray://head:10001",
        "http://",
        "http://:8265",
        "http://h:99999",
        "http://h:x",
        "http://[::1",
        "auto",
    ],
)
def test_address_that_is_none_is_refused_with_an_example(address: str) -> None:
    refused(lambda: send(address, "size"), "http://host:8265")


def test_host_that_is_not_known_is_refused_in_seconds() -> None:
    refused(lambda: send("http://nowhere.invalid:8265", "size"), "nowhere.invalid")


def test_job_without_a_command_is_refused() -> None:
    refused(lambda: send("http://head:8265"), "search")


@contextmanager
def server(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server with one answer to everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


ANSWERS = [(404, b"no"), (500, b"oh"), (204, b"")]
ANSWERS += [(200, body) for body in (b"<html>hello", b"[]", b'{"version": 4}', b"\xff\x00")]


@pytest.mark.parametrize(("status", "body"), ANSWERS)
def test_web_server_that_is_no_job_server_is_refused(status: int, body: bytes) -> None:
    with server(status, body) as address:
        refused(lambda: send(address, "size"), address, "no Ray job server")


def test_other_ray_version_is_refused_with_both() -> None:
    import ray

    with server(200, b'{"version": "4", "ray_version": "2.59.1"}') as address:
        refused(lambda: send(address, "size"), "2.59.1", ray.__version__)


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
def test_server_that_speaks_otherwise_hangs_up_or_never_answers_is_refused_in_time(
    banner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REACH_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        connections: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connections.append(listening.accept()[0])
                    connections[-1].sendall(banner)

        threading.Thread(target=serve, daemon=True).start()
        refused(lambda: send(address, "size"), address, within=5)
        for connection in connections:
            connection.close()


# What runs


def test_command_runs_as_a_job_and_its_output_comes_back(head: str, tmp_path: Path) -> None:
    (tmp_path / "my settings.yaml").write_text("preset: compact\nhead_units: 100\n")
    job, lines = send(head, "size", "--config", "my settings.yaml", "--json")
    assert "search.yaml" in lines[0] and len(lines) == 1
    code, log, lines = followed(head, job)
    assert (code, lines) == (0, []), log
    command = [sys.executable, "-m", "captune", "size", "--config", "my settings.yaml", "--json"]
    here = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / ".src"), "PYTHONSAFEPATH": "1"}, capture_output=True
    )
    assert json.loads(log[log.index("\n{") :]) == json.loads(here.stdout)
    listed = ray_job("list", head)
    assert job in listed and "captune size --config" in listed and "SUCCEEDED" in listed
    assert log.strip() in ray_job("logs", head, job)


def test_exit_status_is_the_commands_where_it_has_one(head: str) -> None:
    job, _ = send(head, "size", "--preset", "it's $HOME; exit 0\n#")
    code, log, lines = followed(head, job)
    assert '"it\'s $HOME; exit 0\\n#" is not one of' in log  # quoted for the shell
    assert (code, lines) == (2, [f"job {job}: failed, exit status 2"])
    ends = {"exit 7": (7, "exit status 7"), "kill -9 $$": (1, "exit status -9"), "nothing_so_called": (127, "127")}
    for job, (expected, reason) in {start(head, entrypoint): end for entrypoint, end in ends.items()}.items():
        code, _, lines = followed(head, job)
        assert code == expected
        assert reason in lines[-1] and "\n" not in lines[-1]


@pytest.mark.parametrize("job", ["raysubmit_x", "", "..", "a/b", "a?b", "01000000", "ü"])
def test_unknown_job_is_refused_as_such(head: str, job: str) -> None:
    refused(lambda: followed(head, job), f"no job {job}", f"ray job list --address {head}")


def test_ray_address_of_the_environment_does_not_lead_elsewhere(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert followed(f"{head}/", send(f"{head}/", "no-verb")[0])[0] == 2
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:1"


# Following

SLOWLY = "for i in 1 2 3 4 5 6; do echo zeile $i ü; sleep 0.5; done; printf 'no end'"


@pytest.fixture
def wire(head: str) -> Iterator[Proxy]:
    with closing(Proxy(head.removeprefix("http://"))) as proxy:
        yield proxy


def test_log_that_is_cut_again_and_again_is_shown_once(head: str, wire: Proxy) -> None:
    pieces: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        wire.cut()

    job = start(head, SLOWLY)
    assert follow(f"http://{wire.address}", job, write=write, say=print) == 0
    assert len(pieces) > 2
    assert "".join(pieces) == module.Server(head).log(job)
    assert pieces[-1].endswith("no end")


@pytest.mark.soak
def test_server_that_is_away_for_a_while_is_waited_for_and_one_that_is_gone_is_an_error(
    head: str, wire: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.5, 0.5, 1, 1))
    lines: list[str] = []

    def write(_: str) -> None:
        wire.down = True
        wire.cut()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            wire.down = False

    slow = start(head, SLOWLY)
    assert follow(f"http://{wire.address}", slow, write=lambda piece: None if lines else write(piece), say=say) == 0
    assert len(lines) == 2 and all("trying again" in line and "\n" not in line for line in lines)
    endless = start(head, "echo begun; sleep 600")
    try:
        refused(lambda: follow(f"http://{wire.address}", endless, write=write, say=lambda _: None), wire.address)
    finally:
        ray_job("stop", head, "--no-wait", endless)


def test_interrupt_and_a_reader_that_is_gone_end_the_following_and_not_the_job(head: str) -> None:
    job = start(head, f"sleep 1; {SLOWLY}")

    def write(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(head, job, write=write, say=print)
    timer = threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        follow(head, job, write=lambda _: None, say=print)
    assert followed(head, job)[1].endswith("zeile 6 ü\nno end")


@pytest.mark.soak
def test_search_that_ray_job_stop_ends_says_how_to_resume(
    head: str, data: PreparedData, search_yaml: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["search", str(data.path), "--run", str(run), "--config", str(search_yaml), "--trials", "500"]
    job, _ = send(head, *arguments, "--address", head, joins=True)
    until((run / "study.journal").exists, 60)
    ray_job("stop", head, job)
    assert json.loads((run / "summary.json").read_text())["interrupted"]
    assert json.loads((run / "run.json").read_text())["versions"]["captune"] == version("captune")
    code, log, lines = followed(head, job)
    assert (code, lines) == (1, [f"job {job}: stopped"])
    assert f"captune resume {run}" in log


# Tokens

CLIENT = """
import sys
from captune.cluster.jobs.follow import follow
from captune.cluster.jobs.package import JobError
from captune.cluster.jobs.submit import submit
try:
    job = submit(sys.argv[1], ["size", "--preset", "compact"], files={}, joins=False, say=lambda _: None)
    sys.exit(follow(sys.argv[1], job, write=lambda text: print(text, end=""), say=print))
except JobError as error:
    print("refused:", error)
    sys.exit(3)
"""


@pytest.mark.soak
def test_token_is_required_compared_and_accepted(bare: Path, tmp_path: Path) -> None:
    def client(**environment: str) -> tuple[int, str]:
        environment = without_ray(HOME=str(tmp_path), PYTHONPATH=str(ROOT / ".src"), **environment)
        command = [sys.executable, "-c", CLIENT, head.jobs]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        return ran.returncode, ran.stdout

    with ray_head(bare, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as head:
        cases: dict[str, dict[str, str]] = {
            "asks for Ray's token": {},
            "no token can be read": {"RAY_AUTH_MODE": "token"},
            "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"},
        }
        for case, environment in cases.items():
            code, out = client(**environment)
            assert code == 3 and case in out and "RAY_AUTH_TOKEN_PATH" in out and out.count("\n") == 1, out
        (tmp_path / "token").write_text(TOKEN)
        code, out = client(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
        assert code == 0 and "bundle" in out, out


# A head that is still starting


@pytest.mark.parametrize(
    ("reason", "again"),
    [("No available agent to submit job, please try again later", True), ("the disk is full", False)],
)
def test_only_a_job_that_was_certainly_not_taken_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, reason: str, again: bool
) -> None:
    reasons = [reason] * 2

    def submit_job(**_: object) -> str:
        if reasons:
            raise RuntimeError(f"Request failed with status code 500: {reasons.pop(0)}.")
        return "raysubmit_1"

    def connect(server: Any, address: str) -> None:
        server.address, server.client = address, SimpleNamespace(submit_job=submit_job)

    monkeypatch.setattr(module.Server, "__init__", connect)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    if not again:
        refused(lambda: send("http://head:1", "size"), reason)
        assert len(reasons) == 1
        return
    job, lines = send("http://head:1", "size")
    assert job == "raysubmit_1"
    assert sum(reason in line and "trying again in" in line for line in lines) == 2
