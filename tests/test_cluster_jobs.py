"""Jobs of real Ray heads, on whose nodes captune is not installed, and servers that are none."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from captune.cluster.jobs import client as module
from captune.cluster.jobs.client import cancel, follow, jobs, logs, submit
from captune.cluster.jobs.package import JobError, shipment
from captune.data_prep.store import PreparedData

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parent.parent
FILES = {"--config": "search.yaml"}
TOKEN = "0123456789abcdef0123456789abcdef"


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


@contextmanager
def ray_head(bare: Path, **environment: str) -> Iterator[str]:
    """The job server's address of a Ray head of our own, with ports that no other node is given."""
    for last in (False, True):
        folder = Path(tempfile.mkdtemp(prefix="cj", dir="/tmp"))
        ports = _free_ports(9)
        names = (
            "--port --dashboard-port --dashboard-agent-listen-port --dashboard-agent-grpc-port "
            "--runtime-env-agent-port --metrics-export-port --node-manager-port --object-manager-port "
            "--ray-client-server-port"
        )
        options = [f"{name}={port}" for name, port in zip(names.split(), ports, strict=True)]
        options += ["--dashboard-host=127.0.0.1", "--include-dashboard=true", "--min-worker-port=0"]
        options += ["--max-worker-port=0", f"--temp-dir={folder}", "--num-cpus=2", "--num-gpus=0"]
        options += [f"--object-store-memory={10**8}", "--disable-usage-stats"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
        path = f"{bare}{os.pathsep}{os.environ['PATH']}"
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [bare / "python", "-m", "ray.scripts.scripts", "start", "--head", "--block", *options],
                stdout=output,
                stderr=output,
                cwd=folder,
                env=clean | {"PATH": path, "HOME": str(folder), "RAY_AUTH_MODE": "disabled"} | environment,
            )
        address = f"http://127.0.0.1:{ports[1]}"
        try:
            if _comes_up(process, address):
                yield address
                return
            assert not last, (folder / "output").read_text()  # the first time a port may have been taken meanwhile
        finally:
            _end(process, folder)


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel hands out by itself, which Ray's own workers might get first."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as trial, suppress(OSError):
            trial.bind(("", port))
            found.append(port)
    return found


def _comes_up(process: subprocess.Popen[bytes], address: str) -> bool:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
            return True
        except urllib.error.HTTPError as error:
            return error.code == 401
        except OSError:
            time.sleep(0.2)
    return False


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    process.wait(20)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(bare: Path) -> Iterator[str]:
    with ray_head(bare) as address:
        yield address


def send(address: str, *arguments: str, joins: bool = False) -> tuple[str, list[str]]:
    """A job's id, and what a person was told."""
    told: list[str] = []
    return submit(address, arguments, files=FILES, joins=joins, say=told.append), told


def raw(address: str, entrypoint: str) -> str:
    """A job that is a shell command."""
    from ray.job_submission import JobSubmissionClient

    return str(JobSubmissionClient(address).submit_job(entrypoint=entrypoint))


def followed(address: str, job_id: str) -> tuple[int, str, list[str]]:
    """Exit status, log, and what a person was told."""
    pieces: list[str] = []
    told: list[str] = []
    return follow(address, job_id, write=pieces.append, say=told.append), "".join(pieces), told


def refused(call: Callable[[], Any], within: float = 13) -> str:
    """The one line of a JobError that comes in time."""
    started = time.monotonic()
    with pytest.raises(JobError) as caught:
        call()
    assert time.monotonic() - started < within
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is sent


def test_shipped_folder_runs_where_captune_is_not_installed_and_knows_its_version(bare: Path, tmp_path: Path) -> None:
    shipment(["size"], files=FILES).write(tmp_path / "folder")
    code = "from captune.tuner.run.settings import versions; print(versions('tensorflow')['captune'])"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(bare / "python"), "-c", code]
    assert subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True).returncode  # not installed, indeed
    shown = subprocess.run(command, cwd=tmp_path / "folder", env=clean, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == version("captune")


# Where it is sent

EVERY: dict[str, Callable[[str], Any]] = {
    "submit": lambda address: send(address, "size"),
    "follow": lambda address: followed(address, "raysubmit_x"),
    "jobs": jobs,
    "logs": lambda address: logs(address, "raysubmit_x"),
    "cancel": lambda address: cancel(address, "raysubmit_x"),
}


@pytest.mark.parametrize("name", EVERY)
def test_address_where_nothing_listens_is_refused_in_seconds(name: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        message = refused(lambda: EVERY[name](address))
    assert address in message and "8265" in message and "refused" in message


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
    assert "http://host:8265" in refused(lambda: jobs(address))


def test_host_that_is_not_known_is_refused_in_seconds() -> None:
    assert "nowhere.invalid" in refused(lambda: jobs("http://nowhere.invalid:8265"))


def test_job_without_a_command_is_refused(head: str) -> None:
    assert "search" in refused(lambda: send(head))


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


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>hello"),
        (404, b"no"),
        (500, b"oh"),
        (200, b"[]"),
        (200, b'{"version": 4}'),
        (200, b"\xff\x00"),
        (204, b""),
    ],
)
def test_web_server_that_is_no_job_server_is_refused(status: int, body: bytes) -> None:
    with server(status, body) as address:
        message = refused(lambda: send(address, "size"))
    assert address in message and "no Ray job server" in message


