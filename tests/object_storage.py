"""Servers of object storage on this machine, what moto is asked, and a proxy before it that fails as it is told to."""

import logging
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from captune.cluster.object_storage.addresses import StorageError

NODE_MODULES = Path(__file__).parent / "javascript" / "node_modules"
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # of every Azurite
)
NEVER = 3600.0  # seconds between the looks of a mirror that looks only when it is told to


class Requests(logging.Handler):
    """What the server was asked: "GET /bucket/key" and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        uncoloured = re.sub(r"\x1b\[\d*m", "", record.getMessage())
        self.lines.append(uncoloured.partition('"')[2])

    def count(self, method: str, ending: str) -> int:
        return sum(line.startswith(f"{method} ") and line.split()[1].endswith(ending) for line in self.lines)


class Proxy:
    """Stands before a server (host:port): passes on, stops in the middle of an answer, hangs up, or is not there."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.stall_after: int | None = None  # bytes of one answer
        self.cut_after: int | None = None  # once
        self.down = False
        self.stalled = threading.Event()
        self._connections: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Hangs up on all."""
        while self._connections:
            with suppress(OSError):
                self._connections.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            host, _, port = self._server.partition(":")
            server = socket.create_connection((host, int(port)))
            self._connections += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answer: bool) -> None:
        passed = 0
        try:
            while data := source.recv(1 << 16):
                passed += len(data)
                if answer and self.stall_after is not None and passed > self.stall_after:
                    self.stalled.set()
                    return
                if answer and self.cut_after is not None and passed > self.cut_after:
                    self.cut_after = None
                    break
                target.sendall(data)
        except OSError:
            pass
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """host:port of an S3 server with the bucket `bucket`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.INFO)
    logging.getLogger("werkzeug").propagate = False
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        urlopen(Request(f"http://{host}:{port}/bucket", method="PUT")).close()
        yield f"{host}:{port}"
    moto.stop()


@pytest.fixture
def requests() -> Iterator[Requests]:
    requests = Requests()
    logging.getLogger("werkzeug").addHandler(requests)
    yield requests
    logging.getLogger("werkzeug").removeHandler(requests)


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with closing(Proxy(server)) as proxy:
        yield proxy


@pytest.fixture
def s3(server: str, tmp_path: Path) -> str:
    return f"s3://bucket/{tmp_path.name}?endpoint_override={server}&scheme=http"


_GOOGLE = """
import http.server, sys, threading
from gcp_storage_emulator import server

server.server.HTTPServer = http.server.ThreadingHTTPServer  # else one request waits for the other
server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
threading.Event().wait()
"""


@pytest.fixture(scope="session")
def google() -> Iterator[str]:
    """host:port of a server of Google Cloud Storage with the bucket `bucket`.

    In a process of its own: pyarrow keeps Python from running while it waits for an answer.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-c", _GOOGLE, port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 30
    while True:
        try:
            urlopen(f"http://127.0.0.1:{port}/storage/v1/b/bucket").close()
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    end(process)


@pytest.fixture
def gs(google: str, tmp_path: Path) -> str:
    return f"gs://anonymous@bucket/{tmp_path.name}?endpoint_override={google}&scheme=http"


@contextmanager
def _by_node(script: str, *arguments: object) -> Iterator[str]:
    """host:port of a server that Node runs."""
    node, path = shutil.which("node"), NODE_MODULES / script
    if node is None:
        pytest.skip("Node is not installed")
    if not path.exists():
        pytest.skip(f"{path.parts[-3]} is not installed: `make tests/javascript/node_modules` does it, azurite by hand")
    # s3rver asks OpenSSL for a cipher that left its defaults.
    command = [node, "--openssl-legacy-provider", path, *arguments]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        listening = (re.search(r"listen\w* on \S*(127\.0\.0\.1:\d+)", line) for line in process.stdout)
        address = next(match[1] for match in listening if match is not None)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def s3rver_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of an S3 server that knows no checksums behind the content, with the bucket `bucket`."""
    folder = tmp_path_factory.mktemp("s3rver")
    arguments = ("--silent", "--no-vhost-buckets", "-d", folder, "-a", "127.0.0.1", "-p", 0)
    with _by_node("s3rver/bin/s3rver.js", *arguments, "--configure-bucket", "bucket") as address:
        yield address


@pytest.fixture
def s3rver(s3rver_server: str, tmp_path: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:  # its own, as tests undo theirs
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "S3RVER")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        yield f"s3://bucket/{tmp_path.name}?endpoint_override={s3rver_server}&scheme=http"


@pytest.fixture(scope="session")
def azurite() -> Iterator[str]:
    """host:port of a server of Azure Blob Storage with the container `bucket`."""
    from pyarrow.fs import AzureFileSystem

    script = "azurite/dist/src/blob/main.js"
    with _by_node(
        script, "--blobPort", 0, "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"
    ) as address:
        options = dict.fromkeys(("blob_storage_authority", "dfs_storage_authority"), address)
        options |= dict.fromkeys(("blob_storage_scheme", "dfs_storage_scheme"), "http")
        AzureFileSystem("devstoreaccount1", account_key=AZURITE_KEY, **options).create_dir("bucket")
        yield address


@pytest.fixture
def abfss(azurite: str, tmp_path: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_KEY", AZURITE_KEY)
        account = "devstoreaccount1.dfs.core.windows.net"
        yield f"abfss://bucket@{account}/{tmp_path.name}?endpoint_override={azurite}&scheme=http"


_SOAK = pytest.mark.soak  # a whole search goes to s3rver


@pytest.fixture(params=["s3", pytest.param("s3rver", marks=_SOAK), "gs", pytest.param("abfss", marks=_SOAK), "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place, once on each server and once on the disk."""
    if request.param == "file":
        return (tmp_path / "place").as_uri()
    url: str = request.getfixturevalue(request.param)
    return url


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs code with sys.argv[1:] as given."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def refusal(action: Callable[[], object], seconds: float = 10.0) -> str:
    """The message with which action fails, which is one line and comes within `seconds`."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        action()
    assert time.monotonic() - started < seconds
    assert "\n" not in str(caught.value)
    return str(caught.value)
