"""`captune serve` as a process: it listens where it says, and ends when it is told to."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from builders import rest_in_soak
from conftest import OLD, Captune, refused

BUNDLE = OLD / "run" / "winner" / "bundle"
needs_extra = pytest.mark.skipif(
    not all(map(find_spec, ("fastapi", "uvicorn", "python_multipart"))), reason="pip install 'captune[serve]'"
)


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it says."""
    command = [sys.executable, "-m", "captune", "serve", str(BUNDLE), "--port", "0", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if match := re.search(r"http://[^\s;]+", line):
                break
        else:
            raise AssertionError(said)
        process.said = said  # type: ignore[attr-defined]
        yield process, match[0]
    finally:
        process.kill()
        process.communicate()


def posted(url: str, body: object, **headers: str) -> tuple[int, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@needs_extra
@pytest.mark.parametrize("number", rest_in_soak([signal.SIGINT, signal.SIGTERM], signal.SIGTERM))
def test_it_answers_on_loopback_until_it_is_told_to_end_and_says_nothing_then(number: signal.Signals) -> None:
    with serving() as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert len(process.said) == 1  # type: ignore[attr-defined]
        status, content = posted(f"{url}predict", {"examples": [{"caption": "a red box"}]})
        assert status == 200 and len(content["answers"][0]) >= 1  # type: ignore[index]
        assert posted(f"{url}predict", {"examples": [{"caption": "a"}]}, Host="evil.example")[0] == 403
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
@needs_extra
def test_request_at_work_is_answered_before_the_end() -> None:
    with serving() as (process, url):
        assert process.stderr is not None
        body = {"examples": [{"caption": "a red box"}] * 64}
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")))) as connection:
            content = json.dumps(body).encode()
            head = ["POST /predict HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
            connection.sendall("\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content)
            connection.settimeout(30)
            first = connection.recv(1)
            process.send_signal(signal.SIGINT)
            answer = first + b"".join(iter(lambda: connection.recv(2**16), b""))
        assert answer.startswith(b"HTTP/1.1 200") and answer.count(b'"decided"') >= 64
        process.communicate(timeout=30)
        assert process.returncode == 0


@pytest.mark.slow
@needs_extra
def test_other_address_is_warned_about_in_one_line() -> None:
    with serving("--host", "0.0.0.0") as (process, url):
        warning, line = process.said  # type: ignore[attr-defined]
        assert warning.startswith("warning: whoever reaches 0.0.0.0") and "0.0.0.0" in line
        port = url.rsplit(":", 1)[1].strip("/")
        assert posted(f"http://127.0.0.1:{port}/predict", {"examples": [{"caption": "a"}]})[0] == 200


@needs_extra
def test_port_that_is_taken_and_address_of_others_are_refused_before_the_bundle_is_looked_at(captune: Captune) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused(captune("serve", "nowhere", "--port", port), f"--port: {port} cannot be had", "in use")
    refused(captune("serve", "nowhere", "--host", "192.0.2.1"), "--host: 192.0.2.1")
    refused(captune("serve", "nowhere", "--host", "no.such.host.invalid"), "--host", "no.such.host.invalid")
    refused(captune("serve", "nowhere", "--port", 0), "nowhere is not a bundle")


@needs_extra
@pytest.mark.parametrize("size", ["0B", "much", "-1MiB"])
def test_size_that_is_none_is_refused(captune: Captune, size: str) -> None:
    refused(captune("serve", BUNDLE, "--picture", size), "--picture")


def test_extra_that_is_missing_is_told_with_the_command_that_installs_it(
    captune: Captune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captune.tuner.command.serve.find_spec", lambda name: None)
    refused(captune("serve", BUNDLE), "pip install 'captune[serve]'")


def test_thread_that_goes_on_does_not_hold_up_the_end() -> None:
    code = (
        "import threading, time\n"
        "from captune.tuner.command.serve import _end_threads\n"
        "threading.Thread(target=time.sleep, args=(300,)).start()\n"
        "_end_threads()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