def test_other_ray_version_is_refused_with_both() -> None:
    import ray

    with server(200, b'{"version": "4", "ray_version": "2.59.1"}') as address:
        message = refused(lambda: send(address, "size"))
    assert "2.59.1" in message and ray.__version__ in message


@pytest.mark.parametrize("banner", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"])
def test_server_that_speaks_otherwise_hangs_up_or_never_answers_is_refused_in_time(
    banner: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REACH_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        held: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    held.append(listening.accept()[0])
                    held[-1].sendall(banner)

        threading.Thread(target=serve, daemon=True).start()
        assert address in refused(lambda: jobs(address), within=5)
        for connection in held:
            connection.close()


# What runs


def test_command_runs_as_a_job_and_its_output_comes_back(head: str, tmp_path: Path) -> None:
    (tmp_path / "my settings.yaml").write_text("preset: compact\nhead_units: 100\n")
    before = datetime.now(UTC) - timedelta(seconds=1)
    job_id, told = send(head, "size", "--config", "my settings.yaml", "--json")
    assert "search.yaml" in told[0] and len(told) == 1
    code, log, said = followed(head, job_id)
    assert (code, said) == (0, []), log
    there = json.loads(log[log.index("\n{") :])
    command = [sys.executable, "-m", "captune", "size", "--config", "my settings.yaml", "--json"]
    here = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / ".src"), "PYTHONSAFEPATH": "1"}, capture_output=True
    )
    assert there == json.loads(here.stdout)
    assert logs(head, job_id) == log
    job = next(job for job in jobs(head) if job.id == job_id)
    assert (job.status, job.command) == ("SUCCEEDED", "captune size --config 'my settings.yaml' --json")
    assert job.started is not None and job.ended is not None
    assert before <= job.started <= job.ended <= datetime.now(UTC) + timedelta(seconds=1)
    assert cancel(head, job_id) == job  # it has ended, and stays as it is


def test_failed_command_gives_its_exit_status_and_the_newest_job_is_first(head: str) -> None:
    job_id, _ = send(head, "size", "--preset", "it's $HOME; exit 0\n#")
    code, log, said = followed(head, job_id)
    assert code == 2
    assert 'no preset "it\'s $HOME; exit 0\\n#"' in log  # quoted for the shell
    assert said == [f"job {job_id}: failed, exit status 2"]
    assert jobs(head)[0].id == job_id


def test_exit_status_is_the_commands_where_it_has_one(head: str) -> None:
    ends = {"exit 7": (7, "exit status 7"), "kill -9 $$": (1, "exit status -9"), "nothing_so_called": (127, "127")}
    for job_id, (expected, reason) in {raw(head, entrypoint): end for entrypoint, end in ends.items()}.items():
        code, _, said = followed(head, job_id)
        assert code == expected
        assert reason in said[-1] and "\n" not in said[-1]


@pytest.mark.parametrize("job_id", ["raysubmit_x", "", "..", "a/b", "a?b", "01000000", "ü"])
def test_unknown_job_is_told_as_such(head: str, job_id: str) -> None:
    for call in (logs, cancel, followed):
        message = refused(lambda call=call: call(head, job_id))  # type: ignore[misc]
        assert f"no job {job_id}" in message and "captune jobs" in message


def test_ray_address_of_the_environment_does_not_lead_elsewhere(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert isinstance(jobs(f"{head}/"), list)
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:1"


def test_jobs_of_others_are_not_listed(head: str) -> None:
    job_id = raw(head, "true")
    assert job_id not in {job.id for job in jobs(head)}


# Following

SLOWLY = "for i in 1 2 3 4 5 6; do echo zeile $i ü; sleep 0.5; done; printf 'no end'"


class Wire:
    """A proxy before a server, that can be cut."""

    def __init__(self, address: str) -> None:
        self._to = ("127.0.0.1", int(address.rpartition(":")[2]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.dead = False
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listening.accept()[0]
                if self.dead:
                    near.close()
                    continue
                far = socket.create_connection(self._to)
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        while self._open:
            with suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.dead = True
        self._listening.close()
        self.cut()


@pytest.fixture
def wire(head: str) -> Iterator[Wire]:
    made = Wire(head)
    yield made
    made.close()


def test_log_that_is_cut_again_and_again_is_shown_once(head: str, wire: Wire) -> None:
    job_id = raw(head, SLOWLY)
    pieces: list[str] = []

    def write(piece: str) -> None:
        pieces.append(piece)
        wire.cut()

    assert follow(wire.address, job_id, write=write, say=print) == 0
    assert len(pieces) > 2
    assert "".join(pieces) == logs(head, job_id)
    assert pieces[-1].endswith("no end")


def test_server_that_is_away_for_a_while_is_waited_for_and_one_that_is_gone_is_told(
    head: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAUSES", (0.5, 0.5, 1, 1))
    job_id = raw(head, SLOWLY)
    told: list[str] = []

    def write(piece: str) -> None:
        wire.dead = True
        wire.cut()

    def say(line: str) -> None:
        told.append(line)
        if len(told) == 2:
            wire.dead = False

    assert follow(wire.address, job_id, write=lambda piece: None if told else write(piece), say=say) == 0
    assert len(told) == 2 and all("trying again" in line and "\n" not in line for line in told)
    endless = raw(head, "echo begun; sleep 600")
    try:
        assert wire.address in refused(lambda: follow(wire.address, endless, write=write, say=lambda _: None))
    finally:
        assert cancel(head, endless).status == "STOPPED"


def test_interrupt_and_a_reader_that_is_gone_end_the_following_and_not_the_job(head: str) -> None:
    job_id = raw(head, f"sleep 1; {SLOWLY}")

    def gone(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(head, job_id, write=gone, say=print)
    timer = threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        follow(head, job_id, write=lambda _: None, say=print)
    assert "zeile 6 ü\nno end" in followed(head, job_id)[1]


# Ending


def test_cancelled_search_ends_as_by_ctrl_c_and_can_be_resumed(
    head: str, data: PreparedData, search_yaml: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["search", str(data.path), "--run", str(run), "--config", str(search_yaml), "--trials", "500"]
    job_id, _ = send(head, *arguments, "--address", head, joins=True)
    end = time.monotonic() + 60
    while not (run / "study.journal").exists() and time.monotonic() < end:
        time.sleep(0.2)
    assert cancel(head, job_id).status == "STOPPED"
    assert json.loads((run / "summary.json").read_text())["interrupted"]
    assert json.loads((run / "run.json").read_text())["versions"]["captune"] == version("captune")
    code, log, said = followed(head, job_id)
    assert (code, said) == (1, [f"job {job_id}: stopped"])
    assert f"captune resume {run}" in log


def test_job_is_cancelled_before_it_runs(head: str) -> None:
    job_id, _ = send(head, "size")
    assert cancel(head, job_id).status in ("STOPPED", "SUCCEEDED")


# Tokens

CLIENT = """
import sys
from captune.cluster.jobs.client import JobError, follow, submit
try:
    job = submit(sys.argv[1], ["size", "--preset", "compact"], files={}, joins=False, say=lambda _: None)
    sys.exit(follow(sys.argv[1], job, write=lambda text: print(text, end=""), say=print))
except JobError as error:
    print("refused:", error)
    sys.exit(3)
"""


def test_token_is_asked_for_held_against_the_clusters_and_accepted(bare: Path, tmp_path: Path) -> None:
    def client(**environment: str) -> tuple[int, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT / ".src"), **environment}
        ran = subprocess.run(
            [sys.executable, "-c", CLIENT, address], env=clean, capture_output=True, text=True, timeout=60
        )
        return ran.returncode, ran.stdout

    with ray_head(bare, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as address:
        cases: dict[str, dict[str, str]] = {
            "asks for Ray's token": {},
            "no token can be read": {"RAY_AUTH_MODE": "token"},
            "another token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"},
        }
        for case, environment in cases.items():
            code, said = client(**environment)
            assert code == 3 and case in said and "RAY_AUTH_TOKEN_PATH" in said and said.count("\n") == 1, said
        (tmp_path / "token").write_text(TOKEN)
        code, said = client(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
        assert code == 0 and "bundle" in said, said


# A head that is still starting


class Starting:
    """A server's client, refused by `reasons` before a job is taken."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = list(reasons)

    def submit_job(self, **_: object) -> str:
        if self.reasons:
            raise RuntimeError(f"Request failed with status code 500: {self.reasons.pop(0)}.")
        return "raysubmit_1"


def sent_to(client: Starting, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    said: list[str] = []
    monkeypatch.setattr("captune.cluster.jobs.client._connect", lambda address: client)
    monkeypatch.setattr("captune.cluster.jobs.client.time.sleep", lambda seconds: None)
    return submit("http://head:1", ["size"], files=FILES, joins=False, say=said.append), said


def test_head_that_is_still_starting_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    starting = Starting(*["No available agent to submit job, please try again later"] * 2)
    job, said = sent_to(starting, monkeypatch)
    assert job == "raysubmit_1"
    assert sum("No available agent" in text and "trying again in" in text for text in said) == 2


def test_job_that_may_have_been_taken_is_not_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Starting("the disk is full", "the disk is full")
    with pytest.raises(JobError, match="the disk is full"):
        sent_to(broken, monkeypatch)
    assert len(broken.reasons) == 1
